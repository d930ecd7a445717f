//! The policy interface: a view in, a decision or a refusal out.

use crate::{
    explanation::Explanation,
    request::{ContainerId, Request},
    rules::Rules,
    state::{
        Container, Placement, PoolUse, State,
        rebalance::{MoveKind, Outcome, RebalanceMemory},
    },
    view::View,
};
use alloc::{format, string::String, sync::Arc, vec::Vec};
use core::fmt;
use resmgr_topology::Topology;

/// A new wanted placement of one container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// The container.
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
    /// Explanations for containers that stay where they are.
    pub notes: Vec<(ContainerId, Explanation)>,
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
        for step in &trial.steps {
            if let MoveKind::Pool(name) = &step.kind {
                memory.set_loan(name, step.from);
            }
        }
        memory.record_outcome(Outcome::Shadow, None);
        for change in core::mem::take(&mut self.changes) {
            if let Some(mut why) = change.explanation {
                why.summary = format!("shadow, not done: {}", why.summary);
                self.notes.push((change.id, why));
            }
        }
        self
    }
}

impl State {
    /// Applies a decision: `decision.changes` in order; a change of an unknown container whose request
    /// is `Some` inserts it; `decision.released` are taken out first.
    pub fn apply(&mut self, decision: &Decision) {
        for id in &decision.released {
            self.containers.remove(id);
        }
        if let Some(memory) = &decision.memory {
            self.rebalance = memory.clone();
        }
        for change in &decision.changes {
            if let Some(container) = self.containers.get_mut(&change.id) {
                container.placement = change.placement.clone();
                if let Some(request) = &change.request {
                    container.request = request.clone();
                }
            } else if let Some(request) = &change.request {
                let arrival = self.next_arrival;
                self.next_arrival += 1;
                self.containers.insert(
                    change.id.clone(),
                    Container {
                        request: request.clone(),
                        placement: change.placement.clone(),
                        arrival,
                    },
                );
            }
        }
    }
}

/// The policy says no: nothing has changed. Says what was asked, what there was, what to change.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Refusal {
    /// For people: one sentence or two.
    pub message: String,
}

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

    /// Every pool, those without a container included, with what of it is free.
    fn pools(&self, _view: View<'_>) -> Vec<PoolUse> {
        Vec::new()
    }

    /// A better placement of what already runs, if it is worth its cost. `None`: nothing moves now.
    fn rebalance(&self, _view: View<'_>) -> Option<Decision> {
        None
    }
}
