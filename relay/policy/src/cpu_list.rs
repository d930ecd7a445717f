//! CPU sets as people read them.

use alloc::{borrow::Cow, format};
use resmgr_topology::CpuSet;

/// The list, or `none` when empty.
pub(crate) fn listed(cpus: &CpuSet) -> Cow<'static, str> {
    listed_or(Some(cpus), "none")
}

/// The list, or `fallback` where there is no set or an empty one.
pub(crate) fn listed_or(cpus: Option<&CpuSet>, fallback: &'static str) -> Cow<'static, str> {
    match cpus {
        Some(cpus) if !cpus.is_empty() => format!("{cpus}").into(),
        _ => fallback.into(),
    }
}
