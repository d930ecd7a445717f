//! Why a topology could not be read.

use resmgr_topology::{CpuSetError, SyntheticError, TopologyError};
use std::{io, path::PathBuf};

/// Why the topology is not known.
#[derive(Debug, thiserror::Error)]
pub enum DiscoverError {
    /// A file that must be there cannot be read.
    #[error("cannot read {path}")]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A kernel file does not say what it should.
    #[error("{path} says {value:?}, expected {expected}")]
    Value {
        /// Which.
        path: PathBuf,
        /// What it says.
        value: String,
        /// What would be right.
        expected: &'static str,
    },
    /// A kernel file has no CPU list, or one of CPUs beyond the largest number.
    #[error("cannot read the CPU list in {path}")]
    CpuList {
        /// Which.
        path: PathBuf,
        /// The element at fault.
        #[source]
        source: CpuSetError,
    },
    /// The hwloc library refuses.
    #[error("hwloc cannot load the topology from {from}: {why}")]
    Hwloc {
        /// The machine or a file.
        from: String,
        /// In the library's words.
        why: String,
    },
    /// A JSON file is not a topology.
    #[error("{path} is not a topology")]
    Json {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
    /// The text is not a synthetic description.
    #[error("{text:?} is neither a file nor a synthetic topology")]
    Synthetic {
        /// As typed.
        text: String,
        /// Why.
        #[source]
        source: Box<SyntheticError>,
    },
    /// What was read cannot be a machine.
    #[error("the topology read from {from} is inconsistent")]
    Inconsistent {
        /// The machine or a file.
        from: String,
        /// Why.
        #[source]
        source: Box<TopologyError>,
    },
}
