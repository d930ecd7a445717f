//! Which CPUs share what with a CPU.

use resmgr_topology::{CpuId, Topology};
use std::{collections::BTreeMap, rc::Rc};

/// For each CPU the positions of the CPUs of its core, cache, node, package and of the machine.
pub(super) fn spans(topology: &Topology, ids: &[CpuId]) -> Vec<[Rc<[usize]>; 5]> {
    let key = |cpu: &CpuId, level: usize| {
        topology.cpu(*cpu).map_or(0, |cpu| match level {
            0 => cpu.core.0,
            1 => cpu.llc.0,
            2 => cpu.node.0,
            3 => cpu.package.0,
            _ => 0,
        })
    };
    let groups: [BTreeMap<u32, Rc<[usize]>>; 5] = std::array::from_fn(|level| {
        let mut groups: BTreeMap<u32, Vec<usize>> = BTreeMap::new();
        for (position, cpu) in ids.iter().enumerate() {
            groups.entry(key(cpu, level)).or_default().push(position);
        }
        groups.into_iter().map(|(id, of)| (id, of.into())).collect()
    });
    let of = |cpu: &CpuId| {
        std::array::from_fn(|level| {
            let found = groups[level].get(&key(cpu, level));
            found.cloned().unwrap_or_default()
        })
    };
    ids.iter().map(of).collect()
}
