//! Which memory nodes go with a set of CPUs.

use alloc::collections::BTreeSet;
use resmgr_topology::{CpuSet, NodeId, Topology};

/// The NUMA nodes of the CPUs and the memory-only nodes nearest to them; widened by the nearest others
/// until their memory holds `limit_bytes`, so that the container cannot be killed for want of local memory
/// while there is plenty elsewhere. Nodes without memory are left out. `None` when no node has memory.
pub(crate) fn mems(
    topology: &Topology,
    cpus: &CpuSet,
    limit_bytes: Option<u64>,
) -> Option<BTreeSet<NodeId>> {
    let local: BTreeSet<NodeId> = topology.nodes_of(cpus).map(|node| node.id).collect();
    let far = |id: NodeId| {
        let distances = local.iter().map(|from| topology.distance(*from, id));
        distances.min().unwrap_or(u16::MAX)
    };
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
    while chosen.is_empty() || limit_bytes.is_some_and(|limit| bytes < limit) {
        let rest = topology.nodes.iter();
        let rest = rest.filter(|node| node.memory_bytes > 0 && !chosen.contains(&node.id));
        let Some(next) = rest.min_by_key(|node| (far(node.id), node.id)) else {
            break;
        };
        chosen.insert(next.id);
        bytes = bytes.saturating_add(next.memory_bytes);
    }
    (!chosen.is_empty()).then_some(chosen)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nodes(ids: &[u32]) -> Option<BTreeSet<NodeId>> {
        Some(ids.iter().copied().map(NodeId).collect())
    }

    #[test]
    fn memory_follows_cpus_and_widens_when_the_limit_does_not_fit() {
        let topology = Topology::synthetic("pack:2 numa:2(memory=1GiB) core:2 pu:2").unwrap();
        let cpus = "0-1".parse().unwrap();
        assert_eq!(mems(&topology, &cpus, None), nodes(&[0]));
        assert_eq!(mems(&topology, &cpus, Some(1 << 30)), nodes(&[0]));
        assert_eq!(mems(&topology, &cpus, Some((1 << 30) + 1)), nodes(&[0, 1]));
        assert_eq!(mems(&topology, &cpus, Some(u64::MAX)), nodes(&[0, 1, 2, 3]));
    }
    #[test]
    fn memory_only_nodes_go_with_the_nearest_cpus() {
        let topology = Topology::synthetic("pack:2 numa:1(memory=1GiB) core:2").unwrap();
        let topology = topology
            .with_memory_node(NodeId(7), 4 << 30, NodeId(1), 17)
            .unwrap();
        assert_eq!(mems(&topology, &"0".parse().unwrap(), None), nodes(&[0]));
        assert_eq!(mems(&topology, &"2".parse().unwrap(), None), nodes(&[1, 7]));
    }
}
