//! CPUs that come and go while the daemon runs: the kernel takes them offline, or the cgroup of all pods loses them.

use crate::{
    discover::hotplug::Hotplug,
    enforce::{Cgroups, Hierarchy, PodsCgroups, WithheldCpus},
    manager::ManagerHandle,
};
use resmgr_topology::{CpuSet, Topology};
use std::{path::PathBuf, sync::Arc, time::Duration};
use tokio_util::sync::CancellationToken;

/// How often the CPUs are looked at: it costs microseconds, and is soon enough for what the kernel itself repairs by
/// moving tasks away.
const INTERVAL: Duration = Duration::from_secs(1);

/// The CPUs that containers can have.
#[derive(Debug)]
pub(super) struct UsableCpus {
    machine: Arc<Topology>,
    online: Hotplug,
    pods: PodsCgroups,
    /// Under version 1 a CPU that was offline stays away from every cgroup until it is written there, which the
    /// enforcement does: no operator wanted its absence.
    came_back: CpuSet,
    keeps_what_went: bool,
    withheld: Option<WithheldCpus>,
    /// What was seen the last time: the kernel may be in the middle of a change.
    seen: Option<WithheldCpus>,
    unreadable: bool,
}

impl UsableCpus {
    /// Starts from the machine as it was read.
    pub(super) fn new(machine: Arc<Topology>, host_root: PathBuf, hierarchy: Hierarchy) -> Self {
        let mut usable = Self {
            online: Hotplug::new(host_root, &machine),
            machine,
            keeps_what_went: hierarchy.is_v2(),
            pods: PodsCgroups::new(hierarchy),
            came_back: CpuSet::EMPTY,
            withheld: None,
            seen: None,
            unreadable: false,
        };
        usable.withheld = usable.read_withheld();
        usable.seen.clone_from(&usable.withheld);
        usable.say();
        usable
    }

    /// The machine, without the CPUs that are withheld.
    pub(super) fn topology(&self) -> Topology {
        let withheld = self.withheld.as_ref().map(|withheld| withheld.cpus);
        self.machine.withholding(&withheld.unwrap_or_default())
    }

    /// Follows the CPUs until `stop`.
    pub(super) async fn follow(
        mut self,
        manager: ManagerHandle,
        cgroups: Arc<Cgroups>,
        stop: CancellationToken,
    ) -> anyhow::Result<()> {
        loop {
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                () = tokio::time::sleep(INTERVAL) => {}
            }
            for container in manager.snapshot().containers.iter() {
                self.pods.learn(&container.record.cgroup_parent);
            }
            let changed = self.look().await;
            cgroups.set_came_back(self.came_back);
            if changed && let Err(problem) = manager.set_topology(Arc::new(self.topology())).await {
                tracing::error!(target: "policy", "the usable CPUs changed: {problem}");
            }
        }
    }

    /// Whether the usable CPUs have changed.
    async fn look(&mut self) -> bool {
        let mut changed = false;
        match self.online.look().await {
            Ok(Some(machine)) => {
                let came = machine.online.difference(&self.machine.online);
                self.came_back = self.came_back.union(&came);
                self.machine = Arc::new(machine);
                changed = true;
            }
            Ok(None) => {}
            Err(error) => {
                tracing::warn!(target: "sysfs", "cannot follow the online CPUs: {error}");
            }
        }
        let withheld = self.read_withheld();
        if withheld != self.withheld && withheld == self.seen {
            self.withheld.clone_from(&withheld);
            self.say();
            changed = true;
        }
        self.seen = withheld;
        changed
    }

    fn read_withheld(&mut self) -> Option<WithheldCpus> {
        let mut online = self.machine.online;
        if !self.keeps_what_went {
            online = online.difference(&self.came_back);
        }
        match self.pods.withheld(&online) {
            Ok(withheld) => {
                self.unreadable = false;
                withheld
            }
            Err(error) => {
                if !self.unreadable {
                    tracing::warn!(target: "policy", "cannot tell which CPUs pods may have: {error}");
                }
                self.unreadable = true;
                self.withheld.clone()
            }
        }
    }

    fn say(&self) {
        match &self.withheld {
            Some(WithheldCpus { cpus, cgroup }) => tracing::warn!(
                target: "policy",
                "cgroup {cgroup} withholds CPUs {cpus} from all pods: no container is given one of them. Where that is meant \
                 to stay, start with --available-resources cpu={cgroup}"
            ),
            None if self.seen.is_some() => {
                tracing::info!(target: "policy", "no CPU is withheld from pods any more");
            }
            None => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn cpus(list: &str) -> CpuSet {
        list.parse().unwrap()
    }

    #[tokio::test]
    async fn what_pods_lack_is_withheld_once_it_was_seen_twice() {
        let tree = tempfile::tempdir().unwrap();
        let system = tree.path().join("sys/devices/system/cpu");
        fs::create_dir_all(&system).unwrap();
        fs::write(system.join("online"), "0-7\n").unwrap();
        let pods = tree.path().join("kubepods.slice");
        fs::create_dir(&pods).unwrap();
        let effective = |list: &str| fs::write(pods.join("cpuset.cpus.effective"), list).unwrap();
        effective("2-7\n");
        let machine = Arc::new(Topology::synthetic("pack:2 core:4 pu:1").unwrap());
        let root = tree.path().to_owned();
        let hierarchy = Hierarchy::V2 { root: root.clone() };
        let mut usable = UsableCpus::new(machine, root, hierarchy);
        let now = |usable: &UsableCpus| (usable.topology().online, usable.topology().withheld);
        assert_eq!(now(&usable), (cpus("2-7"), cpus("0-1")), "at start");
        effective("0-7\n");
        assert!(
            !usable.look().await,
            "the kernel may be in the middle of it"
        );
        assert!(usable.look().await);
        assert_eq!(now(&usable), (cpus("0-7"), cpus("")));
        assert!(!usable.look().await);
        effective("0-3\n");
        usable.look().await;
        effective("0-7\n");
        assert!(
            !usable.look().await && !usable.look().await,
            "it was gone at once"
        );
        assert_eq!(now(&usable), (cpus("0-7"), cpus("")));
    }
}
