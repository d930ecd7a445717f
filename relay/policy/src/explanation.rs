//! Why a container is where it is, for people.

use alloc::{format, string::String, vec::Vec};
use resmgr_topology::CpuSet;
use serde::{Deserialize, Serialize};

/// Why a container was put where it is, in words and numbers. Printed by `explain`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Explanation {
    /// One line: what was decided.
    pub summary: String,
    /// The rule that decided, and the numbers it saw, a line each.
    pub reasons: Vec<String>,
    /// The choices considered, best first, a line each with its numbers.
    #[serde(default)]
    pub candidates: Vec<String>,
}

/// Choices told of that were not taken; the rest is counted.
pub(crate) const TOLD: usize = 16;

/// The first of the choices, best first, and how many more there were: a line each.
pub(crate) fn choices(lines: impl ExactSizeIterator<Item = String>, told: usize) -> Vec<String> {
    let more = lines.len().saturating_sub(told);
    let told = lines.take(told);
    told.chain((more > 0).then(|| format!("and {more} more")))
        .collect()
}

/// A set for people: `none` when empty.
pub(crate) fn listed(cpus: &CpuSet) -> String {
    if cpus.is_empty() {
        "none".into()
    } else {
        format!("{cpus}")
    }
}
