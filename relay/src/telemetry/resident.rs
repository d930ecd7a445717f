//! How much memory each container has on which NUMA node, from the memory controller's own books.
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

/// Looks after which each container has been looked at once: the kernel sums up counters of every CPU
/// for each file, so they are not all read at once.
const LOOKS: usize = 10;
/// Version 1 counts pages.
const PAGE: u64 = 4096;

/// Memory of the containers.
#[derive(Debug, Default)]
pub(super) struct Resident {
    /// Where the memory controller is mounted; looked for at the first container.
    root: Option<Option<Root>>,
    containers: BTreeMap<ContainerId, Followed>,
    next: usize,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Root {
    mount: PathBuf,
    unified: bool,
}

#[derive(Debug)]
struct Followed {
    cgroup: String,
    looked_at: bool,
    by_node: BTreeMap<NodeId, u64>,
}

impl Resident {
    /// Looks after this container from now on.
    pub(super) fn follow(&mut self, id: ContainerId, cgroup: &str) {
        let root = self.root.get_or_insert_with(|| {
            let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
            Root::choose(&mounts, |mount| {
                fs::read_to_string(mount.join("cgroup.controllers")).unwrap_or_default()
            })
        });
        if root.is_some() {
            let followed = Followed {
                cgroup: cgroup.to_owned(),
                looked_at: false,
                by_node: BTreeMap::new(),
            };
            self.containers.insert(id, followed);
        }
    }

    /// Forgets a container.
    pub(super) fn forget(&mut self, id: &ContainerId) {
        self.containers.remove(id);
    }

    /// Looks at some of the containers; at those never looked at in any case.
    pub(super) fn look(&mut self) {
        let Some(Some(root)) = &self.root else {
            return;
        };
        self.next = (self.next + 1) % LOOKS;
        for (index, one) in self.containers.values_mut().enumerate() {
            if index % LOOKS == self.next || !one.looked_at {
                one.looked_at = true;
                one.by_node = root.read(&one.cgroup);
            }
        }
    }

    /// Bytes by node, as of the last look.
    pub(super) fn of(&self, id: &ContainerId) -> BTreeMap<NodeId, u64> {
        let found = self.containers.get(id);
        found.map(|one| one.by_node.clone()).unwrap_or_default()
    }
}

impl Root {
    fn choose(mounts: &str, controllers: impl Fn(&Path) -> String) -> Option<Self> {
        mounts.lines().find_map(|line| {
            let mut row = line.split(' ').skip(1);
            let (mount, kind, options) = (PathBuf::from(row.next()?), row.next()?, row.next()?);
            let unified = kind == "cgroup2";
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
    for (node, count) in nodes.split_whitespace().filter_map(|one| {
        let (node, count) = one.strip_prefix('N')?.split_once('=')?;
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
        let found = Root::choose(mounts, |_| String::new()).unwrap();
        assert_eq!(found.mount, Path::new("/c/memory"));
        assert!(!found.unified);
        let mounts = "cgroup2 /sys/fs/cgroup cgroup2 rw 0 0\n";
        assert!(Root::choose(mounts, |_| "cpu memory".to_owned()).is_some_and(|root| root.unified));
        assert_eq!(Root::choose(mounts, |_| "cpu".to_owned()), None);
    }
}
