//! What the measurements are used for besides placing: rounds of rebalancing, on their own schedule, and
//! what is remembered of workloads. Everything that is decided is logged, counted and explained.

use super::{clock::monotonic, decide::Decided, owner::Owner};
use resmgr_policy::{Condition, Measured, RebalanceMove, update_profiles};
use resmgr_topology::Nanos;
use std::sync::Arc;

const SECOND_NS: u64 = 1_000_000_000;

/// Time between two rounds, by the clock of the measurements and for their standard half-life: a few of
/// them make a new picture.
const ROUND_NS: u64 = 5 * SECOND_NS;

/// Time between two looks at what workloads do; each that finds something new costs a write to the disk.
const REMEMBER_NS: u64 = 30 * SECOND_NS;

impl Owner {
    /// New measurements: a round is due when they are newer by [`ROUND_NS`] than those of the last one.
    pub(super) async fn measured(&mut self, measured: Arc<Measured>) {
        self.decider.measured = measured;
        self.check_measurements();
        let at = self.decider.measured.at;
        // A creation under way may still be taken back: then the next measurements are looked at.
        if !self.feedback.condition.is_usable() || self.restored || !self.reservations.is_empty() {
            return;
        }
        let due = |last: Nanos, every: u64| at.0.saturating_sub(last.0) >= every;
        if due(self.feedback.profiled_at, REMEMBER_NS) {
            self.feedback.profiled_at = at;
            self.update_profiles().await;
        }
        if due(
            self.feedback.round_at,
            self.decider.measured.scaled_to_half_life(ROUND_NS),
        ) {
            self.feedback.round_at = at;
            self.rebalance().await;
        }
    }

    /// Says once when measurements can no longer be used, and once when they can again.
    pub(super) fn check_measurements(&mut self) {
        let now = Condition::of(&self.decider.measured, monotonic());
        let before = std::mem::replace(&mut self.feedback.condition, now);
        if before.is_usable() == now.is_usable() {
            return;
        }
        if now.is_usable() {
            tracing::info!("measurements are usable: placement and rebalancing follow them");
        } else {
            self.feedback.moves.fallbacks += 1;
            tracing::warn!(
                "{now}; nothing is moved until there are new ones. What has been moved stays where it is"
            );
        }
        self.show();
    }

    async fn update_profiles(&mut self) {
        let state = self.containers.state();
        let profiled = self
            .decider
            .evaluate(state, |_policy, view| update_profiles(view));
        match profiled.await {
            Ok(None) => {}
            Ok(Some(memory)) => {
                self.containers.set_memory(memory);
                self.publish();
            }
            Err(failure) => self.count(&failure),
        }
    }

    async fn rebalance(&mut self) {
        let state = self.containers.state();
        let better = self
            .decider
            .decide(state, |policy, view| Ok(policy.rebalance(view)));
        let decided = match better.await {
            Ok(None) => return,
            Ok(Some(decided)) => decided,
            Err(failure) => return self.count(&failure),
        };
        let history = |owner: &Self| owner.containers.state().rebalance.history.back().cloned();
        let before = history(self);
        let plan = self.apply(&decided);
        self.run_plan(&plan).await;
        let Decided { decision, .. } = decided;
        let explained = decision.changes.iter();
        let explained =
            explained.filter_map(|change| Some((&change.id, change.explanation.as_ref()?)));
        for (id, why) in explained.chain(decision.notes.iter().map(|(id, why)| (id, why))) {
            tracing::info!(container = %id, why = why.reason_lines().join("; "), "{}", why.summary);
        }
        if let Some(last) = history(self).filter(|last| changed(before.as_ref(), last)) {
            self.feedback.moves.add(&last);
        }
        self.publish();
    }
}

/// Whether the last move is another one, or has come to another end.
fn changed(before: Option<&RebalanceMove>, after: &RebalanceMove) -> bool {
    before.is_none_or(|before| {
        (before.at, &before.id, before.outcome) != (after.at, &after.id, after.outcome)
    })
}
