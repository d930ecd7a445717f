//! What a caller prefers among CPUs that would do.

use crate::{cpuset::CpuSet, ids::CpuId};
use core::fmt;

/// What makes one choice of CPUs better than another that is topologically as good.
#[derive(Clone, Copy, Default)]
pub struct Preference<'a> {
    /// Stay close to these CPUs (held already): same core, cache, node, package, then by distance.
    /// When their node or package can serve the request, nothing outside is considered.
    pub near: Option<&'a CpuSet>,
    /// Measured cost of a CPU, lower is better: breaks ties among topologically equal groups, before
    /// their number does. It should be coarse, or noise decides.
    pub cost: Option<&'a dyn Fn(CpuId) -> u64>,
}

impl fmt::Debug for Preference<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Preference")
            .field("near", &self.near)
            .field("cost", &self.cost.map(|_| "…"))
            .finish()
    }
}
