//! What the measurements are used for besides placing: rounds of rebalancing, on their own schedule, and
//! what is remembered of workloads. Everything that is decided is logged, counted and explained.

use super::*;
use crate::manager::MoveCounts;
use resmgr_policy::{Condition, Measured, Moved, RebalanceMemory, remember};
use resmgr_topology::Nanos;

const SECOND_NS: u64 = 1_000_000_000;

/// Time between two rounds, by the clock of the measurements and for their standard half-life: a few of
/// them make a new picture.
const ROUND_NS: u64 = 5 * SECOND_NS;

/// Time between two looks at what workloads do; each that finds something new costs a write to the disk.
const REMEMBER_NS: u64 = 30 * SECOND_NS;

#[derive(Debug)]
pub(super) struct Feedback {
    /// Measurements of the last round, and of the last look at workloads.
    round_at: Nanos,
    remembered_at: Nanos,
    /// What the measurements are good for, as said last.
    pub(super) condition: Condition,
    pub(super) moves: MoveCounts,
}

impl Default for Feedback {
    fn default() -> Self {
        Self {
            round_at: Nanos(0),
            remembered_at: Nanos(0),
            condition: Condition::Missing,
            moves: MoveCounts::default(),
        }
    }
}

/// What an earlier run remembered, as far as it still means anything: moves only to the same policy, and
/// times only until the machine was started anew.
pub(super) fn kept(memory: RebalanceMemory, saved_at: Nanos, same_policy: bool) -> RebalanceMemory {
    if same_policy && saved_at <= decide::now() {
        return memory;
    }
    workloads_of(&memory)
}

/// What is known of workloads, and nothing else. Their times of rest have lost their meaning.
pub(super) fn workloads_of(memory: &RebalanceMemory) -> RebalanceMemory {
    let mut workloads = Arc::clone(&memory.workloads);
    for known in Arc::make_mut(&mut workloads).values_mut() {
        known.rests_until = None;
    }
    RebalanceMemory {
        workloads,
        ..RebalanceMemory::default()
    }
}

impl Owner {
    /// New measurements: a round is due when they are newer by [`ROUND_NS`] than those of the last one.
    pub(super) async fn measured(&mut self, measured: Arc<Measured>) {
        self.decider.measured = measured;
        self.heed_measurements();
        let at = self.decider.measured.at;
        // A creation under way may still be taken back: then the next measurements are looked at.
        if !self.feedback.condition.is_usable() || self.restored || !self.pending.is_empty() {
            return;
        }
        let due = |last: Nanos, every: u64| at.0.saturating_sub(last.0) >= every;
        if due(self.feedback.remembered_at, REMEMBER_NS) {
            self.feedback.remembered_at = at;
            self.remember().await;
        }
        if due(
            self.feedback.round_at,
            self.decider.measured.paced(ROUND_NS),
        ) {
            self.feedback.round_at = at;
            if self.decider.policy.rebalances() {
                self.rebalance().await;
            }
        }
    }

    /// Says once when measurements can no longer be used, and once when they can again.
    pub(super) fn heed_measurements(&mut self) {
        let now = Condition::of(&self.decider.measured, decide::now());
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

    async fn remember(&mut self) {
        let looked = self
            .decider
            .ask(&self.state, |_policy, view| Ok(remember(view)))
            .await;
        match looked {
            Ok(None) => {}
            Ok(Some(memory)) => {
                Arc::make_mut(&mut self.state).rebalance = memory;
                self.generation += 1;
                self.publish();
            }
            Err(failure) => self.count(&failure),
        }
    }

    async fn rebalance(&mut self) {
        let better = self
            .decider
            .ask(&self.state, |policy, view| Ok(policy.rebalance(view)))
            .await;
        let decision = match better {
            Ok(None) => return,
            Ok(Some(decision)) => decision,
            Err(failure) => return self.count(&failure),
        };
        if let Err(failure) = self.decider.check(&self.state, &decision) {
            return self.count(&failure);
        }
        let before = self.state.rebalance.history.back().cloned();
        let plan = self.apply(&decision);
        self.run_plan(&plan).await;
        for (id, why) in &decision.notes {
            if let Some(entry) = self.entries.get_mut(id) {
                let entry = Arc::make_mut(entry);
                let cpus = entry.placement.as_ref().map(|placement| *placement.cpus);
                entry.note(Note {
                    at_unix_s: unix_s(),
                    cpus: cpus.unwrap_or_default(),
                    why: why.clone(),
                });
            }
        }
        let told = decision.changes.iter();
        let told = told.filter_map(|change| Some((&change.id, change.explanation.as_ref()?)));
        for (id, why) in told.chain(decision.notes.iter().map(|(id, why)| (id, why))) {
            tracing::info!(container = %id, why = why.reasons.join("; "), "{}", why.summary);
        }
        let after = self.state.rebalance.history.back();
        if let Some(moved) = after.filter(|after| changed(before.as_ref(), after)) {
            self.feedback.moves.add(moved);
        }
        self.generation += 1;
        self.publish();
    }
}

/// Whether the last move is another one, or has come to another end.
fn changed(before: Option<&Moved>, after: &Moved) -> bool {
    before.is_none_or(|before| {
        (before.at, &before.id, before.outcome) != (after.at, &after.id, after.outcome)
    })
}
