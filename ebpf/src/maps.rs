//! Maps: most switches look only into arrays. The sizes are set at load.

use crate::kernel::{ConstReloc, of};
use aya_ebpf::{
    macros::map,
    maps::{Array, HashMap},
};
use resmgr_common::{CSS_ENTRIES, CpuLocation, Css, SlotRef, TASK_ENTRIES, ThreadHistory};

/// `BPF_F_MMAPABLE` (5.5): user space reads the pages in place.
const MMAPABLE: u32 = 1 << 10;

/// A [`CpuState`](resmgr_common::CpuState), padded to the size of the counters of a slot, and behind it the counters
/// of each slot: one look-up finds both. The loader writes the length into the definition of the map.
type CpuRow = [u8; of(ConstReloc::RowBytes) as usize];

/// What each CPU runs now, and its totals.
#[map]
pub static ROWS: Array<CpuRow> = Array::with_max_entries(1, MMAPABLE);
/// Preemptions by other slots: row per slot that was preempted, column per slot that ran instead.
#[map]
pub static PREEMPTIONS: Array<u64> = Array::with_max_entries(1, MMAPABLE);
/// Slot by css id.
#[map]
pub static CSS: Array<Css> = Array::with_max_entries(CSS_ENTRIES, MMAPABLE);
/// History of threads. Mappable, although the daemon does not map it: that aligns the entries.
#[map]
pub static TASKS: Array<ThreadHistory> = Array::with_max_entries(TASK_ENTRIES, MMAPABLE);
/// Location of each CPU.
#[map]
pub static PLACES: Array<CpuLocation> = Array::with_max_entries(1, 0);
/// NUMA distances, row by row.
#[map]
pub static DISTANCES: Array<u32> = Array::with_max_entries(1, 0);
/// Slot by cgroup id (the inode of its directory): read only when `CSS` misses.
#[map]
pub static CGROUPS: HashMap<u64, SlotRef> = HashMap::with_max_entries(1, 0);
