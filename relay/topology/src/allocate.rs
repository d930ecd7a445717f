//! The one CPU allocator of all policies.
//!
//! It takes `count` CPUs out of a set so that what is taken is close together and what is left stays
//! in large pieces. The order, where `r` is what is still missing at each step:
//!
//! 1. Everything, when the set has no more.
//! 2. Whole idle packages that fit into `r`.
//! 3. The smallest domain (core, last-level cache, NUMA node, die, package) that holds `r` without giving
//!    up a whole core becomes the home of the rest; within it whole idle dies, then last-level caches,
//!    then cores that fit. A home is looked for anew after each of these steps.
//! 4. Single threads: of the package that already gave most, then of the package with the fewest free
//!    CPUs, then of the core with the fewest free CPUs (finish broken cores first), then the lowest.
//!
//! Groups that are equally good go by their measured cost, then ascending. Idle means that every online
//! CPU of the group is in the set. Equal arguments give equal answers.

mod preference;
mod search;

pub use preference::Preference;

use crate::{cpuset::CpuSet, model::Topology};
use search::Search;

#[cfg(test)]
mod tests;

/// Chooses `count` CPUs of `from`; offline and unknown CPUs of it are never chosen. `None` when it has
/// too few. See the module for the order.
#[must_use]
pub fn allocate(
    topology: &Topology,
    from: &CpuSet,
    count: usize,
    preference: &Preference<'_>,
) -> Option<CpuSet> {
    let from = from.intersection(&topology.online);
    Search::new(topology, &from, preference).take(count)
}

/// The inverse: which `count` CPUs of `held` to keep so that the kept part is as good as if it had been
/// chosen afresh. What is given back is `held` without it. All of `held` when it has no more than `count`.
#[must_use]
pub fn keep(
    topology: &Topology,
    held: &CpuSet,
    count: usize,
    preference: &Preference<'_>,
) -> CpuSet {
    allocate(topology, held, count, preference).unwrap_or(*held)
}
