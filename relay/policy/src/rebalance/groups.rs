//! Which containers a move touches, and which it does not: by what it does to the load of their CPUs.

use super::{cost::lost_ns_per_s, proposal::confident};
use crate::{decision::Change, request::ContainerId, state::rebalance::Baseline, view::View};
use alloc::vec::Vec;
use core::cmp::Reverse;
use resmgr_topology::CpuSet;

/// So many containers that a move touches are watched besides those it is made for, those it touches most.
const NEIGHBOURS: usize = 64;
/// So many containers that it does not touch are compared with, those that run most.
const COMPARED: usize = 64;
/// A container that uses less says nothing about the machine, thousandths of a CPU.
pub(super) const LEAST_MCPU: u32 = 10;

/// The containers by which a move is judged, besides those it is made for.
#[derive(Debug, Default)]
pub(super) struct Groups {
    /// Those on whose CPUs the load changes, where it leaves and where it comes.
    pub(super) neighbours: Vec<Baseline>,
    /// Those on whose CPUs it stays as it is.
    pub(super) comparison: Vec<Baseline>,
}

/// A container that gets other CPUs.
struct LoadChange<'a> {
    id: &'a ContainerId,
    from: CpuSet,
    to: CpuSet,
    /// CPU time per second, thousandths of a CPU.
    used_mcpu: i64,
}

impl LoadChange<'_> {
    /// What it adds to the load of these CPUs, millionths of a CPU for each of them. A container that may still run
    /// wherever these are adds nothing: where all of them share a pool, leaving for a part of it leaves the load of the
    /// pool as it is.
    fn load_on(&self, cpus: &CpuSet) -> i64 {
        let share = |of: &CpuSet| {
            let common = count(cpus.intersection(of).len());
            self.used_mcpu * 1000 * common / count(of.len()).max(1) / count(cpus.len()).max(1)
        };
        share(&self.to) - share(&self.from)
    }
}

/// What a container is like before a move.
pub(super) fn baseline(view: View<'_>, id: &ContainerId) -> Baseline {
    let seen = view.measured.containers.get(id);
    Baseline {
        id: id.clone(),
        lost_ns_per_s: seen.map_or(0, |seen| lost_ns_per_s(view, id, seen)),
        utilisation_mcpu: seen.map_or(0, |seen| seen.utilisation_mcpu),
    }
}

/// Divides the containers that were measured and are not among `judged`.
pub(super) fn groups(view: View<'_>, changes: &[Change], judged: &[Baseline]) -> Groups {
    let moves: Vec<LoadChange<'_>> = changes
        .iter()
        .filter_map(|change| {
            let old = view.state.containers.get(&change.id)?;
            let (from, to) = (*old.placement.cpus, *change.placement.cpus);
            let seen = view.measured.containers.get(&change.id);
            let used = seen.map_or(0, |seen| seen.utilisation_mcpu).max(LEAST_MCPU);
            (from != to).then_some(LoadChange {
                id: &change.id,
                from,
                to,
                used_mcpu: used.into(),
            })
        })
        .collect();
    // A third of what a container brings along where it comes.
    let loads = moves.iter().map(|moved| moved.load_on(&moved.to));
    let least = loads.max().unwrap_or(0).max(1) / 3;
    let (mut touched, mut untouched) = (Vec::new(), Vec::new());
    for (id, container) in &view.state.containers {
        let cpus = &container.placement.cpus;
        if cpus.is_empty() || judged.iter().any(|baseline| baseline.id == *id) {
            continue;
        }
        let Some(seen) = confident(view, id) else {
            continue;
        };
        let load: i64 = moves.iter().map(|moved| moved.load_on(cpus)).sum();
        if load.abs() > least || moves.iter().any(|moved| moved.id == id) {
            touched.push((Reverse(load.abs()), baseline(view, id)));
        } else if seen.utilisation_mcpu >= LEAST_MCPU {
            untouched.push((
                Reverse(i64::from(seen.utilisation_mcpu)),
                baseline(view, id),
            ));
        }
    }
    Groups {
        neighbours: first(touched, NEIGHBOURS),
        comparison: first(untouched, COMPARED),
    }
}

fn first(mut all: Vec<(Reverse<i64>, Baseline)>, most: usize) -> Vec<Baseline> {
    all.sort_by(|(a, first), (b, second)| (a, &first.id).cmp(&(b, &second.id)));
    all.truncate(most);
    all.into_iter().map(|(_, baseline)| baseline).collect()
}

fn count(cpus: usize) -> i64 {
    i64::try_from(cpus).unwrap_or(i64::MAX)
}
