//! What is known of a container from its predecessors: the same namespace, workload and container name.
//!
//! CRI does not say what made a pod, so the workload is read from the pod's name, by the shapes in which
//! Kubernetes makes names (`k8s.io/apimachinery/pkg/util/rand`: generated parts use the letters
//! `bcdfghjklmnpqrstvwxz2456789` only):
//!
//! 1. the annotation `workload`, when the pod has it, is the workload;
//! 2. a last part of five such letters is generated and is dropped (`ReplicaSet`, `DaemonSet`, `Job`); then
//!    a part of 6 to 10 such letters (the hash of a `Deployment`'s template) or of 8 or more digits (a
//!    `CronJob`'s time) before it is dropped too;
//! 3. otherwise a last part of digits only is dropped (`StatefulSet`).

use crate::{
    annotation::effective,
    condition::usable,
    contention::CONFIDENT,
    measured::Observed,
    request::{ContainerId, Request},
    state::{
        rebalance::RebalanceMemory,
        workloads::{WorkloadHistory, WorkloadProfile},
    },
    view::View,
};
use alloc::{
    collections::BTreeMap,
    format,
    string::{String, ToString},
    sync::Arc,
};

/// Workloads remembered; beyond it those not seen for longest are forgotten.
pub const MAX_WORKLOADS: usize = 1024;

/// Below this (thousandths of a CPU) a container does nothing that could be learnt from: it may have ended.
const ALIVE_MCPU: u32 = 1;

/// The workload a pod belongs to, by the rule at the head of this module.
#[must_use]
pub fn workload(request: &Request) -> String {
    if let Some(name) = effective(request, "workload") {
        return name.to_string();
    }
    let name = &*request.pod.name;
    let Some((rest, last)) = split(name) else {
        return name.to_string();
    };
    if last.len() == 5 && last.bytes().all(generated) {
        return match split(rest) {
            Some((base, hash)) if (6..=10).contains(&hash.len()) && hash.bytes().all(generated) => {
                base
            }
            Some((base, time)) if time.len() >= 8 && time.bytes().all(|c| c.is_ascii_digit()) => {
                base
            }
            _ => rest,
        }
        .to_string();
    }
    if last.bytes().all(|c| c.is_ascii_digit()) {
        return rest.to_string();
    }
    name.to_string()
}

fn split(name: &str) -> Option<(&str, &str)> {
    let parts = name.rsplit_once('-');
    parts.filter(|(rest, last)| !rest.is_empty() && !last.is_empty())
}

fn generated(letter: u8) -> bool {
    b"bcdfghjklmnpqrstvwxz2456789".contains(&letter)
}

/// Where what is known of a container is kept.
pub(crate) fn key(request: &Request) -> String {
    let (namespace, name) = (&request.pod.namespace, &request.name);
    format!("{namespace}/{}/{name}", workload(request))
}

/// What is known of a container that comes: from those that are gone, or from one that still runs.
pub(crate) fn profile_of(view: View<'_>, request: &Request) -> Option<WorkloadProfile> {
    view.state
        .rebalance
        .workloads
        .get(&key(request))
        .cloned()
        .filter(|profile| profile.seen > 0)
}

/// Takes what was measured into what is remembered of workloads; `None` when there is nothing new. To be
/// asked now and then, and before a container is taken out.
#[must_use]
pub fn update_profiles(view: View<'_>) -> Option<RebalanceMemory> {
    if !usable(view) {
        return None;
    }
    let mut memory = view.state.rebalance.clone();
    let mut changed = false;
    let watched = memory.trial().map(|trial| trial.steps.clone());
    let in_trial = |id: &ContainerId| watched.iter().flatten().any(|part| part.id == *id);
    // Of replicas side by side the busiest counts, and one that is confined speaks for all.
    let mut sampled: WorkloadHistory = BTreeMap::new();
    for (id, container) in &view.state.containers {
        let Some(seen) =
            view.measured.containers.get(id).filter(|seen| {
                seen.confidence.0 >= CONFIDENT && seen.utilisation_mcpu >= ALIVE_MCPU
            })
        else {
            continue;
        };
        let key = key(&container.request);
        let confined = match in_trial(id) {
            // Not known yet whether it is good for it.
            true => memory
                .workloads
                .get(&key)
                .and_then(|profile| profile.confined),
            false => container.placement.confined.as_deref().copied(),
        };
        let now = sampled.entry(key).or_default();
        now.utilisation_mcpu = now.utilisation_mcpu.max(seen.utilisation_mcpu);
        now.wait_ns_per_s = now.wait_ns_per_s.max(seen.wait_ns_per_s);
        now.far_migrations_milli_per_s = now.far_migrations_milli_per_s.max(far(seen));
        now.confined = now.confined.or(confined);
    }
    let mut next = memory.workloads.values().map(|profile| profile.seen).max();
    for (key, now) in sampled {
        let old = memory.workloads.get(&key);
        if old.is_some_and(|old| old.seen > 0 && old.close_to(&now)) {
            continue;
        }
        let profile = match old {
            Some(old) if old.seen > 0 => old.towards(&now),
            // All that is known is that a move was undone.
            Some(old) => WorkloadProfile {
                cooldown_until: old.cooldown_until,
                ..now
            },
            None => now,
        };
        let seen = next.map_or(1, |last| last + 1);
        next = Some(seen);
        Arc::make_mut(&mut memory.workloads).insert(key, WorkloadProfile { seen, ..profile });
        changed = true;
    }
    while memory.workloads.len() > MAX_WORKLOADS {
        let oldest = memory
            .workloads
            .iter()
            .min_by_key(|(_, profile)| profile.seen);
        let Some(oldest) = oldest.map(|(key, _)| key.clone()) else {
            break;
        };
        Arc::make_mut(&mut memory.workloads).remove(&oldest);
    }
    changed.then_some(memory)
}

fn far(seen: &Observed) -> u64 {
    let node = seen.node_migrations_milli_per_s;
    seen.package_migrations_milli_per_s.saturating_add(node)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::{PodRef, QosClass, Requirements};

    fn of(pod: &str) -> String {
        let pod = PodRef {
            sandbox: "".into(),
            uid: "".into(),
            name: pod.into(),
            namespace: "default".into(),
        };
        workload(&Request {
            id: ContainerId("c".into()),
            pod,
            name: "c".into(),
            qos: QosClass::Burstable,
            requirements: Requirements::default(),
            init: false,
            annotations: BTreeMap::new(),
            env: alloc::vec::Vec::new(),
            command: alloc::vec::Vec::new(),
            args: alloc::vec::Vec::new(),
        })
    }

    #[test]
    fn generated_parts_of_pod_names_are_dropped_and_nothing_else() {
        for (pod, expected) in [
            ("web-6d4cf56db6-x2b8z", "web"),
            ("my-web-5f7c8d9b4c-zzqlw", "my-web"),
            ("agent-x2b8z", "agent"),
            ("backup-28391234-x2b8z", "backup"),
            ("db-0", "db"),
            ("db-cache-12", "db-cache"),
            ("my-nginx", "my-nginx"),
            ("single", "single"),
            ("etcd-node7", "etcd-node7"),
            ("-0", "-0"),
            ("", ""),
        ] {
            assert_eq!(of(pod), expected, "{pod}");
        }
    }
}
