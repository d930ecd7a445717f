//! The policy interface: a view in, a decision or a refusal out.

use crate::{
    check::Rules,
    measured::Measured,
    rebalance::RebalanceMemory,
    request::{ContainerId, Request},
    state::{Placement, State},
};
use alloc::{string::String, sync::Arc, vec::Vec};
use core::fmt;
use resmgr_topology::{Nanos, Topology};
use serde::{Deserialize, Serialize};

/// All that a policy may look at.
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    /// The machine.
    pub topology: &'a Topology,
    /// Who sits where.
    pub state: &'a State,
    /// What the scheduler did.
    pub measured: &'a Measured,
    /// `CLOCK_MONOTONIC`.
    pub now: Nanos,
}

/// Why a container was put where it is, in words and numbers. Printed by `explain`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Explanation {
    /// One line: what was decided.
    pub summary: String,
    /// The rule that decided, and the numbers it saw, a line each.
    pub reasons: Vec<String>,
    /// The choices considered, best first, a line each with its numbers.
    #[serde(default)]
    pub candidates: Vec<String>,
}

/// Choices told of that were not taken; the rest is counted.
pub(crate) const TOLD: usize = 16;

/// The first of the choices, best first, and how many more there were: a line each.
pub(crate) fn choices(lines: impl ExactSizeIterator<Item = String>, told: usize) -> Vec<String> {
    let more = lines.len().saturating_sub(told);
    let told = lines.take(told);
    told.chain((more > 0).then(|| alloc::format!("and {more} more")))
        .collect()
}

/// A new wanted placement of one container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// Whose.
    pub id: ContainerId,
    /// For a container that enters the state, its request.
    pub request: Option<Arc<Request>>,
    /// Where it shall be.
    pub placement: Placement,
    /// Why; `None` when it merely follows its pool.
    pub explanation: Option<Explanation>,
}

/// Everything that changes, complete: nothing is left to decide later.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Decision {
    /// Containers that leave.
    pub released: Vec<ContainerId>,
    /// Containers whose wanted placement is new or changed, sorted by id.
    pub changes: Vec<Change>,
    /// What rebalancing remembers from now on; `None`: as before.
    pub memory: Option<RebalanceMemory>,
    /// What else is to be told of containers whose placement stays.
    pub notes: Vec<(ContainerId, Explanation)>,
}

/// The policy says no: nothing has changed. Says what was asked, what there was, what to change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// For people: one sentence or two.
    pub message: String,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl core::error::Error for Refusal {}

/// Where containers run. Pure and deterministic: equal arguments give equal answers.
pub trait Policy: fmt::Debug + Send + Sync {
    /// The name users type, as listed by `--list-policies`.
    fn name(&self) -> &'static str;

    /// Places a container that does not exist yet.
    ///
    /// # Errors
    /// [`Refusal`] when no legal placement exists; nothing has changed then.
    fn place(&self, view: View<'_>, request: &Request) -> Result<Decision, Refusal>;

    /// Takes `gone` out; what it frees goes back to the shared CPUs.
    fn release(&self, view: View<'_>, gone: &ContainerId) -> Decision;

    /// Checks a state made earlier (before a restart, by another configuration, on other online CPUs)
    /// and repairs it with the fewest moves: what is still legal stays.
    ///
    /// # Errors
    /// [`Refusal`] naming the first container that cannot be placed at all.
    fn reconcile(&self, view: View<'_>) -> Result<Decision, Refusal>;

    /// What every placement of this policy obeys, for [`check`](crate::check()).
    fn rules(&self, _topology: &Topology) -> Rules {
        Rules::default()
    }

    /// Whether [`rebalance`](Self::rebalance) is worth asking at all.
    fn rebalances(&self) -> bool {
        false
    }

    /// A better placement of what already runs, if it is worth its cost.
    fn rebalance(&self, _view: View<'_>) -> Option<Decision> {
        None
    }
}
