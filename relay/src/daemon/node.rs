//! What cri-resmgr wants of the Node, through the agent: label, taint and capacity of the static-pools
//! policy, and the condition that another CPU manager is at work.
//!
//! What the Node was marked with is remembered on disk before it is done, so that a later run with
//! another policy takes it away again. A Node that was never marked is never looked at.

use super::tasks::Tasks;
use crate::{
    config::{self, Config, PolicyName},
    control::agent_client::{AgentClient, NodeCondition, NodeWishes, Wish},
    ledger::{Marks, StateFile},
    manager::{ManagerHandle, Snapshot},
};
use resmgr_topology::Topology;
use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};
use tokio::sync::watch;

/// Tells the agent what the Node shall be like.
#[derive(Clone, Debug)]
pub struct NodeUpdater {
    pools: watch::Sender<Option<NodeWishes>>,
    conflict: watch::Sender<Option<NodeCondition>>,
    memory: Memory,
}

impl NodeUpdater {
    /// Starts telling the agent, if there can be one. What the configuration asks for comes by
    /// [`NodeUpdater::follow`], what the manager finds by itself.
    #[must_use]
    pub fn start(config: &Config, manager: Option<&ManagerHandle>, tasks: &Tasks) -> Option<Self> {
        let client = AgentClient::new(config.relay.agent_socket.clone()?);
        let memory = Memory(Arc::new(Mutex::new(config.enforce.state_dir.clone())));
        let pools = kept(
            &client,
            &memory,
            tasks,
            "node",
            |desired: &NodeWishes, marks| {
                if no_pools(&of_pools(desired)) {
                    *marks = Marks {
                        conflict: marks.conflict,
                        ..Marks::default()
                    };
                }
            },
        );
        let conflict = kept(
            &client,
            &memory,
            tasks,
            "node condition",
            |desired: &NodeCondition, marks| {
                marks.conflict = desired.status;
            },
        );
        let node = Self {
            pools,
            conflict,
            memory,
        };
        // A conflict of an earlier run is over until it is seen again: the kubelet may have been
        // configured anew meanwhile.
        node.tell_conflict(None);
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

    /// Another configuration is in force.
    pub fn follow(&self, config: &Config, topology: &Topology) {
        let desired = match config.policy.name {
            PolicyName::StaticPools => NodeWishes {
                label: config.policy.pools.label_node,
                taint: config.policy.pools.taint_node,
                exclusive_lists: exclusive_lists(config, topology),
            },
            _ => NodeWishes::default(),
        };
        let directory = self.memory.lock();
        let (before, now) = (remembered(&directory), of_pools(&desired));
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
        self.pools.send_replace(Some(desired));
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
                self.tell_conflict(policy);
            }
            known = policy;
            if snapshots.changed().await.is_err() {
                return;
            }
        }
    }

    /// Another CPU manager is at work beside this policy, or none is.
    fn tell_conflict(&self, policy: Option<&str>) {
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

/// The directory of what is remembered. Locked while that changes, until the agent's task has what it is
/// remembered for.
#[derive(Clone, Debug)]
struct Memory(Arc<Mutex<PathBuf>>);

impl Memory {
    fn lock(&self) -> MutexGuard<'_, PathBuf> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Has the agent make the Node as desired. `forget` takes out of the marks what the Node is without, once
/// it is as desired.
fn kept<W: Wish + PartialEq + 'static>(
    client: &AgentClient,
    memory: &Memory,
    tasks: &Tasks,
    task: &'static str,
    forget: fn(&W, &mut Marks),
) -> watch::Sender<Option<W>> {
    let (sender, desired) = watch::channel(None);
    let (client, stop) = (client.clone(), tasks.stop().clone());
    let done = {
        let (memory, latest) = (memory.clone(), desired.clone());
        move |reached: &W| {
            let directory = memory.lock();
            // What has come to be desired meanwhile is remembered, and not done yet.
            if latest.borrow().as_ref() == Some(reached) {
                let mut marks = remembered(&directory);
                forget(reached, &mut marks);
                remember(&directory, marks);
            }
        }
    };
    tasks.spawn(task, async move {
        tokio::select! {
            () = stop.cancelled() => {}
            () = client.keep(desired, done) => stop.cancelled().await,
        }
        Ok(())
    });
    sender
}

fn of_pools(desired: &NodeWishes) -> Marks {
    Marks {
        label: desired.label,
        taint: desired.taint,
        capacity: desired.exclusive_lists > 0,
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
        tracing::warn!("what the Node was marked with is not known: {problem:#}");
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
        tracing::warn!("what the Node is marked with could not be remembered: {error:#}");
    }
}

/// How many CPU lists the exclusive pools have. Pools in force can be read: they were, when they came.
fn exclusive_lists(config: &Config, topology: &Topology) -> usize {
    let pools = config::pools::load(&config.policy.pools, topology).unwrap_or_default();
    let exclusive = pools.pools.values().filter(|pool| pool.exclusive);
    exclusive.map(|pool| pool.cpu_lists.len()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(directory: &Path) -> NodeUpdater {
        NodeUpdater {
            pools: watch::Sender::new(None),
            conflict: watch::Sender::new(None),
            memory: Memory(Arc::new(Mutex::new(directory.to_owned()))),
        }
    }

    fn told(node: &NodeUpdater) -> Option<bool> {
        node.conflict.borrow().as_ref().map(|wish| wish.status)
    }

    #[test]
    fn a_conflict_is_remembered_beside_other_marks_and_taken_away_by_a_later_run() {
        let directory = tempfile::tempdir().unwrap();
        let run = at(directory.path());
        run.tell_conflict(None);
        assert_eq!(told(&run), None);
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);

        let pools = Marks {
            label: true,
            ..Marks::default()
        };
        remember(directory.path(), pools);
        run.tell_conflict(Some("static-pools"));
        assert_eq!(told(&run), Some(true));
        let both = Marks {
            conflict: true,
            ..pools
        };
        assert_eq!(remembered(directory.path()), both);

        let later = at(directory.path());
        later.tell_conflict(None);
        assert_eq!(told(&later), Some(false));
        assert_eq!(remembered(directory.path()), both, "it is not done yet");
    }

    #[test]
    fn a_conflict_that_could_not_be_remembered_is_still_taken_away_by_the_same_run() {
        let run = at(Path::new("/proc/nowhere"));
        run.tell_conflict(Some("static"));
        run.tell_conflict(None);
        assert_eq!(told(&run), Some(false));
    }
}
