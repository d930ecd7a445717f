//! Maps: arrays only on the hit path. Their sizes are set at load.

use aya_ebpf::{
    macros::map,
    maps::{Array, HashMap},
};
use resmgr_common::{CSS_ENTRIES, Cell, Css, Place, Record, TASK_ENTRIES, Task};

/// `BPF_F_MMAPABLE` (5.5): user space reads the pages in place.
const MMAPABLE: u32 = 1 << 10;

/// Totals: row per CPU, column per slot.
#[map]
pub static CELLS: Array<Cell> = Array::with_max_entries(1, MMAPABLE);
/// What each CPU runs now.
#[map]
pub static RECORDS: Array<Record> = Array::with_max_entries(1, MMAPABLE);
/// Preemptions by others: row per slot that was preempted, column per slot that ran instead.
#[map]
pub static PREEMPTIONS: Array<u64> = Array::with_max_entries(1, MMAPABLE);
/// Slot by css id.
#[map]
pub static CSS: Array<Css> = Array::with_max_entries(CSS_ENTRIES, MMAPABLE);
/// Threads between two stints.
#[map]
pub static TASKS: Array<Task> = Array::with_max_entries(TASK_ENTRIES, 0);
/// Where each CPU sits.
#[map]
pub static PLACES: Array<Place> = Array::with_max_entries(1, 0);
/// NUMA distances, row by row.
#[map]
pub static DISTANCES: Array<u32> = Array::with_max_entries(1, 0);
/// Slot by cgroup id (the inode of its directory): only looked at when `CSS` misses.
#[map]
pub static CGROUPS: HashMap<u64, u32> = HashMap::with_max_entries(1, 0);
