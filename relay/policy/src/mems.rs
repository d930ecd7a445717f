//! Which memory nodes go with a set of CPUs.

use alloc::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    vec::Vec,
};
use resmgr_topology::{Cpus, NodeId, Topology};

/// The memory nodes for CPUs: the NUMA nodes of the CPUs and the memory-only nodes nearest to them; widened
/// by the nearest others until their memory holds a limit, so that the container cannot be killed for want of
/// local memory while there is plenty elsewhere. Nodes without memory are left out.
///
/// What many containers have in common is worked out once.
#[derive(Debug)]
pub(crate) struct Mems<'a> {
    topology: &'a Topology,
    /// CPUs that many have, and where their answer is in `homes`.
    common: Vec<(Cpus, usize)>,
    homes: Vec<Home>,
}

/// The answers for all CPUs of the same nodes.
#[derive(Debug)]
struct Home {
    /// Nodes that own any of the CPUs.
    local: Vec<NodeId>,
    /// What they get when any amount of memory will do; `None` when no node has memory.
    mems: Option<Arc<BTreeSet<NodeId>>>,
    bytes: u64,
    /// What they get to hold a limit beyond `bytes`.
    wider: BTreeMap<u64, Option<Arc<BTreeSet<NodeId>>>>,
}

impl<'a> Mems<'a> {
    /// Ready for many containers on each of the `common` CPUs.
    pub(crate) fn new<'b>(topology: &'a Topology, common: impl Iterator<Item = &'b Cpus>) -> Self {
        let mut mems = Self {
            topology,
            common: Vec::new(),
            homes: Vec::new(),
        };
        for cpus in common {
            let home = mems.home(cpus);
            mems.common.push((cpus.clone(), home));
        }
        mems
    }

    /// `None` when no node has memory.
    pub(crate) fn of(
        &mut self,
        cpus: &Cpus,
        limit_bytes: Option<u64>,
    ) -> Option<Arc<BTreeSet<NodeId>>> {
        let common = self.common.iter().find(|(of, _)| of == cpus);
        let home = common.map(|(_, home)| *home);
        let home = home.unwrap_or_else(|| self.home(cpus));
        let home = self.homes.get_mut(home)?;
        match limit_bytes.filter(|limit| home.bytes < *limit) {
            None => home.mems.clone(),
            Some(limit) => {
                let mems = home.mems.as_deref();
                let (local, bytes, topology) = (&home.local, home.bytes, self.topology);
                let wider = home.wider.entry(limit);
                wider
                    .or_insert_with(|| widened(topology, local, mems, bytes, Some(limit)).0)
                    .clone()
            }
        }
    }

    /// Where the answers for the CPUs are in `homes`.
    fn home(&mut self, cpus: &Cpus) -> usize {
        let local: Vec<NodeId> = self.topology.nodes_of(cpus).map(|node| node.id).collect();
        let known = self.homes.iter().position(|home| home.local == local);
        known.unwrap_or_else(|| {
            let (near, bytes) = near(self.topology, &local);
            let (mems, bytes) = widened(self.topology, &local, Some(&near), bytes, None);
            self.homes.push(Home {
                local,
                mems,
                bytes,
                wider: BTreeMap::new(),
            });
            self.homes.len() - 1
        })
    }
}

/// Local nodes that have memory, memory-only ones nearest to them, and how much they have together.
fn near(topology: &Topology, local: &[NodeId]) -> (BTreeSet<NodeId>, u64) {
    let home = |id: NodeId| {
        let with_cpus = topology.nodes.iter().filter(|node| !node.cpus.is_empty());
        let nearest = with_cpus.min_by_key(|node| (topology.distance(node.id, id), node.id));
        nearest.map(|node| node.id)
    };
    let mut chosen = BTreeSet::new();
    let mut bytes = 0u64;
    for node in topology.nodes.iter().filter(|node| node.memory_bytes > 0) {
        let attached = node.cpus.is_empty() && home(node.id).is_some_and(|at| local.contains(&at));
        if local.contains(&node.id) || attached {
            chosen.insert(node.id);
            bytes = bytes.saturating_add(node.memory_bytes);
        }
    }
    (chosen, bytes)
}

/// The nodes `from` and the nearest others, until there is one and they hold the limit.
fn widened(
    topology: &Topology,
    local: &[NodeId],
    from: Option<&BTreeSet<NodeId>>,
    mut bytes: u64,
    limit_bytes: Option<u64>,
) -> (Option<Arc<BTreeSet<NodeId>>>, u64) {
    let far = |id: NodeId| {
        let distances = local.iter().map(|from| topology.distance(*from, id));
        distances.min().unwrap_or(u16::MAX)
    };
    let mut chosen = from.cloned().unwrap_or_default();
    while chosen.is_empty() || limit_bytes.is_some_and(|limit| bytes < limit) {
        let rest = topology.nodes.iter();
        let rest = rest.filter(|node| node.memory_bytes > 0 && !chosen.contains(&node.id));
        let Some(next) = rest.min_by_key(|node| (far(node.id), node.id)) else {
            break;
        };
        chosen.insert(next.id);
        bytes = bytes.saturating_add(next.memory_bytes);
    }
    ((!chosen.is_empty()).then(|| Arc::new(chosen)), bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mems(topology: &Topology, cpus: &str, limit: Option<u64>) -> Option<BTreeSet<NodeId>> {
        let cpus = Cpus::from(cpus.parse::<resmgr_topology::CpuSet>().unwrap());
        let mut mems = Mems::new(topology, [&cpus].into_iter());
        let known = mems.of(&cpus, limit);
        assert_eq!(mems.of(&cpus, limit), known, "asked again");
        assert_eq!(Mems::new(topology, [].into_iter()).of(&cpus, limit), known);
        known.map(|known| (*known).clone())
    }
    fn nodes(ids: &[u32]) -> Option<BTreeSet<NodeId>> {
        Some(ids.iter().copied().map(NodeId).collect())
    }

    #[test]
    fn memory_follows_cpus_and_widens_when_the_limit_does_not_fit() {
        let topology = Topology::synthetic("pack:2 numa:2(memory=1GiB) core:2 pu:2").unwrap();
        let cpus = "0-1";
        assert_eq!(mems(&topology, cpus, None), nodes(&[0]));
        assert_eq!(mems(&topology, cpus, Some(1 << 30)), nodes(&[0]));
        assert_eq!(mems(&topology, cpus, Some((1 << 30) + 1)), nodes(&[0, 1]));
        assert_eq!(mems(&topology, cpus, Some(u64::MAX)), nodes(&[0, 1, 2, 3]));
    }
    #[test]
    fn memory_only_nodes_go_with_the_nearest_cpus() {
        let topology = Topology::synthetic("pack:2 numa:1(memory=1GiB) core:2").unwrap();
        let topology = topology
            .with_memory_node(NodeId(7), 4 << 30, NodeId(1), 17)
            .unwrap();
        assert_eq!(mems(&topology, "0", None), nodes(&[0]));
        assert_eq!(mems(&topology, "2", None), nodes(&[1, 7]));
    }
}
