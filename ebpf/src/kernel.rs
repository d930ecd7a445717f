//! Loads from kernel structures, at offsets the loader writes into the instructions.
//!
//! In assembly, for a load whose offset is not known when the compiler runs is nothing the language has.
//! Pointers stay pointers: the verifier refuses arithmetic on them other than adding a constant. It checks
//! type and offset of every load; where a pointer was itself loaded, a fault reads as zero.

use core::arch::asm;
pub use resmgr_common::{Field, Value};

/// The mark of a field.
pub const fn at(field: Field) -> i16 {
    field.mark()
}

/// The mark of a value.
pub const fn of(value: Value) -> i32 {
    value.mark()
}

/// Reads eight bytes.
#[inline(always)]
pub fn load64<const MARK: i16>(base: *const u8) -> u64 {
    let value;
    // SAFETY: the verifier allows it or refuses the program; nothing is written.
    unsafe {
        asm!("{0} = *(u64 *)({1} + {2})", out(reg) value, in(reg) base, const MARK,
            options(pure, readonly, nostack, preserves_flags));
    }
    value
}

/// Reads four bytes. As a whole register, whose upper half the load zeroes: nothing is done twice.
#[inline(always)]
pub fn load32<const MARK: i16>(base: *const u8) -> u64 {
    let value;
    // SAFETY: as above.
    unsafe {
        asm!("{0} = *(u32 *)({1} + {2})", out(reg) value, in(reg) base, const MARK,
            options(pure, readonly, nostack, preserves_flags));
    }
    value
}

/// Follows a pointer.
#[inline(always)]
pub fn follow<const MARK: i16>(base: *const u8) -> *const u8 {
    let pointer;
    // SAFETY: as above.
    unsafe {
        asm!("{0} = *(u64 *)({1} + {2})", out(reg) pointer, in(reg) base, const MARK,
            options(pure, readonly, nostack, preserves_flags));
    }
    pointer
}

/// The structure embedded there.
#[inline(always)]
pub fn within<const MARK: i32>(base: *const u8) -> *const u8 {
    let mut pointer = base;
    // SAFETY: nothing is read; where it may point the verifier decides.
    unsafe {
        asm!("{0} += {1}", inout(reg) pointer, const MARK,
            options(pure, nomem, nostack, preserves_flags));
    }
    pointer
}

/// A number the loader gives. The verifier knows it: what it rules out is pruned as dead code.
#[inline(always)]
pub fn value<const MARK: i32>() -> u64 {
    let value;
    // SAFETY: a move.
    unsafe {
        asm!("{0} = {1}", out(reg) value, const MARK,
            options(pure, nomem, nostack, preserves_flags));
    }
    value
}
