//! What the manager asks the container runtime.

use super::{answer::ContainerSpec, containers::Stage};
use crate::enforce::CgroupSettings;
use async_trait::async_trait;
use std::{fmt, sync::Arc};
use tokio::{sync::mpsc, time::Instant};

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
    /// When it was asked for: containers that were created later may be missing.
    pub requested_at: Instant,
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
    async fn learn(&self, container: &Listed) -> Result<ContainerSpec, RuntimeError>;

    /// Has the runtime itself change a container that has not started yet.
    async fn update(&self, id: &str, settings: &CgroupSettings) -> Result<(), RuntimeError>;

    /// Sends the ids of containers (and of pods) as they end. Returns when it cannot, or can no longer.
    async fn exit_events(&self, exits: mpsc::Sender<Arc<str>>) -> ExitEventsUnavailable;
}

/// Why the runtime sends no (more) exit events.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ExitEventsUnavailable {
    /// It does not send them, or not to several listeners; the list has to do.
    NotOffered,
    /// It went away, or broke the stream off.
    Broken(RuntimeError),
}
