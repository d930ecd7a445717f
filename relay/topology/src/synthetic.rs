//! Topologies from a line of text, for tests, simulation and support.

use crate::{
    cpuset::{CpuSet, MAX_CPUS},
    ids::{CoreId, CpuId, DieId, L2Id, LlcId, NodeId, PackageId},
    model::{CoreKind, Cpu, Node, Topology},
    parts::{Parts, TopologyError},
};
use alloc::{
    format,
    string::{String, ToString},
    vec::Vec,
};

/// Memory of a synthetic NUMA node that states none, in bytes.
const DEFAULT_MEMORY_BYTES: u64 = 1 << 30;

/// Why a text is not a synthetic description.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SyntheticError {
    /// An element is not `level:count`.
    #[error("{element:?} is not a level and its count (expected something like core:4)")]
    Element {
        /// As typed.
        element: String,
    },
    /// A level that does not exist.
    #[error("{level:?} is no level (there are pack, die, numa, l3, l2, core, pu)")]
    TopologyLevel {
        /// As typed.
        level: String,
    },
    /// A level given twice, or inside one that it contains.
    #[error(
        "{level} cannot come after {after} (the order is pack, die, numa, l3, l2, core, pu; numa, die and l3 may change places)"
    )]
    Order {
        /// The level.
        level: &'static str,
        /// What stands before it.
        after: &'static str,
    },
    /// More CPUs than supported.
    #[error("the description makes {cpus} CPUs, more than the supported {MAX_CPUS}")]
    TooMany {
        /// How many.
        cpus: u64,
    },
    /// The parts do not make a machine.
    #[error(transparent)]
    Machine(#[from] TopologyError),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum TopologyLevel {
    Package,
    Die,
    Node,
    L3,
    L2,
    Core,
    Pu,
}

impl TopologyLevel {
    const fn name(self) -> &'static str {
        match self {
            Self::Package => "pack",
            Self::Die => "die",
            Self::Node => "numa",
            Self::L3 => "l3",
            Self::L2 => "l2",
            Self::Core => "core",
            Self::Pu => "pu",
        }
    }

    fn parse(word: &str) -> Option<Self> {
        Some(match word.to_ascii_lowercase().as_str() {
            "pack" | "package" | "socket" => Self::Package,
            "die" => Self::Die,
            "numa" | "node" | "numanode" => Self::Node,
            "l3" | "llc" | "l3cache" => Self::L3,
            "l2" | "l2cache" => Self::L2,
            "core" => Self::Core,
            "pu" | "thread" => Self::Pu,
            _ => return None,
        })
    }

    /// Levels of one rank may come in any order, but each once.
    const fn rank(self) -> u8 {
        match self {
            Self::Package | Self::Die | Self::Node | Self::L3 => 0,
            Self::L2 => 1,
            Self::Core => 2,
            Self::Pu => 3,
        }
    }
}

impl Topology {
    /// Makes a topology from a description such as `pack:2 numa:2 l3:1 core:4 pu:2`: each level is
    /// contained in the one before it, with its count in each. Every level is optional. CPUs are
    /// numbered in that order, so that the threads of a core are neighbours; nodes and packages from 0.
    ///
    /// A missing level coincides: one package, one NUMA node; a die is its package, the last-level
    /// cache its die, the level-2 cache its core. `numa:2(memory=4GiB)` gives each node that memory.
    ///
    /// # Errors
    /// [`SyntheticError`] naming the element at fault.
    pub fn synthetic(description: &str) -> Result<Self, SyntheticError> {
        let mut levels: Vec<(TopologyLevel, u32)> = Vec::new();
        let mut memory_bytes = DEFAULT_MEMORY_BYTES;
        for element in description.split_whitespace() {
            let (level, count, memory) = parse_element(element)?;
            for (before, _) in &levels {
                if *before == level
                    || before.rank() > level.rank()
                    || (*before == TopologyLevel::Die && level == TopologyLevel::Package)
                    || (*before == TopologyLevel::L3
                        && level != TopologyLevel::Node
                        && level.rank() == 0)
                {
                    return Err(SyntheticError::Order {
                        level: level.name(),
                        after: before.name(),
                    });
                }
            }
            memory_bytes = memory.unwrap_or(memory_bytes);
            levels.push((level, count));
        }
        let total = levels
            .iter()
            .try_fold(1u64, |all, (_, count)| all.checked_mul(u64::from(*count)))
            .unwrap_or(u64::MAX);
        if total > u64::from(MAX_CPUS) {
            return Err(SyntheticError::TooMany { cpus: total });
        }
        let total = u32::try_from(total).unwrap_or(MAX_CPUS);

        // The number of the group of a level that a CPU is in: how many groups come before it.
        let size = |level: TopologyLevel| -> u32 {
            let position = levels.iter().position(|(given, _)| *given == level);
            position.map_or(total, |position| {
                levels.iter().skip(position + 1).map(|(_, n)| n).product()
            })
        };
        let has = |level: TopologyLevel| levels.iter().any(|(given, _)| *given == level);
        let package = size(TopologyLevel::Package);
        let die = if has(TopologyLevel::Die) {
            size(TopologyLevel::Die)
        } else {
            package
        };
        let llc = if has(TopologyLevel::L3) {
            size(TopologyLevel::L3)
        } else {
            die
        };
        let core = match (has(TopologyLevel::Core), has(TopologyLevel::Pu)) {
            (true, _) => size(TopologyLevel::Core),
            (false, true) => size(TopologyLevel::Pu) * levels.last().map_or(1, |(_, n)| *n),
            (false, false) => 1,
        };
        let l2 = if has(TopologyLevel::L2) {
            size(TopologyLevel::L2)
        } else {
            core
        };
        let node = size(TopologyLevel::Node);

        let cpus = (0..total)
            .map(|cpu| Cpu {
                id: CpuId(cpu),
                core: CoreId(cpu / core),
                l2: L2Id(cpu / l2),
                llc: LlcId(cpu / llc),
                die: DieId(cpu / die),
                node: NodeId(cpu / node),
                package: PackageId(cpu / package),
                kind: CoreKind::Performance,
            })
            .collect();
        let nodes = (0..total / node)
            .map(|id| Node {
                id: NodeId(id),
                cpus: CpuSet::EMPTY,
                memory_bytes,
            })
            .collect();
        Ok(Self::from_parts(Parts {
            cpus,
            nodes,
            origin: format!("synthetic {}", description.trim()),
            ..Parts::default()
        })?)
    }

    /// The same machine with only these CPUs online.
    ///
    /// # Errors
    /// [`TopologyError::UnknownCpus`] when some do not exist.
    pub fn with_online(self, online: CpuSet) -> Result<Self, TopologyError> {
        let mut parts = self.into_parts();
        parts.online = Some(online);
        Self::from_parts(parts)
    }

    /// The same machine with these CPUs isolated by the kernel's command line.
    ///
    /// # Errors
    /// [`TopologyError::UnknownCpus`] when some do not exist.
    pub fn with_isolated(self, isolated: CpuSet) -> Result<Self, TopologyError> {
        let mut parts = self.into_parts();
        parts.isolated = isolated;
        Self::from_parts(parts)
    }

    /// The same machine with other CPU numbers: sparse ones, or hyperthreads numbered last.
    ///
    /// # Errors
    /// [`TopologyError`] when two CPUs would get one number, or a number is too large.
    pub fn renumbered(self, number: impl Fn(CpuId) -> CpuId) -> Result<Self, TopologyError> {
        let mut parts = self.into_parts();
        for cpu in &mut parts.cpus {
            cpu.id = number(cpu.id);
        }
        parts.online = parts.online.map(|set| set.iter().map(&number).collect());
        parts.isolated = parts.isolated.iter().map(&number).collect();
        Self::from_parts(parts)
    }

    /// The same machine with a further NUMA node that has memory and no CPUs, `distance` from the
    /// node `near` and 10 further from every other.
    ///
    /// # Errors
    /// [`TopologyError::TwiceNode`] when a node has that number.
    pub fn with_memory_node(
        self,
        id: NodeId,
        memory_bytes: u64,
        near: NodeId,
        distance: u16,
    ) -> Result<Self, TopologyError> {
        let mut parts = self.into_parts();
        let to_new = |node: &Node| distance.saturating_add(if node.id == near { 0 } else { 10 });
        let mut last: Vec<u16> = parts.nodes.iter().map(to_new).collect();
        for (row, column) in parts.distances.iter_mut().zip(&last) {
            row.push(*column);
        }
        last.push(10);
        parts.distances.push(last);
        parts.nodes.push(Node {
            id,
            cpus: CpuSet::EMPTY,
            memory_bytes,
        });
        Self::from_parts(parts)
    }
}

fn parse_element(element: &str) -> Result<(TopologyLevel, u32, Option<u64>), SyntheticError> {
    let bad = || SyntheticError::Element {
        element: element.to_string(),
    };
    let (word, count) = element.split_once(':').ok_or_else(bad)?;
    let level = TopologyLevel::parse(word).ok_or_else(|| SyntheticError::TopologyLevel {
        level: word.to_string(),
    })?;
    let (count, memory) = match count.split_once('(') {
        None => (count, None),
        Some((count, attribute)) => {
            let memory = attribute
                .strip_suffix(')')
                .and_then(|attribute| attribute.strip_prefix("memory="))
                .and_then(parse_bytes);
            (count, Some(memory.ok_or_else(bad)?))
        }
    };
    if memory.is_some() && level != TopologyLevel::Node {
        return Err(bad());
    }
    let count: u32 = count.parse().map_err(|_not_a_number| bad())?;
    if count == 0 {
        return Err(bad());
    }
    Ok((level, count, memory))
}

/// Bytes with an optional `kB`, `MB`, `GB`, `TB` or `KiB`…, all of them powers of 1024 as hwloc has them.
fn parse_bytes(text: &str) -> Option<u64> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at_checked(digits)?;
    let shift = match unit.to_ascii_lowercase().as_str() {
        "" | "b" => 0,
        "kb" | "kib" => 10,
        "mb" | "mib" => 20,
        "gb" | "gib" => 30,
        "tb" | "tib" => 40,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(1 << shift)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_two_socket_machine_is_numbered_as_its_kernel_does() {
        let machine = Topology::synthetic("pack:2 numa:2 core:2 pu:2").unwrap();
        let nodes: Vec<_> = machine.nodes.iter().map(|n| n.cpus.to_string()).collect();
        assert_eq!(nodes, ["0-3", "4-7", "8-11", "12-15"]);
        let cores: Vec<_> = machine.cores.iter().map(|n| n.cpus.to_string()).collect();
        assert_eq!(cores[..3], ["0-1", "2-3", "4-5"]);
        assert_eq!(machine.packages[1].cpus.to_string(), "8-15");
        assert_eq!(machine.distances[1], [12, 10, 21, 21]);
        assert_eq!(machine.llcs.len(), 2);
    }

    #[test]
    fn levels_may_be_missing() {
        let machine = Topology::synthetic("pu:3").unwrap();
        assert_eq!((machine.cpus.len(), machine.cores.len()), (3, 1));
        let machine = Topology::synthetic("core:3").unwrap();
        assert_eq!((machine.cores.len(), machine.llcs.len()), (3, 1));
        let machine = Topology::synthetic("pack:2 l3:2 l2:2 core:2").unwrap();
        assert_eq!((machine.llcs.len(), machine.l2s.len()), (4, 8));
        assert_eq!(Topology::synthetic("").unwrap().cpus.len(), 1);
    }

    #[test]
    fn node_memory_can_be_stated() {
        let machine = Topology::synthetic("numa:2(memory=4GB) core:2").unwrap();
        assert_eq!(machine.nodes[1].memory_bytes, 4 << 30);
    }

    #[test]
    fn mistakes_are_named() {
        let error = |text: &str| Topology::synthetic(text).unwrap_err().to_string();
        assert!(error("pack:2 cores:4").contains("\"cores\" is no level"));
        assert!(error("pack").contains("\"pack\" is not a level and its count"));
        assert!(error("core:0").contains("core:0"));
        assert!(error("pu:2 core:2").contains("core cannot come after pu"));
        assert!(error("core:2 core:2").contains("core cannot come after core"));
        assert!(error("pack:99 core:999").contains("98901 CPUs"));
        assert!(error("pack:4294967295 core:4294967295 pu:4294967295").contains("more than"));
        assert!(error("numa:1(memory=x)").contains("memory=x"));
        assert!(error("core:2(memory=1GB)").contains("core:2"));
    }

    #[test]
    fn cpus_can_be_offline_isolated_sparse_and_memory_far() {
        let machine = Topology::synthetic("pack:2 core:2 pu:2").unwrap();
        let machine = machine
            .renumbered(|cpu| CpuId(cpu.0 / 2 + 4 * (cpu.0 % 2)))
            .unwrap();
        assert_eq!(machine.cores[0].cpus.to_string(), "0,4");
        let machine = machine.with_online("0-5".parse().unwrap()).unwrap();
        let machine = machine.with_isolated("5".parse().unwrap()).unwrap();
        assert_eq!(machine.isolated.to_string(), "5");
        assert!(machine.clone().with_online("0-8".parse().unwrap()).is_err());
        let machine = machine
            .with_memory_node(NodeId(3), 1 << 40, NodeId(0), 17)
            .unwrap();
        assert_eq!(machine.distance(NodeId(0), NodeId(3)), 17);
        assert!(machine.nodes[1].cpus.is_empty());
    }
}
