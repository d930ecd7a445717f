//! What is kept between two rounds of rebalancing.

use super::{clock::monotonic, moves::MoveCounts};
use resmgr_policy::{Condition, RebalanceMemory};
use resmgr_topology::Nanos;
use std::sync::Arc;

/// When the measurements were used last, and for what.
#[derive(Debug)]
pub(super) struct Feedback {
    /// Time of the measurements of the last round.
    pub(super) round_at: Nanos,
    /// Time of the measurements of the last look at workloads.
    pub(super) profiled_at: Nanos,
    /// What the measurements are good for, as said last.
    pub(super) condition: Condition,
    pub(super) moves: MoveCounts,
}

impl Default for Feedback {
    fn default() -> Self {
        Self {
            round_at: Nanos(0),
            profiled_at: Nanos(0),
            condition: Condition::Missing,
            moves: MoveCounts::default(),
        }
    }
}

/// What an earlier run remembered, as far as it still means anything: moves only to the same policy, and
/// times only until the machine was started anew.
pub(super) fn inherited(
    memory: &RebalanceMemory,
    saved_at: Nanos,
    same_policy: bool,
) -> RebalanceMemory {
    if same_policy && saved_at <= monotonic() {
        return memory.clone();
    }
    workloads_of(memory)
}

/// What is known of workloads, and nothing else. Their times of rest have lost their meaning.
pub(super) fn workloads_of(memory: &RebalanceMemory) -> RebalanceMemory {
    let mut workloads = Arc::clone(&memory.workloads);
    for known in Arc::make_mut(&mut workloads).values_mut() {
        known.cooldown_until = None;
    }
    RebalanceMemory {
        workloads,
        ..RebalanceMemory::default()
    }
}
