//! `tp_btf/sched_switch`: run time, wait, switches and migrations.
//!
//! - Attach point: BTF tracepoint `sched_switch (bool preempt, prev, next[, unsigned prev_state])`,
//!   the state as last argument since 5.18, read from the task before.
//! - Oldest kernel: 5.8 for typed loads, mapped arrays and the ring of `told`, 5.14 for books that are always kept.
//! - Context: run queue locked, interrupts off, clock and CPU time of `prev` just updated, the books of
//!   `next` not yet: its last wait still stands in `last_queued`.
//! - Cost: `cargo xtask bench telemetry`; figures in docs/performance.md.
//!
//! After an idle spell, code costs more than data: every line of instructions and every taken branch is
//! met anew, while loads overlap. So this file holds only what most switches do, in a straight line; the
//! rest stands in functions of its own, called when it is due. They are not marked cold: that puts them into
//! a section of their own, and aya 0.14 takes a call into one section for one into the other. A stack below
//! 64 bytes spares the prologue that switches to a stack of the program's own (6.13).

use crate::{
    identity::owner,
    kernel::{Value::*, of, value},
    maps::{PREEMPTIONS, ROWS},
    row::{cell, clock, memory, remember},
    task, unseen, wait,
};
use aya_ebpf::{helpers::bpf_ktime_get_ns, programs::BtfTracePointContext};
use core::{arch::asm, hint::cold_path};
use resmgr_common::{LastRun, Record, Totals, entered, is_zero, queued_ns, ran_ns};

/// Run-queue time between two calibrations of the run-queue clock against `CLOCK_MONOTONIC`, nanoseconds.
const CALIBRATE_EVERY: u64 = 1 << 23;
/// No slot's number.
const NOBODY: u64 = u64::MAX;

/// Books one switch.
#[inline(always)]
pub fn account(ctx: &BtfTracePointContext) {
    let prev: *const u8 = ctx.arg(1);
    let Some(row) = ROWS.get_ptr_mut(task::cpu(prev) as u32) else {
        return;
    };
    let record: *mut Record = row.cast();
    // SAFETY: `record` points into the map and only this CPU writes it.
    unsafe {
        (&raw mut (*record).seq).write_volatile((*record).seq.wrapping_add(1));
        if u64::from((*record).pid) != task::pid(prev) {
            cold_path();
            unseen::catch_up(ctx, record);
        }
        let victim = if (*record).pid == 0 {
            NOBODY
        } else {
            leave(ctx, record)
        };
        let next: *const u8 = ctx.arg(2);
        if task::pid(next) == 0 {
            (*record).pid = 0;
        } else {
            enter(ctx, record);
            if victim != NOBODY && victim != u64::from((*record).owner.slot) {
                cold_path();
                blame(record, victim);
            }
        }
        (&raw mut (*record).seq).write_volatile((*record).seq.wrapping_add(1));
    }
}

/// The task that leaves: its CPU time, why it leaves, and what to remember until it runs again. The slot
/// it was preempted in, or `NOBODY`.
#[inline(always)]
unsafe fn leave(ctx: &BtfTracePointContext, record: *mut Record) -> u64 {
    let prev: *const u8 = ctx.arg(1);
    let pid = task::pid(prev);
    let Some(memory) = memory(pid) else {
        return NOBODY;
    };
    let preempt: u64 = ctx.arg(0);
    let state: u64 = if value::<{ of(HasPrevState) }>() != 0 {
        ctx.arg::<u64>(3) & 0xffff_ffff
    } else {
        task::state(prev)
    };
    let runnable = preempt & 1 | is_zero(state);
    let now = task::totals(prev);
    let cpu = task::cpu(prev);
    // SAFETY: the pointers point into maps; the count that is added to is one of the two.
    unsafe {
        let own = Some(&*memory).filter(|own| u64::from(own.last.pid) == pid);
        let run_ns = ran_ns(own, (*record).sum_exec_ns, now.sum_exec_ns);
        remember(memory, now, LastRun::word_of(pid, cpu, runnable));
        // The clock on its way to idle: nobody needs it better than this.
        (*record).since += run_ns;
        // Whoever the stint began with: a thread that changed cgroups meanwhile causes no switch.
        let slot = u64::from((*record).owner.slot);
        let Some(cell) = cell(record, slot) else {
            return NOBODY;
        };
        (*cell).run_ns += run_ns;
        let count = (&raw mut (*cell).voluntary).add(runnable as usize);
        *count = (*count).wrapping_add(1);
        if value::<{ of(SplitThrottle) }>() != 0
            && (*cell).throttled_seen_ns | u64::from((*record).owner.flags) == 0
        {
            cold_path();
            wait::first_look(cell, ctx.arg(1));
        }
        slot | runnable.wrapping_sub(1)
    }
}

/// The task that starts: its wait and where it comes from.
#[inline(always)]
unsafe fn enter(ctx: &BtfTracePointContext, record: *mut Record) {
    // SAFETY: the pointers point into maps.
    unsafe {
        let owner = owner(ctx, record, ctx.arg(2));
        (&raw mut (*record).owner).cast::<u64>().write(owner);
        let next: *const u8 = ctx.arg(2);
        let pid = task::pid(next);
        let Some(memory) = memory(pid) else {
            return;
        };
        let clock = clock(next);
        let queued_ns = queued_ns(clock, task::last_queued(next));
        let now = task::totals(next);
        let cpu = task::cpu(next);
        (*record).pid = pid as u32;
        (*record).since = clock;
        (*record).sum_exec_ns = now.sum_exec_ns;
        let own = Some(&*memory).filter(|own| u64::from(own.last.pid) == pid);
        let stint = entered(own, now, queued_ns);
        let before = (&raw const (*memory).last).cast::<u64>().read();
        // The kernel books this wait right after us.
        let now = Totals {
            run_delay_ns: now.run_delay_ns + queued_ns,
            ..now
        };
        let last = LastRun::word_of(pid, cpu, 0);
        remember(memory, now, last);
        // Never on another thread's entry in vain but for the call.
        let moved = (before ^ last) << 16 >> 16;
        let odd = stint.run_ns | moved;
        if stint.wait_ns | odd != 0 {
            let Some(cell) = cell(record, owner & 0xffff_ffff) else {
                return;
            };
            if odd | wait::throttling(cell, next, owner) != 0 {
                (*cell).run_ns += stint.run_ns;
                wait::settle(record, cell, next, stint.wait_ns, before);
            } else {
                wait::count(cell, stint.wait_ns, before >> 48);
            }
        }
        if (*record).since.wrapping_sub((*record).calibrated_clock) >= CALIBRATE_EVERY {
            cold_path();
            calibrate(record);
        }
    }
}

/// Reads the run-queue clock and `CLOCK_MONOTONIC` at one moment.
#[inline(never)]
fn calibrate(record: *mut Record) {
    // SAFETY: `record` points into the map and only this CPU writes it.
    unsafe {
        (*record).calibrated_clock = (*record).since;
        (*record).calibrated_ns = bpf_ktime_get_ns();
    }
}

/// Who ran instead. The only counter all CPUs share, hence atomic.
#[inline(never)]
fn blame(record: *mut Record, victim: u64) {
    // SAFETY: `record` points into the map, and so does `cell`.
    let culprit = unsafe {
        if let Some(cell) = cell(record, victim) {
            (*cell).preempted_by_others = (*cell).preempted_by_others.wrapping_add(1);
        }
        u64::from((*record).owner.slot)
    };
    if let Some(count) =
        PREEMPTIONS.get_ptr_mut((victim * value::<{ of(Slots) }>() + culprit) as u32)
    {
        // BPF has an atomic addition, but `core` offers none where there is no compare-and-swap.
        // SAFETY: `count` points into the map and is aligned.
        unsafe { asm!("lock *(u64 *)({0} + 0) += {1}", in(reg) count, in(reg) 1_u64) };
    }
}
