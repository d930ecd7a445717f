//! Notices other people's writes to cpusets at once, by inotify.
//!
//! kernfs raises `IN_MODIFY` for writes from user space to both versions' files (not for changes the
//! kernel makes itself, such as CPUs going offline): the periodic reconciliation remains the net.

use futures::StreamExt;
use inotify::{EventMask, EventStream, Inotify, WatchDescriptor, WatchMask};
use resmgr_policy::ContainerId;
use std::{
    collections::{BTreeMap, HashMap},
    fmt, io,
    path::Path,
};

const FILES: [&str; 2] = ["cpuset.cpus", "cpuset.mems"];

/// Watches the cpuset files of containers.
pub struct Watcher {
    events: EventStream<[u8; 4096]>,
    owners: HashMap<WatchDescriptor, ContainerId>,
    watched: BTreeMap<ContainerId, Vec<WatchDescriptor>>,
}

impl Watcher {
    /// Starts watching nothing. Must be called within a Tokio runtime.
    ///
    /// # Errors
    /// When the system has no inotify instance left.
    pub fn new() -> io::Result<Self> {
        Ok(Self {
            events: Inotify::init()?.into_event_stream([0; 4096])?,
            owners: HashMap::new(),
            watched: BTreeMap::new(),
        })
    }

    /// Whether a container is watched.
    #[must_use]
    pub fn watches(&self, id: &ContainerId) -> bool {
        self.watched.contains_key(id)
    }

    /// Watches the files in a container's cpuset directory.
    ///
    /// # Errors
    /// When the cgroup is gone or the user's limit of watches is reached.
    pub fn add(&mut self, id: &ContainerId, directory: &Path) -> io::Result<()> {
        if self.watches(id) {
            return Ok(());
        }
        let mut descriptors = Vec::new();
        for file in FILES {
            let descriptor = self
                .events
                .watches()
                .add(directory.join(file), WatchMask::MODIFY)?;
            self.owners.insert(descriptor.clone(), id.clone());
            descriptors.push(descriptor);
        }
        self.watched.insert(id.clone(), descriptors);
        Ok(())
    }

    /// Stops watching a container.
    pub fn remove(&mut self, id: &ContainerId) {
        for descriptor in self.watched.remove(id).unwrap_or_default() {
            self.owners.remove(&descriptor);
            // The kernel has dropped the watch of a file that is gone: that is what was wanted.
            drop(self.events.watches().remove(descriptor));
        }
    }

    /// Waits for a write; whose cgroup was written to, by us or by others.
    ///
    /// # Errors
    /// When the inotify instance cannot be read.
    pub async fn next(&mut self) -> io::Result<ContainerId> {
        loop {
            let Some(event) = self.events.next().await else {
                return Err(io::ErrorKind::UnexpectedEof.into());
            };
            let event = event?;
            let Some(id) = self.owners.get(&event.wd).cloned() else {
                continue;
            };
            if event.mask.contains(EventMask::IGNORED) {
                self.remove(&id);
            } else {
                return Ok(id);
            }
        }
    }
}

impl fmt::Debug for Watcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watcher")
            .field("containers", &self.watched.len())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::enforce::test_support::KernelCpuset;
    use std::{fs, time::Duration};

    #[tokio::test]
    async fn a_write_behind_our_back_is_noticed() {
        let Some(kernel) = KernelCpuset::new("watch") else {
            return;
        };
        let place = kernel.container("c1");
        let directory = kernel.cgroups.locate(&place).unwrap().cpuset;
        let id = ContainerId("c1".into());
        let mut watcher = Watcher::new().unwrap();
        watcher.add(&id, &directory).unwrap();
        fs::write(directory.join("cpuset.cpus"), "0").unwrap();
        let written = tokio::time::timeout(Duration::from_secs(10), watcher.next())
            .await
            .expect("the kernel tells")
            .unwrap();
        assert_eq!(written, id);
        watcher.remove(&id);
        assert!(!watcher.watches(&id));
    }
}
