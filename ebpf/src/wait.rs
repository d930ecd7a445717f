//! How long a task that starts to run has waited, and for what.

use crate::{
    bench,
    kernel::{ConstReloc::*, FieldReloc::*, at, load64, of, value},
    migrate, task,
};
use resmgr_common::{
    CpuState, NESTED_OR_ROOT, SlotCounters, TASK_PREEMPTED, ThreadHistory, bucket, split_wait,
    throttled,
};

/// Whether the wait began with a preemption.
#[inline(always)]
pub fn preempted(history: Option<&ThreadHistory>) -> bool {
    history.is_some_and(|history| history.last.flags & TASK_PREEMPTED != 0)
}

/// Accounts for a task that starts when it is not simply a wait for the CPU: throttling, another CPU, a thread
/// without history.
///
/// # Safety
/// `cpu_state` and `counters` point into the map, are those of this CPU, and are about the task.
#[inline(never)]
pub unsafe fn account(
    cpu_state: *const CpuState,
    counters: *mut SlotCounters,
    next: *const u8,
    wait_ns: u64,
    before: u64,
) {
    let cpu = task::cpu(next);
    // SAFETY: the pointers point into maps.
    unsafe {
        let owner = (*cpu_state).owner;
        let known = before as u32 == (*cpu_state).pid;
        if wait_ns != 0 {
            let mut contention = wait_ns;
            if value::<{ of(SplitThrottle) }>() != 0 && owner.flags & NESTED_OR_ROOT == 0 {
                notice_throttling(counters, next, (*cpu_state).since, wait_ns);
                contention = split(counters, wait_ns, (*cpu_state).since);
            }
            // The wait of a thread without history counts as one after a wake-up.
            let preempted = before >> 48 & u64::from(known);
            count(counters, contention, preempted);
        }
        if known && (before >> 32 & 0xffff) != cpu && (*cpu_state).sum_exec_ns != 0 {
            migrate::count(counters, before, cpu);
        }
    }
}

/// Reads the throttled time of the container's run queue on this CPU for the first time, as a task leaves that did
/// not wait.
///
/// # Safety
/// `counters` points into the map.
#[inline(never)]
pub unsafe fn first_reading(counters: *mut SlotCounters, prev: *const u8) {
    notice_throttling(counters, prev, 0, 0);
}

/// 0 when a wait that ends now has nothing to do with throttling.
///
/// # Safety
/// `counters` points into the map.
#[inline(always)]
pub unsafe fn throttling(counters: *const SlotCounters, next: *const u8, owner: u64) -> u64 {
    if value::<{ of(SplitThrottle) }>() == 0 || owner >> 32 & u64::from(NESTED_OR_ROOT) != 0 {
        return 0;
    }
    let total = load64::<{ at(CfsRqThrottled) }>(task::cfs_rq(next));
    // SAFETY: as the caller says.
    unsafe { (total + 1) ^ (*counters).throttled_seen_ns | (*counters).throttled_last_ns }
}

/// Notices throttling of the container's run queue on this CPU since the last reading, at the end of a wait of its
/// thread.
///
/// A throttled thread has waited. Without a wait the queue's counter, on a cache line that the scheduler does not
/// touch then, is not read; but it must have been read once.
#[inline(always)]
fn notice_throttling(counters: *mut SlotCounters, next: *const u8, clock: u64, wait_ns: u64) {
    // SAFETY: `counters` points into the map.
    unsafe {
        let seen = (*counters).throttled_seen_ns;
        let total = load64::<{ at(CfsRqThrottled) }>(task::cfs_rq(next));
        if total + 1 == seen {
            return;
        }
        (*counters).throttled_seen_ns = total + 1;
        let gained = throttled(seen.saturating_sub(1), total, seen == 0, wait_ns);
        if gained != 0 {
            (*counters).throttled_ns += gained;
            (*counters).throttled_last_ns = gained;
            (*counters).throttled_at = clock;
        }
    }
}

/// Adds a wait that ended at `clock`.
#[inline(always)]
pub fn add(counters: *mut SlotCounters, wait_ns: u64, clock: u64, preempted: bool, flags: u32) {
    let mut contention = wait_ns;
    if value::<{ of(SplitThrottle) }>() != 0 && flags & NESTED_OR_ROOT == 0 {
        contention = split(counters, wait_ns, clock);
    }
    count(counters, contention, preempted.into());
}

/// Adds the part of a wait that was throttling; gives the rest, which is contention.
#[inline(always)]
fn split(counters: *mut SlotCounters, wait_ns: u64, clock: u64) -> u64 {
    // SAFETY: `counters` points into the map.
    unsafe {
        let last_ns = (*counters).throttled_last_ns;
        if last_ns == 0 {
            return wait_ns;
        }
        let (contention, throttled) = split_wait(wait_ns, clock, last_ns, (*counters).throttled_at);
        (*counters).wait_throttled_ns += throttled;
        contention
    }
}

/// Adds contention; `preempted` is 1 after a preemption.
#[inline(always)]
pub fn count(counters: *mut SlotCounters, contention: u64, preempted: u64) {
    // SAFETY: `counters` points into the map; the sum is one of the two, and the bucket is bounded by a
    // comparison the verifier sees.
    unsafe {
        let sum = (&raw mut (*counters).wait_wake_ns).add((preempted & 1) as usize);
        *sum += contention;
        if contention != 0 && bench::has_histogram() {
            let bucket = bucket(contention);
            if let Some(count) = (*counters).histogram.get_mut(bucket) {
                *count = count.wrapping_add(1);
            }
        }
    }
}
