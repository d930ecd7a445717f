//! `tp_btf/sched_switch`: run time, wait, switches and migrations.
//!
//! - Attach point: BTF tracepoint `sched_switch (bool preempt, prev, next[, unsigned prev_state])`,
//!   the state as last argument since 5.18, read from the task before.
//! - Oldest kernel: 5.8 for typed loads, mapped arrays and the ring of `warnings`, 5.14 for wait times that the
//!   scheduler always keeps.
//! - Context: run queue locked, interrupts off, clock and CPU time of `prev` just updated, the wait of `next` not
//!   yet added to its total: `last_queued` still says when it began.
//! - Cost: `cargo xtask bench telemetry`; figures in docs/performance.md.
//!
//! After an idle period, code costs more than data: every cache line of instructions and every taken branch misses,
//! while loads overlap. So this file holds only what most switches do, in a straight line; rare work is in functions
//! that are not inlined. They are not marked cold: that puts them into a section of their own, and aya 0.14 mistakes
//! a call into one section for a call into another. A stack below 64 bytes avoids the prologue that switches to a
//! private stack (6.13).

use crate::{
    identity::owner,
    kernel::{ConstReloc::*, of, value},
    maps::{PREEMPTIONS, ROWS},
    missed_switch,
    row::{clock, counters, history, remember},
    task, wait,
};
use aya_ebpf::{helpers::bpf_ktime_get_ns, programs::BtfTracePointContext};
use core::{arch::asm, hint::cold_path};
use resmgr_common::{CpuState, LastRun, ThreadTotals, entered, is_zero, queued_ns, ran_ns};

/// Run-queue time between two calibrations of the run-queue clock against `CLOCK_MONOTONIC`, nanoseconds.
const CALIBRATE_EVERY: u64 = 1 << 23;
/// Not the number of any slot.
const NO_SLOT: u64 = u64::MAX;

/// Accounts for one switch.
#[inline(always)]
pub fn account(ctx: &BtfTracePointContext) {
    let prev: *const u8 = ctx.arg(1);
    let Some(row) = ROWS.get_ptr_mut(task::cpu(prev) as u32) else {
        return;
    };
    let cpu_state: *mut CpuState = row.cast();
    // SAFETY: `cpu_state` points into the map and only this CPU writes it.
    unsafe {
        (&raw mut (*cpu_state).seq).write_volatile((*cpu_state).seq.wrapping_add(1));
        if u64::from((*cpu_state).pid) != task::pid(prev) {
            cold_path();
            missed_switch::reconcile(ctx, cpu_state);
        }
        let victim = if (*cpu_state).pid == 0 {
            NO_SLOT
        } else {
            leave(ctx, cpu_state)
        };
        let next: *const u8 = ctx.arg(2);
        if task::pid(next) == 0 {
            (*cpu_state).pid = 0;
        } else {
            enter(ctx, cpu_state);
            if victim != NO_SLOT && victim != u64::from((*cpu_state).owner.slot) {
                cold_path();
                count_preemption(cpu_state, victim);
            }
        }
        (&raw mut (*cpu_state).seq).write_volatile((*cpu_state).seq.wrapping_add(1));
    }
}

/// Accounts for the task that leaves: its CPU time, why it leaves, and its history. Gives the slot it was preempted
/// in, or `NO_SLOT`.
#[inline(always)]
unsafe fn leave(ctx: &BtfTracePointContext, cpu_state: *mut CpuState) -> u64 {
    let prev: *const u8 = ctx.arg(1);
    let pid = task::pid(prev);
    let Some(history) = history(pid) else {
        return NO_SLOT;
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
        let own = Some(&*history).filter(|own| u64::from(own.last.pid) == pid);
        let run_ns = ran_ns(own, (*cpu_state).sum_exec_ns, now.sum_exec_ns);
        remember(history, now, LastRun::word_of(pid, cpu, runnable));
        // An estimate of the clock for the idle task, whose switch reads no clock; nothing needs it more exactly.
        (*cpu_state).since += run_ns;
        // The slot at switch-in: a thread that changes cgroups while it runs causes no switch.
        let slot = u64::from((*cpu_state).owner.slot);
        let Some(counters) = counters(cpu_state, slot) else {
            return NO_SLOT;
        };
        (*counters).run_ns += run_ns;
        let count = (&raw mut (*counters).voluntary).add(runnable as usize);
        *count = (*count).wrapping_add(1);
        if value::<{ of(SplitThrottle) }>() != 0
            && (*counters).throttled_seen_ns | u64::from((*cpu_state).owner.flags) == 0
        {
            cold_path();
            wait::first_reading(counters, ctx.arg(1));
        }
        slot | runnable.wrapping_sub(1)
    }
}

/// Accounts for the task that starts: its wait, and the CPU it ran on before.
#[inline(always)]
unsafe fn enter(ctx: &BtfTracePointContext, cpu_state: *mut CpuState) {
    // SAFETY: the pointers point into maps.
    unsafe {
        let owner = owner(ctx, cpu_state, ctx.arg(2));
        (&raw mut (*cpu_state).owner).cast::<u64>().write(owner);
        let next: *const u8 = ctx.arg(2);
        let pid = task::pid(next);
        let Some(history) = history(pid) else {
            return;
        };
        let clock = clock(next);
        let queued_ns = queued_ns(clock, task::last_queued(next));
        let now = task::totals(next);
        let cpu = task::cpu(next);
        (*cpu_state).pid = pid as u32;
        (*cpu_state).since = clock;
        (*cpu_state).sum_exec_ns = now.sum_exec_ns;
        let own = Some(&*history).filter(|own| u64::from(own.last.pid) == pid);
        let delta = entered(own, now, queued_ns);
        let before = (&raw const (*history).last).cast::<u64>().read();
        // The kernel adds this wait to the total right after this program.
        let now = ThreadTotals {
            run_delay_ns: now.run_delay_ns + queued_ns,
            ..now
        };
        let last = LastRun::word_of(pid, cpu, 0);
        remember(history, now, last);
        // If the entry was another thread's, the only cost is a needless call below.
        let moved = (before ^ last) << 16 >> 16;
        let rare = delta.run_ns | moved;
        if delta.wait_ns | rare != 0 {
            let Some(counters) = counters(cpu_state, owner & 0xffff_ffff) else {
                return;
            };
            if rare | wait::throttling(counters, next, owner) != 0 {
                (*counters).run_ns += delta.run_ns;
                wait::account(cpu_state, counters, next, delta.wait_ns, before);
            } else {
                wait::count(counters, delta.wait_ns, before >> 48);
            }
        }
        if (*cpu_state)
            .since
            .wrapping_sub((*cpu_state).calibrated_clock)
            >= CALIBRATE_EVERY
        {
            cold_path();
            calibrate(cpu_state);
        }
    }
}

/// Reads the run-queue clock and `CLOCK_MONOTONIC` at one moment.
#[inline(never)]
fn calibrate(cpu_state: *mut CpuState) {
    // SAFETY: `cpu_state` points into the map and only this CPU writes it.
    unsafe {
        (*cpu_state).calibrated_clock = (*cpu_state).since;
        (*cpu_state).calibrated_ns = bpf_ktime_get_ns();
    }
}

/// Counts a preemption by the slot that runs now. The only counter that all CPUs share, hence atomic.
#[inline(never)]
fn count_preemption(cpu_state: *mut CpuState, victim: u64) {
    // SAFETY: `cpu_state` points into the map, and so does `counters`.
    let preempting = unsafe {
        if let Some(counters) = counters(cpu_state, victim) {
            (*counters).preempted_by_others = (*counters).preempted_by_others.wrapping_add(1);
        }
        u64::from((*cpu_state).owner.slot)
    };
    if let Some(count) =
        PREEMPTIONS.get_ptr_mut((victim * value::<{ of(Slots) }>() + preempting) as u32)
    {
        // BPF has an atomic addition, but `core` offers none where there is no compare-and-swap.
        // SAFETY: `count` points into the map and is aligned.
        unsafe { asm!("lock *(u64 *)({0} + 0) += {1}", in(reg) count, in(reg) 1_u64) };
    }
}
