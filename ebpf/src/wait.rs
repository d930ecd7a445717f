//! How long a task that starts to run has waited, and what for.

use crate::{globals::*, kernel::load, task};
use resmgr_common::{Cell, TASK_PREEMPTED, Task, bucket, split_wait};

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

/// Notices throttling of the container's run queue on this CPU since the last look.
#[inline(always)]
pub fn notice_throttling(cell: *mut Cell, cfs_rq: *const u8, clock: u64) {
    let total: u64 = load(cfs_rq, &OFF_CFS_RQ_THROTTLED);
    // SAFETY: `cell` points into the map.
    unsafe {
        let seen = (*cell).throttled_seen_ns;
        if total == seen {
            return;
        }
        (*cell).throttled_seen_ns = total;
        let first = seen == 0 && (*cell).voluntary == 0 && (*cell).involuntary == 0;
        if !first && total > seen {
            (*cell).throttled_ns += total - seen;
            (*cell).throttled_last_ns = total - seen;
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
