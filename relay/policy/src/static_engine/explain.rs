//! Why a container got the CPUs it got, for people who have to understand it at night.

use super::{Choice, CpuSource, StaticEngine, Variant, source};
use crate::{
    explanation::{Explanation, TOLD, choices, listed},
    request::Request,
    state::{Placement, Quota, workloads::Known},
    view::View,
};
use alloc::{format, string::String, vec, vec::Vec};
use core::cmp::Reverse;
use resmgr_topology::CpuSet;

impl<V: Variant> StaticEngine<V> {
    pub(super) fn explain(
        &self,
        view: View<'_>,
        request: &Request,
        placement: &Placement,
        choice: &Choice,
    ) -> Explanation {
        let Choice {
            pools,
            contention,
            exclusive,
            ..
        } = choice;
        let split = V::split(&self.config, request);
        let name = request.full_name();
        let on = &placement.cpus;
        let summary = match (&placement.pool, split.full) {
            (None, full) => format!("{name}: {full} exclusive CPUs {on}"),
            (Some(pool), 0) => format!("{name}: pool {pool}, CPUs {on}"),
            (Some(pool), full) => format!(
                "{name}: {full} exclusive CPUs {} and {}m of pool {pool}, CPUs {on}",
                placement.exclusive, split.part
            ),
        };
        let mut reasons = vec![format!(
            "{:?} pod, {}m CPU requested ({}): {} exclusive, {}m shared",
            request.qos,
            request.requirements.cpu_request,
            request.requirements.source,
            split.full,
            split.part
        )];
        let rule = match exclusive.from {
            _ if exclusive.kept => Some("kept what it held"),
            Some(CpuSource::Isolated) => Some("kernel-isolated CPUs are free and preferred"),
            Some(CpuSource::IsolatedCore) => Some("one full kernel-isolated core is free"),
            Some(CpuSource::Pool) => {
                Some("sliced off the shared pool: whole cores close together first")
            }
            Some(CpuSource::Either) => {
                Some("too few of one kind: from the shared pool and isolated CPUs")
            }
            None if split.reserved => Some("its namespace runs on the reserved CPUs"),
            None => None,
        };
        reasons.extend(rule.map(String::from));
        let taken = choice.taken.union(&exclusive.cpus);
        let shared = pools.shared.difference(&taken);
        reasons.push(format!(
            "shared pool now {}, reserved {}",
            listed(&shared),
            listed(&pools.reserved)
        ));
        if placement.cpus != placement.exclusive
            && V::SPILLS
            && !pools.reserved.is_empty()
            && pools.reserved.is_subset(&placement.cpus)
            && !split.reserved
        {
            reasons.push("the shared pool is over-committed: reserved CPUs are added".into());
        }
        if placement.quota == Quota::Unlimited {
            reasons.push("quota removed: its CPUs are its own".into());
        }
        reasons.extend(choice.profile.as_ref().map(Known::line));
        if let Some(confined) = &placement.confined {
            reasons.push(format!(
                "confined to {confined}, where a rebalancing had put it or its predecessors"
            ));
        }
        let loan = pools.loans.to_shared.intersection(&placement.cpus);
        if placement.pool.as_deref() == Some("shared") && !loan.is_empty() && !split.reserved {
            reasons.push(format!(
                "the shared pool borrows CPUs {loan} of the reserved ones"
            ));
        }
        reasons.extend(contention.note.clone());
        let candidates = match split.full > 0 && !exclusive.kept {
            true => candidates(view, choice),
            false => Vec::new(),
        };
        if !candidates.is_empty() && !contention.is_empty() {
            reasons.push(
                "rule: what fits the topology best; among equals the least busy cores and caches, and those \
                 whose containers wait least"
                    .into(),
            );
        }
        Explanation {
            summary,
            reasons,
            candidates,
        }
    }
}

/// The domains that could have given the CPUs, the smallest kind that holds them, the chosen ones first,
/// then those with the least contention.
fn candidates(view: View<'_>, choice: &Choice) -> Vec<String> {
    let Choice {
        pools,
        contention,
        exclusive,
        ..
    } = choice;
    let topology = view.topology;
    let free = source(pools, CpuSource::Either).difference(&choice.taken);
    type Kind<'a> = Vec<(u32, &'a CpuSet)>;
    let cores = topology.cores.iter().map(|one| (one.id.0, &one.cpus));
    let llcs = topology.llcs.iter().map(|one| (one.id.0, &one.cpus));
    let nodes = topology.nodes.iter().map(|one| (one.id.0, &one.cpus));
    let packages = topology.packages.iter();
    let packages = packages.map(|one| (one.id.0, &one.cpus));
    let kinds: [(&str, Kind<'_>); 4] = [
        ("core", cores.collect()),
        ("cache", llcs.collect()),
        ("node", nodes.collect()),
        ("package", packages.collect()),
    ];
    let holds = |kind: &Kind<'_>| kind.iter().any(|(_, cpus)| exclusive.cpus.is_subset(cpus));
    // Nodes are what people know: smaller ones only where measurements tell them apart.
    let [_, _, nodes, packages] = &kinds;
    let measured = !contention.is_empty();
    let mut smaller = kinds.iter().take(2).filter(|_| measured);
    let (kind, groups) =
        match smaller.find(|(_, groups)| groups.len() > nodes.1.len() && holds(groups)) {
            Some(smaller) => smaller,
            None if holds(&nodes.1) || !holds(&packages.1) => nodes,
            None => packages,
        };
    let mut order = Vec::with_capacity(groups.len());
    for (index, (id, cpus)) in groups.iter().enumerate() {
        let here = cpus.intersection(&free);
        let width = here.len();
        if width == 0 {
            continue;
        }
        let got = cpus.intersection(&exclusive.cpus);
        let cost: u64 = here.iter().map(|cpu| contention.cost(cpu)).sum();
        let cost = cost / u64::try_from(width).unwrap_or(1);
        order.push((Reverse(got.len()), cost, index, (*id, *cpus)));
    }
    order.sort_unstable_by_key(|(got, cost, index, _)| (*got, *cost, *index));
    let lines = order.iter().map(|(.., (id, cpus))| {
        let here = cpus.intersection(&free);
        let isolated = here.intersection(&pools.isolated).len();
        let measured = match contention.is_empty() {
            true => String::new(),
            false => format!(
                ", {} of 1000 busy, {} of 1000 around it, {} ms/s waited there",
                contention.mean(cpus),
                contention.around(topology, cpus),
                contention.waited_us(cpus) / 1000
            ),
        };
        format!(
            "{kind} {id}: {} CPUs free ({isolated} isolated) of {}{measured}; gives {}",
            here.len(),
            cpus.len(),
            listed(&cpus.intersection(&exclusive.cpus))
        )
    });
    choices(lines, TOLD)
}
