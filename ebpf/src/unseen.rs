//! A switch that the kernel kept to itself: the task that leaves is not the one that was seen to start.

use crate::{
    identity::owner,
    migrate,
    row::{cell, clock, memory, remember},
    task, wait,
};
use aya_ebpf::programs::BtfTracePointContext;
use resmgr_common::{LastRun, Owner, Record, Totals, left};

/// Books how `prev` came to run, and makes the record say so.
///
/// # Safety
/// `record` points into the map, and is that of this CPU.
#[inline(never)]
pub unsafe fn catch_up(ctx: &BtfTracePointContext, record: *mut Record) {
    let prev: *const u8 = ctx.arg(1);
    let pid = task::pid(prev);
    // SAFETY: the pointers point into maps.
    unsafe {
        (*record).unseen = (*record).unseen.wrapping_add(1);
        (*record).pid = pid as u32;
        if pid == 0 {
            return;
        }
        let owner = Owner::from_word(owner(ctx, record, prev));
        (*record).owner = owner;
        let cpu = task::cpu(prev);
        let (Some(memory), Some(cell)) = (memory(pid), cell(record, u64::from(owner.slot))) else {
            return;
        };
        let clock = clock(prev);
        let unseen_ns = match (*record).since {
            0 => 0,
            since => clock.saturating_sub(since),
        };
        let now = task::totals(prev);
        let own = Some(&*memory).filter(|own| u64::from(own.last.pid) == pid);
        let stint = left(own, now, unseen_ns);
        let began = clock.saturating_sub(stint.run_ns);
        wait::book(
            cell,
            stint.wait_ns,
            began,
            wait::preempted(own),
            owner.flags,
        );
        if stint.from.is_some_and(|from| u64::from(from) != cpu) {
            let before = (&raw const (*memory).last).cast::<u64>().read();
            migrate::book(cell, before, cpu);
        }
        // As if it had been seen to start: its run time is booked as it leaves.
        (*record).since = began;
        (*record).sum_exec_ns = now.sum_exec_ns.saturating_sub(stint.run_ns);
        let begun = Totals {
            sum_exec_ns: (*record).sum_exec_ns,
            ..now
        };
        remember(memory, begun, LastRun::word_of(pid, cpu, 0));
    }
}
