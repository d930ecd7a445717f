//! How long a task that starts to run has waited, and what for.

use crate::{globals::*, kernel::load, task};
use resmgr_common::{Cell, TASK_PREEMPTED, Task, bucket, split_wait};

/// The wait that ends now.
///
/// Load balancing of a queued task folds the wait so far into `run_delay` and starts `last_queued`
/// anew, so both terms are needed. A stale memory of another thread is told by its id.
#[inline(always)]
pub fn ended(next: *const u8, memory: Option<&Task>, clock: u64) -> u64 {
    let queued = task::last_queued(next);
    let mut wait = if queued != 0 {
        clock.saturating_sub(queued)
    } else {
        0
    };
    if let Some(memory) = memory {
        wait += task::run_delay(next).saturating_sub(memory.run_delay_ns);
    }
    wait
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

/// Books a wait.
#[inline(always)]
pub fn book(cell: *mut Cell, wait: u64, clock: u64, memory: Option<&Task>, nested: bool) {
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
        if memory.is_some_and(|memory| memory.flags & TASK_PREEMPTED != 0) {
            (*cell).wait_preempt_ns += contention;
        } else {
            (*cell).wait_wake_ns += contention;
        }
        if contention != 0 {
            let bucket = bucket(contention);
            if let Some(count) = (*cell).histogram.get_mut(bucket) {
                *count = count.wrapping_add(1);
            }
        }
    }
}
