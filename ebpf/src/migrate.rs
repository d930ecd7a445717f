//! Effective migrations: a task runs elsewhere than it ran last time.
//!
//! No hook of its own: `sched_migrate_task` also fires for moves that never led to a run, and not at
//! all for the placement of a fork.

use crate::{
    kernel::{Value::*, of, value},
    maps::{DISTANCES, PLACES},
};
use resmgr_common::{Cell, distance_class};

/// Books the arrival on `to` of a task whose last run, elsewhere, is `before`: a word of a `LastRun`.
#[inline(never)]
pub fn book(cell: *mut Cell, before: u64, to: u64) {
    if value::<{ of(Migrations) }>() == 0 {
        return;
    }
    let from = before >> 32 & 0xffff;
    let (Some(from), Some(to)) = (PLACES.get(from as u32), PLACES.get(to as u32)) else {
        return;
    };
    let class = distance_class(*from, *to) as usize;
    let index = u64::from(from.node) * value::<{ of(Nodes) }>() + u64::from(to.node);
    // SAFETY: `cell` points into the map; `class` is below 5.
    unsafe {
        if class < 5 {
            (*cell).migrations[class] = (*cell).migrations[class].wrapping_add(1);
        }
        if let Some(distance) = DISTANCES.get(index as u32) {
            (*cell).distance += u64::from(*distance);
        }
    }
}
