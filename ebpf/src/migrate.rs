//! Effective migrations: a task runs on another CPU than it ran last time.
//!
//! No hook of its own: `sched_migrate_task` also fires for moves that never led to a run, and not at
//! all for the placement of a fork.

use crate::{
    bench,
    kernel::{ConstReloc::*, of, value},
    maps::{DISTANCES, PLACES},
};
use resmgr_common::{SlotCounters, distance_class};

/// Counts the arrival on CPU `to` of a task whose last run, elsewhere, is `before`: a word of a `LastRun`.
#[inline(never)]
pub fn count(counters: *mut SlotCounters, before: u64, to: u64) {
    if !bench::has_migrations() {
        return;
    }
    let from = before >> 32 & 0xffff;
    let (Some(from), Some(to)) = (PLACES.get(from as u32), PLACES.get(to as u32)) else {
        return;
    };
    let class = distance_class(*from, *to) as usize;
    let index = u64::from(from.node) * value::<{ of(Nodes) }>() + u64::from(to.node);
    // SAFETY: `counters` points into the map; `class` is below 5.
    unsafe {
        if class < 5 {
            (*counters).migrations[class] = (*counters).migrations[class].wrapping_add(1);
        }
        if let Some(distance) = DISTANCES.get(index as u32) {
            (*counters).distance += u64::from(*distance);
        }
    }
}
