//! Notices that CPUs went offline or came online while we run.

use super::{DiscoverError, TopologySource, read, sysfs};
use resmgr_topology::{CpuSet, Topology};
use std::path::PathBuf;

/// Follows the online CPUs of the machine.
///
/// The kernel's list is read instead of waiting for uevents, which a container does not get.
#[derive(Debug)]
pub struct Hotplug {
    host_root: PathBuf,
    known: CpuSet,
}

impl Hotplug {
    /// Starts from a topology of this machine that is in use.
    #[must_use]
    pub fn new(host_root: PathBuf, current: &Topology) -> Self {
        Self {
            host_root,
            known: current.online.union(&current.withheld),
        }
    }

    /// The machine, read anew if the online CPUs differ from those last known.
    ///
    /// # Errors
    /// [`DiscoverError`] when the machine cannot be read; the next call tries again.
    pub async fn look(&mut self) -> Result<Option<Topology>, DiscoverError> {
        let online = sysfs::online(&self.host_root)?;
        if online == self.known {
            return Ok(None);
        }
        let root = self.host_root.clone();
        let read = tokio::task::spawn_blocking(move || read(&TopologySource::Machine, &root)).await;
        let topology = read.map_err(|panicked| DiscoverError::Hwloc {
            from: "this machine".to_owned(),
            why: panicked.to_string(),
        })??;
        tracing::info!(before = %self.known, now = %online, "the online CPUs changed");
        self.known = online;
        Ok(Some(topology))
    }
}
