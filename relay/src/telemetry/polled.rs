//! Without BPF: the kernel's own counters, which tell less.
//!
//! CPU time is by CPU only where cpuacct (version 1) keeps it; waits of threads that have exited since the last
//! sample are lost; migrations and intruders on exclusive CPUs are not counted.

use super::{
    error::RegisterError,
    hierarchy::CgroupHierarchy,
    snapshot::{ContainerTelemetry, TelemetrySnapshot, Totals},
    status::Quality,
};
use resmgr_policy::ContainerId;
use resmgr_topology::{CpuId, CpuSet};
use std::{collections::BTreeMap, fs, path::Path};

/// A registered container.
#[derive(Debug)]
struct PolledContainer {
    cgroup: String,
    cpus: CpuSet,
    exclusive: CpuSet,
}

/// Registered containers, and the hierarchy whose files are read.
#[derive(Debug)]
pub(super) struct PolledBackend {
    hierarchy: CgroupHierarchy,
    registered: BTreeMap<ContainerId, PolledContainer>,
}

impl PolledBackend {
    pub(super) fn new(hierarchy: CgroupHierarchy) -> Self {
        Self {
            hierarchy,
            registered: BTreeMap::new(),
        }
    }

    pub(super) fn register(
        &mut self,
        id: ContainerId,
        cgroup: &str,
        cpus: CpuSet,
        exclusive: CpuSet,
    ) -> Result<(), RegisterError> {
        self.hierarchy
            .id(cgroup)
            .map_err(|source| RegisterError::Cgroup {
                path: self.hierarchy.folder(cgroup),
                source,
            })?;
        let container = PolledContainer {
            cgroup: cgroup.to_owned(),
            cpus,
            exclusive,
        };
        self.registered.insert(id, container);
        Ok(())
    }

    pub(super) fn unregister(&mut self, id: &ContainerId) {
        self.registered.remove(id);
    }

    pub(super) fn set_placement(&mut self, id: &ContainerId, cpus: CpuSet, exclusive: CpuSet) {
        if let Some(container) = self.registered.get_mut(id) {
            container.cpus = cpus;
            container.exclusive = exclusive;
        }
    }

    pub(super) fn snapshot(&self, at_ns: u64) -> TelemetrySnapshot {
        TelemetrySnapshot {
            quality: Quality::Polled,
            at_ns,
            containers: self
                .registered
                .iter()
                .map(|(id, container)| self.poll(id, container))
                .collect(),
            ..TelemetrySnapshot::default()
        }
    }

    fn poll(&self, id: &ContainerId, container: &PolledContainer) -> ContainerTelemetry {
        let folder = self.hierarchy.folder(&container.cgroup);
        let mut telemetry = ContainerTelemetry {
            id: id.clone(),
            cpus: container.cpus,
            exclusive: container.exclusive,
            total: Totals::default(),
            run_ns: BTreeMap::new(),
            outside_ns: 0,
            foreign: Vec::new(),
            interference: BTreeMap::new(),
            resident: BTreeMap::new(),
        };
        let stat = fs::read_to_string(folder.join("cpu.stat")).unwrap_or_default();
        let field = |name: &str| {
            stat.lines().find_map(|line| {
                let (key, value) = line.split_once(' ')?;
                (key == name)
                    .then(|| value.trim().parse::<u64>().ok())
                    .flatten()
            })
        };
        let micro = |name| field(name).map(|value| value.saturating_mul(1000));
        telemetry.total.throttled_ns = field("throttled_time")
            .or_else(|| micro("throttled_usec"))
            .unwrap_or(0);
        telemetry.run_ns = self.by_cpu(&container.cgroup, &folder);
        telemetry.total.run_ns =
            micro("usage_usec").unwrap_or_else(|| telemetry.run_ns.values().sum::<u64>());
        // The kernel keeps one number for waits after a wake-up, after a preemption and for quota.
        telemetry.total.wait_wake_ns = wait_ns(&folder);
        telemetry
    }

    /// cpuacct is mounted with `cpu`, or beside it.
    fn by_cpu(&self, cgroup: &str, folder: &Path) -> BTreeMap<CpuId, u64> {
        let beside = self.hierarchy.mount.with_file_name("cpuacct");
        let beside = beside.join(cgroup.trim_start_matches('/'));
        [folder, &beside]
            .iter()
            .find_map(|folder| fs::read_to_string(folder.join("cpuacct.usage_percpu")).ok())
            .map(|line| by_cpu(&line))
            .unwrap_or_default()
    }
}

fn by_cpu(line: &str) -> BTreeMap<CpuId, u64> {
    (0..)
        .map(CpuId)
        .zip(line.split_whitespace().filter_map(|run| run.parse().ok()))
        .collect()
}

/// Run-queue wait of the threads that live now.
fn wait_ns(folder: &Path) -> u64 {
    let tasks = ["cgroup.threads", "tasks"]
        .iter()
        .find_map(|file| fs::read_to_string(folder.join(file)).ok())
        .unwrap_or_default();
    tasks
        .split_whitespace()
        .filter_map(|tid| fs::read_to_string(format!("/proc/{tid}/schedstat")).ok())
        .filter_map(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok())
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpuacct_lists_nanoseconds_in_order_of_cpus() {
        let found = by_cpu("12 0 7 \n");
        assert_eq!(found, [(CpuId(0), 12), (CpuId(1), 0), (CpuId(2), 7)].into());
    }
}
