//! Task → slot: the container it belongs to.
//!
//! Hit: three loads, one array look-up, one comparison of serial numbers. Miss (once per cgroup): walk
//! from the cgroup towards the root until a registered one is met, and remember the answer.

use crate::{
    kernel::{Field::*, Value::*, at, follow, load32, load64, of, value, within},
    maps::{CGROUPS, CSS},
    task, told,
};
use aya_ebpf::programs::BtfTracePointContext;
use core::hint::cold_path;
use resmgr_common::{
    CSS_ENTRIES, Css, OWNER_APART, Owner, Record, SLOT_KERNEL, SLOT_OTHER, TOLD_DEEP, TOLD_WIDE,
};

/// How far up a container's cgroup is looked for.
const DEPTH: u32 = 16;

/// Owner of kernel threads: they are on the root's queues, which nobody throttles.
const KERNEL: Owner = Owner {
    slot: SLOT_KERNEL,
    flags: OWNER_APART,
};

/// Owner of a task that is not the idle task, as a word.
///
/// # Safety
/// `record` points into the map, and is that of this CPU.
#[inline(always)]
pub unsafe fn owner(ctx: &BtfTracePointContext, record: *mut Record, task: *const u8) -> u64 {
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
    miss(ctx, record, css)
}

/// Owner of a cgroup met for the first time, as a word.
#[inline(never)]
fn miss(ctx: &BtfTracePointContext, record: *mut Record, css: *const u8) -> u64 {
    let id = load32::<{ at(CssId) }>(css);
    let serial = load64::<{ at(CssSerial) }>(css);
    let (owner, deep) = walk(css);
    let wide = if id < u64::from(CSS_ENTRIES) {
        0
    } else {
        TOLD_WIDE
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
        (*record).css_misses = (*record).css_misses.wrapping_add(1);
        told::once(ctx, record, deep | wide);
    }
    owner.word()
}

#[inline(always)]
fn walk(css: *const u8) -> (Owner, u32) {
    let mut css = css;
    let mut flags = 0;
    for _ in 0..DEPTH {
        if css.is_null() {
            break;
        }
        let cgroup = follow::<{ at(CssCgroup) }>(css);
        let id = load64::<{ at(KnId) }>(follow::<{ at(CgroupKn) }>(cgroup));
        if let Some(slot) = CGROUPS.get_ptr(&id) {
            // SAFETY: the look-up succeeded.
            let slot = unsafe { *slot };
            return (Owner { slot, flags }, 0);
        }
        css = follow::<{ at(CssParent) }>(css);
        flags = OWNER_APART;
    }
    let other = Owner {
        slot: SLOT_OTHER,
        flags: OWNER_APART,
    };
    (other, if css.is_null() { 0 } else { TOLD_DEEP })
}
