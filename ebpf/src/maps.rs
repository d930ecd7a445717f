//! Maps: arrays only on the hit path. Their sizes are set at load.

use crate::kernel::{Value, of};
use aya_ebpf::{
    macros::map,
    maps::{Array, HashMap},
};
use resmgr_common::{CSS_ENTRIES, Css, Place, TASK_ENTRIES, Task};

/// `BPF_F_MMAPABLE` (5.5): user space reads the pages in place.
const MMAPABLE: u32 = 1 << 10;

/// A CPU's [`Record`](resmgr_common::Record), in the place of one cell, and behind it the cell of each slot: one
/// look-up finds both. How long that is the loader knows; until then a mark stands in the definition of the map.
type Row = [u8; of(Value::RowBytes) as usize];

/// What each CPU runs now, and its totals.
#[map]
pub static ROWS: Array<Row> = Array::with_max_entries(1, MMAPABLE);
/// Preemptions by others: row per slot that was preempted, column per slot that ran instead.
#[map]
pub static PREEMPTIONS: Array<u64> = Array::with_max_entries(1, MMAPABLE);
/// Slot by css id.
#[map]
pub static CSS: Array<Css> = Array::with_max_entries(CSS_ENTRIES, MMAPABLE);
/// Threads between two stints. Mapped by nobody: it is that kind of array whose entries are aligned.
#[map]
pub static TASKS: Array<Task> = Array::with_max_entries(TASK_ENTRIES, MMAPABLE);
/// Where each CPU sits.
#[map]
pub static PLACES: Array<Place> = Array::with_max_entries(1, 0);
/// NUMA distances, row by row.
#[map]
pub static DISTANCES: Array<u32> = Array::with_max_entries(1, 0);
/// Slot by cgroup id (the inode of its directory): only looked at when `CSS` misses.
#[map]
pub static CGROUPS: HashMap<u64, u32> = HashMap::with_max_entries(1, 0);
