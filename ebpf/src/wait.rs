//! How long a task that starts to run has waited, and what for.

use crate::{
    globals::*,
    kernel::{follow, load},
    task,
};
use resmgr_common::{Cell, TASK_PREEMPTED, Task, bucket, split_wait, throttled};

/// How long it was on the queue it is taken from.
#[inline(always)]
pub fn queued_ns(next: *const u8, clock: u64) -> u64 {
    match task::last_queued(next) {
        0 => 0,
        queued => clock.saturating_sub(queued),
    }
}

/// Whether the wait began with a preemption.
#[inline(always)]
pub fn preempted(memory: Option<&Task>) -> bool {
    memory.is_some_and(|memory| memory.flags & TASK_PREEMPTED != 0)
}

/// Notices throttling of the container's run queue on this CPU since the last look, at the end of a
/// wait of its thread.
///
/// Whoever was throttled has waited. Without a wait there is nothing to see, and the queue's counter,
/// on a cache line that nobody else wants then, is left alone; but it must have been seen once.
#[inline(always)]
pub fn notice_throttling(cell: *mut Cell, next: *const u8, clock: u64, wait: u64) {
    // SAFETY: `cell` points into the map.
    unsafe {
        let seen = (*cell).throttled_seen_ns;
        if wait == 0 && seen != 0 {
            return;
        }
        let total: u64 = load(follow(next, &OFF_TASK_CFS_RQ), &OFF_CFS_RQ_THROTTLED);
        if total + 1 == seen {
            return;
        }
        (*cell).throttled_seen_ns = total + 1;
        let gained = throttled(seen.saturating_sub(1), total, seen == 0, wait);
        if gained != 0 {
            (*cell).throttled_ns += gained;
            (*cell).throttled_last_ns = gained;
            (*cell).throttled_at = clock;
        }
    }
}

/// Books a wait that ended at `clock`.
#[inline(always)]
pub fn book(cell: *mut Cell, wait: u64, clock: u64, preempted: bool, nested: bool) {
    if wait == 0 {
        return;
    }
    // SAFETY: `cell` points into the map; the bucket is bounded by a comparison the verifier sees.
    unsafe {
        let (contention, throttled) = if SPLIT_THROTTLE.load() != 0 && !nested {
            split_wait(wait, clock, (*cell).throttled_last_ns, (*cell).throttled_at)
        } else {
            (wait, 0)
        };
        (*cell).wait_throttled_ns += throttled;
        if preempted {
            (*cell).wait_preempt_ns += contention;
        } else {
            (*cell).wait_wake_ns += contention;
        }
        if contention != 0 && HISTOGRAM.load() != 0 {
            let bucket = bucket(contention);
            if let Some(count) = (*cell).histogram.get_mut(bucket) {
                *count = count.wrapping_add(1);
            }
        }
    }
}
