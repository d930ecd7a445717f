//! The machine's topology, from hwloc and sysfs.
//!
//! hwloc knows more processors and firmware quirks; sysfs says what the kernel believes now, which wins
//! where the two speak of the same thing (online and isolated CPUs, the NUMA node of a CPU, distances).
//! Where hwloc fails, or is not built in (feature `hwloc`), sysfs alone suffices. A CPU that is offline when the machine is read has no place
//! in the kernel's own description and is left out until it comes online.

mod error;
pub mod hotplug;
#[cfg(feature = "hwloc")]
mod hwloc;
#[cfg(not(feature = "hwloc"))]
#[path = "discover/no_hwloc.rs"]
mod hwloc;
mod sysfs;

pub use error::DiscoverError;

use resmgr_topology::{Parts, Topology};
use std::path::{Path, PathBuf};

/// Where a topology is read from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum TopologySource {
    /// The machine itself.
    #[default]
    Machine,
    /// An hwloc XML file, as `lstopo --of xml` writes it.
    Xml(PathBuf),
    /// A description such as `pack:2 numa:2 l3:1 core:4 pu:2`.
    Synthetic(String),
    /// Our own model as JSON.
    Json(PathBuf),
}

impl TopologySource {
    /// What the value of `--topology` means: a path that ends in `.json`, a synthetic description
    /// (words with a colon and no slash), or else the path of an XML file.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        let text = text.trim();
        let path = Path::new(text);
        let json = |end: &std::ffi::OsStr| end.eq_ignore_ascii_case("json");
        if text.is_empty() {
            Self::Machine
        } else if path.extension().is_some_and(json) {
            Self::Json(path.to_path_buf())
        } else if !text.contains('/')
            && text.split_whitespace().all(|word| word.contains(':'))
            && !path.exists()
        {
            Self::Synthetic(text.to_owned())
        } else {
            Self::Xml(path.to_path_buf())
        }
    }
}

/// Reads a topology and logs what had to be mended. `host_root` is where the host's root directory is mounted (`/`
/// outside of containers).
///
/// # Errors
/// [`DiscoverError`] naming the file or the inconsistency. A machine on which hwloc fails is read from
/// sysfs alone, and that is logged.
pub fn load(source: &TopologySource, host_root: &Path) -> Result<Topology, DiscoverError> {
    let topology = read(source, host_root)?;
    for note in &topology.notes {
        tracing::warn!(target: "sysfs", "{}: {note}", topology.origin);
    }
    Ok(topology)
}

fn read(source: &TopologySource, host_root: &Path) -> Result<Topology, DiscoverError> {
    match source {
        TopologySource::Machine => machine(host_root),
        TopologySource::Xml(path) => finish(hwloc::from_xml(path)?),
        TopologySource::Synthetic(text) => {
            Topology::synthetic(text).map_err(|source| DiscoverError::Synthetic {
                text: text.clone(),
                source: Box::new(source),
            })
        }
        TopologySource::Json(path) => {
            let text = sysfs::read(path)?;
            let topology: Topology =
                serde_json::from_str(&text).map_err(|source| DiscoverError::Json {
                    path: path.clone(),
                    source,
                })?;
            let mut parts = topology.into_parts();
            parts.origin = path.display().to_string();
            finish(parts)
        }
    }
}

/// hwloc completed by sysfs; sysfs alone where hwloc cannot read the machine (another root) or fails.
fn machine(host_root: &Path) -> Result<Topology, DiscoverError> {
    if host_root != Path::new("/") || cfg!(not(feature = "hwloc")) {
        return finish(sysfs::parts(host_root)?);
    }
    let completed = hwloc::from_machine().and_then(|mut parts| {
        sysfs::complete(&mut parts, host_root)?;
        finish(parts)
    });
    completed.or_else(|error| {
        tracing::warn!(%error, "hwloc does not describe this machine: using sysfs alone");
        finish(sysfs::parts(host_root)?)
    })
}

fn finish(parts: Parts) -> Result<Topology, DiscoverError> {
    let from = parts.origin.clone();
    Topology::from_parts(parts).map_err(|source| DiscoverError::Inconsistent {
        from,
        source: Box::new(source),
    })
}

#[cfg(test)]
mod tests;
