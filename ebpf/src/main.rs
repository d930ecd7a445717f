//! Scheduler telemetry in the kernel: maps, and one attach point per hook.
//!
//! Nothing here takes a time stamp, a lock or an atomic: at `sched_switch` the scheduler has just
//! written all that is needed, and each CPU writes only its own cells.
#![no_std]
#![no_main]
#![feature(asm_experimental_arch)]
#![allow(
    unsafe_code,
    reason = "reads kernel memory and map memory through raw pointers"
)]

mod identity;
mod kernel;
mod maps;
mod migrate;
mod row;
mod switch;
mod task;
mod told;
mod unseen;
mod wait;

use aya_ebpf::{macros::btf_tracepoint, programs::BtfTracePointContext};

/// The one hot hook: see [`switch`].
#[btf_tracepoint(function = "sched_switch")]
pub fn sched_switch(ctx: BtfTracePointContext) -> i32 {
    switch::account(&ctx);
    0
}

/// Does nothing at the same place: what `bpf_stats` reports for it is the floor of the measurement.
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
