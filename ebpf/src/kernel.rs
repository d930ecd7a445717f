//! Loads from kernel structures at offsets the loader found.
//!
//! Pointers stay pointers: the verifier refuses arithmetic on them other than adding a constant.

use aya_ebpf::Global;
use core::ptr::read_volatile;

/// Reads a `T` at `base + offset`.
#[inline(always)]
pub fn load<T: Copy>(base: *const u8, offset: &Global<u32>) -> T {
    // SAFETY: the verifier checks type and offset; a fault on a walked pointer reads as zero.
    unsafe { read_volatile(base.add(offset.load() as usize).cast()) }
}

/// Follows the pointer at `base + offset`.
#[inline(always)]
pub fn follow(base: *const u8, offset: &Global<u32>) -> *const u8 {
    load(base, offset)
}

/// The structure embedded at `base + offset`.
#[inline(always)]
pub fn within(base: *const u8, offset: &Global<u32>) -> *const u8 {
    // SAFETY: as for `load`; nothing is read here.
    unsafe { base.add(offset.load() as usize) }
}
