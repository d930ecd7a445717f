//! Everything that runs, placed at once: another policy, another configuration, other CPUs, a state that
//! is not legal any more.
//!
//! A [`Replan`] is worked out beside the placement in force. What a person asked for (another policy or
//! configuration) is committed whole or not at all; what has happened (a restart, CPUs gone) is committed
//! as far as it goes, largest guarantee first.

use super::{
    answer::{CpuChange, PlanPreview, ReconfigureError},
    clock::unix_s,
    containers::ContainerRef,
    decide::{Decided, Decider, Failure},
    feedback::workloads_of,
    owner::Owner,
};
use resmgr_policy::{ContainerId, Decision, Explanation, Policy, Request, State};
use std::{collections::BTreeMap, sync::Arc};

/// A placement of everything, not yet in force.
#[derive(Debug)]
struct Replan {
    decider: Decider,
    state: Arc<State>,
    /// The last explanation of each container that changes.
    explanations: BTreeMap<ContainerId, Explanation>,
    /// Containers that found no place, and why.
    unplaceable: BTreeMap<ContainerId, Failure>,
}

impl Replan {
    fn new(decider: Decider, state: Arc<State>) -> Self {
        Self {
            decider,
            state,
            explanations: BTreeMap::new(),
            unplaceable: BTreeMap::new(),
        }
    }

    fn explain(&mut self, decision: Decision) {
        for change in decision.changes {
            if let Some(why) = change.explanation {
                self.explanations.insert(change.id, why);
            }
        }
    }

    /// Places one more.
    async fn place(&mut self, container: ContainerRef<'_>) {
        let id = container.id.clone();
        let request = Request::clone(container.request);
        match self.decider.place(&self.state, request).await {
            Ok(Decided { decision, after }) => {
                self.state = after;
                self.explain(decision);
                // It did not come now: spilling and ties go by age.
                if let Some(placed) = Arc::make_mut(&mut self.state).containers.get_mut(&id) {
                    placed.arrival = container.arrival;
                }
            }
            Err(failure) => {
                self.unplaceable.insert(id, failure);
            }
        }
    }
}

impl Owner {
    /// Another policy, or another configuration of it: all at once, or nothing. What it did; or would do,
    /// when it is only a `dry` run.
    pub(super) async fn reconfigure(
        &mut self,
        policy: Arc<dyn Policy>,
        dry: bool,
    ) -> Result<PlanPreview, ReconfigureError> {
        if self.restored {
            return Err(ReconfigureError::Restored);
        }
        let same = policy.name() == self.decider.policy.name();
        let decider = self.decider.with(policy);
        let name = decider.policy.name();
        let replan = if same {
            match self.repaired(decider.clone()).await {
                Ok(replan) => replan,
                Err(failure) => {
                    self.count(&failure);
                    return Err(self.not_repaired(decider, &failure).await);
                }
            }
        } else {
            self.placed_anew(decider).await
        };
        if !dry {
            for failure in replan.unplaceable.values() {
                self.count(failure);
            }
        }
        let containers = self.would_lose_placement(&replan);
        if !containers.is_empty() {
            return Err(ReconfigureError::NoPlace {
                policy: name,
                containers,
            });
        }
        let preview = self.preview(&replan.state);
        if !dry {
            let occasion = match same {
                true => format!("another configuration of policy {name}"),
                false => format!("policy {name} took over"),
            };
            self.commit_plan(replan, Some(&occasion))
                .await
                .map_err(ReconfigureError::Kernel)?;
            // Another policy may place nothing that requests could name CPUs for.
            self.other_cpu_manager &= same;
            self.show();
        }
        Ok(preview)
    }

    /// What containers would have in another state.
    fn preview(&self, after: &State) -> PlanPreview {
        let cpus = |state: &State, id: &ContainerId| {
            let placed = state.containers.get(id);
            placed
                .map(|container| *container.placement.cpus)
                .filter(|cpus| !cpus.is_empty())
        };
        let mut preview = PlanPreview::default();
        for container in self.containers.iter() {
            let from = cpus(self.containers.state(), container.id);
            let to = cpus(after, container.id);
            if from == to {
                preview.staying += 1;
            } else {
                let container = container.request.full_name();
                preview.moves.push(CpuChange {
                    container,
                    from,
                    to,
                });
            }
        }
        preview.moves.sort_by(|a, b| a.container.cmp(&b.container));
        preview
    }

    /// Why a repair was refused. The policy names one container; all that have no place come from placing
    /// everything on paper.
    async fn not_repaired(&self, decider: Decider, failure: &Failure) -> ReconfigureError {
        let policy = decider.policy.name();
        if matches!(failure, Failure::Refused(_)) {
            let containers = self.would_lose_placement(&self.placed_anew(decider).await);
            if !containers.is_empty() {
                return ReconfigureError::NoPlace { policy, containers };
            }
        }
        ReconfigureError::Policy(failure.to_string())
    }

    /// Containers that find no place, and why. A container that runs unplaced already loses nothing by
    /// staying so.
    fn would_lose_placement(&self, replan: &Replan) -> Vec<(String, String)> {
        let unplaceable = replan.unplaceable.iter();
        unplaceable
            .filter_map(|(id, failure)| {
                let container = self.containers.get(id)?;
                let placed = container.unplaced.is_none();
                placed.then(|| (container.request.full_name(), failure.to_string()))
            })
            .collect()
    }

    /// Places every container as if it had just come, largest guarantee first. A container that finds no
    /// place runs unplaced: it cannot be refused any more.
    pub(super) async fn place_all_anew(&mut self) -> Result<(), String> {
        let replan = self.placed_anew(self.decider.clone()).await;
        let mut lost = Vec::new();
        for (id, failure) in &replan.unplaceable {
            self.count(failure);
            if let Some(container) = self.containers.get(id) {
                let name = container.request.full_name();
                tracing::error!(container = %id, name, %failure, "container runs UNPLACED");
                lost.push(name);
            }
        }
        self.commit_plan(replan, None).await?;
        if lost.is_empty() {
            return Ok(());
        }
        Err(format!(
            "{} of {} containers have no place and run unplaced: {}",
            lost.len(),
            self.containers.len(),
            lost.join(", ")
        ))
    }

    /// Has the policy repair a state made before a restart or on other CPUs. When the repair is refused,
    /// everything is placed anew, largest guarantee first.
    pub(super) async fn repair(&mut self) -> Result<(), String> {
        if self.restored {
            return Ok(());
        }
        match self.repaired(self.decider.clone()).await {
            Ok(replan) => self.commit_plan(replan, None).await,
            Err(failure @ (Failure::Refused(_) | Failure::Illegal(_))) => {
                self.count(&failure);
                tracing::warn!(%failure, "containers cannot stay where they are; placing all anew");
                self.place_all_anew().await
            }
            Err(failure) => {
                self.count(&failure);
                Err(failure.to_string())
            }
        }
    }

    /// The fewest moves that make the state legal; the unplaced are tried again.
    async fn repaired(&self, decider: Decider) -> Result<Replan, Failure> {
        let state = self.containers.state();
        let decision = decider
            .evaluate(state, |policy, view| policy.reconcile(view))
            .await?
            .map_err(Failure::Refused)?;
        let mut after = State::clone(state);
        after.apply(&decision);
        decider.check_whole(&after)?;
        let mut replan = Replan::new(decider, Arc::new(after));
        replan.explain(decision);
        for container in self.by_size(|container| container.unplaced.is_some()) {
            replan.place(container).await;
        }
        Ok(replan)
    }

    async fn placed_anew(&self, decider: Decider) -> Replan {
        let mut state = State::clone(self.containers.state());
        state.containers.clear();
        // Moves were made in another order of things.
        state.rebalance = workloads_of(&state.rebalance);
        let mut replan = Replan::new(decider, Arc::new(state));
        for container in self.by_size(|_container| true) {
            replan.place(container).await;
        }
        let next = self.containers.state().next_arrival;
        let next = next.max(replan.state.next_arrival);
        Arc::make_mut(&mut replan.state).next_arrival = next;
        replan
    }

    /// Containers in the order in which they choose.
    fn by_size(&self, which: impl Fn(&ContainerRef<'_>) -> bool) -> Vec<ContainerRef<'_>> {
        let mut containers: Vec<_> = self.containers.iter().filter(which).collect();
        containers.sort_by(|a, b| largest_first(a.request, b.request));
        containers
    }

    /// Replaces policy and placements, and has the kernel follow. What a person `asked` for is done whole: a write the
    /// kernel refuses takes everything back.
    async fn commit_plan(&mut self, replan: Replan, asked: Option<&str>) -> Result<(), String> {
        let whole = asked.is_some();
        let reasons = replan.unplaceable.iter();
        let reasons = reasons.map(|(id, failure)| (id.clone(), failure.to_string()));
        let before = (
            std::mem::replace(&mut self.decider, replan.decider),
            self.containers.clone(),
        );
        self.containers.replace(
            asked.unwrap_or("what runs, or which CPUs are online, was found anew"),
            replan.state,
            &reasons.collect(),
            &replan.explanations,
            unix_s(),
        );
        if self.containers == before.1 {
            self.show();
            return Ok(());
        }
        let plan = self.containers.plan_from(&before.1, &self.online());
        let steps: Vec<_> = plan.before.into_iter().chain(plan.after).collect();
        if let Err(error) = self.execute(&steps, whole).await {
            if whole {
                (self.decider, self.containers) = before;
                self.show();
                return Err(error);
            }
            tracing::error!(%error, "cgroup not written; trying again");
        }
        self.publish();
        Ok(())
    }
}

/// Guaranteed before Burstable before BestEffort, then by CPU request, then by name.
pub(super) fn largest_first(a: &Request, b: &Request) -> std::cmp::Ordering {
    a.qos
        .cmp(&b.qos)
        .then(b.requirements.cpu_request.cmp(&a.requirements.cpu_request))
        .then_with(|| a.pod.name.cmp(&b.pod.name))
        .then_with(|| a.name.cmp(&b.name))
        .then_with(|| a.id.cmp(&b.id))
}
