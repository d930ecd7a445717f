//! `tp_btf/sched_switch`: run time, wait, switches and migrations.
//!
//! - Attach point: BTF tracepoint `sched_switch (bool preempt, prev, next[, unsigned prev_state])`,
//!   the state as last argument since 5.18, read from the task before.
//! - Oldest kernel: 5.5 for typed loads and mapped arrays, 5.14 for books that are always kept.
//! - Context: run queue locked, interrupts off, clock and CPU time of `prev` just updated, the books of
//!   `next` not yet: its last wait still stands in `last_queued`.
//! - Cost: `cargo xtask bench telemetry`; figures in docs/telemetry.md.

use crate::{
    globals::*,
    identity::owner,
    kernel::{follow, load},
    maps::{CELLS, RECORDS, TASKS},
    migrate,
    task::{self, Flags},
    wait,
};
use aya_ebpf::{helpers::bpf_ktime_get_ns, programs::BtfTracePointContext};
use resmgr_common::{Cell, Record, SLOT_OTHER, TASK_ENTRIES, TASK_PREEMPTED, Task};

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
    let clock: u64 = load(rq, &OFF_RQ_CLOCK);
    let cpu: u32 = load(rq, &OFF_RQ_CPU);
    let Some(record) = RECORDS.get_ptr_mut(cpu) else {
        return;
    };

    let prev_flags = Flags::of(prev);
    let next_flags = Flags::of(next);
    let mut missed = false;
    let incoming = if next_flags.idle() {
        None
    } else {
        let incoming = owner(next, next_flags);
        missed = incoming.missed;
        Some(incoming)
    };

    // SAFETY: `record` points into the map and only this CPU writes it.
    unsafe {
        (&raw mut (*record).seq).write_volatile((*record).seq.wrapping_add(1));
        (*record).switches = (*record).switches.wrapping_add(1);
        if missed {
            (*record).css_misses += 1;
        }
        if (*record).switches % CALIBRATE_EVERY == 1 {
            (*record).calibrated_clock = clock;
            (*record).calibrated_ns = bpf_ktime_get_ns();
        }
        if prev_flags.idle() {
            (*record).idle_switches += 1;
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
                runnable,
                incoming.map(|owner| owner.slot),
            );
        }
        match incoming {
            None => {
                (*record).pid = 0;
                (*record).slot = SLOT_OTHER;
                (*record).since = clock;
                (*record).idle_switches += 1;
            }
            Some(owner) => {
                (*record).pid = task::pid(next);
                (*record).slot = owner.slot;
                (*record).sum_exec_ns = task::sum_exec(next);
                (*record).since = clock;
                enter(next, owner.slot, owner.nested, cpu, clock);
            }
        }
        (&raw mut (*record).seq).write_volatile((*record).seq.wrapping_add(1));
    }
}

#[inline(always)]
fn cell(cpu: u32, slot: u32) -> Option<*mut Cell> {
    CELLS.get_ptr_mut(cpu * SLOTS.load() + slot)
}

/// The task that leaves: its CPU time, why it leaves, and what to remember until it runs again.
#[inline(always)]
unsafe fn leave(
    prev: *const u8,
    flags: Flags,
    record: *mut Record,
    cpu: u32,
    runnable: bool,
    next_slot: Option<u32>,
) {
    let pid = task::pid(prev);
    // SAFETY: the pointers point into maps.
    unsafe {
        let known = (*record).pid == pid;
        // Whoever the stint began with: a thread that changed cgroups meanwhile causes no switch.
        let slot = if known {
            (*record).slot
        } else {
            owner(prev, flags).slot
        };
        if let Some(cell) = cell(cpu, slot) {
            if known {
                (*cell).run_ns += task::sum_exec(prev).saturating_sub((*record).sum_exec_ns);
            }
            if runnable {
                (*cell).involuntary = (*cell).involuntary.wrapping_add(1);
                if next_slot.is_some_and(|next| next != slot) {
                    (*cell).preempted_by_others = (*cell).preempted_by_others.wrapping_add(1);
                }
            } else {
                (*cell).voluntary = (*cell).voluntary.wrapping_add(1);
            }
        }
        if let Some(memory) = TASKS.get_ptr_mut(pid & (TASK_ENTRIES - 1)) {
            *memory = Task {
                run_delay_ns: task::run_delay(prev),
                pid,
                cpu: cpu as u16,
                flags: if runnable { TASK_PREEMPTED } else { 0 },
            };
        }
    }
}

/// The task that starts: its wait and where it comes from.
#[inline(always)]
fn enter(next: *const u8, slot: u32, nested: bool, cpu: u32, clock: u64) {
    let Some(cell) = cell(cpu, slot) else { return };
    let pid = task::pid(next);
    let memory = TASKS
        .get(pid & (TASK_ENTRIES - 1))
        .filter(|memory| memory.pid == pid);
    if SPLIT_THROTTLE.load() != 0 && !nested {
        wait::notice_throttling(cell, follow(next, &OFF_TASK_CFS_RQ), clock);
    }
    wait::book(
        cell,
        wait::ended(next, memory, clock),
        clock,
        memory,
        nested,
    );
    if let Some(memory) = memory
        && u32::from(memory.cpu) != cpu
    {
        migrate::book(cell, u32::from(memory.cpu), cpu);
    }
}
