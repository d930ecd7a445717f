//! Which cgroup hierarchy identifies containers, and where it is mounted.

use crate::enforce::Hierarchy;
use std::{
    fs, io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

/// Cgroups of the host told apart in one directory.
#[cfg(feature = "ebpf")]
const SHALLOW_IN_ONE: usize = 64;

/// A mounted hierarchy, and the controller by whose cgroups threads are counted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct CgroupHierarchy {
    pub(super) mount: PathBuf,
    pub(super) controller: &'static str,
    pub(super) unified: bool,
}

impl CgroupHierarchy {
    /// The hierarchy of controller `cpu`, else of `cpuset`, that is mounted at or below `under`.
    pub(super) fn find(under: Option<&Path>) -> Option<Self> {
        Self::of(Hierarchy::detect(under).ok()?)
    }

    fn of(hierarchy: Hierarchy) -> Option<Self> {
        let unified = hierarchy.is_v2();
        let (mount, controller) = match hierarchy {
            Hierarchy::V1 { cpu: Some(cpu), .. } => (cpu, "cpu"),
            Hierarchy::V1 { cpuset, .. } => (cpuset, "cpuset"),
            Hierarchy::V2 { root } => {
                let enabled = fs::read_to_string(root.join("cgroup.controllers")).ok()?;
                let is_enabled = |name: &&str| enabled.split_whitespace().any(|word| word == *name);
                let controller = ["cpu", "cpuset"].into_iter().find(is_enabled)?;
                (root, controller)
            }
        };
        Some(Self {
            mount,
            controller,
            unified,
        })
    }

    /// Directory of a cgroup given by its path within the hierarchy.
    pub(super) fn folder(&self, cgroup: &str) -> PathBuf {
        self.mount.join(cgroup.trim_start_matches('/'))
    }

    /// The kernel's id of a cgroup: the inode of its directory (since 5.5).
    pub(super) fn id(&self, cgroup: &str) -> io::Result<u64> {
        fs::metadata(self.folder(cgroup)).map(|metadata| metadata.ino())
    }

    /// Top-level cgroups with processes, and then those directly below, each by its path without the leading slash and
    /// with its id. Of the cgroups in one directory at most [`SHALLOW_IN_ONE`].
    #[cfg(feature = "ebpf")]
    pub(super) fn shallow_cgroups(&self) -> Vec<(String, u64)> {
        let mut cgroups = self.children("");
        for (slice, _id) in cgroups.clone() {
            cgroups.extend(self.children(&slice));
        }
        cgroups
    }

    /// Cgroups with processes directly below `parent`; none when it has just gone.
    #[cfg(feature = "ebpf")]
    fn children(&self, parent: &str) -> Vec<(String, u64)> {
        use std::os::unix::fs::DirEntryExt as _;
        let folder = self.folder(parent);
        let entries = fs::read_dir(&folder).into_iter().flatten().flatten();
        entries
            .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
            .filter(|entry| {
                // Version 1 does not tell.
                let events = fs::read_to_string(entry.path().join("cgroup.events"));
                !events.is_ok_and(|events| events.contains("populated 0"))
            })
            .take(SHALLOW_IN_ONE)
            .filter_map(|entry| {
                let name = entry.file_name();
                let path = Path::new(parent).join(name.to_str()?);
                Some((path.to_str()?.to_owned(), entry.ino()))
            })
            .collect()
    }

    /// Whether a cgroup has more than one thread, those of cgroups below it included.
    #[cfg(feature = "ebpf")]
    pub(super) fn has_several_threads(&self, cgroup: &str) -> io::Result<bool> {
        let file = if self.unified {
            "cgroup.threads"
        } else {
            "tasks"
        };
        let (mut threads, mut folders) = (0, vec![self.folder(cgroup)]);
        while let Some(folder) = folders.pop() {
            threads += fs::read_to_string(folder.join(file))?.lines().count();
            if threads > 1 {
                return Ok(true);
            }
            for entry in fs::read_dir(&folder)? {
                let entry = entry?;
                if entry.file_type()?.is_dir() {
                    folders.push(entry.path());
                }
            }
        }
        Ok(false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn version_one_is_measured_by_the_cpu_controller_where_it_is_mounted() {
        let found = |cpu: Option<&str>| {
            let hierarchy = Hierarchy::V1 {
                cpuset: "/c/cpuset".into(),
                cpu: cpu.map(PathBuf::from),
            };
            let found = CgroupHierarchy::of(hierarchy).unwrap();
            assert!(!found.unified);
            (found.mount, found.controller)
        };
        assert_eq!(
            found(Some("/c/cpu,cpuacct")),
            ("/c/cpu,cpuacct".into(), "cpu")
        );
        assert_eq!(found(None), ("/c/cpuset".into(), "cpuset"));
    }

    #[test]
    fn in_a_container_the_hosts_hierarchy_is_found_below_the_hosts_root() {
        let found = |table: &str| {
            let host = Path::new("/host/sys/fs/cgroup");
            Hierarchy::parse(table, Some(host)).map(|found| found.cpuset_root().to_owned())
        };
        let unified = "33 30 0:29 / /sys/fs/cgroup ro - cgroup2 cgroup rw\n\
                       93 90 0:29 / /host/sys/fs/cgroup rw - cgroup2 cgroup rw\n";
        assert_eq!(found(unified), Some("/host/sys/fs/cgroup".into()));
        let version_one = "32 30 0:28 /kubepods/pod1 /sys/fs/cgroup/cpuset ro - cgroup cgroup rw,cpuset\n\
                           92 90 0:28 / /host/sys/fs/cgroup/cpuset rw - cgroup cgroup rw,cpuset\n";
        assert_eq!(
            found(version_one),
            Some("/host/sys/fs/cgroup/cpuset".into())
        );
    }

    #[cfg(feature = "ebpf")]
    #[test]
    fn threads_in_cgroups_below_count_as_the_containers() {
        let root = tempfile::tempdir().unwrap();
        let hierarchy = CgroupHierarchy {
            mount: root.path().to_owned(),
            controller: "cpu",
            unified: false,
        };
        let below = root.path().join("pod/container/below");
        fs::create_dir_all(&below).unwrap();
        fs::write(root.path().join("pod/container/tasks"), "11\n").unwrap();
        fs::write(below.join("tasks"), "").unwrap();
        assert!(!hierarchy.has_several_threads("/pod/container").unwrap());
        fs::write(below.join("tasks"), "12\n").unwrap();
        assert!(hierarchy.has_several_threads("/pod/container").unwrap());
        assert!(hierarchy.has_several_threads("/gone").is_err());
    }

    #[cfg(feature = "ebpf")]
    #[test]
    fn cgroups_of_the_host_are_found_two_levels_deep_slices_first() {
        let root = tempfile::tempdir().unwrap();
        let hierarchy = CgroupHierarchy {
            mount: root.path().to_owned(),
            controller: "cpu",
            unified: true,
        };
        for (path, populated) in [
            ("init.scope", 1),
            ("dev-mqueue.mount", 0),
            ("system.slice", 1),
            ("system.slice/chronyd.service", 1),
            ("system.slice/chronyd.service/worker", 1),
            ("system.slice/proc.mount", 0),
        ] {
            let folder = root.path().join(path);
            fs::create_dir(&folder).unwrap();
            let events = format!("populated {populated}\nfrozen 0\n");
            fs::write(folder.join("cgroup.events"), events).unwrap();
        }
        let found = hierarchy.shallow_cgroups();
        for (path, id) in &found {
            assert_eq!(hierarchy.id(path).unwrap(), *id, "{path}");
        }
        let mut paths: Vec<_> = found.iter().map(|(path, _)| path.as_str()).collect();
        assert_eq!(paths.pop(), Some("system.slice/chronyd.service"));
        paths.sort_unstable();
        assert_eq!(paths, ["init.scope", "system.slice"]);
    }

    #[test]
    fn version_two_without_the_cpu_controller_is_measured_by_cpuset() {
        let root = tempfile::tempdir().unwrap();
        let found = |controllers: &str| {
            fs::write(root.path().join("cgroup.controllers"), controllers).unwrap();
            let root = root.path().to_owned();
            CgroupHierarchy::of(Hierarchy::V2 { root })
                .map(|found| (found.controller, found.unified))
        };
        assert_eq!(found("cpuset cpu memory\n"), Some(("cpu", true)));
        assert_eq!(found("cpuset memory\n"), Some(("cpuset", true)));
        assert_eq!(found("memory\n"), None);
    }
}
