//! Cgroups of the host in which no container is: they have slots of their own, so that what runs there has a name.
//!
//! Top-level cgroups (`init.scope`, `system.slice`) and those directly below (`system.slice/chronyd.service`). Threads
//! in cgroups further below count as theirs, as with the cgroups below a container's. Where slots run out, a service
//! counts as the slice it is in.

use super::{
    hierarchy::CgroupHierarchy,
    load::Program,
    slots::Slots,
    totals::{Registration, SlotTotals},
};
use resmgr_common::{NESTED_OR_ROOT, SlotRef};
use std::{collections::BTreeMap, path::Path, sync::Arc};

/// How often cgroups that came or went are looked for, nanoseconds.
const LOOK_EVERY_NS: u64 = 10_000_000_000;

/// A cgroup of the host that has a slot.
#[derive(Debug)]
pub(super) struct HostCgroup {
    /// Path within the hierarchy, without the leading slash.
    pub(super) path: Arc<str>,
    kernel_id: u64,
    pub(super) totals: SlotTotals,
    /// It was removed, or a container is in it: its slot is read on until it is reused.
    released: bool,
}

/// Slots for cgroups of the host, and which of them has which.
#[derive(Debug)]
pub(super) struct HostCgroups {
    slots: Slots,
    pub(super) by_slot: BTreeMap<u32, HostCgroup>,
    look_at_ns: u64,
}

/// Whether a cgroup of the host cannot have a slot because of a container: it is the container's cgroup or below it,
/// or it is below the top level and the container is in it.
fn conflicts(host: &str, container: &str) -> bool {
    let host = Path::new(host);
    let container = Path::new(container.trim_start_matches('/'));
    host.starts_with(container) || (host.components().count() > 1 && container.starts_with(host))
}

impl HostCgroups {
    /// None yet.
    pub(super) fn new(slots: Slots) -> Self {
        Self {
            slots,
            by_slot: BTreeMap::new(),
            look_at_ns: 0,
        }
    }

    /// Gives slots to cgroups that have come, and takes the slots of those that are gone or in which a container is.
    /// Looks only every ten seconds. Whether some have come: the program may remember their threads as others'.
    pub(super) fn follow(
        &mut self,
        program: &mut Program,
        hierarchy: &CgroupHierarchy,
        containers: &BTreeMap<u32, Registration>,
        (now_ns, sweep): (u64, u64),
    ) -> bool {
        if now_ns < self.look_at_ns {
            return false;
        }
        self.look_at_ns = now_ns.saturating_add(LOOK_EVERY_NS);
        let is_of_container = |path: &str| {
            let mut containers = containers.values();
            containers.any(|container| conflicts(path, &container.cgroup))
        };
        self.release(program, sweep, |host| {
            let id = hierarchy.id(&host.path);
            id.ok() != Some(host.kernel_id) || is_of_container(&host.path)
        });
        let mut came = false;
        for (path, kernel_id) in hierarchy.shallow_cgroups() {
            let mut known = self.by_slot.values();
            if known.any(|host| !host.released && host.kernel_id == kernel_id)
                || is_of_container(&path)
            {
                continue;
            }
            let Some(slot) = self.slots.allocate() else {
                break;
            };
            // The program does not tell throttling from contention there: no path grows for it.
            let flags = NESTED_OR_ROOT;
            let owner = SlotRef { slot, flags };
            if let Err(error) = program.cgroups.insert(kernel_id, owner.word(), 0) {
                tracing::warn!("the kernel refused to store the cgroup {path}: {error}");
                self.slots.recycle(slot);
                break;
            }
            let host = HostCgroup {
                path: path.into(),
                kernel_id,
                totals: SlotTotals::default(),
                released: false,
            };
            self.by_slot.insert(slot, host);
            came = true;
        }
        came
    }

    /// Takes the slots of cgroups that are a container's from now on.
    pub(super) fn make_way_for(&mut self, container: &str, program: &mut Program, sweep: u64) {
        self.release(program, sweep, |host| conflicts(&host.path, container));
    }

    /// Slots that were freed long enough ago; they must be zeroed and given to [`HostCgroups::recycle`].
    pub(super) fn reclaimable(&mut self, sweep: u64) -> Vec<u32> {
        self.slots.reclaimable(sweep)
    }

    /// Makes a zeroed slot free again; gives the cgroup that had it. `None` when it is no slot of the host's.
    pub(super) fn recycle(&mut self, slot: u32) -> Option<HostCgroup> {
        let host = self.by_slot.remove(&slot)?;
        self.slots.recycle(slot);
        Some(host)
    }

    fn release(
        &mut self,
        program: &mut Program,
        sweep: u64,
        selects: impl Fn(&HostCgroup) -> bool,
    ) {
        for (slot, host) in &mut self.by_slot {
            if !host.released && selects(host) {
                host.released = true;
                // The key may only be missing if the map is; then there is nothing to forget.
                let _absent = program.cgroups.remove(&host.kernel_id);
                program.forget(|found| found == *slot);
                self.slots.free(*slot, sweep);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cgroup_of_the_host_keeps_out_of_a_containers_way() {
        let burstable = "/kubepods.slice/kubepods-burstable.slice/pod1/db";
        for (host, container, expected) in [
            // Everything in a slice of pods that is no container's is the slice's.
            ("kubepods.slice", burstable, false),
            ("kubepods.slice/kubepods-burstable.slice", burstable, true),
            ("kubepods.slice/kubepods-besteffort.slice", burstable, false),
            ("system.slice/chronyd.service", burstable, false),
            ("k8s.io", "/k8s.io/db", false),
            ("k8s.io/db", "/k8s.io/db", true),
            ("k8s.io/db2", "/k8s.io/db", false),
            ("db", "/db", true),
            ("db/below", "/db", true),
        ] {
            assert_eq!(
                conflicts(host, container),
                expected,
                "{host} beside {container}"
            );
        }
    }
}
