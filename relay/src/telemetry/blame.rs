//! Divides the wait of a container on one CPU among the slots that ran there meanwhile.
//!
//! The program adds up, for each slot and CPU, the time `r` that its threads ran and the time `w` that they waited.
//! Between two sweeps the wait of container `v` on a CPU is divided in proportion to
//!
//! - `r(s)` for each other slot `s`;
//! - `r(v) · (1 − 1/k)` for the container itself, where `k = (r(v) + w(v)) / Σ r` is how many of its threads were
//!   runnable on average while the CPU was busy. A thread never waits for itself: of `k` threads in turn, each waits
//!   while the `k − 1` others run. With `k ≤ 1`, or only one thread in its cgroup, the part is zero.
//!
//! The parts are whole nanoseconds whose sum is the wait. Limits:
//!
//! - The sums do not say what happened at the same moment. If the threads of a container sleep while others keep the
//!   CPU busy, `k` and with it the container's own part are too small, never too large.
//! - A wait is counted when it ends, and divided by what ran in the interval in which it ended.
//! - The wait of a thread that was moved while it queued is counted on the CPU where it started to run.

use super::totals::SlotDelta;

/// Parts of the contention wait of slot `victim` by the slot that ran instead; without a slot, what was not seen to
/// run. `has_several_threads` is asked only if a part would fall to the victim itself.
pub(super) fn divide(
    victim: u32,
    waited_ns: u64,
    deltas: &[(u32, SlotDelta)],
    has_several_threads: impl FnOnce() -> bool,
) -> Vec<(Option<u32>, u64)> {
    let run_ns = |slot: u32| -> u128 {
        let of_slot = deltas.iter().filter(|(found, _)| *found == slot);
        of_slot.map(|(_, delta)| u128::from(delta.run_ns)).sum()
    };
    let busy: u128 = deltas
        .iter()
        .map(|(_, delta)| u128::from(delta.run_ns))
        .sum();
    let runnable = run_ns(victim) + u128::from(waited_ns);
    let own = match runnable.checked_sub(busy) {
        // r · (1 − busy / (r + w))
        Some(beyond_first) if runnable != 0 => run_ns(victim) * beyond_first / runnable,
        _ => 0,
    };
    let own = if own != 0 && has_several_threads() {
        own
    } else {
        0
    };
    let total = busy - run_ns(victim) + own;
    if total == 0 {
        return vec![(None, waited_ns)];
    }
    // Differences of a running sum, so that rounding loses nothing.
    let (mut weight, mut given) = (0, 0);
    let mut parts = Vec::with_capacity(deltas.len());
    for (slot, delta) in deltas {
        weight += if *slot == victim {
            own
        } else {
            u128::from(delta.run_ns)
        };
        let until = u64::try_from(u128::from(waited_ns) * weight / total).unwrap_or(waited_ns);
        if until != given {
            parts.push((Some(*slot), until - given));
        }
        given = until;
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn delta(run_ns: u64, contention_ns: u64) -> SlotDelta {
        SlotDelta {
            run_ns,
            contention_ns,
        }
    }

    #[test]
    fn two_single_threads_on_a_cpu_wait_for_each_other() {
        let deltas = [
            (1, delta(1_000, 0)),
            (2, delta(500_000, 501_000)),
            (3, delta(499_000, 500_000)),
        ];
        for (victim, culprit) in [(2, 3), (3, 2)] {
            let parts = divide(victim, 500_000, &deltas, || false);
            let blamed = |slot| parts.iter().find(|part| part.0 == Some(slot));
            assert_eq!(blamed(victim), None);
            assert!(
                blamed(culprit).is_some_and(|part| part.1 >= 495_000),
                "{parts:?}"
            );
        }
    }

    #[test]
    fn the_threads_of_a_container_wait_for_each_other_as_long_as_they_run() {
        // Three spinning threads take turns, two of them the victim's: half of its wait is its own.
        let thirds = [(2, delta(600, 1200)), (3, delta(300, 600))];
        assert_eq!(
            divide(2, 1200, &thirds, || true),
            [(Some(2), 600), (Some(3), 600)]
        );
        // The scheduler gives each container half: a thread runs a quarter of the time, and its sibling another.
        let halves = [(2, delta(300, 900)), (3, delta(300, 300))];
        assert_eq!(
            divide(2, 900, &halves, || true),
            [(Some(2), 300), (Some(3), 600)]
        );
        // Alone, it can only wait for itself.
        assert_eq!(
            divide(2, 100, &[(2, delta(300, 100))], || true),
            [(Some(2), 100)]
        );
    }

    #[test]
    fn a_wait_while_nothing_was_seen_to_run_is_no_containers() {
        assert_eq!(
            divide(2, 100, &[(2, delta(300, 100))], || false),
            [(None, 100)]
        );
        assert_eq!(
            divide(2, 100, &[(2, delta(0, 100))], || true),
            [(None, 100)]
        );
    }

    proptest! {
        #[test]
        fn all_of_the_wait_is_blamed_once_and_none_of_a_single_threads_on_itself(
            sweep in prop::collection::vec((0..1_u64 << 40, 0..1_u64 << 40), 1..20),
            several in any::<bool>(),
        ) {
            let deltas: Vec<_> = (0..).zip(sweep).map(|(slot, (run, wait))| (slot, delta(run, wait))).collect();
            for (victim, waiting) in &deltas {
                let parts = divide(*victim, waiting.contention_ns, &deltas, || several);
                prop_assert_eq!(parts.iter().map(|part| part.1).sum::<u64>(), waiting.contention_ns);
                prop_assert!(several || parts.iter().all(|part| part.0 != Some(*victim)));
            }
        }
    }
}
