//! How much memory each container has on which NUMA node, from the counters of the memory controller.
//!
//! Pages on the LRU lists (anonymous and page cache): what a change of memory nodes would have to move.
//! Formats: Documentation/admin-guide/cgroup-v1/memory.rst, section 5.6, and cgroup-v2.rst,
//! `memory.numa_stat`.

use resmgr_policy::ContainerId;
use resmgr_topology::NodeId;
use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

/// Samples in which each container's file is read once. The kernel sums up counters of every CPU for each
/// file, so they are not all read at once.
const SAMPLES: usize = 10;
/// Version 1 counts pages.
const PAGE: u64 = 4096;

/// Memory of the containers.
#[derive(Debug, Default)]
pub(super) struct ResidentMemory {
    /// Only a controller mounted at or below this directory counts.
    under: Option<PathBuf>,
    /// Where the memory controller is mounted, if it is; searched for when the first container comes.
    controller: Option<Option<MemoryController>>,
    containers: BTreeMap<ContainerId, ContainerMemory>,
    next: usize,
}

/// Where the memory controller is mounted.
#[derive(Clone, Debug, PartialEq, Eq)]
struct MemoryController {
    mount: PathBuf,
    unified: bool,
}

/// What is known of one container.
#[derive(Debug)]
struct ContainerMemory {
    cgroup: String,
    sampled: bool,
    by_node: BTreeMap<NodeId, u64>,
}

impl ResidentMemory {
    /// Of no container yet; only a controller mounted at or below `under` is read.
    pub(super) fn new(under: Option<PathBuf>) -> Self {
        Self {
            under,
            ..Self::default()
        }
    }

    /// Reads this container's memory from now on.
    pub(super) fn register(&mut self, id: ContainerId, cgroup: &str) {
        let controller = self.controller.get_or_insert_with(|| {
            let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
            MemoryController::choose(&mounts, self.under.as_deref(), |mount| {
                fs::read_to_string(mount.join("cgroup.controllers")).unwrap_or_default()
            })
        });
        if controller.is_some() {
            let memory = ContainerMemory {
                cgroup: cgroup.to_owned(),
                sampled: false,
                by_node: BTreeMap::new(),
            };
            self.containers.insert(id, memory);
        }
    }

    /// Forgets a container.
    pub(super) fn forget(&mut self, id: &ContainerId) {
        self.containers.remove(id);
    }

    /// Reads a part of the containers, and all that were never read before.
    pub(super) fn sample(&mut self) {
        let Some(Some(controller)) = &self.controller else {
            return;
        };
        self.next = (self.next + 1) % SAMPLES;
        for (index, memory) in self.containers.values_mut().enumerate() {
            if index % SAMPLES == self.next || !memory.sampled {
                memory.sampled = true;
                memory.by_node = controller.read(&memory.cgroup);
            }
        }
    }

    /// Bytes by node, as of the last sample.
    pub(super) fn of(&self, id: &ContainerId) -> BTreeMap<NodeId, u64> {
        let memory = self.containers.get(id);
        memory
            .map(|memory| memory.by_node.clone())
            .unwrap_or_default()
    }
}

impl MemoryController {
    fn choose(
        mounts: &str,
        under: Option<&Path>,
        controllers: impl Fn(&Path) -> String,
    ) -> Option<Self> {
        mounts.lines().find_map(|line| {
            let mut row = line.split(' ').skip(1);
            let (mount, kind, options) = (PathBuf::from(row.next()?), row.next()?, row.next()?);
            let unified = kind == "cgroup2";
            if under.is_some_and(|under| !mount.starts_with(under)) {
                return None;
            }
            let here = match kind {
                "cgroup" => options.split(',').any(|option| option == "memory"),
                "cgroup2" => controllers(&mount)
                    .split_whitespace()
                    .any(|name| name == "memory"),
                _ => false,
            };
            here.then_some(Self { mount, unified })
        })
    }

    fn read(&self, cgroup: &str) -> BTreeMap<NodeId, u64> {
        let folder = self.mount.join(cgroup.trim_start_matches('/'));
        let text = fs::read_to_string(folder.join("memory.numa_stat")).unwrap_or_default();
        if self.unified {
            bytes(&text)
        } else {
            pages(&text)
        }
    }
}

/// Version 2: `anon N0=4096 N1=0`, in bytes, descendants included.
fn bytes(text: &str) -> BTreeMap<NodeId, u64> {
    let mut found = BTreeMap::new();
    for line in text.lines() {
        if let Some(("anon" | "file", nodes)) = line.split_once(' ') {
            add(&mut found, nodes, 1);
        }
    }
    found
}

/// Version 1: `hierarchical_total=7 N0=5 N1=2`, in pages.
fn pages(text: &str) -> BTreeMap<NodeId, u64> {
    let mut found = BTreeMap::new();
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("hierarchical_total=") {
            add(
                &mut found,
                rest.split_once(' ').map_or("", |row| row.1),
                PAGE,
            );
        }
    }
    found
}

fn add(found: &mut BTreeMap<NodeId, u64>, nodes: &str, unit: u64) {
    for (node, count) in nodes.split_whitespace().filter_map(|word| {
        let (node, count) = word.strip_prefix('N')?.split_once('=')?;
        Some((node.parse().ok()?, count.parse::<u64>().ok()?))
    }) {
        *found.entry(NodeId(node)).or_default() += count.saturating_mul(unit);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn version_two_tells_bytes_and_version_one_pages() {
        let expected = [(NodeId(0), 12_288), (NodeId(2), 8_192)].into();
        let text = "anon N0=4096 N2=8192\nfile N0=8192 N2=0\nkernel_stack N0=999 N2=999\n";
        assert_eq!(bytes(text), expected);
        let text =
            "total=1 N0=1 N2=0\nhierarchical_total=5 N0=3 N2=2\nhierarchical_file=9 N0=9 N2=9\n";
        assert_eq!(pages(text), expected);
        assert_eq!(bytes("nonsense\nanon Nx=1 N0=y\n"), BTreeMap::new());
    }

    #[test]
    fn the_memory_controller_is_found_on_whichever_hierarchy_it_is() {
        let mounts = "cgroup /c/cpu cgroup rw,cpu 0 0\ncgroup /c/memory cgroup rw,memory 0 0\n\
                      cgroup2 /c/unified cgroup2 rw 0 0\n";
        let found = MemoryController::choose(mounts, None, |_| String::new()).unwrap();
        assert_eq!(found.mount, Path::new("/c/memory"));
        assert!(!found.unified);
        let mounts = "cgroup2 /sys/fs/cgroup cgroup2 rw 0 0\n";
        assert!(
            MemoryController::choose(mounts, None, |_| "cpu memory".to_owned())
                .is_some_and(|controller| controller.unified)
        );
        assert_eq!(
            MemoryController::choose(mounts, None, |_| "cpu".to_owned()),
            None
        );
        let host = Some(Path::new("/host"));
        assert_eq!(
            MemoryController::choose(mounts, host, |_| "memory".to_owned()),
            None
        );
    }
}
