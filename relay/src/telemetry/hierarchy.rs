//! Which cgroup hierarchy identifies containers, and where it is mounted.

use std::{
    fs, io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

/// A mounted hierarchy, and the controller by whose cgroups threads are counted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct CgroupHierarchy {
    pub(super) mount: PathBuf,
    pub(super) controller: &'static str,
    pub(super) unified: bool,
}

impl CgroupHierarchy {
    /// That of controller `cpu`, else of `cpuset`; version 1 before 2, because on a hybrid machine the
    /// controllers are on version 1.
    pub(super) fn find() -> Option<Self> {
        let mounts = fs::read_to_string("/proc/self/mounts").ok()?;
        Self::choose(&mounts, |root| {
            fs::read_to_string(root.join("cgroup.controllers")).unwrap_or_default()
        })
    }

    fn choose(mounts: &str, controllers: impl Fn(&Path) -> String) -> Option<Self> {
        let rows = || {
            mounts
                .lines()
                .map(|line| line.split(' ').collect::<Vec<_>>())
        };
        for controller in ["cpu", "cpuset"] {
            for row in rows() {
                let [_, mount, kind, options, ..] = row[..] else {
                    continue;
                };
                let mount = PathBuf::from(mount);
                let unified = kind == "cgroup2";
                let here = match kind {
                    "cgroup" => options.split(',').any(|option| option == controller),
                    "cgroup2" => controllers(&mount)
                        .split_whitespace()
                        .any(|name| name == controller),
                    _ => false,
                };
                if here {
                    return Some(Self {
                        mount,
                        controller,
                        unified,
                    });
                }
            }
        }
        None
    }

    /// Directory of a cgroup given by its path within the hierarchy.
    pub(super) fn folder(&self, cgroup: &str) -> PathBuf {
        self.mount.join(cgroup.trim_start_matches('/'))
    }

    /// The kernel's id of a cgroup: the inode of its directory (since 5.5).
    pub(super) fn id(&self, cgroup: &str) -> io::Result<u64> {
        fs::metadata(self.folder(cgroup)).map(|metadata| metadata.ino())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HYBRID: &str = "tmpfs /sys/fs/cgroup tmpfs rw 0 0\n\
        cgroup /c/cpuset cgroup rw,cpuset 0 0\n\
        cgroup /c/cpu,cpuacct cgroup rw,cpu,cpuacct 0 0\n\
        cgroup2 /c/unified cgroup2 rw 0 0\n";

    #[test]
    fn a_hybrid_machine_is_measured_on_version_one() {
        let found = CgroupHierarchy::choose(HYBRID, |_| String::new()).unwrap();
        assert_eq!(
            (found.mount.to_str(), found.unified),
            (Some("/c/cpu,cpuacct"), false)
        );
    }

    #[test]
    fn version_two_without_the_cpu_controller_is_measured_by_cpuset() {
        let mounts = "cgroup2 /sys/fs/cgroup cgroup2 rw 0 0\n";
        let found = CgroupHierarchy::choose(mounts, |_| "cpuset memory\n".to_owned()).unwrap();
        assert_eq!((found.controller, found.unified), ("cpuset", true));
        assert_eq!(CgroupHierarchy::choose(mounts, |_| String::new()), None);
    }
}
