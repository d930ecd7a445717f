//! The one CPU allocator of all policies.
//!
//! It takes `count` CPUs out of a set so that what is taken is close together and what is left stays
//! in large pieces. The order, where `r` is what is still missing at each step:
//!
//! 1. Everything, when the set has no more.
//! 2. On a hybrid processor, cores of one kind as long as it has room: performance cores first, then efficiency
//!    cores, and where neither has room all performance cores and the rest of the others.
//! 3. Level by level from the widest on (packages, nodes, dies, last-level caches, in the order in which they
//!    contain each other): the smallest domain of this level or a narrower one (a core at last) that holds `r` without
//!    giving up a whole core becomes the home of the rest; while there is none, everything of the group of the level
//!    that gives most in whole cores, so that few are used.
//! 4. Whole idle cores that fit.
//! 5. Single threads: step 3 again, where groups now give all they have, then of the cores with the fewest free CPUs.
//!
//! Groups that are equally good go by use (what gave already, the widest level first), measured cost, best fit (the
//! fewest free CPUs, the widest level first), then ascending; for parts of cores best fit comes before cost: broken
//! cores are finished first. Idle means that every online CPU of the group is in the set. Equal arguments give equal
//! answers.
//!
//! Where the kubelet's order (whole packages and nodes, then cores, then threads, the fullest first) would use fewer
//! packages, nodes or cores, it is followed: a container never spans more of them than under the kubelet's own manager.

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
    let mut search = Search::new(topology, &from, preference);
    let free = search.free();
    if free <= count {
        return (free == count).then_some(from.intersection(&topology.all()));
    }
    let missing = search.stay_in_kind(count);
    search.stay_near(missing);
    let fewest = search.clone().fewest(missing);
    let spans = fewest.spans();
    // Held CPUs draw new ones to them, wherever those are.
    if preference.near.is_none() && spans.iter().any(|groups| *groups > 1) {
        let packed = search.packed(missing);
        let mut pairs = packed.spans().into_iter().zip(spans);
        if pairs.any(|(packed, fewest)| packed < fewest) {
            return Some(packed.chosen());
        }
    }
    Some(fewest.chosen())
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
