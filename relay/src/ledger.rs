//! The wanted state on disk. The only module that writes the state files.
//!
//! Each is replaced whole: written beside, fsynced, renamed, directory fsynced; the one before is kept.
//! The ledger holds who sits where, what the runtime itself last asked for (so that everything can be given
//! back), and why. No environment and no annotation that does not concern placement; of a command line only
//! the options of `cmk isolate`.
//!
//! A torn, foreign or newer file is a warning and a fresh start: the runtime and the kernel know the rest.

mod file;
mod kept;
mod writer;

pub use file::{LedgerError, Loaded, Record, StateFile};
pub use kept::{LastGood, Marks};
pub use writer::{Durable, Health, Writer};

use crate::enforce::Wanted;
use resmgr_policy::{
    Annotated, Basis, ContainerId, CriResources, Explanation, Placement, RebalanceMemory, Request,
    Source,
};
use resmgr_topology::Nanos;
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, sync::Arc};

/// How many explanations are kept of one container: the first, which placed it, and the last ones.
pub const MAX_HISTORY: usize = 16;

/// The file of a [`Book`].
pub type Ledger = StateFile<Book>;

impl Record for Book {
    const NAME: &'static str = "ledger";
    const MAGIC: &'static str = "cri-resmgr-ledger";
}

/// All that is remembered.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Book {
    /// Name of the policy that decided.
    pub policy: String,
    /// The next arrival number.
    pub next_arrival: u64,
    /// By container.
    pub entries: BTreeMap<ContainerId, Arc<Entry>>,
    /// What rebalancing has to remember.
    #[serde(default)]
    pub rebalance: RebalanceMemory,
    /// When this was handed over (`CLOCK_MONOTONIC`): a clock behind it was set to zero by a reboot.
    #[serde(default)]
    pub saved_at: Nanos,
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
    /// What its requirements are worked out from. Earlier versions did not keep it.
    #[serde(default)]
    pub basis: Basis,
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
    /// Fills in what an earlier version did not keep, from what it did.
    pub fn complete(&mut self) {
        if self.basis != Basis::default() {
            return;
        }
        let requirements = &self.request.requirements;
        let signed = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
        let quota = self.asked.cpu_quota.unwrap_or_default();
        let limit = requirements.cpu_limit.unwrap_or_default().0;
        self.basis.shown = CriResources {
            cpu_shares: signed(self.asked.cpu_shares.unwrap_or_default()),
            cpu_quota: quota,
            cpu_period: match limit {
                0 => 100_000,
                limit => quota.saturating_mul(1000) / i64::from(limit),
            },
            memory_limit_bytes: signed(requirements.memory_limit_bytes.unwrap_or_default()),
            oom_score_adj: 0,
        };
        self.basis.annotated = (requirements.source == Source::Annotation).then(|| Annotated {
            cpu_request: Some(requirements.cpu_request),
            cpu_limit: requirements.cpu_limit,
            memory_request_bytes: requirements.memory_request_bytes,
            memory_limit_bytes: requirements.memory_limit_bytes,
            extended: requirements.extended.clone(),
        });
    }

    /// Adds a decision; beyond [`MAX_HISTORY`] the oldest but the first is forgotten.
    pub fn note(&mut self, note: Note) {
        self.history.push(note);
        let extra = self.history.len().saturating_sub(MAX_HISTORY);
        self.history.drain(1..=extra);
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
