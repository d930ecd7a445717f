//! Task → slot: the container it belongs to.
//!
//! Hit: two loads, one array look-up, one comparison of serial numbers. Miss (once per cgroup): walk
//! from the cgroup towards the root until a registered one is met, and remember the answer.

use crate::{
    globals::*,
    kernel::{follow, load, within},
    maps::{CGROUPS, CSS},
    task::Flags,
};
use resmgr_common::{CSS_ENTRIES, CSS_NESTED, SLOT_KERNEL, SLOT_OTHER, TOLD_DEEP, TOLD_WIDE};

/// How far up a container's cgroup is looked for.
const DEPTH: u32 = 16;

/// Whom a task belongs to.
#[derive(Clone, Copy)]
pub struct Owner {
    /// Column of the cell matrix.
    pub slot: u32,
    /// In a cgroup below the registered one.
    pub nested: bool,
    /// The tree had to be walked.
    pub missed: bool,
    /// What was odd about the walk: `TOLD_DEEP`, `TOLD_WIDE`.
    pub odd: u32,
}

impl Owner {
    /// Of the idle task: a column that no matrix has.
    pub const NOBODY: Self = Self {
        slot: u32::MAX,
        nested: false,
        missed: false,
        odd: 0,
    };
}

/// Owner of a task that is not the idle task.
#[inline(always)]
pub fn owner(task: *const u8, flags: Flags) -> Owner {
    let known = |slot, flags: u32| Owner {
        slot,
        nested: flags & CSS_NESTED != 0,
        missed: false,
        odd: 0,
    };
    if flags.kernel() {
        return known(SLOT_KERNEL, 0);
    }
    let group = follow(task, &OFF_TASK_GROUP);
    let css = if CSS_BY_SET.load() != 0 {
        follow(group, &OFF_GROUP_CSS)
    } else {
        within(group, &OFF_GROUP_CSS)
    };
    let id: u32 = load(css, &OFF_CSS_ID);
    let serial: u64 = load(css, &OFF_CSS_SERIAL);
    let Some(entry) = CSS.get_ptr_mut(id & (CSS_ENTRIES - 1)) else {
        return known(SLOT_OTHER, 0);
    };
    // SAFETY: `entry` points into the map; user space only ever zeroes it.
    unsafe {
        if (*entry).serial == serial {
            return known((*entry).slot, (*entry).flags);
        }
    }
    let (slot, flags, odd) = walk(css);
    // SAFETY: as above. The serial is written last: it makes the entry valid.
    unsafe {
        (&raw mut (*entry).slot).write_volatile(slot);
        (&raw mut (*entry).flags).write_volatile(flags);
        (&raw mut (*entry).serial).write_volatile(serial);
    }
    Owner {
        slot,
        nested: flags & CSS_NESTED != 0,
        missed: true,
        odd: odd | if id < CSS_ENTRIES { 0 } else { TOLD_WIDE },
    }
}

#[inline(always)]
fn walk(css: *const u8) -> (u32, u32, u32) {
    let mut css = css;
    let mut flags = 0;
    for _ in 0..DEPTH {
        if css.is_null() {
            break;
        }
        let node = follow(follow(css, &OFF_CSS_CGROUP), &OFF_CGROUP_KN);
        let id: u64 = load(node, &OFF_KN_ID);
        if let Some(slot) = CGROUPS.get_ptr(&id) {
            // SAFETY: the look-up succeeded.
            return (unsafe { *slot }, flags, 0);
        }
        css = follow(css, &OFF_CSS_PARENT);
        flags = CSS_NESTED;
    }
    let odd = if css.is_null() { 0 } else { TOLD_DEEP };
    (SLOT_OTHER, 0, odd)
}
