//! Confining shared containers whose threads wander over the machine to one node or package they fit in.

use super::{Flavour, Slices, items, taken};
use crate::{
    decision::View,
    rebalance::{Movable, Proposal, movable},
    request::ContainerId,
    state::Placement,
};
use alloc::{format, string::String, vec, vec::Vec};
use resmgr_topology::CpuSet;

/// Far migrations per second from which a container counts as wandering, thousandths.
const WANDERS_MILLI_PER_S: u64 = 20_000;
/// Waiting from which a confined container is worth another span, nanoseconds per second.
const WAITS_NS_PER_S: u64 = 100_000_000;
/// Part of a span's CPU time that may be used after the move, per cent.
const FILL_PERCENT: u64 = 75;

impl<F: Flavour> Movable for Slices<F> {
    fn proposals(&self, view: View<'_>) -> Vec<Proposal> {
        let sets = self.sets(view.topology);
        let pool = sets.pool.difference(&taken(&items(view, None)));
        let spans = spans(view, &pool);
        let mut proposals = Vec::new();
        for (id, one) in &view.state.containers {
            let placed = &one.placement;
            let shared = placed.exclusive.is_empty() && placed.pool.as_deref() == Some("shared");
            let Some(seen) = movable(view, id, &one.request).filter(|_| shared) else {
                continue;
            };
            let package = seen.package_migrations_milli_per_s;
            let node = seen.node_migrations_milli_per_s;
            let wanders = package.saturating_add(node) >= WANDERS_MILLI_PER_S;
            let waits = placed.confined.is_some() && seen.wait_ns_per_s >= WAITS_NS_PER_S;
            if !wanders && !waits {
                continue;
            }
            let asked = u64::from(placed.shared.0);
            let need = u64::from(seen.utilisation_mcpu).max(asked);
            // What it uses of each CPU now goes with it.
            let width = u64::try_from(placed.cpus.len().max(1)).unwrap_or(1);
            let own = u64::from(seen.utilisation_mcpu) / width;
            let best = spans
                .iter()
                .filter(|span| {
                    Some(span.cpus) != placed.confined && !placed.cpus.is_subset(&span.cpus)
                })
                .filter_map(|span| {
                    let both = span.inside.intersection(&placed.cpus).len();
                    let mine = own.saturating_mul(u64::try_from(both).unwrap_or(0));
                    let used = span.busy_milli.saturating_sub(mine);
                    let left = span.room_milli.checked_sub(used.saturating_add(need))?;
                    Some((span, left))
                })
                .min_by_key(|(span, left)| (span.level, core::cmp::Reverse(*left), span.id));
            let Some((span, left)) = best else {
                continue;
            };
            let saved = if span.level == 0 {
                package * 100 + node * 50
            } else {
                package * 100
            };
            let (reason, gain) = if wanders {
                ("migrations", saved)
            } else {
                ("contention", seen.wait_ns_per_s / 2)
            };
            proposals.push(Proposal {
                id: id.clone(),
                to: Some(span.cpus),
                reason,
                gain_ns_per_s: gain,
                why: vec![
                    format!(
                        "{} migrations/s between packages, {} between nodes, {} µs/s waited",
                        package / 1000,
                        node / 1000,
                        seen.wait_ns_per_s / 1000
                    ),
                    format!(
                        "uses {need}m, fits in {}: {left}m would still be free",
                        span.name
                    ),
                ],
            });
        }
        proposals
    }

    fn span(&self, placement: &Placement) -> Option<CpuSet> {
        placement.confined
    }

    fn confined(&self, view: View<'_>, id: &ContainerId, to: Option<CpuSet>) -> Option<Placement> {
        let sets = self.sets(view.topology);
        let mut items = items(view, None);
        items.iter_mut().find(|item| item.id == id)?.confined = to;
        let changes = self.settle(view.topology, &sets, &items);
        let changed = changes.into_iter().find(|change| change.id == *id)?;
        (changed.placement.confined == to).then_some(changed.placement)
    }
}

struct Span {
    level: u8,
    id: u32,
    cpus: CpuSet,
    /// Its part of the pool, and how much of that is used and may be.
    inside: CpuSet,
    busy_milli: u64,
    room_milli: u64,
    name: String,
}

/// Nodes, then packages, that have a part of the pool and not all of it.
fn spans(view: View<'_>, pool: &CpuSet) -> Vec<Span> {
    let span = |level, id, cpus: &CpuSet, name| {
        let inside = cpus.intersection(pool);
        let busy = |cpu| view.measured.cpu_busy_milli.get(&cpu).copied().unwrap_or(0);
        Span {
            level,
            id,
            cpus: *cpus,
            inside,
            busy_milli: inside.iter().map(|cpu| u64::from(busy(cpu))).sum(),
            room_milli: u64::try_from(inside.len()).unwrap_or(0) * 10 * FILL_PERCENT,
            name,
        }
    };
    let nodes = view.topology.nodes.iter();
    let nodes = nodes.map(|node| span(0, node.id.0, &node.cpus, format!("node {}", node.id)));
    let packages = view.topology.packages.iter();
    let packages = packages.map(|one| span(1, one.id.0, &one.cpus, format!("package {}", one.id)));
    let all = nodes.chain(packages);
    all.filter(|span| !span.inside.is_empty() && span.inside != *pool)
        .collect()
}
