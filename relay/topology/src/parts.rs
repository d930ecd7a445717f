//! The one way to make a [`Topology`]: it mends what does not nest, numbers the groups and refuses what cannot be a
//! machine.

use crate::{
    cpuset::{CpuSet, MAX_CPUS},
    distance::{FAR, IN_PACKAGE, LOCAL},
    ids::{CoreId, CpuId, DieId, L2Id, LlcId, NodeId, PackageId},
    mend::mend,
    model::{Cpu, Group, Node, Topology},
};
use alloc::{boxed::Box, collections::BTreeMap, string::String, vec::Vec};

/// What is known of a machine before its groups are numbered.
///
/// The core, L2, LLC and die numbers of [`Cpu`] only have to be different for different groups of
/// the whole machine; package and node numbers are the kernel's.
#[derive(Clone, Debug, Default)]
pub struct Parts {
    /// Every CPU that exists, in any order.
    pub cpus: Vec<Cpu>,
    /// NUMA nodes; their `cpus` are filled in from [`Parts::cpus`].
    pub nodes: Vec<Node>,
    /// SLIT distances by index into `nodes` as given; empty: 10, 12 and 21 by package.
    pub distances: Vec<Vec<u16>>,
    /// CPUs online; `None` means all.
    pub online: Option<CpuSet>,
    /// CPUs isolated by the kernel's command line.
    pub isolated: CpuSet,
    /// Where this came from, for people.
    pub origin: String,
    /// What was mended already, for people.
    pub notes: Vec<String>,
}

/// Why a description is not a machine.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TopologyError {
    /// No CPU at all.
    #[error("the topology has no CPUs")]
    NoCpus,
    /// Two CPUs with one number.
    #[error("CPU {cpu} is described twice")]
    TwiceCpu {
        /// The number.
        cpu: CpuId,
    },
    /// Two NUMA nodes with one number.
    #[error("NUMA node {node} is described twice")]
    TwiceNode {
        /// The number.
        node: NodeId,
    },
    /// More CPUs than a [`CpuSet`] holds.
    #[error("CPU {cpu} is beyond the largest supported number {}", MAX_CPUS - 1)]
    TooLarge {
        /// The number.
        cpu: CpuId,
    },
    /// Online or isolated CPUs that are not described.
    #[error("{set} CPUs {cpus} are not described")]
    UnknownCpus {
        /// Which set.
        set: &'static str,
        /// The culprits.
        cpus: Box<CpuSet>,
    },
    /// The distance table does not fit the nodes.
    #[error("the distance table must be {nodes} by {nodes}, as there are {nodes} NUMA nodes")]
    Distances {
        /// How many nodes there are.
        nodes: usize,
    },
}

impl Topology {
    /// Mends the description where its levels do not nest (said in [`Topology::notes`]), numbers its groups, sorts
    /// everything and checks that it can be a machine.
    ///
    /// # Errors
    /// [`TopologyError`] naming the culprit.
    pub fn from_parts(parts: Parts) -> Result<Self, TopologyError> {
        let Parts {
            mut cpus,
            mut nodes,
            mut distances,
            online,
            isolated,
            origin,
            mut notes,
        } = parts;
        cpus.sort_by_key(|cpu| cpu.id);
        let Some(last) = cpus.last() else {
            return Err(TopologyError::NoCpus);
        };
        if last.id.0 >= MAX_CPUS {
            return Err(TopologyError::TooLarge { cpu: last.id });
        }
        for (cpu, next) in cpus.iter().zip(cpus.iter().skip(1)) {
            if cpu.id == next.id {
                return Err(TopologyError::TwiceCpu { cpu: cpu.id });
            }
        }
        notes.extend(mend(&mut cpus, &mut nodes, &mut distances));

        let cores = number(&mut cpus, |cpu| &mut cpu.core.0, CoreId);
        let l2s = number(&mut cpus, |cpu| &mut cpu.l2.0, L2Id);
        let llcs = number(&mut cpus, |cpu| &mut cpu.llc.0, LlcId);
        let dies = number(&mut cpus, |cpu| &mut cpu.die.0, DieId);
        let mut packages: BTreeMap<PackageId, CpuSet> = BTreeMap::new();
        for cpu in &cpus {
            packages.entry(cpu.package).or_default().insert(cpu.id);
        }
        let packages = packages
            .into_iter()
            .map(|(id, cpus)| Group { id, cpus })
            .collect();
        let (nodes, distances) = check_nodes(&cpus, nodes, distances)?;

        let all: CpuSet = cpus.iter().map(|cpu| cpu.id).collect();
        let online = online.unwrap_or(all);
        for (set, cpus) in [("online", &online), ("isolated", &isolated)] {
            if !cpus.is_subset(&all) {
                let cpus = Box::new(cpus.difference(&all));
                return Err(TopologyError::UnknownCpus { set, cpus });
            }
        }
        Ok(Self {
            cpus,
            online,
            withheld: CpuSet::EMPTY,
            isolated,
            cores,
            l2s,
            llcs,
            dies,
            packages,
            nodes,
            distances,
            origin,
            notes,
        })
    }

    /// The description this topology could be made from again: to change it, or to check one that
    /// was read from a file.
    #[must_use]
    pub fn into_parts(self) -> Parts {
        Parts {
            cpus: self.cpus,
            nodes: self.nodes,
            distances: self.distances,
            online: Some(self.online.union(&self.withheld)),
            isolated: self.isolated,
            origin: self.origin,
            notes: self.notes,
        }
    }
}

/// Replaces the group numbers of one level by dense ones in order of the lowest CPU.
fn number<Id: Copy>(
    cpus: &mut [Cpu],
    field: impl Fn(&mut Cpu) -> &mut u32,
    id: impl Fn(u32) -> Id,
) -> Vec<Group<Id>> {
    let mut dense: BTreeMap<u32, u32> = BTreeMap::new();
    let mut groups: Vec<Group<Id>> = Vec::new();
    let mut next = 0;
    for cpu in cpus {
        let number = *dense.entry(*field(cpu)).or_insert_with(|| {
            groups.push(Group {
                id: id(next),
                cpus: CpuSet::EMPTY,
            });
            next += 1;
            next - 1
        });
        *field(cpu) = number;
        if let Some(group) = groups.get_mut(number as usize) {
            group.cpus.insert(cpu.id);
        }
    }
    groups
}

type Nodes = (Vec<Node>, Vec<Vec<u16>>);

/// Sorts nodes (and the table with them), fills in their CPUs, makes up missing distances.
fn check_nodes(
    cpus: &[Cpu],
    mut nodes: Vec<Node>,
    distances: Vec<Vec<u16>>,
) -> Result<Nodes, TopologyError> {
    for node in &mut nodes {
        node.cpus = CpuSet::EMPTY;
    }
    let mut order: Vec<usize> = (0..nodes.len()).collect();
    order.sort_by_key(|index| nodes.get(*index).map(|node| node.id));
    nodes.sort_by_key(|node| node.id);
    for (node, next) in nodes.iter().zip(nodes.iter().skip(1)) {
        if node.id == next.id {
            return Err(TopologyError::TwiceNode { node: node.id });
        }
    }
    for cpu in cpus {
        let index = nodes.binary_search_by_key(&cpu.node, |node| node.id);
        if let Some(node) = index.ok().and_then(|index| nodes.get_mut(index)) {
            node.cpus.insert(cpu.id);
        }
    }
    let distances = if distances.is_empty() {
        made_up(cpus, &nodes)
    } else {
        let wrong = TopologyError::Distances { nodes: nodes.len() };
        if distances.len() != nodes.len() || distances.iter().any(|row| row.len() != nodes.len()) {
            return Err(wrong);
        }
        let entry = |from: &usize, to: &usize| distances.get(*from)?.get(*to).copied();
        order
            .iter()
            .map(|from| order.iter().filter_map(|to| entry(from, to)).collect())
            .collect()
    };
    Ok((nodes, distances))
}

/// Distances firmware typically reports.
fn made_up(cpus: &[Cpu], nodes: &[Node]) -> Vec<Vec<u16>> {
    let package = |node: &Node| {
        let first = node.cpus.first()?;
        cpus.iter()
            .find(|cpu| cpu.id == first)
            .map(|cpu| cpu.package)
    };
    let packages: Vec<_> = nodes.iter().map(package).collect();
    (0..nodes.len())
        .map(|from| {
            (0..nodes.len())
                .map(|to| match (packages.get(from), packages.get(to)) {
                    _ if from == to => LOCAL,
                    (Some(Some(first)), Some(Some(second))) if first == second => IN_PACKAGE,
                    _ => FAR,
                })
                .collect()
        })
        .collect()
}
