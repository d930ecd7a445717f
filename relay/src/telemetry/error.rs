//! Why a container is not measured.

use std::{io, path::PathBuf};
use thiserror::Error;

/// Why a container cannot be followed.
#[derive(Debug, Error)]
pub enum RegisterError {
    /// Its cgroup is not there.
    #[error("cannot find the container's cgroup {path}")]
    Cgroup {
        /// Where it was looked for.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// No free slot.
    #[error("telemetry has room for {capacity} containers (--max-containers)")]
    Full {
        /// How many.
        capacity: u32,
    },
    /// The kernel refused a map entry.
    #[error("the kernel refused to store the container's cgroup: {why}")]
    Map {
        /// The kernel's words.
        why: String,
    },
}
