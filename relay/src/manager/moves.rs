//! What became of moves, counted for the metrics.

use resmgr_policy::{Outcome, RebalanceMove};
use std::collections::BTreeMap;

/// Moves of one reason that came to one end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MoveSum {
    /// How many.
    pub count: u64,
    /// What they promised to win back, nanoseconds per second, summed.
    pub promised_ns_per_s: u64,
    /// What those won that won anything, nanoseconds per second, summed.
    pub won_ns_per_s: u64,
    /// By how much the others made it worse, nanoseconds per second, summed.
    pub lost_ns_per_s: u64,
}

/// Moves since start, by reason and outcome; [`Outcome::Trial`] counts every move made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MoveCounts {
    /// The sums.
    pub sums: BTreeMap<(String, Outcome), MoveSum>,
    /// How often usable measurements ended, and decisions fell back to what they are without.
    pub fallbacks: u64,
}

impl MoveCounts {
    /// Counts what became of a move.
    pub fn add(&mut self, moved: &RebalanceMove) {
        let sum = self
            .sums
            .entry((moved.reason.clone(), moved.outcome))
            .or_default();
        sum.count += 1;
        sum.promised_ns_per_s = sum
            .promised_ns_per_s
            .saturating_add(moved.promised_ns_per_s);
        let seen = moved.seen_ns_per_s.unwrap_or(0);
        let into = if seen < 0 {
            &mut sum.lost_ns_per_s
        } else {
            &mut sum.won_ns_per_s
        };
        *into = into.saturating_add(seen.unsigned_abs());
    }
}
