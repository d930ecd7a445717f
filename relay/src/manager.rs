//! The one task that owns the placement state.
//!
//! ```text
//!  hooks ──reserve──▶ mailbox ──▶ Owner: decide, check, apply, shrink others ──▶ Ticket
//!    │                                │ hands the book to the ledger's writer
//!    ├── waits until the ledger is on disk, then the runtime sees the request
//!    └── commit / abort / unknown ──▶ Owner: grow others │ take back │ ask the runtime
//!  poller ──list, endings──▶ Owner: adopt, release      inotify, tick ──▶ Owner: reconcile
//! ```
//!
//! Decisions are serialised; calls of the runtime never happen in the owner. Wiring:
//! [`Manager::spawn`] (or [`Manager::new`] and [`Manager::run`] under the daemon's own task tracker).

mod decide;
mod event;
mod export;
mod hooks;
mod mark;
mod moves;
mod owner;
mod poll;
mod restore;
mod runtime;
mod snapshot;
mod sync;
mod ticket;
mod wire;

#[cfg(test)]
mod tests;

pub use event::{Ask, Denied, Move, NotTaken, Outlook, Reserved};
pub use hooks::Hooks;
pub use moves::{MoveCounts, MoveSum};
pub use restore::{Report, learn, restore};
pub use runtime::{Listed, Listing, NoEndings, Runtime, RuntimeError, Stage};
pub use snapshot::{Counts, Snapshot};
pub use sync::RuntimeView;
pub use ticket::Ticket;

use crate::{
    config::{FailPolicies, OnFailure, ResourcesFile},
    cri::intercept::Interceptor,
    enforce::Cgroups,
    ledger::{Durable, Ledger, Loaded, Note, Writer},
};
use event::{Event, Round};
use export::Exports;
use owner::Owner;
use resmgr_policy::{ContainerId, Measured, Policy};
use resmgr_topology::Topology;
use std::{
    path::PathBuf,
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

/// All a manager is made of.
#[derive(Debug)]
pub struct Config {
    /// Decides.
    pub policy: Arc<dyn Policy>,
    /// The machine.
    pub topology: Arc<Topology>,
    /// Where containers' cgroups are.
    pub cgroups: Arc<Cgroups>,
    /// Where the state is kept.
    pub ledger: Ledger,
    /// Whom to ask what runs.
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
    /// Events that may wait; more make their senders wait.
    pub mailbox: usize,
    /// Forget what an earlier run decided (`--reset-policy`); what the runtime asked for is kept.
    pub reset_policy: bool,
}

/// The manager, not yet running.
#[derive(Debug)]
pub struct Manager {
    owner: Owner,
    events: mpsc::Receiver<Event>,
    writer: Writer,
    poller: poll::Poller,
}

/// Talks to a running manager. Cheap to clone.
#[derive(Clone, Debug)]
pub struct ManagerHandle {
    events: mpsc::Sender<Event>,
    snapshots: watch::Receiver<Arc<Snapshot>>,
    durable: Durable,
    poll: Arc<tokio::sync::Notify>,
    runtime: Arc<dyn Runtime>,
    fail: Arc<RwLock<Arc<FailPolicies>>>,
    stop: CancellationToken,
}

/// The manager has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the manager has ended")]
pub struct Ended;

impl Manager {
    /// Builds a manager from what an earlier run left; nothing is written or asked yet.
    #[must_use]
    pub fn new(config: Config, stop: CancellationToken) -> (Self, ManagerHandle, Arc<Hooks>) {
        let Loaded { book, problems } = config.ledger.load();
        for problem in &problems {
            tracing::warn!(%problem, "the saved placement state is unusable; learning it from the runtime");
        }
        let (sender, events) = mpsc::channel(config.mailbox.max(2));
        let (writer, durable) = Writer::new(config.ledger);
        let (snapshot_out, snapshots) = watch::channel(Arc::new(Snapshot::empty(
            config.policy.name(),
            Arc::clone(&config.topology),
        )));
        let poll = Arc::new(tokio::sync::Notify::new());
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
        let export = config.export.map(|base| {
            Arc::new(Exports::new(
                base,
                config.topology.isolated,
                config.resources_file,
            ))
        });
        let owner = Owner::new(
            owner::Parts {
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
                export: export.clone(),
            },
            book.unwrap_or_default(),
            config.reset_policy,
        );
        let hooks = Arc::new(Hooks::new(handle.clone(), export));
        let manager = Self {
            owner,
            events,
            writer,
            poller,
        };
        (manager, handle, hooks)
    }

    /// What another policy would change for what an earlier run left in the ledger; nothing is written.
    ///
    /// # Errors
    /// Why it would not be taken over.
    pub async fn outlook(&mut self, policy: Arc<dyn Policy>) -> Result<Outlook, NotTaken> {
        self.owner.reconfigure(policy, true).await
    }

    /// Builds a manager and runs it on the current Tokio runtime.
    #[must_use]
    pub fn spawn(config: Config) -> (ManagerHandle, Arc<dyn Interceptor>) {
        let (manager, handle, hooks) = Self::new(config, CancellationToken::new());
        drop(tokio::spawn(manager.run()));
        (handle, hooks)
    }

    /// Runs until [`ManagerHandle::shutdown`] or the token given to [`Manager::new`]; the ledger is
    /// written last.
    pub async fn run(self) {
        let stop = self.poller.handle.stop.clone();
        let durable = self.poller.handle.durable.clone();
        let owner = self.owner.run(self.events, stop.clone());
        let poller = async {
            tokio::select! {
                () = self.poller.run() => {}
                () = stop.cancelled() => {}
            }
        };
        let writer = self.writer.run();
        tokio::pin!(writer);
        tokio::select! {
            ((), ()) = futures::future::join(owner, poller) => {}
            () = &mut writer => return,
        }
        // What the owner handed over last goes to disk before we leave.
        tokio::select! {
            () = writer => {}
            _saved_or_not = tokio::time::timeout(Duration::from_secs(2), durable.flushed()) => {}
        }
    }
}

impl ManagerHandle {
    /// What is placed where, as of the last change.
    #[must_use]
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.snapshots.borrow().clone()
    }

    /// Snapshots as they come.
    #[must_use]
    pub fn snapshots(&self) -> watch::Receiver<Arc<Snapshot>> {
        self.snapshots.clone()
    }

    /// The decisions about a container (by id, a unique prefix of it, or its name), the latest last.
    #[must_use]
    pub fn explain(&self, container: &str) -> Option<Vec<Note>> {
        let snapshot = self.snapshot();
        snapshot.find(container).map(|entry| entry.history.clone())
    }

    /// Waits until the runtime has been asked once what runs, and all of it is placed.
    ///
    /// # Errors
    /// When the manager ends before.
    pub async fn synced(&self) -> Result<(), Ended> {
        let mut snapshots = self.snapshots.clone();
        snapshots
            .wait_for(|snapshot| snapshot.synced)
            .await
            .map(|_snapshot| ())
            .map_err(|_closed| Ended)
    }

    /// Replaces the policy (or its configuration) and re-places all, or changes nothing. Containers that
    /// run unplaced already do not stand in the way.
    ///
    /// # Errors
    /// Why not: every container without a place, and the reason.
    pub async fn reconfigure(&self, policy: Arc<dyn Policy>) -> Result<Outlook, NotTaken> {
        self.switch(policy, false).await
    }

    /// What [`ManagerHandle::reconfigure`] would do now; nothing changes.
    ///
    /// # Errors
    /// Why it would not be taken over.
    pub async fn outlook(&self, policy: Arc<dyn Policy>) -> Result<Outlook, NotTaken> {
        self.switch(policy, true).await
    }

    async fn switch(&self, policy: Arc<dyn Policy>, dry: bool) -> Result<Outlook, NotTaken> {
        self.ask(|reply| Event::Reconfigure { policy, dry, reply })
            .await
            .map_err(|Ended| NotTaken::Ended)?
    }

    /// From now on: what happens to a container the policy does not place, and how long the policy may
    /// think.
    pub async fn set_limits(&self, fail: FailPolicies, timeout: Duration) {
        let shared = Arc::new(fail.clone());
        *self.fail.write().unwrap_or_else(PoisonError::into_inner) = shared;
        self.tell(Event::Limits { fail, timeout }).await;
    }

    /// CPUs came or went: re-places what is no longer legal.
    ///
    /// # Errors
    /// Why not, for people. The new topology is kept all the same: it is the truth.
    pub async fn set_topology(&self, topology: Arc<Topology>) -> Result<(), String> {
        self.ask(|reply| Event::Topology { topology, reply })
            .await
            .map_err(|ended| ended.to_string())?
    }

    /// Hands over what the scheduler did.
    pub async fn set_measured(&self, measured: Arc<Measured>) {
        // A manager that has ended needs no measurements.
        drop(self.events.send(Event::Measured(measured)).await);
    }

    /// Gives every container back to the runtime's own last request, and places none from now on.
    ///
    /// # Errors
    /// When the manager has ended.
    pub async fn restore(&self) -> Result<Report, Ended> {
        self.ask(|reply| Event::Restore { reply }).await
    }

    /// Ends the manager: containers stay where they are.
    pub fn shutdown(&self) {
        self.stop.cancel();
    }

    /// Places a container that is about to be created. Returns when the placement is on disk and the
    /// others have made room.
    ///
    /// # Errors
    /// [`Denied`] when it must not be created.
    pub async fn reserve(&self, ask: Ask) -> Result<Ticket, Denied> {
        let permit = self
            .events
            .clone()
            .reserve_owned()
            .await
            .map_err(|_closed| Denied::ended())?;
        let mut ticket = Ticket::new(ask.request.id.clone(), permit);
        let fail = Arc::clone(&self.fail.read().unwrap_or_else(PoisonError::into_inner));
        let choice = fail.choose(&ask.request.pod.namespace, ask.request.qos);
        let mut reserved = self.try_reserve(&ask, Round::First).await?;
        if reserved.is_none() {
            // What the policy counts may have ended a moment ago: a kubelet creates the next container as
            // soon as it has seen the one before exit, and does not always ask us for a list in between.
            self.look().await;
            reserved = self.try_reserve(&ask, Round::Last).await?;
        }
        let reserved = reserved.ok_or_else(Denied::ended)?;
        let generation = reserved.generation;
        ticket.hold(reserved);
        match self.durable.wait(generation).await {
            Ok(()) => Ok(ticket),
            Err(problem) if choice == OnFailure::Pass => {
                tracing::error!(
                    problem,
                    "created although its placement could not be saved, as the fail policy says"
                );
                Ok(ticket)
            }
            Err(problem) => {
                ticket.abort();
                Err(Denied::unsaved(&problem))
            }
        }
    }

    async fn try_reserve(&self, ask: &Ask, round: Round) -> Result<Option<Reserved>, Denied> {
        self.ask(|reply| Event::Reserve {
            ask: Box::new(ask.clone()),
            round,
            reply,
        })
        .await
        .map_err(|_ended| Denied::ended())?
    }

    /// Has the runtime say what runs, and the owner release what does not.
    async fn look(&self) {
        match self.runtime.list().await {
            Ok(listing) => {
                let unknown = Vec::new();
                self.tell(Event::Listed { listing, unknown }).await;
            }
            Err(error) => tracing::debug!(%error, "refused on what is known"),
        }
    }

    async fn ask<T>(&self, event: impl FnOnce(oneshot::Sender<T>) -> Event) -> Result<T, Ended> {
        let (reply, answer) = oneshot::channel();
        self.events
            .send(event(reply))
            .await
            .map_err(|_closed| Ended)?;
        answer.await.map_err(|_dropped| Ended)
    }

    async fn tell(&self, event: Event) {
        // A manager that has ended learns the rest from the runtime when it starts again.
        drop(self.events.send(event).await);
    }

    fn knows(&self, id: &str) -> bool {
        self.snapshot()
            .entries
            .contains_key(&ContainerId(id.into()))
    }
}
