//! What can go wrong under the cgroup mount: operation, path, value, and what would be right.

use std::{io, path::PathBuf};

/// Why a cgroup does not say what it should.
#[derive(Debug, thiserror::Error)]
pub enum EnforceError {
    /// No usable cgroup hierarchy is mounted.
    #[error("no cpuset cgroup hierarchy is mounted{} (expected cgroup v1 `cpuset` or cgroup v2)", .under.as_ref().map(|dir| format!(" at or below {}", dir.display())).unwrap_or_default())]
    NoHierarchy {
        /// Where it was looked for, when that was restricted.
        under: Option<PathBuf>,
    },
    /// The mount table could not be read.
    #[error("cannot read {path}", path = .path.display())]
    Read {
        /// What was read.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// A value could not be written.
    #[error("cannot write {value:?} to {path}{hint}", path = .path.display())]
    Write {
        /// Where.
        path: PathBuf,
        /// What.
        value: String,
        /// What the kernel says around it that explains the refusal; starts with a separator or is empty.
        hint: String,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The kernel took the value and says another one.
    #[error("wrote {wanted:?} to {path}, it reads {found:?}", path = .path.display())]
    ReadBack {
        /// Where.
        path: PathBuf,
        /// What was written.
        wanted: String,
        /// What it says.
        found: String,
    },
    /// The file holds something that is not in its format.
    #[error("{path} holds {found:?}, which is not {expected}", path = .path.display())]
    Format {
        /// Where.
        path: PathBuf,
        /// What it says.
        found: String,
        /// What would be right.
        expected: &'static str,
    },
    /// The container's cgroup is not there: it has not started, or it has ended.
    #[error("no cgroup of container {container} below {parent:?}")]
    Absent {
        /// The container's id.
        container: String,
        /// Its pod's cgroup parent.
        parent: String,
    },
    /// cgroup v2: the cpuset controller does not reach the container's cgroup.
    #[error("the cpuset controller is not enabled in {path} (expected `cpuset` in its parent's cgroup.subtree_control)", path = .path.display())]
    NoController {
        /// The container's cgroup.
        path: PathBuf,
    },
}

impl EnforceError {
    /// Whether the cgroup vanished: the container ended, which is not a failure of the write.
    #[must_use]
    pub fn is_absent(&self) -> bool {
        match self {
            Self::Absent { .. } => true,
            Self::Read { source, .. } | Self::Write { source, .. } => {
                source.kind() == io::ErrorKind::NotFound
                    || source.raw_os_error() == Some(libc::ENODEV)
            }
            _ => false,
        }
    }
}
