//! The plain difference between before and after a move, against fixed thresholds: what to compare the policy's
//! verdicts with.

use resmgr_policy::{Baseline, ContainerId, Outcome, View};

const SECOND_NS: u64 = 1_000_000_000;
/// For a half-life of 10 s: a move that has won enough is kept from here on.
const KEPT_FROM_NS: u64 = 10 * SECOND_NS;
/// One that has not by now is undone.
const UNDONE_FROM_NS: u64 = 20 * SECOND_NS;
const NOISE_NS: u64 = 5_000_000;

/// What waited before a move.
#[derive(Debug)]
pub(super) struct Thresholds {
    at_ns: u64,
    promised_ns_per_s: u64,
    moved: Baseline,
    /// Those on the CPUs that it went to.
    beside: Vec<Baseline>,
}

impl Thresholds {
    /// Of the move that is on trial; `None` without one.
    pub(super) fn of(view: View<'_>) -> Option<Self> {
        let trial = view.state.rebalance.trial()?;
        let to = view.state.containers.get(&trial.id)?.placement.cpus.clone();
        let waits = |id: &ContainerId| Baseline {
            id: id.clone(),
            lost_ns_per_s: wait_ns_per_s(view, id),
            utilisation_mcpu: 0,
        };
        let containers = view.state.containers.iter();
        let beside = containers.filter(|(id, container)| {
            **id != trial.id && !container.placement.cpus.is_disjoint(&to)
        });
        Some(Self {
            at_ns: trial.at.0,
            promised_ns_per_s: trial.promised_ns_per_s,
            moved: waits(&trial.id),
            beside: beside.map(|(id, _)| waits(id)).collect(),
        })
    }

    pub(super) fn at_ns(&self) -> u64 {
        self.at_ns
    }

    /// Kept when half of what was promised was won, undone when it was not in time; `None` before.
    pub(super) fn verdict(&self, view: View<'_>) -> Option<Outcome> {
        let since_ns = view.now.0.saturating_sub(self.at_ns);
        let scaled = |ns| view.measured.scaled_to_half_life(ns);
        let now = wait_ns_per_s(view, &self.moved.id);
        let before: u64 = self.beside.iter().map(|beside| beside.lost_ns_per_s).sum();
        let after: u64 = self
            .beside
            .iter()
            .map(|beside| wait_ns_per_s(view, &beside.id))
            .sum();
        let harm = after.saturating_sub(before + NOISE_NS.max(before / 10));
        let enough = now + harm + self.promised_ns_per_s / 2 <= self.moved.lost_ns_per_s;
        match enough {
            true if since_ns >= scaled(KEPT_FROM_NS) => Some(Outcome::Kept),
            false if since_ns >= scaled(UNDONE_FROM_NS) => Some(Outcome::Undone),
            _ => None,
        }
    }
}

fn wait_ns_per_s(view: View<'_>, id: &ContainerId) -> u64 {
    let seen = view.measured.containers.get(id);
    seen.map_or(0, |seen| seen.wait_ns_per_s)
}
