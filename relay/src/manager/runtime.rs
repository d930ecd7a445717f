//! What the manager asks the container runtime, and the task that asks.

use super::{Ask, ManagerHandle, event::Event};
use crate::enforce::Wanted;
use async_trait::async_trait;
use std::{fmt, sync::Arc, time::Duration, time::Instant};

pub use crate::ledger::Stage;

/// One live container in the runtime's list. Exited ones are left out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// The runtime's id.
    pub id: Arc<str>,
    /// Its pod sandbox.
    pub sandbox: Arc<str>,
    /// Its name in the pod.
    pub name: Arc<str>,
    /// How often it was created in its pod.
    pub attempt: u32,
    /// [`Stage::Created`] or [`Stage::Running`].
    pub stage: Stage,
}

/// The runtime's list of live containers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listing {
    /// The containers.
    pub containers: Vec<Listed>,
    /// When it was asked for: what was created later may be missing.
    pub asked_at: Instant,
}

/// Why the runtime could not be asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("cannot {operation}: {problem}")]
pub struct RuntimeError {
    /// What was asked.
    pub operation: &'static str,
    /// The status or the broken connection.
    pub problem: String,
}

/// The runtime as the manager needs it. Every method has a deadline of its own.
#[async_trait]
pub trait Runtime: fmt::Debug + Send + Sync + 'static {
    /// Lists what is created or runs.
    async fn list(&self) -> Result<Listing, RuntimeError>;

    /// Learns all about a container we did not see being created. Its request's id is the runtime's.
    async fn learn(&self, container: &Listed) -> Result<Ask, RuntimeError>;

    /// Has the runtime itself change a container that has not started yet.
    async fn update(&self, id: &str, wanted: &Wanted) -> Result<(), RuntimeError>;
}

/// Asks the runtime what runs: at start, every interval, and when poked.
#[derive(Debug)]
pub(super) struct Poller {
    pub(super) runtime: Arc<dyn Runtime>,
    pub(super) interval: Duration,
    pub(super) poll: Arc<tokio::sync::Notify>,
    pub(super) handle: ManagerHandle,
}

impl Poller {
    pub(super) async fn run(&self) {
        let mut well = true;
        loop {
            match self.runtime.list().await {
                Ok(listing) => {
                    if !well {
                        tracing::info!("the runtime answers again");
                    }
                    well = true;
                    self.report(listing).await;
                }
                Err(error) => {
                    if well {
                        tracing::warn!(%error, "the runtime does not say what runs; trying again");
                    }
                    well = false;
                }
            }
            tokio::select! {
                () = tokio::time::sleep(self.interval) => {}
                () = self.poll.notified() => {}
            }
        }
    }

    async fn report(&self, listing: Listing) {
        let mut unknown = Vec::new();
        for container in &listing.containers {
            if self.handle.knows(&container.id) {
                continue;
            }
            match self.runtime.learn(container).await {
                Ok(ask) => unknown.push(ask),
                // It may have ended between the list and the question; else the next list has it again.
                Err(error) => tracing::debug!(%error, container = %container.id, "not learnt"),
            }
        }
        self.handle.tell(Event::Listed { listing, unknown }).await;
    }
}
