//! What cri-resmgr desires of the Node, through the agent: label, taint and capacity of the static-pools
//! policy, and the condition that another CPU manager is at work.
//!
//! What the Node was marked with is remembered on disk before it is done, so that a later run with
//! another policy takes it away again. A Node that was never marked is never read.

use super::tasks::Tasks;
use crate::{
    config::{self, Config, PolicyName},
    control::agent_client::{AgentClient, CmkProperties, NodeCondition, NodeProperty},
    ledger::{Marks, StateFile},
    manager::{ManagerHandle, Snapshot},
};
use resmgr_policy::NON_ISOLCPUS_POOL;
use resmgr_topology::Topology;
use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};
use tokio::sync::watch;

/// Publishes the properties that the Node shall have.
#[derive(Clone, Debug)]
pub struct NodePublisher {
    pools: watch::Sender<Option<CmkProperties>>,
    conflict: watch::Sender<Option<NodeCondition>>,
    memory: Memory,
}

impl NodePublisher {
    /// Starts to publish, if there can be an agent. What the configuration desires comes by
    /// [`NodePublisher::publish`]; what the manager desires is followed.
    #[must_use]
    pub fn start(config: &Config, manager: Option<&ManagerHandle>, tasks: &Tasks) -> Option<Self> {
        let client = AgentClient::new(config.relay.agent_socket.clone()?);
        let memory = Memory(Arc::new(Mutex::new(config.enforce.state_dir.clone())));
        let pools = keep(
            &client,
            &memory,
            tasks,
            "node",
            |property: &CmkProperties, marks| {
                if no_pools(&of_pools(property)) {
                    *marks = Marks {
                        conflict: marks.conflict,
                        ..Marks::default()
                    };
                }
            },
        );
        let conflict = keep(
            &client,
            &memory,
            tasks,
            "node condition",
            |property: &NodeCondition, marks| {
                marks.conflict = property.status;
            },
        );
        let node = Self {
            pools,
            conflict,
            memory,
        };
        // A conflict of an earlier run is over until it is seen again: the kubelet may have been
        // configured anew meanwhile.
        node.publish_conflict(None);
        if let Some(manager) = manager {
            tasks.spawn("cpu managers", {
                let (node, stop) = (node.clone(), tasks.stop().clone());
                let snapshots = manager.snapshots();
                async move {
                    tokio::select! {
                        () = stop.cancelled() => {}
                        () = node.follow_conflict(snapshots) => stop.cancelled().await,
                    }
                    Ok(())
                }
            });
        }
        Some(node)
    }

    /// Publishes what a configuration that is in force now desires.
    pub fn publish(&self, config: &Config, topology: &Topology) {
        let property = match config.policy.name {
            PolicyName::StaticPools => CmkProperties {
                label: config.policy.pools.label_node,
                taint: config.policy.pools.taint_node,
                ..exclusive_lists(config, topology)
            },
            _ => CmkProperties::default(),
        };
        let directory = self.memory.lock();
        let (before, now) = (remembered(&directory), of_pools(&property));
        let stp = config.policy.name == PolicyName::StaticPools;
        if !stp && no_pools(&before) {
            self.pools.send_replace(None);
            return;
        }
        // What may be there from before is forgotten only when it is known to be gone.
        remember(
            &directory,
            Marks {
                label: before.label || now.label,
                taint: before.taint || now.taint,
                capacity: before.capacity || now.capacity,
                conflict: before.conflict,
            },
        );
        self.pools.send_replace(Some(property));
    }

    /// Follows the manager until it ends.
    async fn follow_conflict(&self, mut snapshots: watch::Receiver<Arc<Snapshot>>) {
        let mut known = None;
        loop {
            let policy = {
                let snapshot = snapshots.borrow_and_update();
                snapshot.other_cpu_manager.then_some(snapshot.policy)
            };
            if policy != known {
                self.publish_conflict(policy);
            }
            known = policy;
            if snapshots.changed().await.is_err() {
                return;
            }
        }
    }

    /// Another CPU manager is at work beside this policy, or none is.
    fn publish_conflict(&self, policy: Option<&str>) {
        let directory = self.memory.lock();
        let before = remembered(&directory);
        // What could not be remembered is still known to this run.
        let marked = before.conflict || self.conflict.borrow().is_some();
        if policy.is_none() && !marked {
            return;
        }
        remember(
            &directory,
            Marks {
                conflict: true,
                ..before
            },
        );
        self.conflict
            .send_replace(Some(NodeCondition::conflict(policy)));
    }
}

/// The directory of what is remembered. Locked from before that changes until the desired
/// property has been sent for which it does.
#[derive(Clone, Debug)]
struct Memory(Arc<Mutex<PathBuf>>);

impl Memory {
    fn lock(&self) -> MutexGuard<'_, PathBuf> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Has the agent give the Node a property. `forget` takes out of the marks what the Node is without, once
/// the Node has the property.
fn keep<W: NodeProperty + PartialEq + 'static>(
    client: &AgentClient,
    memory: &Memory,
    tasks: &Tasks,
    task: &'static str,
    forget: fn(&W, &mut Marks),
) -> watch::Sender<Option<W>> {
    let (desired, property_changes) = watch::channel(None);
    let (client, stop) = (client.clone(), tasks.stop().clone());
    let done = {
        let (memory, latest) = (memory.clone(), property_changes.clone());
        move |property: &W| {
            let directory = memory.lock();
            // What is desired meanwhile is remembered, and not done yet.
            if latest.borrow().as_ref() == Some(property) {
                let mut marks = remembered(&directory);
                forget(property, &mut marks);
                remember(&directory, marks);
            }
        }
    };
    tasks.spawn(task, async move {
        tokio::select! {
            () = stop.cancelled() => {}
            () = client.keep(property_changes, done) => stop.cancelled().await,
        }
        Ok(())
    });
    desired
}

fn of_pools(property: &CmkProperties) -> Marks {
    Marks {
        label: property.label,
        taint: property.taint,
        capacity: property.exclusive_lists + property.non_isolcpus_lists > 0,
        conflict: false,
    }
}

fn no_pools(marks: &Marks) -> bool {
    !(marks.label || marks.taint || marks.capacity)
}

fn remembered(directory: &Path) -> Marks {
    let loaded = StateFile::<Marks>::at(directory).load();
    for problem in loaded.problems {
        let problem = anyhow::Error::new(problem);
        tracing::warn!("marks of the Node cannot be read: {problem:#}");
    }
    loaded.value.unwrap_or_default()
}

fn remember(directory: &Path, marks: Marks) {
    if marks == remembered(directory) {
        return;
    }
    let stored = match marks == Marks::default() {
        true => StateFile::<Marks>::at(directory).forget(),
        false => StateFile::open(directory).and_then(|file| file.store(&marks)),
    };
    if let Err(error) = stored {
        let error = anyhow::Error::new(error);
        tracing::warn!("marks of the Node cannot be stored: {error:#}");
    }
}

/// How many CPU lists the exclusive pools have. Pools in force can be read: they were, when they came.
fn exclusive_lists(config: &Config, topology: &Topology) -> CmkProperties {
    let pools = config::pools::load(&config.policy.pools, topology).unwrap_or_default();
    let mut lists = CmkProperties::default();
    for (name, pool) in pools.pools.iter().filter(|(_, pool)| pool.exclusive) {
        match name.as_str() {
            NON_ISOLCPUS_POOL => lists.non_isolcpus_lists += pool.cpu_lists.len(),
            _ => lists.exclusive_lists += pool.cpu_lists.len(),
        }
    }
    lists
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(directory: &Path) -> NodePublisher {
        NodePublisher {
            pools: watch::Sender::new(None),
            conflict: watch::Sender::new(None),
            memory: Memory(Arc::new(Mutex::new(directory.to_owned()))),
        }
    }

    fn published(node: &NodePublisher) -> Option<bool> {
        node.conflict
            .borrow()
            .as_ref()
            .map(|property| property.status)
    }

    #[test]
    fn a_conflict_is_remembered_beside_other_marks_and_taken_away_by_a_later_run() {
        let directory = tempfile::tempdir().unwrap();
        let run = at(directory.path());
        run.publish_conflict(None);
        assert_eq!(published(&run), None);
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);

        let pools = Marks {
            label: true,
            ..Marks::default()
        };
        remember(directory.path(), pools);
        run.publish_conflict(Some("static-pools"));
        assert_eq!(published(&run), Some(true));
        let both = Marks {
            conflict: true,
            ..pools
        };
        assert_eq!(remembered(directory.path()), both);

        let later = at(directory.path());
        later.publish_conflict(None);
        assert_eq!(published(&later), Some(false));
        assert_eq!(remembered(directory.path()), both, "it is not done yet");
    }

    #[test]
    fn a_conflict_that_could_not_be_remembered_is_still_taken_away_by_the_same_run() {
        let run = at(Path::new("/proc/nowhere"));
        run.publish_conflict(Some("static"));
        run.publish_conflict(None);
        assert_eq!(published(&run), Some(false));
    }
}
