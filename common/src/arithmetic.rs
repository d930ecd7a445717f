//! The arithmetic of the hot path.

/// Buckets of a wait histogram: below 1 µs, then one per power of two, the last is open.
pub const BUCKETS: usize = 22;

/// Bucket of a wait: 0 is below 1024 ns, bucket `n` holds 2^(n+9) … 2^(n+10)−1 ns, the last is open.
///
/// By halving the range, because BPF has no instruction that counts leading zeros: with comparisons where the
/// processor predicts them for most waits, with arithmetic where it would not.
#[expect(clippy::cast_possible_truncation, reason = "below 22")]
#[inline(always)]
#[must_use]
pub fn bucket(wait_ns: u64) -> usize {
    let mut rest = wait_ns >> 10;
    let mut bits = 0;
    if rest >= 1 << 8 {
        if rest >= 1 << 20 {
            return BUCKETS - 1;
        }
        if rest >= 1 << 16 {
            rest >>= 16;
            bits += 16;
        }
        if rest >= 1 << 8 {
            rest >>= 8;
            bits += 8;
        }
    }
    for half in [4, 2] {
        let upper = sign(((1 << half) - 1_u64).wrapping_sub(rest)) & half;
        rest >>= upper;
        bits += upper;
    }
    // `rest` is 0 to 3 now, and has 0, 1, 2 and 2 bits.
    (bits + rest - (rest >> 1 & rest)) as usize
}

/// `a − b`, or 0 where that would be negative, without a branch. Both are below 2⁶³, as is every sum of
/// nanoseconds: that is three centuries.
#[inline(always)]
#[must_use]
pub fn beyond(a: u64, b: u64) -> u64 {
    let difference = a.wrapping_sub(b);
    difference & !sign(difference)
}

/// All ones of a negative number, else 0.
#[cfg(not(target_arch = "bpf"))]
#[inline(always)]
const fn sign(number: u64) -> u64 {
    (number.cast_signed() >> 63).cast_unsigned()
}

/// The same, hidden from the compiler, which would make a branch of it.
#[cfg(target_arch = "bpf")]
#[inline(always)]
#[expect(unsafe_code, reason = "one instruction")]
fn sign(number: u64) -> u64 {
    let mut number = number;
    // SAFETY: a shift.
    unsafe {
        core::arch::asm!("{0} s>>= 63", inout(reg) number,
            options(pure, nomem, nostack, preserves_flags));
    }
    number
}

/// 1 of 0, else 0, without a branch; `number` is below 2⁶³.
#[inline(always)]
#[must_use]
pub fn is_zero(number: u64) -> u64 {
    sign(number.wrapping_sub(1)) & 1
}

/// How long a thread that was queued at `queued` has waited by `clock`; 0 if it was never queued. Without a
/// branch.
#[inline(always)]
#[must_use]
pub fn queued_ns(clock: u64, queued: u64) -> u64 {
    beyond(clock, queued) & !sign(queued.wrapping_sub(1))
}

/// Upper bound of a bucket in nanoseconds, exclusive; the last bucket has none.
#[must_use]
pub const fn bucket_ceiling_ns(bucket: usize) -> Option<u64> {
    if bucket + 1 < BUCKETS {
        Some(1 << (bucket + 10))
    } else {
        None
    }
}

/// Location of a CPU, as dense numbers.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CpuLocation {
    /// Physical core.
    pub core: u16,
    /// Last-level cache.
    pub llc: u16,
    /// NUMA node.
    pub node: u16,
    /// Package.
    pub package: u16,
}
const _: () = assert!(size_of::<CpuLocation>() == 8);

/// How far a task moved: the highest level at which the two CPUs differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Distance {
    /// To another hardware thread of the same core.
    Core = 0,
    /// To another core under the same last-level cache.
    Llc = 1,
    /// To another last-level cache of the same NUMA node.
    Node = 2,
    /// To another NUMA node of the same package.
    Package = 3,
    /// To another package: across sockets.
    Remote = 4,
}

impl Distance {
    /// All, nearest first.
    pub const ALL: [Self; 5] = [
        Self::Core,
        Self::Llc,
        Self::Node,
        Self::Package,
        Self::Remote,
    ];
}

/// Class of a move between two different CPUs.
#[inline(always)]
#[must_use]
pub const fn distance_class(from: CpuLocation, to: CpuLocation) -> Distance {
    if from.package != to.package {
        Distance::Remote
    } else if from.node != to.node {
        Distance::Package
    } else if from.llc != to.llc {
        Distance::Node
    } else if from.core != to.core {
        Distance::Llc
    } else {
        Distance::Core
    }
}

/// Throttled time since the last reading of a run queue's running `total`, which was `seen` then.
///
/// The `first` reading does not tell when the queue was throttled: the container may be older than its
/// telemetry. At most the wait of the thread that starts now can have been throttled just now: a queue that a
/// thread enters while the quota is used up is throttled before any of its threads ran.
#[inline(always)]
#[must_use]
pub const fn throttled(seen: u64, total: u64, first: bool, wait: u64) -> u64 {
    let gained = total.saturating_sub(seen);
    if first && gained > wait { wait } else { gained }
}

/// Splits a wait that ends at `now` into (contention, throttled), given the last throttling's length
/// and when it was noticed. A wait that began after that was contention alone.
#[inline(always)]
#[must_use]
pub const fn split_wait(wait: u64, now: u64, throttled: u64, noticed_at: u64) -> (u64, u64) {
    if now.saturating_sub(wait) >= noticed_at {
        (wait, 0)
    } else if wait < throttled {
        (0, wait)
    } else {
        (wait - throttled, throttled)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_bucket_starts_where_the_one_before_ends() {
        assert_eq!(bucket(0), 0);
        assert_eq!(bucket(u64::MAX), BUCKETS - 1);
        for n in 0..BUCKETS - 1 {
            let ceiling = bucket_ceiling_ns(n).unwrap();
            assert_eq!(bucket(ceiling - 1), n, "{ceiling}");
            assert_eq!(bucket(ceiling), n + 1, "{ceiling}");
        }
        assert_eq!(bucket_ceiling_ns(BUCKETS - 1), None);
    }

    #[test]
    fn the_bucket_is_the_binary_logarithm_of_whole_microseconds() {
        for shift in 0..64 {
            for wait in [1u64 << shift, (1u64 << shift) | 1, (1u64 << shift) - 1] {
                let naive = (64 - (wait >> 10).leading_zeros() as usize).min(BUCKETS - 1);
                assert_eq!(bucket(wait), naive, "{wait}");
            }
        }
    }

    #[test]
    fn arithmetic_without_branches_gives_what_branches_would() {
        let numbers = [0, 1, 2, 1023, 1 << 32, (1 << 62) + 5, (1 << 63) - 1];
        for a in numbers {
            assert_eq!(is_zero(a), u64::from(a == 0), "{a}");
            for b in numbers {
                assert_eq!(beyond(a, b), a.saturating_sub(b), "{a} − {b}");
                let queued = if b == 0 { 0 } else { a.saturating_sub(b) };
                assert_eq!(queued_ns(a, b), queued, "{b} until {a}");
            }
        }
    }

    #[test]
    fn a_move_has_the_class_of_the_highest_level_crossed() {
        let here = CpuLocation {
            core: 1,
            llc: 1,
            node: 1,
            package: 1,
        };
        assert_eq!(distance_class(here, here), Distance::Core);
        assert_eq!(
            distance_class(here, CpuLocation { core: 2, ..here }),
            Distance::Llc
        );
        assert_eq!(
            distance_class(
                here,
                CpuLocation {
                    core: 2,
                    llc: 2,
                    ..here
                }
            ),
            Distance::Node
        );
        assert_eq!(
            distance_class(
                here,
                CpuLocation {
                    core: 2,
                    llc: 2,
                    node: 2,
                    ..here
                }
            ),
            Distance::Package
        );
        assert_eq!(
            distance_class(here, CpuLocation { package: 2, ..here }),
            Distance::Remote
        );
        for (index, class) in Distance::ALL.into_iter().enumerate() {
            assert_eq!(class as usize, index);
        }
    }

    #[test]
    fn a_queue_seen_for_the_first_time_was_throttled_no_longer_than_its_thread_waited() {
        assert_eq!(throttled(0, 80, true, 95), 80);
        assert_eq!(throttled(0, 5_000, true, 95), 95);
        assert_eq!(throttled(0, 5_000, true, 0), 0);
        assert_eq!(throttled(5_000, 5_080, false, 0), 80);
        assert_eq!(throttled(5_000, 4_000, false, 95), 0);
    }

    #[test]
    fn only_a_wait_that_began_before_the_throttling_was_noticed_is_throttled() {
        assert_eq!(split_wait(50, 1000, 30, 900), (50, 0));
        assert_eq!(split_wait(150, 1000, 100, 900), (50, 100));
        assert_eq!(split_wait(80, 900, 100, 900), (0, 80));
        assert_eq!(split_wait(80, 900, 0, 0), (80, 0));
    }
}
