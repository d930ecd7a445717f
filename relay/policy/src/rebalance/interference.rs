//! Which containers take CPUs away from which.

use crate::{
    measured::{Measured, Observed},
    request::ContainerId,
};
use alloc::vec::Vec;
use core::cmp::Reverse;

/// Waiting from which a victim is worth a move, nanoseconds per second.
const INTERFERENCE_WAIT_NS_PER_S: u64 = 20_000_000;
/// Preemptions per second by one container from which it interferes with another, thousandths.
const INTERFERENCE_MILLI_PER_S: u64 = 10_000;
/// Pairs to be separated at a time.
const MAX_PAIRS: usize = 4;

/// A container that waits, and the container that preempts it most.
#[derive(Clone, Copy, Debug)]
pub(crate) struct InterferingPair<'a> {
    pub(crate) victim: &'a ContainerId,
    pub(crate) aggressor: &'a ContainerId,
    /// How often the victim is preempted by the aggressor, thousandths per second.
    pub(crate) preempted_milli_per_s: u64,
    pub(crate) victim_seen: &'a Observed,
}

impl InterferingPair<'_> {
    /// The part of the victim's waiting that the aggressor accounts for among all that preempt the victim,
    /// nanoseconds per second.
    pub(crate) fn attributed_wait(&self) -> u64 {
        let seen = self.victim_seen;
        let all: u64 = seen.preempted_by.values().sum();
        let share = u128::from(seen.wait_ns_per_s) * u128::from(self.preempted_milli_per_s)
            / u128::from(all.max(1));
        u64::try_from(share).unwrap_or(u64::MAX)
    }
}

/// The pairs that interfere most.
pub(crate) fn interfering_pairs(measured: &Measured) -> Vec<InterferingPair<'_>> {
    let mut pairs: Vec<InterferingPair<'_>> = Vec::new();
    for (victim, seen) in &measured.containers {
        let aggressors = seen.preempted_by.iter().filter(|(by, _)| *by != victim);
        let worst = aggressors.max_by_key(|(_, rate)| **rate);
        if let Some((aggressor, rate)) =
            worst.filter(|(_, rate)| **rate >= INTERFERENCE_MILLI_PER_S)
            && seen.wait_ns_per_s >= INTERFERENCE_WAIT_NS_PER_S
        {
            pairs.push(InterferingPair {
                victim,
                aggressor,
                preempted_milli_per_s: *rate,
                victim_seen: seen,
            });
        }
    }
    pairs.sort_by_key(|pair| (Reverse(pair.preempted_milli_per_s), pair.victim));
    pairs.truncate(MAX_PAIRS);
    pairs
}
