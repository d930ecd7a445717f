//! What is read of a `task_struct`.

use crate::kernel::{FieldReloc::*, at, follow, load32, load64};
use resmgr_common::ThreadTotals;

const PF_KTHREAD: u64 = 0x0020_0000;

/// A thread of the kernel.
#[inline(always)]
pub fn is_kernel(task: *const u8) -> bool {
    load32::<{ at(TaskFlags) }>(task) & PF_KTHREAD != 0
}

/// Thread id; 0 is the idle task, which neither waits nor is preempted.
#[inline(always)]
pub fn pid(task: *const u8) -> u64 {
    load32::<{ at(TaskPid) }>(task)
}

/// The CPU it is on: at a switch, the CPU that switches.
#[inline(always)]
pub fn cpu(task: *const u8) -> u64 {
    load32::<{ at(TaskCpu) }>(task)
}

/// Its state, where the tracepoint does not carry it.
#[inline(always)]
pub fn state(task: *const u8) -> u64 {
    load32::<{ at(TaskState) }>(task)
}

/// The scheduler's totals of the thread.
#[inline(always)]
pub fn totals(task: *const u8) -> ThreadTotals {
    ThreadTotals {
        sum_exec_ns: load64::<{ at(TaskSumExec) }>(task),
        run_delay_ns: load64::<{ at(TaskRunDelay) }>(task),
    }
}

/// Run-queue clock when it was queued here; 0 when it was not.
#[inline(always)]
pub fn last_queued(task: *const u8) -> u64 {
    load64::<{ at(TaskLastQueued) }>(task)
}

/// Its group's run queue on this CPU.
#[inline(always)]
pub fn cfs_rq(task: *const u8) -> *const u8 {
    follow::<{ at(TaskCfsRq) }>(task)
}
