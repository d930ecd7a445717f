//! A switch that the kernel hid: the task that leaves is not the task that was seen to start.

use crate::{
    identity::owner,
    migrate,
    row::{clock, counters, history, remember},
    task, wait,
};
use aya_ebpf::programs::BtfTracePointContext;
use resmgr_common::{CpuState, LastRun, SlotRef, ThreadTotals, left};

/// Counts the wait and the migration of `prev`, and makes the CPU's state name it.
///
/// # Safety
/// `cpu_state` points into the map, and is that of this CPU.
#[inline(never)]
pub unsafe fn reconcile(ctx: &BtfTracePointContext, cpu_state: *mut CpuState) {
    let prev: *const u8 = ctx.arg(1);
    let pid = task::pid(prev);
    // SAFETY: the pointers point into maps.
    unsafe {
        (*cpu_state).unseen = (*cpu_state).unseen.wrapping_add(1);
        (*cpu_state).pid = pid as u32;
        if pid == 0 {
            return;
        }
        let owner = SlotRef::from_word(owner(ctx, cpu_state, prev));
        (*cpu_state).owner = owner;
        let cpu = task::cpu(prev);
        let (Some(history), Some(counters)) =
            (history(pid), counters(cpu_state, u64::from(owner.slot)))
        else {
            return;
        };
        let clock = clock(prev);
        let unseen_ns = match (*cpu_state).since {
            0 => 0,
            since => clock.saturating_sub(since),
        };
        let now = task::totals(prev);
        let own = Some(&*history).filter(|own| u64::from(own.last.pid) == pid);
        let delta = left(own, now, unseen_ns);
        let began = clock.saturating_sub(delta.run_ns);
        wait::add(
            counters,
            delta.wait_ns,
            began,
            wait::preempted(own),
            owner.flags,
        );
        if delta.from.is_some_and(|from| u64::from(from) != cpu) {
            let before = (&raw const (*history).last).cast::<u64>().read();
            migrate::count(counters, before, cpu);
        }
        // As if it had been seen to start: its CPU time is counted as it leaves.
        (*cpu_state).since = began;
        (*cpu_state).sum_exec_ns = now.sum_exec_ns.saturating_sub(delta.run_ns);
        let begun = ThreadTotals {
            sum_exec_ns: (*cpu_state).sum_exec_ns,
            ..now
        };
        remember(history, begun, LastRun::word_of(pid, cpu, 0));
    }
}
