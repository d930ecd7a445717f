//! How long a task that starts to run has waited, and what for.

use crate::{
    kernel::{Field::*, Value::*, at, load64, of, value},
    migrate, task,
};
use resmgr_common::{
    Cell, OWNER_APART, Record, TASK_PREEMPTED, Task, bucket, split_wait, throttled,
};

/// Whether the wait began with a preemption.
#[inline(always)]
pub fn preempted(memory: Option<&Task>) -> bool {
    memory.is_some_and(|memory| memory.last.flags & TASK_PREEMPTED != 0)
}

/// Books what a task brings that starts and is not just a wait for the CPU: throttling, another CPU, a thread
/// of which nothing is remembered.
///
/// # Safety
/// `record` and `cell` point into the map, are those of this CPU, and are about the task.
#[inline(never)]
pub unsafe fn settle(
    record: *const Record,
    cell: *mut Cell,
    next: *const u8,
    wait_ns: u64,
    before: u64,
) {
    let cpu = task::cpu(next);
    // SAFETY: the pointers point into maps.
    unsafe {
        let owner = (*record).owner;
        let known = before as u32 == (*record).pid;
        if wait_ns != 0 {
            let mut contention = wait_ns;
            if value::<{ of(SplitThrottle) }>() != 0 && owner.flags & OWNER_APART == 0 {
                notice_throttling(cell, next, (*record).since, wait_ns);
                contention = split(cell, wait_ns, (*record).since);
            }
            // Of a thread nothing is known of, it began with a wake-up.
            let preempted = before >> 48 & u64::from(known);
            count(cell, contention, preempted);
        }
        if known && (before >> 32 & 0xffff) != cpu && (*record).sum_exec_ns != 0 {
            migrate::book(cell, before, cpu);
        }
    }
}

/// Looks at the container's run queue on this CPU for the first time, as a task leaves that did not wait.
///
/// # Safety
/// `cell` points into the map.
#[inline(never)]
pub unsafe fn first_look(cell: *mut Cell, prev: *const u8) {
    notice_throttling(cell, prev, 0, 0);
}

/// 0 when a wait that ends now has nothing to do with throttling.
///
/// # Safety
/// `cell` points into the map.
#[inline(always)]
pub unsafe fn throttling(cell: *const Cell, next: *const u8, owner: u64) -> u64 {
    if value::<{ of(SplitThrottle) }>() == 0 || owner >> 32 & u64::from(OWNER_APART) != 0 {
        return 0;
    }
    let total = load64::<{ at(CfsRqThrottled) }>(task::cfs_rq(next));
    // SAFETY: as the caller says.
    unsafe { (total + 1) ^ (*cell).throttled_seen_ns | (*cell).throttled_last_ns }
}

/// Notices throttling of the container's run queue on this CPU since the last look, at the end of a
/// wait of its thread.
///
/// Whoever was throttled has waited. Without a wait there is nothing to see, and the queue's counter,
/// on a cache line that nobody else wants then, is left alone; but it must have been seen once.
#[inline(always)]
fn notice_throttling(cell: *mut Cell, next: *const u8, clock: u64, wait_ns: u64) {
    // SAFETY: `cell` points into the map.
    unsafe {
        let seen = (*cell).throttled_seen_ns;
        let total = load64::<{ at(CfsRqThrottled) }>(task::cfs_rq(next));
        if total + 1 == seen {
            return;
        }
        (*cell).throttled_seen_ns = total + 1;
        let gained = throttled(seen.saturating_sub(1), total, seen == 0, wait_ns);
        if gained != 0 {
            (*cell).throttled_ns += gained;
            (*cell).throttled_last_ns = gained;
            (*cell).throttled_at = clock;
        }
    }
}

/// Books a wait that ended at `clock`.
#[inline(always)]
pub fn book(cell: *mut Cell, wait_ns: u64, clock: u64, preempted: bool, flags: u32) {
    let mut contention = wait_ns;
    if value::<{ of(SplitThrottle) }>() != 0 && flags & OWNER_APART == 0 {
        contention = split(cell, wait_ns, clock);
    }
    count(cell, contention, preempted.into());
}

/// Books the part of a wait that was throttling; the rest is contention.
#[inline(always)]
fn split(cell: *mut Cell, wait_ns: u64, clock: u64) -> u64 {
    // SAFETY: `cell` points into the map.
    unsafe {
        let last_ns = (*cell).throttled_last_ns;
        if last_ns == 0 {
            return wait_ns;
        }
        let (contention, throttled) = split_wait(wait_ns, clock, last_ns, (*cell).throttled_at);
        (*cell).wait_throttled_ns += throttled;
        contention
    }
}

/// Books contention; 1: after a preemption.
#[inline(always)]
pub fn count(cell: *mut Cell, contention: u64, preempted: u64) {
    // SAFETY: `cell` points into the map; the sum is one of the two, and the bucket is bounded by a
    // comparison the verifier sees.
    unsafe {
        let sum = (&raw mut (*cell).wait_wake_ns).add((preempted & 1) as usize);
        *sum += contention;
        if contention != 0 && value::<{ of(Histogram) }>() != 0 {
            let bucket = bucket(contention);
            if let Some(count) = (*cell).histogram.get_mut(bucket) {
                *count = count.wrapping_add(1);
            }
        }
    }
}
