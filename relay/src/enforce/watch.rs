//! Notices other people's writes to cpusets, and the end of containers, at once: by inotify.
//!
//! kernfs raises `IN_MODIFY` for writes from user space to both versions' files (not for changes the
//! kernel makes itself, such as CPUs going offline), and the VFS raises `IN_DELETE` in the parent when a
//! cgroup is removed, which runtimes do as soon as a container's last process has ended. The periodic
//! look at kernel and runtime remains the net.

use futures::Stream;
use inotify::{EventMask, EventStream, Inotify, WatchDescriptor, WatchMask};
use resmgr_policy::ContainerId;
use std::{
    collections::{BTreeMap, HashMap},
    ffi::OsString,
    fmt, io,
    path::Path,
    pin::Pin,
    task::{Context, Poll, ready},
};

const FILES: [&str; 2] = ["cpuset.cpus", "cpuset.mems"];

/// What was noticed of a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Noticed {
    /// A process, perhaps ours, wrote to its cgroup.
    Written(ContainerId),
    /// Its cgroup was removed.
    Vanished(ContainerId),
}

/// Notices writes to containers' cpusets, and their end.
pub trait Watch: fmt::Debug + Send + Sync {
    /// Whether a container is watched.
    fn watches(&self, id: &ContainerId) -> bool;

    /// Watches the files in a container's cpuset directory, and the directory itself in its parent.
    ///
    /// # Errors
    /// When the cgroup is gone or the user's limit of watches is reached.
    fn add(&mut self, id: &ContainerId, directory: &Path) -> io::Result<()>;

    /// Stops watching a container.
    fn remove(&mut self, id: &ContainerId);

    /// What has been noticed next; an error ends the watch.
    fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<io::Result<Noticed>>;
}

/// Watches the cpuset files of containers, and their pods' cgroups for the ends of containers, by inotify.
pub struct InotifyWatch {
    events: EventStream<[u8; 4096]>,
    owners: HashMap<WatchDescriptor, ContainerId>,
    pods: HashMap<WatchDescriptor, BTreeMap<OsString, ContainerId>>,
    watched: BTreeMap<ContainerId, Vec<WatchDescriptor>>,
}

impl InotifyWatch {
    /// Starts watching nothing. Must be called within a Tokio runtime.
    ///
    /// # Errors
    /// When the system has no inotify instance left.
    pub fn new() -> io::Result<Self> {
        Ok(Self {
            events: Inotify::init()?.into_event_stream([0; 4096])?,
            owners: HashMap::new(),
            pods: HashMap::new(),
            watched: BTreeMap::new(),
        })
    }

    fn end(&mut self, descriptor: WatchDescriptor) {
        // The kernel has dropped the watch of a file that is gone: that is what was wanted.
        drop(self.events.watches().remove(descriptor));
    }
}

impl Watch for InotifyWatch {
    fn watches(&self, id: &ContainerId) -> bool {
        self.watched.contains_key(id)
    }

    fn add(&mut self, id: &ContainerId, directory: &Path) -> io::Result<()> {
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
        if let (Some(pod), Some(name)) = (directory.parent(), directory.file_name()) {
            let mask = WatchMask::DELETE | WatchMask::ONLYDIR;
            let descriptor = self.events.watches().add(pod, mask)?;
            let inside = self.pods.entry(descriptor).or_default();
            inside.insert(name.to_owned(), id.clone());
        }
        self.watched.insert(id.clone(), descriptors);
        Ok(())
    }

    fn remove(&mut self, id: &ContainerId) {
        for descriptor in self.watched.remove(id).unwrap_or_default() {
            self.owners.remove(&descriptor);
            self.end(descriptor);
        }
        let mut idle = Vec::new();
        for (descriptor, inside) in &mut self.pods {
            inside.retain(|_name, owner| owner != id);
            if inside.is_empty() {
                idle.push(descriptor.clone());
            }
        }
        for descriptor in idle {
            self.pods.remove(&descriptor);
            self.end(descriptor);
        }
    }

    fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<io::Result<Noticed>> {
        loop {
            let Some(event) = ready!(Pin::new(&mut self.events).poll_next(context)) else {
                return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
            };
            let event = event?;
            if event.mask.contains(EventMask::DELETE) {
                let inside = self.pods.get(&event.wd);
                let name = event.name.as_deref();
                if let Some(id) = inside.zip(name).and_then(|(inside, name)| inside.get(name)) {
                    return Poll::Ready(Ok(Noticed::Vanished(id.clone())));
                }
                continue;
            }
            let Some(id) = self.owners.get(&event.wd).cloned() else {
                continue;
            };
            if event.mask.contains(EventMask::IGNORED) {
                self.remove(&id);
            } else {
                return Poll::Ready(Ok(Noticed::Written(id)));
            }
        }
    }
}

impl fmt::Debug for InotifyWatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("InotifyWatch")
            .field("containers", &self.watched.len())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::enforce::test_support::KernelCpuset;
    use std::{fs, time::Duration};

    async fn next(watch: &mut InotifyWatch) -> io::Result<Noticed> {
        std::future::poll_fn(|context| watch.poll_next(context)).await
    }

    #[tokio::test]
    async fn a_write_behind_our_back_is_noticed() {
        let Some(kernel) = KernelCpuset::new("watch") else {
            return;
        };
        let place = kernel.container("c1");
        let directory = kernel.cgroups.locate(&place).unwrap().cpuset;
        let id = ContainerId("c1".into());
        let mut watcher = InotifyWatch::new().unwrap();
        watcher.add(&id, &directory).unwrap();
        fs::write(directory.join("cpuset.cpus"), "0").unwrap();
        let written = tokio::time::timeout(Duration::from_secs(10), next(&mut watcher))
            .await
            .expect("the kernel tells")
            .unwrap();
        assert_eq!(written, Noticed::Written(id.clone()));
        watcher.remove(&id);
        assert!(!watcher.watches(&id));
    }

    #[tokio::test]
    async fn the_end_of_one_of_two_containers_of_a_pod_is_noticed() {
        let Some(kernel) = KernelCpuset::new("vanish") else {
            return;
        };
        let mut watcher = InotifyWatch::new().unwrap();
        let directories = ["c1", "c2"].map(|id| {
            let place = kernel.container(id);
            let directory = kernel.cgroups.locate(&place).unwrap().cpuset;
            watcher.add(&ContainerId(id.into()), &directory).unwrap();
            directory
        });
        fs::remove_dir(&directories[1]).unwrap();
        let gone = tokio::time::timeout(Duration::from_secs(10), next(&mut watcher))
            .await
            .expect("the kernel tells")
            .unwrap();
        assert_eq!(gone, Noticed::Vanished(ContainerId("c2".into())));
        watcher.remove(&ContainerId("c2".into()));
        fs::remove_dir(&directories[0]).unwrap();
        let gone = tokio::time::timeout(Duration::from_secs(10), next(&mut watcher))
            .await
            .expect("the first is still watched")
            .unwrap();
        assert_eq!(gone, Noticed::Vanished(ContainerId("c1".into())));
    }
}
