//! Levelling the shared lists of a pool: containers that wait move to a list with room.

use super::{Ask, StaticPools};
use crate::{
    contention::Contention,
    decision::View,
    rebalance::{Movable, Proposal, movable},
    request::ContainerId,
    state::Placement,
};
use alloc::{format, vec, vec::Vec};
use resmgr_topology::CpuSet;

/// Waiting from which a container is worth moving, nanoseconds per second.
const WAITS_NS_PER_S: u64 = 50_000_000;
/// The other list must stay this much less busy with the container on it, thousandths.
const HYSTERESIS_MILLI: u64 = 200;

impl Movable for StaticPools {
    fn proposals(&self, view: View<'_>) -> Vec<Proposal> {
        let contention = Contention::of(view);
        let mut proposals = Vec::new();
        for (id, one) in &view.state.containers {
            let placed = &one.placement;
            let pool = placed.pool.as_deref().and_then(|name| self.pools.get(name));
            let (Some(pool), [list]) = (pool, placed.lists.as_slice()) else {
                continue;
            };
            if pool.exclusive || placed.cpus.is_empty() {
                continue;
            }
            let Some(seen) = movable(view, id, &one.request) else {
                continue;
            };
            if seen.wait_ns_per_s < WAITS_NS_PER_S {
                continue;
            }
            let online = |list: &CpuSet| list.intersection(&view.topology.online);
            let here = contention.mean(&online(list));
            let others = pool.lists.iter().filter(|other| {
                let wanted = placed.socket.is_none_or(|socket| socket == other.socket);
                wanted && other.cpus != *list && !online(&other.cpus).is_empty()
            });
            let with_it = others.map(|other| {
                let width = u64::try_from(online(&other.cpus).len().max(1)).unwrap_or(1);
                let added = u64::from(seen.utilisation_mcpu) / width;
                (contention.mean(&online(&other.cpus)) + added, other)
            });
            let Some((there, other)) = with_it.min_by_key(|(busy, _)| *busy) else {
                continue;
            };
            if there + HYSTERESIS_MILLI > here {
                continue;
            }
            proposals.push(Proposal {
                id: id.clone(),
                to: Some(other.cpus),
                reason: "contention",
                gain_ns_per_s: seen.wait_ns_per_s / 2,
                why: vec![
                    format!(
                        "waited {} µs/s on list {list}, {here} of 1000 busy",
                        seen.wait_ns_per_s / 1000
                    ),
                    format!("list {} would be {there} of 1000 busy with it", other.cpus),
                ],
            });
        }
        proposals
    }

    fn span(&self, placement: &Placement) -> Option<CpuSet> {
        placement.lists.first().copied()
    }

    fn confined(&self, view: View<'_>, id: &ContainerId, to: Option<CpuSet>) -> Option<Placement> {
        let one = view.state.containers.get(id)?;
        let old = &one.placement;
        let name = old.pool.as_deref()?;
        let list = self
            .pools
            .get(name)?
            .lists
            .iter()
            .find(|list| Some(list.cpus) == to)?;
        let ask = Ask {
            socket: old.socket,
            ..Ask::default()
        };
        let new = self.placement(view.topology, &one.request, name, vec![list.cpus], &ask);
        let alive = !new.cpus.is_empty() && new.exclusive.is_empty();
        // The environment of a running process cannot change.
        (alive && new.cpus != old.cpus).then(|| Placement {
            env: old.env.clone(),
            ..new
        })
    }
}
