//! Who takes CPUs away from whom.

use crate::measured::Observed;

/// Waiting from which a victim is worth a move, nanoseconds per second.
pub(crate) const HURT_NS_PER_S: u64 = 20_000_000;
/// Preemptions per second by one other container from which the two are a pair, thousandths.
pub(crate) const PAIR_MILLI_PER_S: u64 = 10_000;
/// Of what one waits, the part that is due to one of those who preempt it.
pub(crate) fn due_to(seen: &Observed, rate: u64) -> u64 {
    let all: u64 = seen.preempted_by.values().sum();
    let part = u128::from(seen.wait_ns_per_s) * u128::from(rate) / u128::from(all.max(1));
    u64::try_from(part).unwrap_or(u64::MAX)
}
