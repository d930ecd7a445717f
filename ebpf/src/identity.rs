//! Task → slot: the container, or else the cgroup of the host, it belongs to.
//!
//! Hit: three loads, one array look-up, one comparison of serial numbers. Miss (once per cgroup): the program walks
//! from the cgroup towards the root until it meets a registered cgroup, and stores that cgroup's slot.

use crate::{
    kernel::{ConstReloc::*, FieldReloc::*, at, follow, load32, load64, of, value, within},
    maps::{CGROUPS, CSS},
    task, warnings,
};
use aya_ebpf::programs::BtfTracePointContext;
use core::hint::cold_path;
use resmgr_common::{
    CSS_ENTRIES, CpuState, Css, NESTED_OR_ROOT, SLOT_KERNEL, SLOT_OTHER, SlotRef, WARN_TOO_DEEP,
    WARN_TOO_MANY,
};

/// Levels that are searched for a registered cgroup.
const DEPTH: u32 = 16;

/// Slot of kernel threads: they are on the root's run queues, which have no quota.
const KERNEL: SlotRef = SlotRef {
    slot: SLOT_KERNEL,
    flags: NESTED_OR_ROOT,
};

/// Slot of a task that is not the idle task: a [`SlotRef`] as a word.
///
/// # Safety
/// `cpu_state` points into the map, and is that of this CPU.
#[inline(always)]
pub unsafe fn owner(ctx: &BtfTracePointContext, cpu_state: *mut CpuState, task: *const u8) -> u64 {
    if task::is_kernel(task) {
        return KERNEL.word();
    }
    let group = follow::<{ at(TaskGroup) }>(task);
    let css = if value::<{ of(CssBySet) }>() != 0 {
        follow::<{ at(SetCss) }>(group)
    } else {
        within::<{ of(GroupCss) }>(group)
    };
    let id = load32::<{ at(CssId) }>(css);
    let serial = load64::<{ at(CssSerial) }>(css);
    if let Some(entry) = CSS.get_ptr_mut(id as u32 & (CSS_ENTRIES - 1)) {
        // SAFETY: `entry` points into the map; user space only ever zeroes it.
        unsafe {
            if (*entry).serial == serial {
                return (&raw const (*entry).owner).cast::<u64>().read();
            }
        }
    }
    cold_path();
    miss(ctx, cpu_state, css)
}

/// Slot of a cgroup met for the first time: a [`SlotRef`] as a word.
#[inline(never)]
fn miss(ctx: &BtfTracePointContext, cpu_state: *mut CpuState, css: *const u8) -> u64 {
    let id = load32::<{ at(CssId) }>(css);
    let serial = load64::<{ at(CssSerial) }>(css);
    let (owner, deep) = walk(css);
    let wide = if id < u64::from(CSS_ENTRIES) {
        0
    } else {
        WARN_TOO_MANY
    };
    if let Some(entry) = CSS.get_ptr_mut(id as u32 & (CSS_ENTRIES - 1)) {
        let entry: *mut Css = entry;
        // SAFETY: `entry` points into the map. The serial is written last: it makes the entry valid.
        unsafe {
            (&raw mut (*entry).owner).write_volatile(owner);
            (&raw mut (*entry).serial).write_volatile(serial);
        }
    }
    // SAFETY: as the caller says.
    unsafe {
        (*cpu_state).css_misses = (*cpu_state).css_misses.wrapping_add(1);
        warnings::once(ctx, cpu_state, deep | wide);
    }
    owner.word()
}

#[inline(always)]
fn walk(css: *const u8) -> (SlotRef, u32) {
    let mut css = css;
    let mut flags = 0;
    for _ in 0..DEPTH {
        if css.is_null() {
            break;
        }
        let cgroup = follow::<{ at(CssCgroup) }>(css);
        let id = load64::<{ at(KnId) }>(follow::<{ at(CgroupKn) }>(cgroup));
        if let Some(found) = CGROUPS.get_ptr(&id) {
            // SAFETY: the look-up succeeded.
            let found = unsafe { *found };
            let flags = flags | found.flags;
            return (SlotRef { flags, ..found }, 0);
        }
        css = follow::<{ at(CssParent) }>(css);
        flags = NESTED_OR_ROOT;
    }
    let outside = SlotRef {
        slot: SLOT_OTHER,
        flags: NESTED_OR_ROOT,
    };
    (outside, if css.is_null() { 0 } else { WARN_TOO_DEEP })
}
