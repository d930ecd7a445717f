//! Notices that CPUs went offline or came online while we run.
//!
//! The kernel's list is read every second: it costs microseconds, works in a container that gets no
//! uevents, and a second is soon enough for what the kernel itself repairs by moving tasks away.

use super::{DiscoverError, TopologySource, read, sysfs};
use resmgr_topology::{CpuSet, Topology};
use std::{path::PathBuf, time::Duration};

/// How often the kernel's list is read.
const INTERVAL: Duration = Duration::from_secs(1);

/// Watches the online CPUs of the machine.
#[derive(Debug)]
pub struct Hotplug {
    host_root: PathBuf,
    known: CpuSet,
    interval: Duration,
}

impl Hotplug {
    /// Starts from a topology of this machine that is in use.
    #[must_use]
    pub fn new(host_root: PathBuf, current: &Topology) -> Self {
        Self {
            host_root,
            known: current.online,
            interval: INTERVAL,
        }
    }

    /// The same, looking at another interval.
    #[must_use]
    pub fn every(mut self, interval: Duration) -> Self {
        self.interval = interval;
        self
    }

    /// Waits until the online CPUs differ from those last known, and reads the machine anew. Loses
    /// nothing when it is cancelled.
    ///
    /// # Errors
    /// [`DiscoverError`] when the machine cannot be read; the next call tries again.
    pub async fn changed(&mut self) -> Result<Topology, DiscoverError> {
        loop {
            tokio::time::sleep(self.interval).await;
            let online = sysfs::online(&self.host_root)?;
            if online == self.known {
                continue;
            }
            let root = self.host_root.clone();
            let read =
                tokio::task::spawn_blocking(move || read(&TopologySource::Machine, &root)).await;
            let topology = read.map_err(|panicked| DiscoverError::Hwloc {
                from: "this machine".to_owned(),
                why: panicked.to_string(),
            })??;
            tracing::info!(before = %self.known, now = %online, "the online CPUs changed");
            self.known = online;
            return Ok(topology);
        }
    }
}
