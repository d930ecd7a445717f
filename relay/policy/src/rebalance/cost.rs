//! What waiting, migrations and moves cost, as time.

use crate::{
    measured::Observed,
    request::ContainerId,
    state::rebalance::{MigrationBaseline, MoveKind, MoveStep},
    view::View,
};
use resmgr_topology::CpuSet;

/// Warming the caches again after a migration to another package, microseconds (estimate: some megabytes
/// from a remote cache or memory).
pub(crate) const PACKAGE_MIGRATION_US: u64 = 100;
/// The same between nodes of a package.
pub(crate) const NODE_MIGRATION_US: u64 = 50;
/// The same between last-level caches of a node.
pub(crate) const LLC_MIGRATION_US: u64 = 20;
/// What moving costs is to be won back within this time.
pub(super) const PAYBACK_S: u64 = 60;
/// Copying memory between neighbouring nodes, bytes per nanosecond.
const COPY_BYTES_PER_NS: u64 = 4;
/// What a container can have in caches, bytes: a large last-level cache.
const CACHED_BYTES: u64 = 32 << 20;
/// Distance of a node to itself (ACPI SLIT).
const LOCAL: u64 = 10;

/// Time lost per second: waiting for CPUs, refilling caches after far migrations, and others on its own CPUs.
pub(crate) fn lost_ns_per_s(view: View<'_>, id: &ContainerId, seen: &Observed) -> u64 {
    waited_ns_per_s(view, id, seen).saturating_add(refill_ns_per_s(seen))
}

/// Of that, the waiting and the intruders, without what the hypervisor stole.
pub(super) fn waited_ns_per_s(view: View<'_>, id: &ContainerId, seen: &Observed) -> u64 {
    let waited = seen.wait_ns_per_s - stolen_wait_ns_per_s(view, id, seen);
    waited.saturating_add(seen.intruder_ns_per_s)
}

/// The part of the waiting in which the hypervisor had taken away the CPU that was waited for: as much of it as of the
/// time in which the container's CPUs were busy.
fn stolen_wait_ns_per_s(view: View<'_>, id: &ContainerId, seen: &Observed) -> u64 {
    let container = view.state.containers.get(id);
    let stolen_milli = container.map_or(0, |container| {
        view.measured
            .stolen_of_busy_milli(&container.placement.cpus)
    });
    seen.wait_ns_per_s / 1000 * stolen_milli.min(1000)
}

/// Of that, the time to refill caches after far migrations.
pub(super) fn refill_ns_per_s(seen: &Observed) -> u64 {
    // Thousandths of migrations times microseconds are nanoseconds.
    let far = [
        (seen.package_migrations_milli_per_s, PACKAGE_MIGRATION_US),
        (seen.node_migrations_milli_per_s, NODE_MIGRATION_US),
        (seen.llc_migrations_milli_per_s, LLC_MIGRATION_US),
    ];
    let caches = far
        .iter()
        .map(|(count, cost_us)| count.saturating_mul(*cost_us));
    caches.fold(0, u64::saturating_add)
}

impl MigrationBaseline {
    pub(super) fn of(view: View<'_>, id: &ContainerId, seen: &Observed) -> Self {
        Self {
            refill_ns_per_s: refill_ns_per_s(seen),
            wait_ns_per_s: waited_ns_per_s(view, id, seen),
        }
    }
}

/// What a part of a move costs, spread over the time in which it must pay: memory that lies elsewhere is
/// copied (or read from afar, which is no cheaper), by NUMA distance; caches are warmed again.
pub(super) fn cost_ns_per_s(view: View<'_>, step: &MoveStep) -> u64 {
    let Some(seen) = view.measured.containers.get(&step.id) else {
        return 0;
    };
    let (MoveKind::Domain | MoveKind::Exclusive, Some(to)) = (&step.kind, &step.to) else {
        // Where it may run on more CPUs than before nothing must move.
        return 0;
    };
    let copied = if seen.resident_by_node.is_empty() {
        seen.resident_bytes
    } else {
        by_distance(view, seen, to)
    };
    let warmed = seen.resident_bytes.min(CACHED_BYTES);
    copied.saturating_add(warmed) / COPY_BYTES_PER_NS / PAYBACK_S
}

/// Bytes that are not near the CPUs, each weighed by how far it has to go: 1 for a distance of 20.
fn by_distance(view: View<'_>, seen: &Observed, to: &CpuSet) -> u64 {
    let mut sum = 0u64;
    for (from, bytes) in &seen.resident_by_node {
        let near = view.topology.nodes_of(to);
        let distances = near.map(|node| u64::from(view.topology.distance(*from, node.id)));
        let away = distances.min().unwrap_or(LOCAL).saturating_sub(LOCAL);
        sum = sum.saturating_add(bytes / LOCAL * away);
    }
    sum
}
