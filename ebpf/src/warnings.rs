//! Warnings for the daemon's log about limits of the program that this machine exceeds: each once per CPU.
//!
//! They are only given where the cgroup tree was walked, which happens once for a cgroup, off the hot path.

use crate::task;
use aya_ebpf::programs::BtfTracePointContext;
use aya_log_ebpf::warn;
use resmgr_common::{CpuState, WARN_TOO_DEEP, WARN_TOO_MANY};

/// In place of this module's path, which would be written byte by byte: the daemon does not show it.
const TARGET: &str = "bpf";

/// Gives those of the `due` warnings that this CPU has not given yet.
///
/// # Safety
/// `cpu_state` points into the map, and is that of this CPU.
#[inline(always)]
pub unsafe fn once(ctx: &BtfTracePointContext, cpu_state: *mut CpuState, due: u32) {
    // SAFETY: as the caller says.
    let warned = unsafe { (*cpu_state).warned };
    let new = due & !warned;
    if new == 0 {
        return;
    }
    // SAFETY: as above.
    unsafe { (*cpu_state).warned = warned | new };
    let cpu = task::cpu(ctx.arg(1)) as u32;
    if new & WARN_TOO_DEEP != 0 {
        warn!(
            ctx,
            target: TARGET,
            "CPU {}: a cgroup lies too deep below the root for its container to be found", cpu
        );
    }
    if new & WARN_TOO_MANY != 0 {
        warn!(
            ctx,
            target: TARGET,
            "CPU {}: more cgroups than the table of their owners has room for", cpu
        );
    }
}
