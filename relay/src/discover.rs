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

use resmgr_topology::{CpuSet, Parts, Topology};
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

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

/// Reads a topology. `host_root` is where the host's root directory is mounted (`/` outside of containers).
///
/// # Errors
/// [`DiscoverError`] naming the file or the inconsistency. A machine on which hwloc fails is read from
/// sysfs alone, and that is logged.
pub fn load(source: &TopologySource, host_root: &Path) -> Result<Topology, DiscoverError> {
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

fn finish(mut parts: Parts) -> Result<Topology, DiscoverError> {
    let from = parts.origin.clone();
    let mended = mend_caches(&mut parts);
    if !mended.is_empty() {
        tracing::warn!(
            target: "sysfs",
            "{from}: threads of one core are said to have different caches, as virtual machines do; \
             CPUs {mended} are taken to share those of their core's first thread"
        );
    }
    Topology::from_parts(parts).map_err(|source| DiscoverError::Inconsistent {
        from,
        source: Box::new(source),
    })
}

/// Makes caches follow cores: the threads of a core share its caches, whatever a virtual machine's CPUID
/// says, and what shares a level-2 cache shares the last level. Gives the CPUs that were mended.
fn mend_caches(parts: &mut Parts) -> CpuSet {
    parts.cpus.sort_by_key(|cpu| cpu.id);
    let mut mended = CpuSet::EMPTY;
    let mut of_core = BTreeMap::new();
    let mut of_l2 = BTreeMap::new();
    for cpu in &mut parts.cpus {
        let (l2, llc) = *of_core.entry(cpu.core).or_insert((cpu.l2, cpu.llc));
        let llc = *of_l2.entry(l2).or_insert(llc);
        if (cpu.l2, cpu.llc) != (l2, llc) {
            (cpu.l2, cpu.llc) = (l2, llc);
            mended.insert(cpu.id);
        }
    }
    mended
}

#[cfg(test)]
mod tests;
