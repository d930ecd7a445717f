//! Moving what already runs: one at a time, only for more than it costs, checked afterwards and undone
//! when it did not help.
//!
//! Pure: what has to be remembered is a [`RebalanceMemory`] in the state. Without fresh measurements
//! nothing moves.
//!
//! ```text
//!            candidates, budget, cool-down            helped
//!   settled ───────────────────────────────▶ trial ──────────▶ settled, container rests
//!                                              │ did not help
//!                                              └──────────────▶ undone, container rests long
//! ```

use crate::{
    annotation::wants_rebalance,
    contention::{CONFIDENT, fresh},
    decision::{Change, Decision, Explanation, View},
    measured::Observed,
    request::{ContainerId, Request},
    slices::full_name,
    state::Placement,
};
use alloc::{
    collections::{BTreeMap, VecDeque},
    format,
    string::String,
    vec,
    vec::Vec,
};
use resmgr_topology::{CpuSet, Nanos};
use serde::{Deserialize, Serialize};

const SECOND_NS: u64 = 1_000_000_000;
/// A move is judged this long after it was made: several half-lives of the measurements.
pub const VERIFY_NS: u64 = 20 * SECOND_NS;
/// A container that was moved rests.
pub const REST_NS: u64 = 300 * SECOND_NS;
/// A container whose move was undone rests longer.
pub const REST_UNDONE_NS: u64 = 3600 * SECOND_NS;
/// Moves a minute, over all containers.
pub const BUDGET_PER_MINUTE: usize = 6;
/// A gain below this (nanoseconds per second) is noise.
const MIN_GAIN_NS: u64 = 5_000_000;
/// What moving memory costs is to be won back within this time.
const PAYBACK_S: u64 = 60;
/// Copying memory between nodes, bytes per nanosecond.
const COPY_BYTES_PER_NS: u64 = 4;
/// Records of moves kept.
const HISTORY: usize = 64;
/// Warming the caches again after a migration to another package, nanoseconds (estimate).
const PACKAGE_MIGRATION_NS: u64 = 100_000;
/// The same between nodes of a package.
const NODE_MIGRATION_NS: u64 = 50_000;

/// What came of a move.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// Not judged yet.
    Trial,
    /// It helped and stays.
    Kept,
    /// It did not help and was taken back.
    Undone,
    /// Its container ended before it could be judged.
    Ended,
    /// Only shown, never made.
    Shadow,
}

/// A move that was made, or would have been.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Moved {
    /// Who.
    pub id: ContainerId,
    /// When (`CLOCK_MONOTONIC`).
    pub at: Nanos,
    /// CPUs it was confined to, or its list, before.
    pub from: Option<CpuSet>,
    /// And after.
    pub to: Option<CpuSet>,
    /// Short name of the reason: `migrations`, `contention`.
    pub reason: String,
    /// Time lost per second (waiting, refilling caches) before the move, nanoseconds.
    pub lost_ns_per_s: u64,
    /// Of that, what the move promised to win back.
    pub promised_ns_per_s: u64,
    /// What it won; negative when it got worse.
    pub seen_ns_per_s: Option<i64>,
    /// What came of it.
    pub outcome: Outcome,
}

/// What rebalancing has to remember.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RebalanceMemory {
    /// Containers that must not be moved before this time.
    #[serde(default)]
    pub rests_until: BTreeMap<ContainerId, Nanos>,
    /// The last moves, oldest first; a trial is always the last one.
    #[serde(default)]
    pub history: VecDeque<Moved>,
}

/// A move a policy proposes.
#[derive(Clone, Debug)]
pub(crate) struct Proposal {
    pub(crate) id: ContainerId,
    pub(crate) to: Option<CpuSet>,
    pub(crate) reason: &'static str,
    pub(crate) gain_ns_per_s: u64,
    pub(crate) why: Vec<String>,
}

/// What a policy must know for its containers to be moved.
pub(crate) trait Movable {
    /// Moves that would help, by the measurements.
    fn proposals(&self, view: View<'_>) -> Vec<Proposal>;
    /// Where the container is confined now.
    fn span(&self, placement: &Placement) -> Option<CpuSet>;
    /// Its placement when it is confined to `to`; `None` when that is not possible or changes nothing.
    fn confined(&self, view: View<'_>, id: &ContainerId, to: Option<CpuSet>) -> Option<Placement>;
}

/// Time lost per second: waiting for CPUs and refilling caches after far migrations.
pub(crate) fn lost_ns_per_s(seen: &Observed) -> u64 {
    let package = seen
        .package_migrations_milli_per_s
        .saturating_mul(PACKAGE_MIGRATION_NS / 1000);
    let node = seen
        .node_migrations_milli_per_s
        .saturating_mul(NODE_MIGRATION_NS / 1000);
    seen.wait_ns_per_s
        .saturating_add(package)
        .saturating_add(node)
}

/// Whether a container may be moved at all, and what was seen of it.
pub(crate) fn movable<'a>(
    view: View<'a>,
    id: &ContainerId,
    request: &Request,
) -> Option<&'a Observed> {
    let seen = view.measured.containers.get(id)?;
    (seen.confidence.0 >= CONFIDENT && wants_rebalance(request) != Some(false)).then_some(seen)
}

/// The next step: judge the last move, or make one.
pub(crate) fn rebalance(policy: &impl Movable, view: View<'_>) -> Option<Decision> {
    if !fresh(view) || view.measured.containers.is_empty() {
        return None;
    }
    let memory = &view.state.rebalance;
    match memory
        .history
        .back()
        .filter(|last| last.outcome == Outcome::Trial)
    {
        Some(trial) => judge(policy, view, trial),
        None => propose(policy, view),
    }
}

fn judge(policy: &impl Movable, view: View<'_>, trial: &Moved) -> Option<Decision> {
    let mut memory = view.state.rebalance.clone();
    let since = view.now.0.saturating_sub(trial.at.0);
    let Some(container) = view.state.containers.get(&trial.id) else {
        memory.settle(Outcome::Ended, None);
        memory.rests_until.remove(&trial.id);
        return Some(Decision {
            memory: Some(memory),
            ..Decision::default()
        });
    };
    if since < VERIFY_NS {
        return None;
    }
    let Some(seen) = movable(view, &trial.id, &container.request) else {
        // Too little is known of it: what cannot be judged in a while stays, so that others get their turn.
        if since > 10 * VERIFY_NS {
            memory.settle(Outcome::Kept, None);
            return Some(Decision {
                memory: Some(memory),
                ..Decision::default()
            });
        }
        return None;
    };
    let signed = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
    let won = signed(trial.lost_ns_per_s) - signed(lost_ns_per_s(seen));
    if won >= signed(trial.promised_ns_per_s / 2) {
        memory.settle(Outcome::Kept, Some(won));
        memory.rest(view, &trial.id, REST_NS);
        return Some(Decision {
            memory: Some(memory),
            ..Decision::default()
        });
    }
    memory.settle(Outcome::Undone, Some(won));
    memory.rest(view, &trial.id, REST_UNDONE_NS);
    let back = policy.confined(view, &trial.id, trial.from);
    let explanation = Explanation {
        summary: format!(
            "{}: move undone, it did not help",
            full_name(&container.request)
        ),
        reasons: vec![format!(
            "promised {} µs/s less waiting and cache refill, seen {} µs/s after {} s; not tried again for {} s",
            trial.promised_ns_per_s / 1000,
            won / 1000,
            since / SECOND_NS,
            REST_UNDONE_NS / SECOND_NS
        )],
        candidates: Vec::new(),
    };
    Some(Decision {
        released: Vec::new(),
        changes: back
            .map(|placement| Change {
                id: trial.id.clone(),
                request: None,
                placement,
                explanation: Some(explanation),
            })
            .into_iter()
            .collect(),
        memory: Some(memory),
    })
}

fn propose(policy: &impl Movable, view: View<'_>) -> Option<Decision> {
    let memory = &view.state.rebalance;
    let minute = view.now.0.saturating_sub(60 * SECOND_NS);
    let recent = memory.history.iter().filter(|one| one.at.0 > minute);
    if recent.count() >= BUDGET_PER_MINUTE {
        return None;
    }
    let rests = |id: &ContainerId| {
        memory
            .rests_until
            .get(id)
            .is_some_and(|until| view.now < *until)
    };
    let mut proposals = policy.proposals(view);
    proposals.retain(|one| {
        let cost = cost_ns_per_s(view, &one.id);
        !rests(&one.id) && one.gain_ns_per_s >= MIN_GAIN_NS && one.gain_ns_per_s > cost
    });
    proposals.sort_by(|a, b| b.gain_ns_per_s.cmp(&a.gain_ns_per_s).then(a.id.cmp(&b.id)));
    for best in proposals {
        let Some(container) = view.state.containers.get(&best.id) else {
            continue;
        };
        let Some(placement) = policy.confined(view, &best.id, best.to) else {
            continue;
        };
        let lost = view
            .measured
            .containers
            .get(&best.id)
            .map_or(0, lost_ns_per_s);
        let mut reasons = best.why;
        reasons.push(format!(
            "promises {} µs/s of {} µs/s lost to waiting and cache refill; moving its memory costs {} µs/s over {PAYBACK_S} s",
            best.gain_ns_per_s / 1000,
            lost / 1000,
            cost_ns_per_s(view, &best.id) / 1000
        ));
        reasons.push(format!(
            "judged after {} s, undone if less than half is won",
            VERIFY_NS / SECOND_NS
        ));
        let mut memory = memory.clone();
        memory
            .rests_until
            .retain(|id, until| view.now < *until && view.state.containers.contains_key(id));
        memory.rest(view, &best.id, REST_NS);
        memory.history.push_back(Moved {
            id: best.id.clone(),
            at: view.now,
            from: policy.span(&container.placement),
            to: best.to,
            reason: best.reason.into(),
            lost_ns_per_s: lost,
            promised_ns_per_s: best.gain_ns_per_s,
            seen_ns_per_s: None,
            outcome: Outcome::Trial,
        });
        while memory.history.len() > HISTORY {
            memory.history.pop_front();
        }
        let summary = format!(
            "{}: moved from CPUs {} to {} because of {}",
            full_name(&container.request),
            container.placement.cpus,
            placement.cpus,
            best.reason
        );
        return Some(Decision {
            released: Vec::new(),
            changes: vec![Change {
                id: best.id,
                request: None,
                placement,
                explanation: Some(Explanation {
                    summary,
                    reasons,
                    candidates: Vec::new(),
                }),
            }],
            memory: Some(memory),
        });
    }
    None
}

/// Copying the resident memory, spread over the time in which it must pay.
fn cost_ns_per_s(view: View<'_>, id: &ContainerId) -> u64 {
    let seen = view.measured.containers.get(id);
    seen.map_or(0, |seen| {
        seen.resident_bytes / COPY_BYTES_PER_NS / PAYBACK_S
    })
}

impl RebalanceMemory {
    fn settle(&mut self, outcome: Outcome, seen: Option<i64>) {
        if let Some(last) = self.history.back_mut() {
            last.outcome = outcome;
            last.seen_ns_per_s = seen;
        }
    }

    fn rest(&mut self, view: View<'_>, id: &ContainerId, rest_ns: u64) {
        let until = Nanos(view.now.0.saturating_add(rest_ns));
        self.rests_until.insert(id.clone(), until);
    }
}

impl Decision {
    /// The same without its moves: they are only remembered as what would have been done.
    #[must_use]
    pub fn shadow(mut self) -> Self {
        self.changes.clear();
        if let Some(memory) = &mut self.memory
            && memory
                .history
                .back()
                .is_some_and(|last| last.outcome == Outcome::Trial)
        {
            memory.settle(Outcome::Shadow, None);
        }
        self
    }
}
