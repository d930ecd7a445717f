//! cgroup v1: what the cgroups above a container's lack of its CPUs.

use super::Cgroups;
use crate::enforce::pods::holds_all_pods;
use resmgr_topology::CpuSet;
use std::{path::Path, sync::PoisonError};

impl Cgroups {
    /// Tells which CPUs were offline for a while: under version 1 the kernel has taken them from every cgroup, and they
    /// may be written again to the cgroup of all pods, from which an operator took any others.
    pub fn set_came_back(&self, cpus: CpuSet) {
        *self
            .came_back
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = cpus;
    }

    /// Adds `wanted` to every ancestor that lacks some of it; whether any did. The cgroup of all pods, and what it is
    /// in, get only CPUs back that were offline: others are withheld.
    pub(super) fn widen_ancestors(&self, directory: &Path, wanted: &CpuSet) -> bool {
        let root = self.hierarchy.cpuset_root();
        let ancestors: Vec<_> = directory
            .ancestors()
            .skip(1)
            .take_while(|ancestor| *ancestor != root && ancestor.starts_with(root))
            .collect();
        let is_of_all_pods = |cgroup: &&Path| {
            let name = cgroup.file_name().and_then(|name| name.to_str());
            name.is_some_and(holds_all_pods)
        };
        let of_all_pods = ancestors.iter().copied().find(is_of_all_pods);
        let came_back = *self
            .came_back
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let mut widened = false;
        for ancestor in ancestors.into_iter().rev() {
            let Ok(has) = self.read_cpus(&ancestor.join("cpuset.cpus")) else {
                return false;
            };
            let lacks = wanted.difference(&has);
            if lacks.is_empty() {
                continue;
            }
            let is_withheld = of_all_pods.is_some_and(|pods| pods.starts_with(ancestor));
            if is_withheld && !lacks.is_subset(&came_back) {
                return false; // the container's own write says why
            }
            let all = has.union(wanted);
            match self.files.set_cpus(ancestor, &all.to_string()) {
                Ok(()) => {
                    widened = true;
                    tracing::warn!(cgroup = %ancestor.display(), had = %has, now = %all,
                        "a pod's cgroup lacked CPUs its container was given; added them");
                }
                Err(_refused) => return false,
            }
        }
        widened
    }
}
