//! What is odd on this machine and worth a word in the daemon's log: each thing once for each CPU.
//!
//! Only where the cgroup tree was walked, which happens once for a cgroup: the hot path has none of it.

use crate::task;
use aya_ebpf::programs::BtfTracePointContext;
use aya_log_ebpf::warn;
use resmgr_common::{Record, TOLD_DEEP, TOLD_WIDE};

/// Tells what of `odd` this CPU has not told yet.
///
/// # Safety
/// `record` points into the map, and is that of this CPU.
#[inline(always)]
pub unsafe fn once(ctx: &BtfTracePointContext, record: *mut Record, odd: u32) {
    // SAFETY: as the caller says.
    let told = unsafe { (*record).told };
    let new = odd & !told;
    if new == 0 {
        return;
    }
    // SAFETY: as above.
    unsafe { (*record).told = told | new };
    let cpu = task::cpu(ctx.arg(1)) as u32;
    if new & TOLD_DEEP != 0 {
        warn!(
            ctx,
            "CPU {}: a cgroup lies too deep below the root for its container to be found", cpu
        );
    }
    if new & TOLD_WIDE != 0 {
        warn!(
            ctx,
            "CPU {}: more cgroups than the table of their owners has room for", cpu
        );
    }
}
