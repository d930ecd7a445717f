//! Types and arithmetic that the BPF program and user space share.
//!
//! Everything here is plain integers with a fixed layout: the program writes these values into mapped
//! arrays and user space reads them in place. The arithmetic lives here so that host tests cover what
//! the kernel's verifier will run.
#![cfg_attr(not(test), no_std)]
#![cfg_attr(target_arch = "bpf", feature(asm_experimental_arch))]

mod arithmetic;
mod layout;
mod marks;
mod stint;

pub use arithmetic::{
    BUCKETS, Distance, Place, beyond, bucket, bucket_ceiling_ns, distance_class, is_zero,
    queued_ns, split_wait, throttled,
};
pub use layout::{
    CSS_ENTRIES, Cell, Css, LastRun, OWNER_APART, Owner, Record, SLOT_KERNEL, SLOT_OTHER,
    SLOTS_RESERVED, TASK_ENTRIES, TASK_PREEMPTED, TOLD_DEEP, TOLD_WIDE, Task, row_bytes,
};
pub use marks::{FIELD_MARK, Field, VALUE_MARK, Value};
pub use stint::{Stint, Totals, entered, left, ran_ns};
