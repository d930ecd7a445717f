//! What the static-pools policy wants of the Node: label, taint and capacity, through the agent.
//!
//! What the Node was marked with is remembered on disk before it is done, so that a later run with
//! another policy takes it away again. A Node that was never marked is never looked at.

use super::tasks::Tasks;
use crate::{
    config::{self, Config, Machine, PolicyName},
    control::agent_client::{AgentClient, NodeWishes},
    ledger::{Marks, StateFile},
};
use resmgr_topology::Topology;
use std::path::{Path, PathBuf};
use tokio::sync::watch;

/// Tells the agent what the Node shall be like.
#[derive(Clone, Debug)]
pub struct NodeMarks {
    wishes: watch::Sender<Option<NodeWishes>>,
    directory: PathBuf,
}

impl NodeMarks {
    /// Starts following the wishes, if there can be an agent.
    #[must_use]
    pub fn start(config: &Config, tasks: &Tasks) -> Option<Self> {
        let client = AgentClient::new(config.relay.agent_socket.clone()?);
        let (wishes, wished) = watch::channel(None);
        let directory = config.enforce.state_dir.clone();
        let done = {
            let directory = directory.clone();
            move |wish: &NodeWishes| {
                if marks(wish) == Marks::default() {
                    remember(&directory, Marks::default());
                }
            }
        };
        tasks.spawn("node", {
            let stop = tasks.stop().clone();
            async move {
                tokio::select! {
                    () = stop.cancelled() => {}
                    () = client.keep(wished, done) => stop.cancelled().await,
                }
                Ok(())
            }
        });
        Some(Self { wishes, directory })
    }

    /// Another configuration is in force.
    pub fn follow(&self, config: &Config, topology: &Topology) {
        let wish = match config.policy.name {
            PolicyName::StaticPools => NodeWishes {
                label: config.policy.pools.label_node,
                taint: config.policy.pools.taint_node,
                exclusive_lists: exclusive_lists(config, topology),
            },
            _ => NodeWishes::default(),
        };
        let (before, now) = (remembered(&self.directory), marks(&wish));
        let stp = config.policy.name == PolicyName::StaticPools;
        if !stp && before == Marks::default() {
            self.wishes.send_replace(None);
            return;
        }
        // What may be there from before is forgotten only when it is known to be gone.
        remember(
            &self.directory,
            Marks {
                label: before.label || now.label,
                taint: before.taint || now.taint,
                capacity: before.capacity || now.capacity,
            },
        );
        self.wishes.send_replace(Some(wish));
    }
}

fn marks(wish: &NodeWishes) -> Marks {
    Marks {
        label: wish.label,
        taint: wish.taint,
        capacity: wish.exclusive_lists > 0,
    }
}

fn remembered(directory: &Path) -> Marks {
    let loaded = StateFile::<Marks>::at(directory).load();
    for problem in loaded.problems {
        let problem = anyhow::Error::new(problem);
        tracing::warn!("what the Node was marked with is not known: {problem:#}");
    }
    loaded.book.unwrap_or_default()
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
    let no_cgroup = |_path: &Path| Err(std::io::ErrorKind::Unsupported.into());
    let machine = Machine {
        topology,
        cgroup_cpus: &no_cgroup,
    };
    let pools = config::pools::load(&config.policy.pools, machine).unwrap_or_default();
    let exclusive = pools.0.iter().filter(|pool| pool.exclusive);
    exclusive.map(|pool| pool.lists.len()).sum()
}
