//! Scheduler telemetry in the kernel: maps, and one attach point per hook.
//!
//! The program needs no time stamp, no lock and, but for preemptions by other slots, no atomic operation: at
//! `sched_switch` the scheduler has just written all that is needed, and each CPU writes only its own row.
#![no_std]
#![no_main]
#![feature(asm_experimental_arch)]
#![allow(
    unsafe_code,
    reason = "reads kernel memory and map memory through raw pointers"
)]

mod bench;
mod identity;
mod kernel;
mod maps;
mod migrate;
mod missed_switch;
mod row;
mod switch;
mod task;
mod wait;
mod warnings;

use aya_ebpf::{macros::btf_tracepoint, programs::BtfTracePointContext};

/// The only hook of the product: see [`switch`].
#[btf_tracepoint(function = "sched_switch")]
pub fn sched_switch(ctx: BtfTracePointContext) -> i32 {
    switch::account(&ctx);
    0
}

/// Does nothing at the same hook: what `bpf_stats` reports for it is the floor of the measurement.
#[btf_tracepoint(function = "sched_switch")]
pub fn sched_switch_empty(_ctx: BtfTracePointContext) -> i32 {
    0
}

#[cfg(not(test))]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

/// Programs that call GPL-only helpers must say so.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
