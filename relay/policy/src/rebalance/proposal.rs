//! What a policy proposes to move, and what may be moved at all.

use crate::{
    annotation::wants_rebalance,
    contention::CONFIDENT,
    decision::Change,
    explanation::{Candidate, Reason},
    measured::Observed,
    request::{ContainerId, Request},
    state::rebalance::{Benefit, MoveStep, RebalanceMemory},
    view::View,
};
use alloc::vec::Vec;

/// A move a policy proposes.
#[derive(Clone, Debug)]
pub(crate) struct Proposal {
    pub(crate) steps: Vec<MoveStep>,
    /// Containers that are to win by it; it is judged by these too.
    pub(crate) watched: Vec<ContainerId>,
    pub(crate) reason: &'static str,
    pub(crate) gain_ns_per_s: u64,
    pub(crate) benefit: Benefit,
    pub(crate) reasons: Vec<Reason>,
    /// The choices it was made from, best first.
    pub(crate) candidates: Vec<Candidate>,
}

/// What a policy must know for its containers to be moved.
pub(crate) trait Movable {
    /// Moves that would help, by the measurements.
    fn proposals(&self, view: View<'_>) -> Vec<Proposal>;
    /// The new placements of all containers when the steps are made, where `memory` holds what pools borrow
    /// then; `None` when that is not possible or changes nothing.
    fn apply_steps(
        &self,
        view: View<'_>,
        steps: &[MoveStep],
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
