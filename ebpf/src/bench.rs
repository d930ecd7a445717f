//! Parts of the program that a build with `bench` switches off at load, to measure what each costs.
//!
//! The product has all of them, and no instruction that asks.

#[cfg(feature = "bench")]
use crate::kernel::{ConstReloc::*, of, value};

/// Whether waits are counted by length.
#[inline(always)]
pub fn has_histogram() -> bool {
    #[cfg(feature = "bench")]
    return value::<{ of(Histogram) }>() != 0;
    #[cfg(not(feature = "bench"))]
    true
}

/// Whether migrations are counted.
#[inline(always)]
pub fn has_migrations() -> bool {
    #[cfg(feature = "bench")]
    return value::<{ of(Migrations) }>() != 0;
    #[cfg(not(feature = "bench"))]
    true
}

/// Whether a time stamp is taken in place of the run queue's clock.
#[inline(always)]
pub fn has_own_clock() -> bool {
    #[cfg(feature = "bench")]
    return value::<{ of(OwnClock) }>() != 0;
    #[cfg(not(feature = "bench"))]
    false
}
