//! Why a container got the CPUs it got, for the operator at night.

use super::{Choice, StaticEngine, Variant, source};
use crate::{
    explanation::{
        Candidate, CpuSource, DomainContention, DomainLevel, Explanation, MAX_LISTED_CANDIDATES,
        Reason, first_candidates,
    },
    request::Request,
    state::{Placement, Quota},
    view::View,
};
use alloc::{format, vec, vec::Vec};
use core::cmp::Reverse;
use resmgr_topology::{CoreKind, CpuSet, Topology};

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
        let mut reasons = vec![Reason::Requested {
            qos: request.qos,
            cpu_milli: request.requirements.cpu_request,
            source: request.requirements.source,
            exclusive: split.full,
            shared_milli: split.part,
        }];
        reasons.extend(match exclusive.from {
            _ if exclusive.kept => Some(Reason::KeptExclusive),
            Some(source) => Some(Reason::TakenFrom { source }),
            None if split.reserved => Some(Reason::ReservedNamespace),
            None => None,
        });
        if split.full > 0 && !exclusive.kept {
            reasons.extend(cores_of_kind(view.topology, &exclusive.cpus));
        }
        let taken = choice.taken.union(&exclusive.cpus);
        reasons.push(Reason::PoolsNow {
            shared: pools.shared.difference(&taken).into(),
            reserved: pools.reserved.into(),
        });
        if placement.cpus != placement.exclusive
            && V::SPILLS
            && !pools.reserved.is_empty()
            && pools.reserved.is_subset(&placement.cpus)
            && !split.reserved
        {
            reasons.push(Reason::PoolOvercommitted);
        }
        if placement.quota == Quota::Unlimited {
            reasons.push(Reason::QuotaRemoved);
        }
        reasons.extend(choice.profile.as_ref().map(Reason::from));
        if let Some(confined) = &placement.confined {
            reasons.push(Reason::Confined {
                cpus: confined.clone(),
            });
        }
        let loan = pools.loans.to_shared.intersection(&placement.cpus);
        if placement.pool.as_deref() == Some("shared") && !loan.is_empty() && !split.reserved {
            reasons.push(Reason::BorrowsReserved { cpus: loan.into() });
        }
        reasons.extend(contention.unusable.map(Reason::from));
        let candidates = match split.full > 0 && !exclusive.kept {
            true => candidates(view, choice),
            false => Vec::new(),
        };
        if !candidates.is_empty() && !contention.is_empty() {
            reasons.push(Reason::TopologyThenContention);
        }
        Explanation {
            summary,
            reasons,
            candidates,
        }
    }
}

/// Which kind of cores the CPUs are of, where there are several kinds.
fn cores_of_kind(topology: &Topology, cpus: &CpuSet) -> Option<Reason> {
    let slow = topology.cpus.iter();
    let slow = slow.filter(|cpu| cpu.kind == CoreKind::Efficiency);
    let slow: CpuSet = slow.map(|cpu| cpu.id).collect();
    let hybrid = !slow.is_empty() && slow != topology.all();
    hybrid.then(|| Reason::CoresOfKind {
        cores: match (cpus.is_disjoint(&slow), cpus.is_subset(&slow)) {
            (true, _) => Some(CoreKind::Performance),
            (false, true) => Some(CoreKind::Efficiency),
            (false, false) => None,
        },
    })
}

/// The domains that could have given the CPUs, the smallest kind that holds them, the chosen ones first,
/// then those with the least contention.
fn candidates(view: View<'_>, choice: &Choice) -> Vec<Candidate> {
    let Choice {
        pools,
        contention,
        exclusive,
        ..
    } = choice;
    let topology = view.topology;
    let free = source(pools, CpuSource::Either).difference(&choice.taken);
    type ChoiceKind<'a> = Vec<(u32, &'a CpuSet)>;
    let cores = topology.cores.iter().map(|core| (core.id.0, &core.cpus));
    let llcs = topology.llcs.iter().map(|llc| (llc.id.0, &llc.cpus));
    let nodes = topology.nodes.iter().map(|node| (node.id.0, &node.cpus));
    let packages = topology.packages.iter();
    let packages = packages.map(|package| (package.id.0, &package.cpus));
    let kinds: [(DomainLevel, ChoiceKind<'_>); 4] = [
        (DomainLevel::Core, cores.collect()),
        (DomainLevel::Cache, llcs.collect()),
        (DomainLevel::Node, nodes.collect()),
        (DomainLevel::Package, packages.collect()),
    ];
    let holds = |kind: &ChoiceKind<'_>| kind.iter().any(|(_, cpus)| exclusive.cpus.is_subset(cpus));
    // Nodes are what people know: smaller ones only where measurements tell them apart.
    let [_, _, nodes, packages] = &kinds;
    let measured = !contention.is_empty();
    let mut smaller = kinds.iter().take(2).filter(|_| measured);
    let (level, groups) =
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
    let domains = order.iter().map(|(.., (id, cpus))| {
        let here = cpus.intersection(&free);
        Candidate::Domain {
            level: *level,
            id: *id,
            free: here.len(),
            isolated: here.intersection(&pools.isolated).len(),
            size: cpus.len(),
            contention: measured.then(|| DomainContention {
                busy_milli: contention.mean(cpus),
                busy_around_milli: contention.around(topology, cpus),
                waited_us_per_s: contention.waited_us(cpus),
            }),
            given: cpus.intersection(&exclusive.cpus).into(),
        }
    });
    first_candidates(domains, MAX_LISTED_CANDIDATES)
}
