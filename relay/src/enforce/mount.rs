//! Where cgroups are mounted, and of which version.

use super::EnforceError;
use std::{
    fs,
    path::{Path, PathBuf},
};

/// The hierarchy that holds cpusets, and the one that holds shares and quotas.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Hierarchy {
    /// cgroup v1 (or a hybrid whose cpuset controller is v1).
    V1 {
        /// Mount point of the `cpuset` controller.
        cpuset: PathBuf,
        /// Mount point of the `cpu` controller, if mounted.
        cpu: Option<PathBuf>,
    },
    /// cgroup v2, unified.
    V2 {
        /// Its mount point.
        root: PathBuf,
    },
}

impl Hierarchy {
    /// Finds the hierarchies of this machine, optionally only those mounted at or below `under`
    /// (`--cgroup-mount`).
    ///
    /// # Errors
    /// When the mount table cannot be read, or nothing in it holds cpusets.
    pub fn detect(under: Option<&Path>) -> Result<Self, EnforceError> {
        let path = Path::new("/proc/self/mountinfo");
        let table = fs::read_to_string(path).map_err(|source| EnforceError::Read {
            path: path.to_owned(),
            source,
        })?;
        let found = Self::parse(&table, under).ok_or_else(|| EnforceError::NoHierarchy {
            under: under.map(Path::to_owned),
        })?;
        Ok(found)
    }

    /// Reads a mount table in the format of `proc_pid_mountinfo(5)`.
    #[must_use]
    pub fn parse(table: &str, under: Option<&Path>) -> Option<Self> {
        let (mut cpuset, mut cpu, mut unified) = (None, None, None);
        for line in table.lines() {
            let Some((left, right)) = line.split_once(" - ") else {
                continue;
            };
            let Some(point) = left.split(' ').nth(4).map(unescape) else {
                continue;
            };
            if under.is_some_and(|under| !point.starts_with(under)) {
                continue;
            }
            let mut right = right.split(' ');
            let (kind, options) = (right.next(), right.nth(1).unwrap_or_default());
            match kind {
                Some("cgroup2") => unified = unified.or(Some(point)),
                Some("cgroup") => {
                    for option in options.split(',') {
                        match option {
                            "cpuset" => cpuset = cpuset.or_else(|| Some(point.clone())),
                            "cpu" => cpu = cpu.or_else(|| Some(point.clone())),
                            _ => {}
                        }
                    }
                }
                _ => {}
            }
        }
        match (cpuset, unified) {
            (Some(cpuset), _) => Some(Self::V1 { cpuset, cpu }),
            (None, Some(root)) => Some(Self::V2 { root }),
            (None, None) => None,
        }
    }

    /// The root under which containers' cpusets are found.
    #[must_use]
    pub fn cpuset_root(&self) -> &Path {
        match self {
            Self::V1 { cpuset, .. } => cpuset,
            Self::V2 { root } => root,
        }
    }

    /// The root under which shares and quotas are found.
    #[must_use]
    pub fn cpu_root(&self) -> Option<&Path> {
        match self {
            Self::V1 { cpu, .. } => cpu.as_deref(),
            Self::V2 { root } => Some(root),
        }
    }

    /// Whether this is cgroup v2.
    #[must_use]
    pub fn is_v2(&self) -> bool {
        matches!(self, Self::V2 { .. })
    }
}

/// Undoes the octal escapes of the mount table (space, tab, newline, backslash).
fn unescape(field: &str) -> PathBuf {
    let mut out = field.to_owned();
    for (code, character) in [
        ("\\040", " "),
        ("\\011", "\t"),
        ("\\012", "\n"),
        ("\\134", "\\"),
    ] {
        out = out.replace(code, character);
    }
    out.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    const HYBRID: &str = "\
30 23 0:26 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n\
31 30 0:27 / /sys/fs/cgroup/cpu,cpuacct rw,relatime - cgroup cgroup rw,cpu,cpuacct\n\
32 30 0:28 / /sys/fs/cgroup/cpuset rw,relatime shared:9 - cgroup cgroup rw,cpuset\n\
33 30 0:29 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw\n";

    #[test]
    fn a_hybrid_machine_keeps_its_cpusets_in_version_one() {
        assert_eq!(
            Hierarchy::parse(HYBRID, None),
            Some(Hierarchy::V1 {
                cpuset: "/sys/fs/cgroup/cpuset".into(),
                cpu: Some("/sys/fs/cgroup/cpu,cpuacct".into()),
            })
        );
    }

    #[test]
    fn a_unified_machine_is_version_two_and_a_restriction_is_kept() {
        let table = "33 30 0:29 / /a\\040b rw - cgroup2 cgroup2 rw,nsdelegate\n";
        assert_eq!(
            Hierarchy::parse(table, None),
            Some(Hierarchy::V2 {
                root: "/a b".into()
            })
        );
        assert_eq!(Hierarchy::parse(table, Some(Path::new("/elsewhere"))), None);
    }
}
