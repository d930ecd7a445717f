//! Why a container got the CPUs it got, for whoever has to understand it at night.

use super::{Chosen, Flavour, From, Sets, Slices, full_name, listed, source};
use crate::{
    contention::Contention,
    decision::{Explanation, View},
    request::{Request, Source},
    state::{Placement, Quota},
};
use alloc::{format, string::String, vec, vec::Vec};
use resmgr_topology::CpuSet;

impl<F: Flavour> Slices<F> {
    #[expect(
        clippy::too_many_arguments,
        reason = "everything the decision saw is told"
    )]
    pub(super) fn explain(
        &self,
        view: View<'_>,
        sets: &Sets,
        request: &Request,
        placement: &Placement,
        taken: &CpuSet,
        chosen: &Chosen,
        contention: &Contention,
    ) -> Explanation {
        let split = F::split(&self.config, request);
        let name = full_name(request);
        let on = &placement.cpus;
        let summary = match (&placement.pool, split.full) {
            (None, full) => format!("{name}: {full} exclusive CPUs {on}"),
            (Some(pool), 0) => format!("{name}: pool {pool}, CPUs {on}"),
            (Some(pool), full) => format!(
                "{name}: {full} exclusive CPUs {} and {}m of pool {pool}, CPUs {on}",
                placement.exclusive, split.part
            ),
        };
        let learnt = match request.requirements.source {
            Source::Annotation => "the pod annotation",
            Source::Estimate => "CPU shares and quota",
        };
        let mut reasons = vec![format!(
            "{:?} pod, {}m CPU requested (from {learnt}): {} exclusive, {}m shared",
            request.qos, request.requirements.cpu_request, split.full, split.part
        )];
        let rule = match chosen.from {
            _ if chosen.kept => Some("kept what it held"),
            Some(From::Isolated) => Some("kernel-isolated CPUs are free and preferred"),
            Some(From::IsolatedCore) => Some("one full kernel-isolated core is free"),
            Some(From::Pool) => {
                Some("sliced off the shared pool: whole cores close together first")
            }
            Some(From::Either) => {
                Some("too few of one kind: from the shared pool and isolated CPUs")
            }
            None if split.reserved => Some("its namespace runs on the reserved CPUs"),
            None => None,
        };
        reasons.extend(rule.map(String::from));
        let pool = sets.pool.difference(taken).difference(&chosen.cpus);
        reasons.push(format!(
            "shared pool now {}, reserved {}",
            listed(&pool),
            listed(&sets.reserved)
        ));
        if placement.cpus != placement.exclusive
            && F::SPILLS
            && !sets.reserved.is_empty()
            && sets.reserved.is_subset(&placement.cpus)
            && !split.reserved
        {
            reasons.push("the shared pool is over-committed: reserved CPUs are added".into());
        }
        if placement.quota == Quota::Unlimited {
            reasons.push("quota removed: its CPUs are its own".into());
        }
        reasons.extend(contention.note.clone());
        let mut candidates = Vec::new();
        if split.full > 0 && !chosen.kept {
            let free = source(sets, From::Either).difference(taken);
            for node in view
                .topology
                .nodes
                .iter()
                .filter(|node| !node.cpus.is_empty())
            {
                let here = node.cpus.intersection(&free);
                let isolated = here.intersection(&sets.isolated).len();
                let got = node.cpus.intersection(&chosen.cpus);
                let busy = if contention.is_empty() {
                    String::new()
                } else {
                    format!(", {} of 1000 busy", contention.mean(&node.cpus))
                };
                let line = format!(
                    "node {}: {} CPUs free ({isolated} isolated) of {}{busy}; gives {}",
                    node.id,
                    here.len(),
                    node.cpus.len(),
                    listed(&got)
                );
                candidates.push((core::cmp::Reverse(got.len()), node.id, line));
            }
            candidates.sort();
        }
        Explanation {
            summary,
            reasons,
            candidates: candidates.into_iter().map(|(_, _, line)| line).collect(),
        }
    }
}
