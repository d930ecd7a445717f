//! What a switch reads and writes of a CPU's row and of a thread's history, whether it was seen or missed.

use crate::{
    bench,
    kernel::{ConstReloc::*, FieldReloc::*, at, follow, load64, of, value},
    maps::TASKS,
    task,
};
use aya_ebpf::helpers::bpf_ktime_get_ns;
use resmgr_common::{CpuState, SlotCounters, TASK_ENTRIES, ThreadHistory, ThreadTotals};

/// Counters of a slot on a CPU: behind the CPU's state, in the same row.
///
/// # Safety
/// `cpu_state` points into the map.
#[inline(always)]
pub unsafe fn counters(cpu_state: *mut CpuState, slot: u64) -> Option<*mut SlotCounters> {
    if slot >= value::<{ of(Slots) }>() {
        return None;
    }
    // SAFETY: as the caller says; the comparison keeps it within the row.
    Some(unsafe { cpu_state.cast::<SlotCounters>().add(1 + slot as usize) })
}

/// The entry for a thread's history; the caller checks that it is not another thread's.
#[inline(always)]
pub fn history(pid: u64) -> Option<*mut ThreadHistory> {
    TASKS.get_ptr_mut(pid as u32 & (TASK_ENTRIES - 1))
}

/// Writes a thread's history at a switch.
///
/// # Safety
/// `history` points into the map.
#[inline(always)]
pub unsafe fn remember(history: *mut ThreadHistory, now: ThreadTotals, last: u64) {
    // SAFETY: as the caller says.
    unsafe {
        (*history).run_delay_ns = now.run_delay_ns;
        (*history).sum_exec_ns = now.sum_exec_ns;
        (&raw mut (*history).last).cast::<u64>().write(last);
    }
}

/// The run queue's clock, which is the scheduler's present time.
#[inline(always)]
pub fn clock(task: *const u8) -> u64 {
    if bench::has_own_clock() {
        // SAFETY: the helper has no arguments and no conditions.
        return unsafe { bpf_ktime_get_ns() };
    }
    load64::<{ at(RqClock) }>(follow::<{ at(CfsRqRq) }>(task::cfs_rq(task)))
}
