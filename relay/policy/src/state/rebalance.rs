//! What rebalancing has to remember from one round to the next.

use super::workloads::WorkloadHistory;
use crate::{cpu_list::listed_or, request::ContainerId};
use alloc::{
    collections::{BTreeMap, VecDeque},
    string::String,
    sync::Arc,
    vec::Vec,
};
use core::fmt;
use derive_more::Display;
use resmgr_topology::{CpuSet, Nanos};
use serde::{Deserialize, Serialize};

/// Records of moves kept.
const HISTORY: usize = 64;

/// What came of a move.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// Not judged yet.
    Trial,
    /// It helped and stays.
    Kept,
    /// It did not help and was taken back.
    Undone,
    /// Its containers, or those that were to win by it, ended before it could be judged: it stays.
    Ended,
    /// Only shown, never made.
    Shadow,
}

impl Outcome {
    /// The word for it.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Trial => "trial",
            Self::Kept => "kept",
            Self::Undone => "undone",
            Self::Ended => "ended",
            Self::Shadow => "shadow",
        }
    }
}

/// What a move is to win, and is therefore judged by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Benefit {
    /// Less of all that is lost: waiting, cache refill, time of intruders.
    Time,
    /// Less cache refill after far migrations. What it promises is small beside the noise of waiting, of which is
    /// asked only that it does not grow beyond that noise.
    Refill,
    /// Nothing but order: a loan that is no longer needed goes back. Kept unless it harms.
    Order,
}

/// What of a container, or of its pool, a move changes.
#[derive(Clone, Debug, Display, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MoveKind {
    /// The CPUs its shared part is confined to, or its shared list. Written down as `span`.
    #[display("span")]
    #[serde(rename = "span")]
    Domain,
    /// The CPUs it holds exclusively. Only of pods that asked for it.
    #[display("exclusive CPUs")]
    Exclusive,
    /// The CPUs its pool borrows of another one.
    #[display("pool {_0}")]
    Pool(Arc<str>),
}

/// One change of a move.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MoveStep {
    /// The container; of a pool the member that waits most.
    pub id: ContainerId,
    /// What of it is changed.
    #[serde(rename = "what")]
    pub kind: MoveKind,
    /// CPUs before; `None`: not confined, nothing borrowed.
    pub from: Option<CpuSet>,
    /// CPUs after.
    pub to: Option<CpuSet>,
}

/// What a container by which a move is judged lost before the move.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Baseline {
    /// The container.
    pub id: ContainerId,
    /// Time it lost per second (waiting, refilling caches, intruders on its CPUs), nanoseconds.
    pub lost_ns_per_s: u64,
    /// CPU time it used per second, thousandths of a CPU; 0: not known.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub utilisation_mcpu: u32,
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde passes a reference"
)]
fn is_zero(value: &u32) -> bool {
    *value == 0
}

/// What was won in the rounds since a move, and what the machine did to all meanwhile, as samples: sums of them.
/// Microseconds per second.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SampleSeries {
    /// Samples.
    pub count: u32,
    /// Sum of what was won.
    pub won: i64,
    /// Sum of its squares.
    pub won_squares: i64,
    /// Sum of what the machine is thought to have cost.
    pub common: i64,
    /// The averages that the last sample was taken from: won, and what the machine cost.
    pub averages: (i64, i64),
}

/// What was seen of a move since it was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MoveEvidence {
    /// Time of the measurements of the last round (`CLOCK_MONOTONIC`).
    pub at: Nanos,
    /// How many containers these were about.
    pub containers: u32,
    /// Won of what it promised; for [`Benefit::Refill`] cache refill alone.
    pub won: SampleSeries,
    /// For [`Benefit::Refill`]: won of the waiting of all that it touched; negative where they wait more.
    pub waits: SampleSeries,
}

/// What a container was like before a move against its migrations.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MigrationBaseline {
    /// Time per second to refill caches after far migrations, nanoseconds.
    pub refill_ns_per_s: u64,
    /// Time per second it waited, nanoseconds.
    pub wait_ns_per_s: u64,
}

/// A move that was made, or would have been.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RebalanceMove {
    /// The container it is about: that of the first step.
    pub id: ContainerId,
    /// When (`CLOCK_MONOTONIC`).
    pub at: Nanos,
    /// Short name of the reason: `migrations`, `contention`, `parting`, `foreign`, `starving`, `idle`.
    pub reason: String,
    /// What it changed; two steps for a pair that is separated.
    #[serde(rename = "parts")]
    pub steps: Vec<MoveStep>,
    /// The containers by which it is judged.
    #[serde(rename = "judged")]
    pub baselines: Vec<Baseline>,
    /// What they lost per second together before the move, nanoseconds.
    pub lost_ns_per_s: u64,
    /// Of that, what the move promised to win back.
    pub promised_ns_per_s: u64,
    /// What it costs, spread over the time in which it must pay, nanoseconds per second.
    pub cost_ns_per_s: u64,
    /// What it won; negative when it got worse. `None` while it is not judged, or could not be.
    pub seen_ns_per_s: Option<i64>,
    /// What came of it.
    pub outcome: Outcome,
    /// How many containers had ever come by then: one that comes while it is watched spoils the comparison.
    #[serde(default)]
    pub arrivals: u64,
    /// Of a move against migrations: the container before. Such a move is judged by this, other moves by the
    /// time lost.
    #[serde(default, rename = "wandered")]
    pub migrations_before: Option<MigrationBaseline>,
    /// Containers on whose CPUs it changed the load, where it left and where it came: what they lose by it is taken
    /// off what it wins. Only while it is watched.
    #[serde(default)]
    pub neighbours: Vec<Baseline>,
    /// Containers on whose CPUs it did not: what they lose more or less meanwhile is not the move's doing. Only while
    /// it is watched.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub comparison: Vec<Baseline>,
    /// What was seen of it. Only while it is watched.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub evidence: Option<MoveEvidence>,
}

/// What rebalancing has to remember.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct RebalanceMemory {
    /// Containers that must not be moved before this time.
    #[serde(rename = "rests_until")]
    pub cooldown_until: BTreeMap<ContainerId, Nanos>,
    /// Pools that must not grow or shrink before this time.
    #[serde(rename = "pools_rest_until")]
    pub pool_cooldown_until: BTreeMap<Arc<str>, Nanos>,
    /// CPUs a pool borrows of another, by the borrower's name.
    #[serde(rename = "lent")]
    pub loans: BTreeMap<Arc<str>, CpuSet>,
    /// The last moves, oldest first; a trial is always the last one.
    pub history: VecDeque<RebalanceMove>,
    /// What is known of containers that came before.
    pub workloads: Arc<WorkloadHistory>,
}

impl RebalanceMemory {
    /// The move that is being watched, if one is.
    #[must_use]
    pub fn trial(&self) -> Option<&RebalanceMove> {
        let last = self.history.back();
        last.filter(|last| last.outcome == Outcome::Trial)
    }

    pub(crate) fn record_outcome(&mut self, outcome: Outcome, seen: Option<i64>) {
        if let Some(last) = self.history.back_mut() {
            last.outcome = outcome;
            last.seen_ns_per_s = seen;
            last.neighbours = Vec::new();
            last.comparison = Vec::new();
            last.evidence = None;
        }
    }

    pub(crate) fn set_evidence(&mut self, evidence: Option<MoveEvidence>) {
        if let Some(last) = self.history.back_mut() {
            last.evidence = evidence;
        }
    }

    pub(crate) fn add(&mut self, moved: RebalanceMove) {
        self.history.push_back(moved);
        while self.history.len() > HISTORY {
            self.history.pop_front();
        }
    }

    pub(crate) fn cool_down(&mut self, step: &MoveStep, until: Nanos) {
        match &step.kind {
            MoveKind::Pool(name) => self.pool_cooldown_until.insert(name.clone(), until),
            MoveKind::Domain | MoveKind::Exclusive => {
                self.cooldown_until.insert(step.id.clone(), until)
            }
        };
    }

    pub(crate) fn is_cooling_down(&self, step: &MoveStep, now: Nanos) -> bool {
        let until = match &step.kind {
            MoveKind::Pool(name) => self.pool_cooldown_until.get(name),
            MoveKind::Domain | MoveKind::Exclusive => self.cooldown_until.get(&step.id),
        };
        until.is_some_and(|until| now < *until)
    }

    /// What a pool borrows from now on.
    pub(crate) fn set_loan(&mut self, name: &Arc<str>, cpus: Option<CpuSet>) {
        match cpus.filter(|cpus| !cpus.is_empty()) {
            Some(cpus) => self.loans.insert(name.clone(), cpus),
            None => self.loans.remove(name),
        };
    }
}

impl fmt::Display for MoveStep {
    /// What changes from where to where.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (from, to) = (self.from.as_ref(), self.to.as_ref());
        match &self.kind {
            MoveKind::Domain => write!(
                f,
                "from {} to {}",
                listed_or(from, "all of its pool"),
                listed_or(to, "all of its pool")
            ),
            MoveKind::Exclusive => write!(
                f,
                "exclusive CPUs from {} to {}",
                listed_or(from, "none"),
                listed_or(to, "none")
            ),
            MoveKind::Pool(name) => write!(
                f,
                "pool {name} borrows {} instead of {}",
                listed_or(to, "nothing"),
                listed_or(from, "nothing")
            ),
        }
    }
}
