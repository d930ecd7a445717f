//! What is read of a `task_struct`.

use crate::{globals::*, kernel::load};
use resmgr_common::Totals;

const PF_IDLE: u32 = 0x2;
const PF_KTHREAD: u32 = 0x0020_0000;

/// `task_struct.flags`, loaded once.
#[derive(Clone, Copy)]
pub struct Flags(u32);

impl Flags {
    /// Of this task.
    #[inline(always)]
    pub fn of(task: *const u8) -> Self {
        Self(load(task, &OFF_TASK_FLAGS))
    }

    /// The idle task: it is nobody, and neither waits nor is preempted.
    #[inline(always)]
    pub fn idle(self) -> bool {
        self.0 & PF_IDLE != 0
    }

    /// A thread of the kernel.
    #[inline(always)]
    pub fn kernel(self) -> bool {
        self.0 & PF_KTHREAD != 0
    }
}

/// Thread id.
#[inline(always)]
pub fn pid(task: *const u8) -> u32 {
    load(task, &OFF_TASK_PID)
}

/// The scheduler's totals of the thread.
#[inline(always)]
pub fn totals(task: *const u8) -> Totals {
    Totals {
        sum_exec_ns: sum_exec(task),
        run_delay_ns: run_delay(task),
    }
}

/// CPU time so far, nanoseconds; up to date at the tracepoint.
#[inline(always)]
pub fn sum_exec(task: *const u8) -> u64 {
    load(task, &OFF_TASK_SUM_EXEC)
}

/// Total wait so far, nanoseconds; the wait that just ended is not in it yet.
#[inline(always)]
pub fn run_delay(task: *const u8) -> u64 {
    load(task, &OFF_TASK_RUN_DELAY)
}

/// Run-queue clock when it was queued here; 0 when it was not.
#[inline(always)]
pub fn last_queued(task: *const u8) -> u64 {
    load(task, &OFF_TASK_LAST_QUEUED)
}
