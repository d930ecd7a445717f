//! What a switch reads and writes of a CPU's row and of a thread's memory, whether it was seen or missed.

use crate::{
    kernel::{Field::*, Value::*, at, follow, load64, of, value},
    maps::TASKS,
    task,
};
use aya_ebpf::helpers::bpf_ktime_get_ns;
use resmgr_common::{Cell, LastRun, Record, TASK_ENTRIES, Task, Totals};

/// Totals of a slot on a CPU: behind the record, in the same row.
///
/// # Safety
/// `record` points into the map.
#[inline(always)]
pub unsafe fn cell(record: *mut Record, slot: u64) -> Option<*mut Cell> {
    if slot >= value::<{ of(Slots) }>() {
        return None;
    }
    // SAFETY: as the caller says; the comparison keeps it within the row.
    Some(unsafe { record.cast::<Cell>().add(1 + slot as usize) })
}

/// What is remembered of a thread; whose memory it is remains to be seen.
#[inline(always)]
pub fn memory(pid: u64) -> Option<*mut Task> {
    TASKS.get_ptr_mut(pid as u32 & (TASK_ENTRIES - 1))
}

/// Remembers a thread until its next switch.
///
/// # Safety
/// `memory` points into the map.
#[inline(always)]
pub unsafe fn remember(memory: *mut Task, now: Totals, last: u64) {
    // SAFETY: as the caller says.
    unsafe {
        (*memory).run_delay_ns = now.run_delay_ns;
        (*memory).sum_exec_ns = now.sum_exec_ns;
        (&raw mut (*memory).last).cast::<u64>().write(last);
    }
}

/// The run queue's clock: now, to the scheduler.
#[inline(always)]
pub fn clock(task: *const u8) -> u64 {
    if value::<{ of(OwnClock) }>() != 0 {
        // SAFETY: the helper has no arguments and no conditions.
        return unsafe { bpf_ktime_get_ns() };
    }
    load64::<{ at(RqClock) }>(follow::<{ at(CfsRqRq) }>(task::cfs_rq(task)))
}
