//! Moving what already runs: one move at a time, only for more than it costs, checked afterwards and
//! undone when it did not help.
//!
//! Pure: what has to be remembered is a [`RebalanceMemory`] in the state. Without usable measurements
//! nothing moves.
//!
//! ```text
//!            candidates, budget, cool-down            helped
//!   settled ───────────────────────────────▶ trial ──────────▶ settled, container rests
//!                                              │ did not help
//!                                              └──────────────▶ undone, container rests long
//! ```

mod cost;
mod judge;
mod memory;
mod propose;

pub(crate) use cost::{LLC_MIGRATION_US, NODE_MIGRATION_US, PACKAGE_MIGRATION_US};
pub use memory::{Judged, Moved, Outcome, Part, RebalanceMemory, Wandered, What};

use crate::{
    annotation::wants_rebalance,
    condition::usable,
    contention::CONFIDENT,
    decision::{Change, Decision, View},
    measured::Observed,
    request::{ContainerId, Request},
};
use alloc::{string::String, vec::Vec};
use resmgr_topology::CpuSet;

const SECOND_NS: u64 = 1_000_000_000;
/// A move is judged this long after it was made at the latest: two half-lives of the measurements. This
/// and the rests are for the standard [half-life](crate::HALF_LIFE); with another one they grow or shrink alike.
pub const VERIFY_NS: u64 = 20 * SECOND_NS;
/// From here on, one half-life, a move that has already won what it must is kept.
pub const VERIFY_FROM_NS: u64 = 10 * SECOND_NS;
/// A move against migrations that did end them, while there is more waiting than before, is watched so
/// long: other work on the machine comes and goes, what the move does stays.
pub const VERIFY_WAITING_NS: u64 = 60 * SECOND_NS;
/// A container that was moved rests.
pub const REST_NS: u64 = 300 * SECOND_NS;
/// A container whose move was undone rests longer.
pub const REST_UNDONE_NS: u64 = 3600 * SECOND_NS;
/// Moves a minute, over all containers.
pub const BUDGET_PER_MINUTE: usize = 6;
/// A gain below this (nanoseconds per second) is noise.
pub(crate) const MIN_GAIN_NS: u64 = 5_000_000;

/// A move a policy proposes.
#[derive(Clone, Debug)]
pub(crate) struct Proposal {
    pub(crate) parts: Vec<Part>,
    /// Who else is to win by it; judged too.
    pub(crate) watched: Vec<ContainerId>,
    pub(crate) reason: &'static str,
    pub(crate) gain_ns_per_s: u64,
    pub(crate) wins: Wins,
    pub(crate) why: Vec<String>,
    /// The choices it was made from, best first.
    pub(crate) candidates: Vec<String>,
}

/// What a move is to win, and is therefore judged by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wins {
    /// Less of all that is lost: waiting, cache refill, foreigners.
    Time,
    /// Less cache refill after far migrations. What it promises is small beside the noise of waiting, which
    /// therefore gets longer to show that it is not worse.
    Refill,
    /// Nothing but order: a loan that is no longer needed goes back. Kept unless it hurts.
    Order,
}

/// What a policy must know for its containers to be moved.
pub(crate) trait Movable {
    /// Moves that would help, by the measurements.
    fn proposals(&self, view: View<'_>) -> Vec<Proposal>;
    /// Everybody's new placement when the parts are carried out, where `lent` holds what pools borrow
    /// then; `None` when that is not possible or changes nothing.
    fn carried_out(
        &self,
        view: View<'_>,
        parts: &[Part],
        memory: &RebalanceMemory,
    ) -> Option<Vec<Change>>;
}

/// Whether a container may be moved at all, and what was seen of it.
pub(crate) fn movable<'a>(
    view: View<'a>,
    id: &ContainerId,
    request: &Request,
) -> Option<&'a Observed> {
    confident(view, id).filter(|_| wants_rebalance(request) != Some(false))
}

/// What was seen of a container, if it was seen for long enough.
pub(crate) fn confident<'a>(view: View<'a>, id: &ContainerId) -> Option<&'a Observed> {
    let seen = view.measured.containers.get(id);
    seen.filter(|seen| seen.confidence.0 >= CONFIDENT)
}

/// The next step: judge the last move, or make one.
pub(crate) fn rebalance(policy: &impl Movable, view: View<'_>) -> Option<Decision> {
    if !usable(view) || view.measured.containers.is_empty() {
        return None;
    }
    match view.state.rebalance.trial() {
        Some(trial) => judge::judge(policy, view, trial),
        None => propose::propose(policy, view),
    }
}

/// A list of CPUs, or `fallback` for none.
pub(crate) fn or<'a>(cpus: Option<&CpuSet>, fallback: &'a str) -> alloc::borrow::Cow<'a, str> {
    match cpus {
        Some(cpus) if !cpus.is_empty() => alloc::format!("{cpus}").into(),
        _ => fallback.into(),
    }
}

impl Part {
    /// For people: what changes from where to where.
    pub(crate) fn line(&self) -> String {
        let (from, to) = (self.from.as_ref(), self.to.as_ref());
        match &self.what {
            What::Span => alloc::format!(
                "from {} to {}",
                or(from, "all of its pool"),
                or(to, "all of its pool")
            ),
            What::Exclusive => alloc::format!(
                "exclusive CPUs from {} to {}",
                or(from, "none"),
                or(to, "none")
            ),
            What::Pool(name) => alloc::format!(
                "pool {name} borrows {} instead of {}",
                or(to, "nothing"),
                or(from, "nothing")
            ),
        }
    }
}

impl Decision {
    /// The same without its move: it is only remembered, and explained, as what would have been done.
    /// The end of a trial, its undoing included, is no new move and stays.
    #[must_use]
    pub fn shadow(mut self) -> Self {
        let Some(memory) = &mut self.memory else {
            self.changes.clear();
            return self;
        };
        let Some(trial) = memory.trial().cloned() else {
            return self;
        };
        for part in &trial.parts {
            if let What::Pool(name) = &part.what {
                memory.lend(name, part.from);
            }
        }
        memory.settle(Outcome::Shadow, None);
        for change in core::mem::take(&mut self.changes) {
            if let Some(mut why) = change.explanation {
                why.summary = alloc::format!("shadow, not done: {}", why.summary);
                self.notes.push((change.id, why));
            }
        }
        self
    }
}
