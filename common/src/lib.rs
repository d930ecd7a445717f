//! Types and arithmetic that the BPF program and user space share.
//!
//! All types are plain integers with a fixed layout: the program writes them into mapped arrays, and user space
//! reads them in place. The arithmetic is here so that tests on the host cover what runs in the kernel.
#![cfg_attr(not(test), no_std)]
#![cfg_attr(target_arch = "bpf", feature(asm_experimental_arch))]

mod arithmetic;
mod layout;
mod relocations;
mod switch_delta;

pub use arithmetic::{
    BUCKETS, CpuLocation, Distance, beyond, bucket, bucket_ceiling_ns, distance_class, is_zero,
    queued_ns, split_wait, throttled,
};
pub use layout::{
    CSS_ENTRIES, CpuState, Css, LastRun, NESTED_OR_ROOT, SLOT_KERNEL, SLOT_OTHER, SLOTS_RESERVED,
    SlotCounters, SlotRef, TASK_ENTRIES, TASK_PREEMPTED, ThreadHistory, WARN_TOO_DEEP,
    WARN_TOO_MANY, row_bytes,
};
pub use relocations::{CONST_PLACEHOLDER, ConstReloc, FIELD_PLACEHOLDER, FieldReloc};
pub use switch_delta::{SwitchDelta, ThreadTotals, entered, left, ran_ns};
