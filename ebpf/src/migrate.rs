//! Effective migrations: a task runs elsewhere than it ran last time.
//!
//! No hook of its own: `sched_migrate_task` also fires for moves that never led to a run, and not at
//! all for the placement of a fork.

use crate::{
    globals::{MIGRATIONS, NODES},
    maps::{DISTANCES, PLACES},
};
use resmgr_common::{Cell, distance_class};

/// Books the arrival on `to` of a task that ran on `from` before, if it did.
#[inline(always)]
pub fn book(cell: *mut Cell, from: Option<u16>, to: u32) {
    if MIGRATIONS.load() == 0 {
        return;
    }
    let Some(from) = from.map(u32::from).filter(|from| *from != to) else {
        return;
    };
    let (Some(from), Some(to)) = (PLACES.get(from), PLACES.get(to)) else {
        return;
    };
    let class = distance_class(*from, *to) as usize;
    let index = u32::from(from.node) * NODES.load() + u32::from(to.node);
    // SAFETY: `cell` points into the map; `class` is below 5.
    unsafe {
        if class < 5 {
            (*cell).migrations[class] = (*cell).migrations[class].wrapping_add(1);
        }
        if let Some(distance) = DISTANCES.get(index) {
            (*cell).distance += u64::from(*distance);
        }
    }
}
