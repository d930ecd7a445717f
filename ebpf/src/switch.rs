//! `tp_btf/sched_switch`: run time, wait, switches and migrations.
//!
//! - Attach point: BTF tracepoint `sched_switch (bool preempt, prev, next[, unsigned prev_state])`,
//!   the state as last argument since 5.18, read from the task before.
//! - Oldest kernel: 5.8 for typed loads, mapped arrays and the ring of `told`, 5.14 for books that are always kept.
//! - Context: run queue locked, interrupts off, clock and CPU time of `prev` just updated, the books of
//!   `next` not yet: its last wait still stands in `last_queued`.
//! - Cost: `cargo xtask bench telemetry`; figures in docs/telemetry.md.

use crate::{
    globals::*,
    identity::{Owner, owner},
    kernel::{follow, load},
    maps::{CELLS, PREEMPTIONS, RECORDS, TASKS},
    migrate,
    task::{self, Flags},
    told, wait,
};
use aya_ebpf::{helpers::bpf_ktime_get_ns, programs::BtfTracePointContext};
use core::arch::asm;
use resmgr_common::{Cell, Record, SLOT_OTHER, TASK_ENTRIES, TASK_PREEMPTED, Task, entered, left};

/// Switches between two calibrations of the run-queue clock against `CLOCK_MONOTONIC`.
const CALIBRATE_EVERY: u32 = 1024;

/// Books one switch.
#[inline(always)]
pub fn account(ctx: &BtfTracePointContext) {
    let preempt: u64 = ctx.arg(0);
    let prev: *const u8 = ctx.arg(1);
    let next: *const u8 = ctx.arg(2);
    let cfs_rq = follow(prev, &OFF_TASK_CFS_RQ);
    let rq = follow(cfs_rq, &OFF_CFS_RQ_RQ);
    let clock: u64 = if OWN_CLOCK.load() == 0 {
        load(rq, &OFF_RQ_CLOCK)
    } else {
        // SAFETY: the helper has no arguments and no conditions.
        unsafe { bpf_ktime_get_ns() }
    };
    let cpu: u32 = load(rq, &OFF_RQ_CPU);
    let Some(record) = RECORDS.get_ptr_mut(cpu) else {
        return;
    };

    let prev_flags = Flags::of(prev);
    let next_flags = Flags::of(next);
    // Always whole: the verifier refuses what LLVM leaves undefined in an empty `Option`.
    let incoming = if next_flags.idle() {
        Owner::NOBODY
    } else {
        owner(next, next_flags)
    };

    // SAFETY: `record` points into the map and only this CPU writes it.
    unsafe {
        (&raw mut (*record).seq).write_volatile((*record).seq.wrapping_add(1));
        (*record).switches = (*record).switches.wrapping_add(1);
        if incoming.missed {
            (*record).css_misses = (*record).css_misses.wrapping_add(1);
            told::once(ctx, record, cpu, incoming.odd);
        }
        if (*record).switches % CALIBRATE_EVERY == 1 {
            (*record).calibrated_clock = clock;
            (*record).calibrated_ns = bpf_ktime_get_ns();
        }
        if prev_flags.idle() {
            if (*record).pid != 0 {
                (*record).unseen = (*record).unseen.wrapping_add(1);
            }
            (*record).idle_switches = (*record).idle_switches.wrapping_add(1);
        } else {
            let state: u32 = if HAS_PREV_STATE.load() != 0 {
                ctx.arg(3)
            } else {
                load(prev, &OFF_TASK_STATE)
            };
            let runnable = preempt & 0xff != 0 || state == 0;
            leave(
                prev,
                prev_flags,
                record,
                cpu,
                clock,
                runnable,
                incoming.slot,
            );
        }
        (*record).since = clock;
        if next_flags.idle() {
            (*record).pid = 0;
            (*record).slot = SLOT_OTHER;
            (*record).idle_switches = (*record).idle_switches.wrapping_add(1);
        } else {
            (*record).pid = task::pid(next);
            (*record).slot = incoming.slot;
            (*record).sum_exec_ns = task::sum_exec(next);
            enter(next, incoming.slot, incoming.nested, cpu, clock);
        }
        (&raw mut (*record).seq).write_volatile((*record).seq.wrapping_add(1));
    }
}

#[inline(always)]
fn cell(cpu: u32, slot: u32) -> Option<*mut Cell> {
    CELLS.get_ptr_mut(cpu * SLOTS.load() + slot)
}

/// What is remembered of a thread; whose memory it is remains to be seen.
#[inline(always)]
fn memory(pid: u32) -> Option<*mut Task> {
    TASKS.get_ptr_mut(pid & (TASK_ENTRIES - 1))
}

/// The task that leaves: its CPU time, why it leaves, and what to remember until it runs again.
#[inline(always)]
unsafe fn leave(
    prev: *const u8,
    flags: Flags,
    record: *mut Record,
    cpu: u32,
    clock: u64,
    runnable: bool,
    next_slot: u32,
) {
    let pid = task::pid(prev);
    let now = task::totals(prev);
    // SAFETY: the pointers point into maps.
    unsafe {
        let known = (*record).pid == pid;
        // Whoever the stint began with: a thread that changed cgroups meanwhile causes no switch.
        let (slot, nested) = if known {
            ((*record).slot, false)
        } else {
            (*record).unseen = (*record).unseen.wrapping_add(1);
            let owner = owner(prev, flags);
            (owner.slot, owner.nested)
        };
        let memory = memory(pid);
        if let Some(cell) = cell(cpu, slot) {
            let own = memory.map(|memory| &*memory).filter(|own| own.pid == pid);
            let since = (*record).since;
            let unseen_ns = if since == 0 {
                0
            } else {
                clock.saturating_sub(since)
            };
            let seen = known.then_some((*record).sum_exec_ns);
            let stint = left(own, seen, now, unseen_ns);
            (*cell).run_ns += stint.run_ns;
            if !known {
                // It was switched in unseen: its wait and its arrival are still to be booked.
                let began = clock.saturating_sub(stint.run_ns);
                wait::book(cell, stint.wait_ns, began, wait::preempted(own), nested);
                migrate::book(cell, stint.from, cpu);
            }
            if runnable {
                (*cell).involuntary = (*cell).involuntary.wrapping_add(1);
                if next_slot != slot && next_slot != Owner::NOBODY.slot {
                    (*cell).preempted_by_others = (*cell).preempted_by_others.wrapping_add(1);
                    count_culprit(slot, next_slot);
                }
            } else {
                (*cell).voluntary = (*cell).voluntary.wrapping_add(1);
            }
        }
        if let Some(memory) = memory {
            *memory = Task {
                run_delay_ns: now.run_delay_ns,
                sum_exec_ns: now.sum_exec_ns,
                pid,
                cpu: cpu as u16,
                flags: if runnable { TASK_PREEMPTED } else { 0 },
            };
        }
    }
}

/// Who ran instead. The only counter all CPUs share, hence atomic.
#[inline(always)]
fn count_culprit(victim: u32, culprit: u32) {
    if let Some(count) = PREEMPTIONS.get_ptr_mut(victim * SLOTS.load() + culprit) {
        // BPF has an atomic addition, but `core` offers none where there is no compare-and-swap.
        // SAFETY: `count` points into the map and is aligned.
        unsafe { asm!("lock *(u64 *)({0} + 0) += {1}", in(reg) count, in(reg) 1_u64) };
    }
}

/// The task that starts: its wait and where it comes from.
#[inline(always)]
fn enter(next: *const u8, slot: u32, nested: bool, cpu: u32, clock: u64) {
    let pid = task::pid(next);
    let (Some(cell), Some(memory)) = (cell(cpu, slot), memory(pid)) else {
        return;
    };
    let now = task::totals(next);
    let queued_ns = wait::queued_ns(next, clock);
    // SAFETY: the pointers point into maps.
    unsafe {
        let own = Some(&*memory).filter(|own| own.pid == pid);
        let stint = entered(own, now, queued_ns);
        if SPLIT_THROTTLE.load() != 0 && !nested {
            wait::notice_throttling(cell, next, clock, stint.wait_ns);
        }
        if stint.run_ns != 0 {
            (*cell).run_ns += stint.run_ns;
        }
        wait::book(cell, stint.wait_ns, clock, wait::preempted(own), nested);
        migrate::book(cell, stint.from, cpu);
        // The kernel books this wait right after us.
        *memory = Task {
            run_delay_ns: now.run_delay_ns + queued_ns,
            sum_exec_ns: now.sum_exec_ns,
            pid,
            cpu: cpu as u16,
            flags: 0,
        };
    }
}
