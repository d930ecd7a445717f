//! What became of the pools: which container came, went or was resized, and what that left to those that share. Pure.

use resmgr_policy::{Container, ContainerId, Decision, Placement, State};
use resmgr_topology::{CpuSet, Cpus};
use serde::{Deserialize, Serialize};
use std::{collections::VecDeque, sync::Arc};

/// How many changes are kept.
pub(super) const MAX_POOL_CHANGES: usize = 128;
/// How many causes of one change are named; further ones are counted.
const MAX_CAUSES: usize = 3;

/// Other CPUs for all containers that share a pool.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PoolChange {
    /// Seconds since 1970.
    pub at_unix_s: u64,
    /// The pool.
    pub pool: Arc<str>,
    /// Its CPUs before.
    pub from: Cpus,
    /// Its CPUs since.
    pub to: Cpus,
    /// Containers that had arrived before it: those with a lower number of arrival met it.
    pub arrivals: u64,
    /// What led to it, for people.
    pub causes: Vec<String>,
}

/// The last changes of pools, oldest first. A clone shares them with the original until either changes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct PoolChanges(Arc<VecDeque<PoolChange>>);

impl PoolChanges {
    /// Those that a container met, oldest first.
    pub fn met_by(&self, placement: &Placement, arrival: u64) -> impl Iterator<Item = &PoolChange> {
        let pool = placement.pool.clone();
        let met = move |change: &&PoolChange| {
            Some(&change.pool) == pool.as_ref() && arrival < change.arrivals
        };
        self.0.iter().filter(met)
    }

    /// What a decision that leads from `before` to `after` does to the pools.
    pub(super) fn add_decision(
        &mut self,
        decision: &Decision,
        before: &State,
        after: &State,
        at_unix_s: u64,
    ) {
        let following = decision.changes.iter();
        let following = following.filter(|change| change.explanation.is_none());
        let changes = changed_pools(following.map(|change| &change.id), before, after);
        if changes.is_empty() {
            return;
        }
        let decided = decision.changes.iter();
        let decided = decided.filter(|change| change.explanation.is_some());
        let concerned = decision.released.iter();
        let concerned = concerned.chain(decided.clone().map(|change| &change.id));
        let mut causes = causes(concerned, before, after);
        if causes.is_empty() {
            // Nothing exclusive was given or taken: pools lend to each other, or one is full.
            let moved = decided.filter_map(|change| change.explanation.as_ref());
            let noted = decision.notes.iter().map(|(_id, why)| why);
            let summaries = moved.chain(noted).map(|why| why.summary.clone());
            causes = first_causes(summaries);
        }
        self.add(changes, &causes, before, at_unix_s);
    }

    /// What the step from `before` to `after` does to the pools, which `occasion` led to.
    pub(super) fn add_replacement(
        &mut self,
        occasion: &str,
        before: &State,
        after: &State,
        at_unix_s: u64,
    ) {
        let changes = changed_pools(after.containers.keys(), before, after);
        if changes.is_empty() {
            return;
        }
        let new = after.containers.keys();
        let new = new.filter(|id| !before.containers.contains_key(*id));
        let concerned = before.containers.keys().chain(new);
        let mut all = vec![occasion.to_owned()];
        all.extend(causes(concerned, before, after));
        self.add(changes, &all, before, at_unix_s);
    }

    fn add(
        &mut self,
        changes: Vec<(Arc<str>, CpuSet, CpuSet)>,
        causes: &[String],
        before: &State,
        at_unix_s: u64,
    ) {
        let all = Arc::make_mut(&mut self.0);
        for (pool, from, to) in changes {
            all.push_back(PoolChange {
                at_unix_s,
                pool,
                from: from.into(),
                to: to.into(),
                arrivals: before.next_arrival,
                causes: causes.to_vec(),
            });
        }
        let extra = all.len().saturating_sub(MAX_POOL_CHANGES);
        all.drain(..extra);
    }
}

/// The CPUs a container shares with its whole pool; `None` where it runs on some of the pool's alone.
fn pool_cpus(placement: &Placement) -> Option<CpuSet> {
    let whole = placement.confined.is_none() && placement.lists.is_empty();
    whole.then(|| placement.cpus.difference(&placement.exclusive))
}

/// The pools that have other CPUs, as the containers `ids` in them show.
fn changed_pools<'a>(
    ids: impl Iterator<Item = &'a ContainerId>,
    before: &State,
    after: &State,
) -> Vec<(Arc<str>, CpuSet, CpuSet)> {
    let mut pools: Vec<(Arc<str>, CpuSet, CpuSet)> = Vec::new();
    for id in ids {
        let (Some(was), Some(is)) = (before.containers.get(id), after.containers.get(id)) else {
            continue;
        };
        let (was, is) = (&was.placement, &is.placement);
        let Some(pool) = is
            .pool
            .as_ref()
            .filter(|pool| was.pool.as_ref() == Some(pool))
        else {
            continue;
        };
        if pools.iter().any(|(known, ..)| known == pool) {
            continue;
        }
        if let (Some(from), Some(to)) = (pool_cpus(was), pool_cpus(is))
            && from != to
        {
            pools.push((Arc::clone(pool), from, to));
        }
    }
    pools
}

/// Which of these containers took exclusive CPUs or gave some back.
fn causes<'a>(
    ids: impl Iterator<Item = &'a ContainerId>,
    before: &State,
    after: &State,
) -> Vec<String> {
    let exclusive = |container: Option<&Container>| {
        container.map_or(CpuSet::EMPTY, |container| *container.placement.exclusive)
    };
    let told = ids.filter_map(|id| {
        let (was, is) = (before.containers.get(id), after.containers.get(id));
        let (had, has) = (exclusive(was), exclusive(is));
        let name = is.or(was)?.request.full_name();
        match (was.is_some(), is.is_some()) {
            _ if had == has => None,
            (true, false) => Some(format!("{name} is gone, which had CPUs {had} alone")),
            (false, _) => Some(format!("{name} came and has CPUs {has} alone")),
            _ if had.is_empty() => Some(format!("{name} now has CPUs {has} alone")),
            _ if has.is_empty() => Some(format!("{name} gave back CPUs {had}, which it had alone")),
            _ => Some(format!("{name} now has CPUs {has} alone, before {had}")),
        }
    });
    first_causes(told)
}

fn first_causes(causes: impl Iterator<Item = String>) -> Vec<String> {
    let mut all: Vec<String> = causes.collect();
    let more = all.len().saturating_sub(MAX_CAUSES);
    if more > 0 {
        all.truncate(MAX_CAUSES);
        all.push(format!("and {more} more"));
    }
    all
}
