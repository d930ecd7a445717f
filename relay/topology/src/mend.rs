//! Mends descriptions of machines that do not nest: hypervisors hand out caches across sockets, split the threads
//! of a core over NUMA nodes, and firmware leaves CPUs without a node.
//!
//! A mended description loses what it said too much; no CPU is lost. Mending again changes nothing.

use crate::{
    cpuset::CpuSet,
    distance::{FAR, LOCAL},
    ids::{NodeId, PackageId},
    model::{Cpu, Node},
};
use alloc::{
    collections::{BTreeMap, BTreeSet},
    format,
    string::String,
    vec,
    vec::Vec,
};
use core::cmp::Reverse;

/// Makes the levels nest; what was changed, for people. `cpus` are sorted.
///
/// Cores come to lie in one package, die and NUMA node, caches contain whole cores and lie in one package,
/// last-level caches contain or lie in NUMA nodes, dies lie in one package, and every CPU has a node.
pub(crate) fn mend(
    cpus: &mut [Cpu],
    nodes: &mut Vec<Node>,
    distances: &mut Vec<Vec<u16>>,
) -> Vec<String> {
    let homeless = find_nodes(cpus, nodes, distances);
    // x86 kernels ignore a thread sibling on another node likewise (`topology_sane()` in smpboot.c).
    let cores = cut(
        cpus,
        |cpu| &mut cpu.core.0,
        |cpu| (cpu.package, Some(cpu.node)),
    );
    let mut dies = cut(cpus, |cpu| &mut cpu.die.0, |cpu| (cpu.package, None));
    let mut threads = CpuSet::EMPTY;
    let (mut of_core, mut of_l2) = (BTreeMap::new(), BTreeMap::new());
    for cpu in cpus.iter_mut() {
        let (l2, llc, die) = *(of_core.entry(cpu.core)).or_insert((cpu.l2, cpu.llc, cpu.die));
        let llc = *of_l2.entry(l2).or_insert(llc);
        if (cpu.l2, cpu.llc) != (l2, llc) {
            (cpu.l2, cpu.llc) = (l2, llc);
            threads.insert(cpu.id);
        }
        if cpu.die != die {
            cpu.die = die;
            dies.insert(cpu.id);
        }
    }
    let mut caches = cut(
        cpus,
        |cpu| &mut cpu.l2.0,
        |cpu| (cpu.package, Some(cpu.node)),
    );
    caches = caches.union(&cut(cpus, |cpu| &mut cpu.llc.0, |cpu| (cpu.package, None)));
    let crossing = crossing(cpus);
    caches = caches.union(&cut(
        cpus,
        |cpu| &mut cpu.llc.0,
        |cpu| {
            (
                cpu.package,
                crossing.contains(&cpu.llc.0).then_some(cpu.node),
            )
        },
    ));
    [
        (homeless, "are on no described NUMA node: they are taken to be on that of their neighbours, or on one without memory"),
        (cores, "are said to be threads of a core on another NUMA node or package: they are taken for threads of another core"),
        (dies, "are said to share a die beyond their package, or not to share that of their core: dies are taken to follow both"),
        (threads, "are threads of a core and are said to have other caches than its first thread, as in virtual machines: they are taken to share those"),
        (caches, "are said to share a cache with another package or with part of another NUMA node, as in virtual machines: the cache is taken to end there"),
    ]
    .into_iter()
    .filter(|(cpus, _)| !cpus.is_empty())
    .map(|(cpus, problem)| format!("CPUs {cpus} {problem}"))
    .collect()
}

/// Gives CPUs whose node is not described that of CPUs in their cache, die or package, or one without memory.
fn find_nodes(cpus: &mut [Cpu], nodes: &mut Vec<Node>, distances: &mut Vec<Vec<u16>>) -> CpuSet {
    let described: BTreeSet<NodeId> = nodes.iter().map(|node| node.id).collect();
    let mut homeless = CpuSet::EMPTY;
    let neighbours: Vec<Cpu> = (cpus.iter().copied())
        .filter(|cpu| described.contains(&cpu.node))
        .collect();
    for cpu in cpus.iter_mut().filter(|cpu| !described.contains(&cpu.node)) {
        homeless.insert(cpu.id);
        let nearest = neighbours.iter().max_by_key(|near| {
            let same = [
                near.package == cpu.package,
                near.die == cpu.die,
                near.llc == cpu.llc,
                near.core == cpu.core,
            ];
            (same, Reverse(near.id.0.abs_diff(cpu.id.0)))
        });
        if let Some(near) = nearest.filter(|near| near.package == cpu.package) {
            cpu.node = near.node;
        } else if nodes.iter().all(|node| node.id != cpu.node) {
            nodes.push(Node {
                id: cpu.node,
                cpus: CpuSet::EMPTY,
                memory_bytes: 0,
            });
            if let Some(row) = distances.first().map(Vec::len) {
                distances.iter_mut().for_each(|row| row.push(FAR));
                distances.push(vec![FAR; row]);
                distances
                    .last_mut()
                    .into_iter()
                    .for_each(|row| row.push(LOCAL));
            }
        }
    }
    homeless
}

/// Cuts the groups of a level where the bound changes; which CPUs were cut off from the first of their group.
fn cut(
    cpus: &mut [Cpu],
    group: impl Fn(&mut Cpu) -> &mut u32,
    bound: impl Fn(&Cpu) -> (PackageId, Option<NodeId>),
) -> CpuSet {
    let mut firsts = BTreeMap::new();
    let mut numbers = BTreeMap::new();
    let mut off = CpuSet::EMPTY;
    for cpu in cpus {
        let (bound, id) = (bound(cpu), cpu.id);
        let number = group(cpu);
        if *firsts.entry(*number).or_insert(bound) != bound {
            off.insert(id);
        }
        let next = u32::try_from(numbers.len()).unwrap_or(u32::MAX);
        *number = *numbers.entry((*number, bound)).or_insert(next);
    }
    off
}

/// Last-level caches of which a part is in a node that has CPUs of another cache as well.
fn crossing(cpus: &[Cpu]) -> BTreeSet<u32> {
    let mut nodes_of: BTreeMap<u32, BTreeSet<NodeId>> = BTreeMap::new();
    let mut caches_of: BTreeMap<NodeId, BTreeSet<u32>> = BTreeMap::new();
    for cpu in cpus {
        nodes_of.entry(cpu.llc.0).or_default().insert(cpu.node);
        caches_of.entry(cpu.node).or_default().insert(cpu.llc.0);
    }
    let shares = |node: &NodeId| caches_of.get(node).is_some_and(|caches| caches.len() > 1);
    let crossing = nodes_of.into_iter();
    let crossing = crossing.filter(|(_, nodes)| nodes.len() > 1 && nodes.iter().any(shares));
    crossing.map(|(cache, _)| cache).collect()
}

#[cfg(test)]
mod tests {
    use crate::{
        ids::{CpuId, DieId, LlcId, NodeId, PackageId},
        model::Topology,
        parts::Parts,
    };
    use proptest::prelude::*;

    fn parts(description: &str) -> Parts {
        Topology::synthetic(description).unwrap().into_parts()
    }

    fn spans<Id>(groups: &[crate::model::Group<Id>]) -> Vec<String> {
        groups.iter().map(|group| group.cpus.to_string()).collect()
    }

    #[test]
    fn a_cache_ends_with_its_package() {
        let mut parts = parts("pack:4 core:1 pu:1");
        parts.nodes.truncate(1);
        for cpu in &mut parts.cpus {
            (cpu.llc, cpu.node) = (LlcId(0), NodeId(0));
        }
        parts.distances.clear();
        let machine = Topology::from_parts(parts).unwrap();
        assert_eq!(spans(&machine.llcs), ["0", "1", "2", "3"]);
        let notes = "CPUs 1-3 are said to share a cache with another package";
        assert!(machine.notes[0].starts_with(notes), "{:?}", machine.notes);
        assert_eq!(machine.notes.len(), 1);
    }

    #[test]
    fn a_cache_may_span_whole_nodes_and_ends_where_it_has_a_part_of_one() {
        assert!(parts("pack:2 l3:1 numa:2 core:4").notes.is_empty());
        let mut parts = parts("pack:1 numa:2 core:4");
        for cpu in &mut parts.cpus {
            cpu.llc = LlcId(u32::from(cpu.id.0 > 5));
        }
        let machine = Topology::from_parts(parts).unwrap();
        assert_eq!(spans(&machine.llcs), ["0-3", "4-5", "6-7"]);
    }

    #[test]
    fn threads_on_two_nodes_are_two_cores() {
        let mut parts = parts("pack:1 numa:2 core:1 pu:2");
        for cpu in &mut parts.cpus {
            cpu.node = NodeId(cpu.id.0 % 2);
        }
        let machine = Topology::from_parts(parts).unwrap();
        assert_eq!(spans(&machine.cores), ["0", "1", "2", "3"]);
        assert_eq!(machine.nodes[1].cpus.to_string(), "1,3");
        assert!(machine.notes[0].contains("threads of a core on another NUMA node"));
    }

    #[test]
    fn threads_of_a_core_share_its_caches_whatever_the_machine_says() {
        let mut parts = parts("pack:1 core:2 pu:2");
        for cpu in &mut parts.cpus {
            (cpu.l2.0, cpu.llc.0) = (cpu.id.0, cpu.id.0);
        }
        let machine = Topology::from_parts(parts).unwrap();
        assert_eq!((machine.l2s.len(), machine.llcs.len()), (2, 2));
        assert!(machine.notes[0].starts_with("CPUs 1,3 are threads of a core"));
    }

    #[test]
    fn a_cpu_without_a_node_joins_its_neighbours_or_a_node_without_memory() {
        let mut some = parts("pack:2 numa:2 core:2");
        some.cpus[3].node = NodeId(9);
        let machine = Topology::from_parts(some).unwrap();
        assert_eq!(machine.cpus[3].node, NodeId(1));
        let mut all = parts("pack:2 numa:1 core:2");
        all.cpus[2].node = NodeId(9);
        all.cpus[3].node = NodeId(9);
        all.nodes.truncate(1);
        all.distances = vec![vec![10]];
        let machine = Topology::from_parts(all).unwrap();
        let far = &machine.nodes[1];
        assert_eq!(
            (far.id, far.cpus.to_string(), far.memory_bytes),
            (NodeId(9), "2-3".into(), 0)
        );
        assert_eq!(machine.distances, [[10, 21], [21, 10]]);
        assert!(machine.notes[0].starts_with("CPUs 2-3 are on no described NUMA node"));
    }

    proptest! {
        #[test]
        fn anything_can_be_mended_and_stays_as_it_is_then(groups in proptest::collection::vec(any::<[u8; 6]>(), 1..24)) {
            let mut parts = parts("core:24");
            parts.cpus.truncate(groups.len());
            parts.online = None;
            for (cpu, [core, l2, llc, die, node, package]) in parts.cpus.iter_mut().zip(groups) {
                (cpu.core.0, cpu.l2.0, cpu.llc.0) = (u32::from(core % 12), u32::from(l2 % 8), u32::from(llc % 4));
                (cpu.die, cpu.node) = (DieId(u32::from(die % 3)), NodeId(u32::from(node % 3)));
                cpu.package = PackageId(u32::from(package % 3));
            }
            let machine = Topology::from_parts(parts).unwrap();
            let single = |of: &dyn Fn(&crate::model::Cpu) -> u32, cpus: &crate::cpuset::CpuSet| {
                let mut groups: Vec<u32> = cpus.iter().filter_map(|cpu| machine.cpu(cpu)).map(of).collect();
                groups.dedup();
                groups.len() == 1
            };
            for core in &machine.cores {
                prop_assert!(single(&|cpu| cpu.l2.0, &core.cpus) && single(&|cpu| cpu.node.0, &core.cpus));
                prop_assert!(single(&|cpu| cpu.llc.0, &core.cpus) && single(&|cpu| cpu.die.0, &core.cpus));
            }
            for cache in &machine.llcs {
                prop_assert!(single(&|cpu| cpu.package.0, &cache.cpus));
            }
            for die in &machine.dies {
                prop_assert!(single(&|cpu| cpu.package.0, &die.cpus));
            }
            let cpus: Vec<CpuId> = machine.nodes.iter().flat_map(|node| node.cpus.iter().collect::<Vec<_>>()).collect();
            prop_assert_eq!(cpus.len(), machine.cpus.len());
            prop_assert_eq!(Topology::from_parts(machine.clone().into_parts()), Ok(machine));
        }
    }
}
