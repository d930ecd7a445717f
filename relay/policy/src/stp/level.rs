//! Levelling the shared lists of a pool: containers that wait move to a list with room, pairs that interfere
//! with each other are separated, and exclusive lists are exchanged where the pod asked for it.

use super::{
    FULL_MILLI, PoolRequest, StaticPools,
    pools::{List, Pool},
};
use crate::{
    annotation::wants_exclusive_moved,
    contention::Contention,
    decision::Change,
    explanation::{Candidate, MAX_LISTED_CANDIDATES, Reason, first_candidates},
    measured::Observed,
    rebalance::{
        interference::{InterferingPair, interfering_pairs},
        proposal::{Movable, Proposal, movable},
    },
    request::ContainerId,
    state::{
        Container, Placement,
        rebalance::{Benefit, MoveKind, MoveStep, RebalanceMemory},
    },
    view::View,
};
use alloc::{vec, vec::Vec};
use resmgr_topology::CpuSet;

/// Waiting from which a container is worth moving, nanoseconds per second.
const WAITS_NS_PER_S: u64 = 50_000_000;
/// The other list must stay this much less busy with the container on it, thousandths.
const HYSTERESIS_MILLI: u64 = 200;
/// Time per second that intruders ran on its CPUs from which it is worth others, nanoseconds.
const INTRUDER_NS_PER_S: u64 = 20_000_000;
/// A container on one shared list that may be moved.
struct SharedList<'a> {
    id: &'a ContainerId,
    container: &'a Container,
    seen: &'a Observed,
    pool: &'a Pool,
    list: CpuSet,
}

impl StaticPools {
    fn shared<'a>(&'a self, view: View<'a>, id: &'a ContainerId) -> Option<SharedList<'a>> {
        let container = view.state.containers.get(id)?;
        let placed = &container.placement;
        let pool = self.pools.get(placed.pool.as_deref()?)?;
        let [list] = placed.lists.as_slice() else {
            return None;
        };
        if pool.exclusive || placed.cpus.is_empty() {
            return None;
        }
        let seen = movable(view, id, &container.request)?;
        Some(SharedList {
            id,
            container,
            seen,
            pool,
            list: *list,
        })
    }
}

impl SharedList<'_> {
    /// The other lists it may run on, and how busy each would be with it; the least busy first.
    fn alternatives(&self, view: View<'_>, contention: &Contention) -> Vec<(u64, &List)> {
        let socket = self.container.placement.socket;
        let alternatives = self.pool.lists.iter().filter(|list| {
            let wanted = socket.is_none_or(|socket| socket == list.socket);
            wanted && list.cpus != self.list && !online(view, &list.cpus).is_empty()
        });
        let mut with_it: Vec<_> = alternatives
            .map(|list| {
                let cpus = online(view, &list.cpus);
                let width = u64::try_from(cpus.len().max(1)).unwrap_or(1);
                let added = u64::from(self.seen.utilisation_mcpu) / width;
                (contention.mean(&cpus) + added, list)
            })
            .collect();
        with_it.sort_by_key(|(busy, _)| *busy);
        with_it
    }

    fn to(&self, list: &List) -> MoveStep {
        MoveStep {
            id: self.id.clone(),
            kind: MoveKind::Domain,
            from: Some(self.list),
            to: Some(list.cpus),
        }
    }
}

fn online(view: View<'_>, list: &CpuSet) -> CpuSet {
    list.intersection(&view.topology.online)
}

fn candidates(alternatives: &[(u64, &List)]) -> Vec<Candidate> {
    let candidates = alternatives
        .iter()
        .map(|(busy, list)| Candidate::OtherList {
            cpus: list.cpus.into(),
            socket: list.socket,
            busy_with_it_milli: *busy,
        });
    first_candidates(candidates, MAX_LISTED_CANDIDATES)
}

fn level(view: View<'_>, contention: &Contention, shared: &SharedList<'_>) -> Option<Proposal> {
    if shared.seen.wait_ns_per_s < WAITS_NS_PER_S {
        return None;
    }
    let here = contention.mean(&online(view, &shared.list));
    let alternatives = shared.alternatives(view, contention);
    let (there, target) = alternatives.first()?;
    if there + HYSTERESIS_MILLI > here {
        return None;
    }
    Some(Proposal {
        steps: vec![shared.to(target)],
        watched: Vec::new(),
        reason: "contention",
        gain_ns_per_s: shared.seen.wait_ns_per_s / 2,
        benefit: Benefit::Time,
        reasons: vec![
            Reason::WaitsOnList {
                wait_ns_per_s: shared.seen.wait_ns_per_s,
                list: shared.list.into(),
                busy_milli: here,
            },
            Reason::OtherList {
                list: target.cpus.into(),
                busy_with_it_milli: *there,
                least_difference_milli: Some(HYSTERESIS_MILLI),
            },
        ],
        candidates: candidates(&alternatives),
    })
}

/// One container of an interfering pair goes to another list: the victim, or else the aggressor.
fn separate(policy: &StaticPools, view: View<'_>, contention: &Contention) -> Vec<Proposal> {
    let mut proposals = Vec::new();
    for pair in interfering_pairs(view.measured) {
        let InterferingPair {
            victim, aggressor, ..
        } = pair;
        let list = |id| {
            let container = view.state.containers.get(id)?;
            container.placement.lists.first().copied()
        };
        let Some(common) = list(victim).filter(|common| list(aggressor) == Some(*common)) else {
            continue;
        };
        for moved in [victim, aggressor] {
            let Some(shared) = policy.shared(view, moved) else {
                continue;
            };
            let here = contention.mean(&online(view, &shared.list));
            let alternatives = shared.alternatives(view, contention);
            let room = |busy: u64| busy <= FULL_MILLI.min(here.max(HYSTERESIS_MILLI));
            let Some((there, target)) = alternatives.first().filter(|(busy, _)| room(*busy)) else {
                continue;
            };
            proposals.push(Proposal {
                steps: vec![shared.to(target)],
                watched: vec![victim.clone(), aggressor.clone()],
                reason: "parting",
                // The aggressor is moved for the sake of the victim: half as sure to help.
                gain_ns_per_s: pair.attributed_wait() / if moved == victim { 2 } else { 4 },
                benefit: Benefit::Time,
                reasons: vec![
                    Reason::InterferesOnList {
                        aggressor: aggressor.clone(),
                        victim: victim.clone(),
                        preempted_milli_per_s: pair.preempted_milli_per_s,
                        wait_ns_per_s: pair.victim_seen.wait_ns_per_s,
                        list: common.into(),
                    },
                    Reason::OtherList {
                        list: target.cpus.into(),
                        busy_with_it_milli: *there,
                        least_difference_milli: None,
                    },
                ],
                candidates: candidates(&alternatives),
            });
        }
    }
    proposals
}

/// Other lists of the same exclusive pool, away from where others run all the same.
fn exchange(
    policy: &StaticPools,
    view: View<'_>,
    contention: &Contention,
    id: &ContainerId,
    container: &Container,
) -> Option<Proposal> {
    let placed = &container.placement;
    let seen = view.measured.containers.get(id)?;
    if placed.exclusive.is_empty()
        || placed.cpus.is_empty()
        || seen.intruder_ns_per_s < INTRUDER_NS_PER_S
        || !wants_exclusive_moved(&container.request)
    {
        return None;
    }
    let seen = movable(view, id, &container.request)?;
    let pool = policy.pools.get(placed.pool.as_deref()?)?;
    let taken = view.state.exclusive();
    let mut free: Vec<&List> = pool
        .lists
        .iter()
        .filter(|list| {
            let wanted = placed.socket.is_none_or(|socket| socket == list.socket);
            wanted && list.cpus.is_disjoint(&taken) && list.cpus.is_subset(&view.topology.online)
        })
        .collect();
    free.sort_by_key(|list| contention.mean(&list.cpus));
    let lists = free.get(..placed.lists.len())?;
    let to = lists
        .iter()
        .fold(CpuSet::EMPTY, |all, list| all.union(&list.cpus));
    Some(Proposal {
        steps: vec![MoveStep {
            id: id.clone(),
            kind: MoveKind::Exclusive,
            from: Some(all(&placed.lists)),
            to: Some(to),
        }],
        watched: Vec::new(),
        reason: "foreign",
        gain_ns_per_s: seen.intruder_ns_per_s / 2,
        benefit: Benefit::Time,
        reasons: vec![
            Reason::Intruders {
                intruder_ns_per_s: seen.intruder_ns_per_s,
                held: placed.exclusive.clone(),
                free: to.into(),
            },
            Reason::ExchangeAllowed,
        ],
        candidates: Vec::new(),
    })
}

fn all(lists: &[CpuSet]) -> CpuSet {
    lists
        .iter()
        .fold(CpuSet::EMPTY, |all, list| all.union(list))
}

impl Movable for StaticPools {
    fn proposals(&self, view: View<'_>) -> Vec<Proposal> {
        let contention = Contention::of(view);
        // Of two that win as much the more precise one is first.
        let mut proposals = separate(self, view, &contention);
        for (id, container) in &view.state.containers {
            match self.shared(view, id) {
                Some(shared) => proposals.extend(level(view, &contention, &shared)),
                None => proposals.extend(exchange(self, view, &contention, id, container)),
            }
        }
        proposals
    }

    fn apply_steps(
        &self,
        view: View<'_>,
        steps: &[MoveStep],
        _memory: &RebalanceMemory,
    ) -> Option<Vec<Change>> {
        let mut changes = Vec::new();
        for step in steps {
            let container = view.state.containers.get(&step.id)?;
            let old = &container.placement;
            let name = old.pool.as_deref()?;
            let pool = self.pools.get(name)?;
            let to = step.to?;
            let lists: Vec<CpuSet> = match &step.kind {
                MoveKind::Domain => pool.lists.iter().filter(|list| list.cpus == to).collect(),
                MoveKind::Exclusive => {
                    let inside = pool.lists.iter().filter(|list| list.cpus.is_subset(&to));
                    inside.collect::<Vec<_>>()
                }
                MoveKind::Pool(_) => return None,
            }
            .into_iter()
            .map(|list| list.cpus)
            .collect();
            let exclusive = step.kind == MoveKind::Exclusive;
            let running = view.state.containers.iter();
            let mut running = running.filter(|(id, _)| **id != step.id);
            let free = !exclusive
                || running.all(|(_, container)| container.placement.exclusive.is_disjoint(&to));
            if lists.is_empty() || all(&lists) != to || pool.exclusive != exclusive || !free {
                return None;
            }
            if exclusive && lists.len() != old.lists.len() {
                return None;
            }
            let asked = PoolRequest {
                socket: old.socket,
                ..PoolRequest::default()
            };
            let new = self.placement(view.topology, &container.request, name, lists, &asked);
            if new.cpus.is_empty() || new.cpus == old.cpus {
                return None;
            }
            changes.push(Change {
                id: step.id.clone(),
                request: None,
                // The environment of a running process cannot change.
                placement: Placement {
                    env: old.env.clone(),
                    ..new
                },
                explanation: None,
            });
        }
        changes.sort_by(|a, b| a.id.cmp(&b.id));
        (!changes.is_empty()).then_some(changes)
    }
}
