//! The wanted state on disk. The only module that writes the state file.
//!
//! One file, replaced whole: written beside, fsynced, renamed, directory fsynced; the one before is kept.
//! It holds who sits where, what the runtime itself last asked for (so that everything can be given
//! back), and why. No environment, no command, no annotation that does not concern placement.
//!
//! A torn, foreign or newer file is a warning and a fresh start: the runtime and the kernel know the rest.

mod file;
mod writer;

pub use file::{Ledger, LedgerError, Loaded};
pub use writer::{Durable, Health, Writer};

use crate::enforce::Wanted;
use resmgr_policy::{ContainerId, Explanation, Placement, Request};
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, sync::Arc};

/// How many explanations are kept of one container.
pub const MAX_HISTORY: usize = 8;

/// All that is remembered.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Book {
    /// Name of the policy that decided.
    pub policy: String,
    /// The next arrival number.
    pub next_arrival: u64,
    /// By container.
    pub entries: BTreeMap<ContainerId, Arc<Entry>>,
}

/// How far a container has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stage {
    /// The runtime was asked to create it, or is about to be; its id is a provisional one.
    Reserved,
    /// The runtime has it; it may not run yet.
    #[default]
    Created,
    /// It was started.
    Running,
}

/// One container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// What it asked for.
    pub request: Request,
    /// What it was given; `None` for a container passed through unplaced.
    pub placement: Option<Placement>,
    /// Why it is unplaced.
    #[serde(default)]
    pub unplaced: Option<String>,
    /// Order of arrival.
    pub arrival: u64,
    /// How far it has come.
    pub stage: Stage,
    /// What the runtime itself last asked for: what it would have without us.
    pub asked: Wanted,
    /// Its pod's cgroup parent.
    pub cgroup_parent: String,
    /// How often it was created in its pod (`ContainerMetadata.attempt`).
    #[serde(default)]
    pub attempt: u32,
    /// Decisions about it, the latest last.
    #[serde(default)]
    pub history: Vec<Note>,
}

/// One decision about a container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Note {
    /// Seconds since 1970.
    pub at_unix_s: u64,
    /// The CPUs it was given.
    pub cpus: resmgr_topology::CpuSet,
    /// Why.
    pub why: Explanation,
}

impl Entry {
    /// Adds a decision, forgetting the oldest beyond [`MAX_HISTORY`].
    pub fn note(&mut self, note: Note) {
        self.history.push(note);
        let extra = self.history.len().saturating_sub(MAX_HISTORY);
        self.history.drain(..extra);
    }
}

/// An error with its causes, on one line.
fn file_problem(error: &LedgerError) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}
