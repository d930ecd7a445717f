//! Loads from kernel structures, at offsets the loader writes into the instructions.
//!
//! In assembly, because Rust cannot express a load whose offset is not known at compile time.
//! Pointers stay pointers: the verifier refuses arithmetic on them other than adding a constant. It checks
//! type and offset of every load; where a pointer was itself loaded, a fault reads as zero.

use core::arch::asm;
pub use resmgr_common::{ConstReloc, FieldReloc};

/// The placeholder of a field's offset.
pub const fn at(field: FieldReloc) -> i16 {
    field.placeholder()
}

/// The placeholder of a constant.
pub const fn of(constant: ConstReloc) -> i32 {
    constant.placeholder()
}

/// Reads eight bytes.
#[inline(always)]
pub fn load64<const PLACEHOLDER: i16>(base: *const u8) -> u64 {
    let value;
    // SAFETY: the verifier allows it or refuses the program; nothing is written.
    unsafe {
        asm!("{0} = *(u64 *)({1} + {2})", out(reg) value, in(reg) base, const PLACEHOLDER,
            options(pure, readonly, nostack, preserves_flags));
    }
    value
}

/// Reads four bytes into a whole register: the load zeroes the upper half, so no second instruction does.
#[inline(always)]
pub fn load32<const PLACEHOLDER: i16>(base: *const u8) -> u64 {
    let value;
    // SAFETY: as above.
    unsafe {
        asm!("{0} = *(u32 *)({1} + {2})", out(reg) value, in(reg) base, const PLACEHOLDER,
            options(pure, readonly, nostack, preserves_flags));
    }
    value
}

/// Follows a pointer.
#[inline(always)]
pub fn follow<const PLACEHOLDER: i16>(base: *const u8) -> *const u8 {
    let pointer;
    // SAFETY: as above.
    unsafe {
        asm!("{0} = *(u64 *)({1} + {2})", out(reg) pointer, in(reg) base, const PLACEHOLDER,
            options(pure, readonly, nostack, preserves_flags));
    }
    pointer
}

/// The structure embedded there.
#[inline(always)]
pub fn within<const PLACEHOLDER: i32>(base: *const u8) -> *const u8 {
    let mut pointer = base;
    // SAFETY: nothing is read; the verifier decides where the pointer may point.
    unsafe {
        asm!("{0} += {1}", inout(reg) pointer, const PLACEHOLDER,
            options(pure, nomem, nostack, preserves_flags));
    }
    pointer
}

/// A constant that the loader fills in. The verifier knows it and prunes the branches that it rules out.
#[inline(always)]
pub fn value<const PLACEHOLDER: i32>() -> u64 {
    let value;
    // SAFETY: a move.
    unsafe {
        asm!("{0} = {1}", out(reg) value, const PLACEHOLDER,
            options(pure, nomem, nostack, preserves_flags));
    }
    value
}
