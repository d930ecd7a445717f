//! The one task that owns the placement state.
//!
//! ```text
//!  intercept ──reserve──▶ mailbox ──▶ Owner: decide, check, publish, shrink others ──▶ Ticket
//!    │                                   │ hands the containers to the ledger's writer
//!    ├── waits until the ledger is on disk, then the runtime sees the request
//!    └── commit / abort / unknown ──▶ Owner: grow others │ take back │ ask the runtime
//!  poller ──list, exit events──▶ Owner: adopt, release      inotify, tick ──▶ Owner: reconcile
//! ```
//!
//! Decisions are serialised; calls of the runtime never happen in the owner. What is decided on is pure
//! ([`containers`], `reservations`, `freshness`); what is written is written by `enact`. Nothing here speaks
//! CRI: `crate::intercept` does. Wiring: [`Manager::new`], and [`Manager::run`] under the daemon's own task
//! tracker.

mod adopt;
mod answer;
mod book;
mod clock;
mod containers;
mod decide;
mod drift;
mod enact;
mod event;
mod feedback;
mod freshness;
mod handle;
mod moves;
mod owner;
mod poll;
mod pool_changes;
mod presence;
mod rebalance;
mod refused;
mod replace_all;
mod reservations;
mod resize;
mod resource_files;
mod restore;
mod runtime;
mod snapshot;
mod through_runtime;
mod ticket;
mod update;

#[cfg(test)]
mod tests;

pub use answer::{
    ContainerSpec, CpuChange, Denied, DenyKind, PlanPreview, ReconfigureError, ReservedPlace,
    ResourceUpdate, RestoreReport,
};
pub use book::{Book, Ledger};
pub use containers::{ContainerRecord, ContainerRef, Containers, MAX_HISTORY, Note, Stage};
pub use handle::{Ended, ManagerHandle};
pub use moves::{MoveCounts, MoveSum};
pub use pool_changes::{PoolChange, PoolChanges};
pub use presence::RuntimeAnswer;
pub use refused::{RefusedCreation, RefusedCreations};
pub use resize::Resize;
pub use restore::{learn, restore};
pub use runtime::{ExitEventsUnavailable, Listed, Listing, Runtime, RuntimeError};
pub use snapshot::{Counts, FindError, Snapshot};
pub use ticket::Ticket;

use crate::{
    config::{FailPolicies, ResourcesFile},
    enforce::Cgroups,
    ledger::{Blocking, Loaded, StateWriter},
};
use event::ManagerEvent;
use owner::Owner;
use resmgr_policy::Policy;
use resmgr_topology::Topology;
use resource_files::ResourceFiles;
use std::{
    path::PathBuf,
    sync::{Arc, RwLock},
    time::Duration,
};
use tokio::sync::{Notify, mpsc, watch};
use tokio_util::sync::CancellationToken;

/// All a manager is made of.
#[derive(Debug)]
pub struct ManagerConfig {
    /// Decides.
    pub policy: Arc<dyn Policy>,
    /// The machine.
    pub topology: Arc<Topology>,
    /// Where containers' cgroups are.
    pub cgroups: Arc<Cgroups>,
    /// Where the state is kept.
    pub ledger: Ledger,
    /// The container runtime: it knows what runs.
    pub runtime: Arc<dyn Runtime>,
    /// What happens to a container the policy does not place.
    pub fail: FailPolicies,
    /// How long the policy may think.
    pub policy_timeout: Duration,
    /// How often the kernel is compared with the state, and the runtime's list with ours; zero: the list
    /// once a second, the kernel only when inotify tells.
    pub reconcile_interval: Duration,
    /// Directory of what containers are shown of their placement (`/.cri-resmgr/resources.sh`); `None`:
    /// they are shown nothing.
    pub export: Option<PathBuf>,
    /// Which containers are shown it.
    pub resources_file: ResourcesFile,
    /// Where work runs that blocks.
    pub blocking: Blocking,
    /// Events that may wait; more make their senders wait.
    pub mailbox: usize,
    /// Forget what an earlier run decided (`--reset-policy`); what the runtime asked for is kept.
    pub reset_policy: bool,
}

/// The manager, not yet running.
#[derive(Debug)]
pub struct Manager {
    owner: Owner,
    events: mpsc::Receiver<ManagerEvent>,
    writer: StateWriter<Book>,
    poller: poll::Poller,
}

impl Manager {
    /// Builds a manager from what an earlier run left; nothing is written or asked yet.
    #[must_use]
    pub fn new(config: ManagerConfig, stop: CancellationToken) -> (Self, ManagerHandle) {
        let Loaded { value, problems } = config.ledger.load();
        for problem in &problems {
            tracing::warn!(%problem, "the saved placement state is unusable; learning it from the runtime");
        }
        let (sender, events) = mpsc::channel(config.mailbox.max(2));
        let disk = Arc::clone(config.ledger.disk());
        let (writer, durable) = StateWriter::new(config.ledger, config.blocking);
        let (snapshot_out, snapshots) = watch::channel(Arc::new(Snapshot::empty(
            &config.policy,
            Arc::clone(&config.topology),
        )));
        let poll = Arc::new(Notify::new());
        let handle = ManagerHandle {
            events: sender,
            snapshots,
            durable: durable.clone(),
            poll: Arc::clone(&poll),
            runtime: Arc::clone(&config.runtime),
            fail: Arc::new(RwLock::new(Arc::new(config.fail.clone()))),
            stop,
        };
        let (vanishing, vanished) = mpsc::channel(config.mailbox.max(2));
        let poller = poll::Poller {
            runtime: config.runtime,
            interval: if config.reconcile_interval.is_zero() {
                Duration::from_secs(1)
            } else {
                config.reconcile_interval
            },
            poll,
            vanished,
            handle: handle.clone(),
        };
        let files = config.export.map(|base| {
            let isolated = config.topology.isolated;
            ResourceFiles::new(disk, base, isolated, config.resources_file)
        });
        let owner = Owner::new(
            owner::OwnerParts {
                policy: config.policy,
                topology: config.topology,
                cgroups: config.cgroups,
                fail: config.fail,
                policy_timeout: config.policy_timeout,
                tick: config.reconcile_interval,
                durable,
                snapshots: snapshot_out,
                poll: Arc::clone(&handle.poll),
                vanishing,
                files,
                blocking: config.blocking,
                runtime: Arc::clone(&handle.runtime),
            },
            value.unwrap_or_default(),
            config.reset_policy,
        );
        let manager = Self {
            owner,
            events,
            writer,
            poller,
        };
        (manager, handle)
    }

    /// What another policy would change for what an earlier run left in the ledger; nothing is written.
    ///
    /// # Errors
    /// Why it would not be taken over.
    pub async fn preview(
        &mut self,
        policy: Arc<dyn Policy>,
    ) -> Result<PlanPreview, ReconfigureError> {
        self.owner.reconfigure(policy, true).await
    }

    /// Runs until [`ManagerHandle::shutdown`] or the token given to [`Manager::new`]; the ledger is
    /// written last.
    pub async fn run(self) {
        let stop = self.poller.handle.stop.clone();
        let durable = self.poller.handle.durable.clone();
        let owner = self.owner.run(self.events, stop.clone());
        let poller = async {
            tokio::select! {
                biased;
                () = self.poller.run() => {}
                () = stop.cancelled() => {}
            }
        };
        let writer = self.writer.run();
        tokio::pin!(writer);
        tokio::select! {
            biased;
            ((), ()) = futures::future::join(owner, poller) => {}
            () = &mut writer => return,
        }
        // What the owner handed over last goes to disk before we leave.
        tokio::select! {
            biased;
            () = writer => {}
            _saved_or_not = tokio::time::timeout(Duration::from_secs(2), durable.flushed()) => {}
        }
    }
}
