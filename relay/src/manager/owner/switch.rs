//! Everything that runs, placed at once: another policy, another configuration, other CPUs, a state that
//! is not legal any more.
//!
//! A [`Draft`] is worked out beside the state in force. What a person asked for (another policy or
//! configuration) is put in force whole or not at all; what has happened (a restart, CPUs gone) is put in
//! force as far as it goes, largest guarantee first.

use super::*;
use crate::manager::{Move, Outlook};
use resmgr_policy::{Change, Request};

/// A placement of everything, not yet in force.
#[derive(Debug)]
struct Draft {
    decider: Decider,
    state: Arc<State>,
    /// The last change of each container; one with an explanation keeps it.
    changes: BTreeMap<ContainerId, Change>,
    /// Who found no place, and why.
    homeless: Vec<(ContainerId, Failure)>,
}

impl Draft {
    fn take(&mut self, decision: Decision) {
        Arc::make_mut(&mut self.state).apply(&decision);
        for mut change in decision.changes {
            if let Some(earlier) = self.changes.remove(&change.id) {
                change.explanation = change.explanation.or(earlier.explanation);
            }
            self.changes.insert(change.id.clone(), change);
        }
    }

    /// Places one more, on the draft.
    async fn place(&mut self, entry: &Entry) {
        let (id, request) = (entry.request.id.clone(), entry.request.clone());
        let decision = self
            .decider
            .ask(&self.state, move |policy, view| {
                policy.place(view, &request)
            })
            .await
            .and_then(|decision| {
                self.decider.check(&self.state, &decision)?;
                Ok(decision)
            });
        match decision {
            Ok(decision) => {
                self.take(decision);
                // It did not come now: spilling and ties go by age.
                if let Some(container) = Arc::make_mut(&mut self.state).containers.get_mut(&id) {
                    container.arrival = entry.arrival;
                }
            }
            Err(failure) => self.homeless.push((id, failure)),
        }
    }
}

impl Owner {
    /// Another policy, or another configuration of it: all at once, or nothing. What it did; or would do,
    /// when it is only a `dry` run.
    pub(crate) async fn reconfigure(
        &mut self,
        policy: Arc<dyn Policy>,
        dry: bool,
    ) -> Result<Outlook, NotTaken> {
        if self.restored {
            return Err(NotTaken::GivenBack);
        }
        let same = policy.name() == self.decider.policy.name();
        let decider = self.decider.with(policy);
        let name = decider.policy.name();
        let draft = if same {
            match self.repaired(decider.clone()).await {
                Ok(draft) => draft,
                Err(failure) => {
                    self.count(&failure);
                    return Err(self.not_taken(decider, &failure).await);
                }
            }
        } else {
            self.anew(decider).await
        };
        if !dry {
            for (_id, failure) in &draft.homeless {
                self.count(failure);
            }
        }
        let containers = self.losers(&draft);
        if !containers.is_empty() {
            return Err(NotTaken::NoPlace {
                policy: name,
                containers,
            });
        }
        let outlook = self.outlook(&draft.state);
        if !dry {
            self.put_in_force(draft, true)
                .await
                .map_err(NotTaken::Kernel)?;
            // Another policy may place nothing that requests could name CPUs for.
            self.other_cpu_manager &= same;
            self.show();
        }
        Ok(outlook)
    }

    /// Who would have other CPUs in another state.
    fn outlook(&self, after: &State) -> Outlook {
        let cpus = |state: &State, id: &ContainerId| {
            let placed = state.containers.get(id);
            placed
                .map(|container| *container.placement.cpus)
                .filter(|cpus| !cpus.is_empty())
        };
        let mut outlook = Outlook::default();
        for (id, entry) in &self.entries {
            let (from, to) = (cpus(&self.state, id), cpus(after, id));
            if from == to {
                outlook.staying += 1;
            } else {
                let container = full_name(&entry.request);
                outlook.moves.push(Move {
                    container,
                    from,
                    to,
                });
            }
        }
        outlook.moves.sort_by(|a, b| a.container.cmp(&b.container));
        outlook
    }

    /// Why a repair was refused. The policy names one container; who has no place at all comes from
    /// placing everything on paper.
    async fn not_taken(&self, decider: Decider, failure: &Failure) -> NotTaken {
        let policy = decider.policy.name();
        if matches!(failure, Failure::Refused(_)) {
            let containers = self.losers(&self.anew(decider).await);
            if !containers.is_empty() {
                return NotTaken::NoPlace { policy, containers };
            }
        }
        NotTaken::Policy(failure.to_string())
    }

    /// Who has a place and finds none in the draft, and why. Whoever runs unplaced already loses nothing
    /// by staying so.
    fn losers(&self, draft: &Draft) -> Vec<(String, String)> {
        let homeless = draft.homeless.iter();
        homeless
            .filter_map(|(id, failure)| {
                let entry = self.entries.get(id)?;
                (entry.unplaced.is_none()).then(|| (full_name(&entry.request), failure.to_string()))
            })
            .collect()
    }

    /// Places every container as if it had just come, largest guarantee first. Who finds no place runs
    /// unplaced: it cannot be refused any more.
    pub(super) async fn place_all_anew(&mut self) -> Result<(), String> {
        let draft = self.anew(self.decider.clone()).await;
        let mut lost = Vec::new();
        for (id, failure) in &draft.homeless {
            self.count(failure);
            if let Some(entry) = self.entries.get(id) {
                let name = full_name(&entry.request);
                tracing::error!(container = %id, name, %failure, "runs UNPLACED");
                lost.push(name);
            }
        }
        self.put_in_force(draft, false).await?;
        if lost.is_empty() {
            return Ok(());
        }
        Err(format!(
            "{} of {} containers have no place and run unplaced: {}",
            lost.len(),
            self.entries.len(),
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
            Ok(draft) => self.put_in_force(draft, false).await,
            Err(failure @ (Failure::Refused(_) | Failure::Illegal(_))) => {
                self.count(&failure);
                tracing::warn!(%failure, "what runs cannot be kept where it is; placing all anew");
                self.place_all_anew().await
            }
            Err(failure) => {
                self.count(&failure);
                Err(failure.to_string())
            }
        }
    }

    /// The fewest moves that make the state legal; the unplaced are tried again.
    async fn repaired(&self, decider: Decider) -> Result<Draft, Failure> {
        let decision = decider
            .ask(&self.state, |policy, view| policy.reconcile(view))
            .await?;
        let mut draft = Draft {
            decider,
            state: Arc::clone(&self.state),
            changes: BTreeMap::new(),
            homeless: Vec::new(),
        };
        draft.take(decision);
        draft.decider.check_whole(&draft.state)?;
        for entry in self.by_size(|entry| entry.unplaced.is_some()) {
            draft.place(&entry).await;
        }
        Ok(draft)
    }

    async fn anew(&self, decider: Decider) -> Draft {
        let mut state = State::clone(&self.state);
        state.containers.clear();
        // Moves were made in another order of things.
        state.rebalance = feedback::workloads_of(&state.rebalance);
        let mut draft = Draft {
            decider,
            state: Arc::new(state),
            changes: BTreeMap::new(),
            homeless: Vec::new(),
        };
        for entry in self.by_size(|_entry| true) {
            draft.place(&entry).await;
        }
        let next = self.state.next_arrival.max(draft.state.next_arrival);
        Arc::make_mut(&mut draft.state).next_arrival = next;
        draft
    }

    /// Entries in the order in which they choose.
    fn by_size(&self, which: impl Fn(&Entry) -> bool) -> Vec<Arc<Entry>> {
        let mut entries: Vec<_> = self
            .entries
            .values()
            .filter(|entry| which(entry))
            .cloned()
            .collect();
        entries.sort_by(|a, b| largest_first(&a.request, &b.request));
        entries
    }

    /// Replaces policy, state and entries, and has the kernel follow. With `whole`, a write the kernel
    /// refuses takes everything back.
    async fn put_in_force(&mut self, draft: Draft, whole: bool) -> Result<(), String> {
        let was = self.wanted_all();
        let before = (
            std::mem::replace(&mut self.decider, draft.decider),
            std::mem::replace(&mut self.state, draft.state),
            self.entries.clone(),
        );
        for (id, entry) in &mut self.entries {
            let placed = self.state.containers.get(id);
            let homeless = draft.homeless.iter().find(|(who, _why)| who == id);
            let placement = placed.map(|container| container.placement.clone());
            let unplaced = homeless.map(|(_who, why)| why.to_string());
            if entry.placement == placement && entry.unplaced == unplaced {
                continue;
            }
            let entry = Arc::make_mut(entry);
            let note = draft.changes.get(id).and_then(|change| {
                Some(Note {
                    at_unix_s: unix_s(),
                    cpus: *change.placement.cpus,
                    why: change.explanation.clone()?,
                })
            });
            match (note, &unplaced) {
                (Some(note), None) => entry.note(note),
                (_, Some(why)) if entry.unplaced.as_deref() != Some(why) => {
                    entry.note(unplaced_note(why));
                }
                _ => {}
            }
            entry.placement = placement;
            entry.unplaced = unplaced;
        }
        let plan = self.plan_from(&was);
        if plan == Plan::default() && before.2 == self.entries {
            self.show();
            return Ok(());
        }
        let steps: Vec<_> = plan.before.iter().chain(&plan.after).cloned().collect();
        let written = self.execute(&steps, whole).await;
        if let Err(error) = written {
            if whole {
                (self.decider, self.state, self.entries) = before;
                self.show();
                return Err(error);
            }
            tracing::error!(%error, "a placement could not be written; trying again");
        }
        self.export(draft.changes.keys());
        self.generation += 1;
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

fn full_name(request: &Request) -> String {
    format!(
        "{}/{}/{}",
        request.pod.namespace, request.pod.name, request.name
    )
}
