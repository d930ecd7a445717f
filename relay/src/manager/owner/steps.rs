//! From decisions to entries and writes.

use super::*;

impl Owner {
    /// What the kernel shall say of a container; `None` for one we do not know.
    pub(super) fn wanted(&self, id: &ContainerId) -> Option<Wanted> {
        let entry = self.entries.get(id)?;
        Some(wanted_of(entry, &self.shelter()))
    }

    pub(super) fn wanted_all(&self) -> BTreeMap<ContainerId, Wanted> {
        let shelter = self.shelter();
        self.entries
            .iter()
            .map(|(id, entry)| (id.clone(), wanted_of(entry, &shelter)))
            .collect()
    }

    /// Where the unplaced may run: everything nobody holds exclusively; empty when nobody does.
    fn shelter(&self) -> resmgr_topology::CpuSet {
        let exclusive = self.state.exclusive();
        if exclusive.is_empty() || self.restored {
            return resmgr_topology::CpuSet::EMPTY;
        }
        self.decider.topology.online.difference(&exclusive)
    }

    pub(super) fn insert(&mut self, ask: &Ask) {
        let entry = ask.entry(self.state.next_arrival);
        self.entries.insert(ask.request.id.clone(), Arc::new(entry));
    }

    pub(super) fn insert_unplaced(&mut self, ask: Ask, why: &str) {
        let request = &ask.request;
        tracing::error!(container = %request.name, pod = %request.pod.name,
            namespace = %request.pod.namespace, why, "runs UNPLACED, as the fail policy says");
        self.counts.passed_unplaced += 1;
        self.insert(&ask);
        if let Some(entry) = self.entries.get_mut(&ask.request.id) {
            let entry = Arc::make_mut(entry);
            entry.unplaced = Some(why.to_owned());
            entry.note(unplaced_note(why));
        }
    }

    /// Takes a decision over into state and entries; the writes it needs.
    pub(super) fn apply(&mut self, decision: &Decision) -> Plan {
        let before = self.wanted_all();
        Arc::make_mut(&mut self.state).apply(decision);
        for id in &decision.released {
            if !self.state.containers.contains_key(id) {
                self.entries.remove(id);
            }
        }
        for change in &decision.changes {
            let Some(entry) = self.entries.get_mut(&change.id) else {
                continue;
            };
            let entry = Arc::make_mut(entry);
            entry.placement = Some(change.placement.clone());
            entry.unplaced = None;
            if let Some(container) = self.state.containers.get(&change.id) {
                entry.arrival = container.arrival;
            }
            if let Some(why) = &change.explanation {
                entry.note(Note {
                    at_unix_s: unix_s(),
                    cpus: *change.placement.cpus,
                    why: why.clone(),
                });
            }
        }
        self.export(decision.changes.iter().map(|change| &change.id));
        self.plan_from(&before)
    }

    /// The writes that lead from an earlier state of things to the present one.
    pub(super) fn plan_from(&self, before: &BTreeMap<ContainerId, Wanted>) -> Plan {
        plan(before, &self.wanted_all())
    }

    /// Tells containers where they run now.
    pub(super) fn export<'a>(&self, ids: impl IntoIterator<Item = &'a ContainerId>) {
        let Some(export) = &self.export else { return };
        for id in ids {
            if let Some(entry) = self.entries.get(id)
                && let Err(error) = export.write(entry)
            {
                tracing::warn!(%error, container = %id, "it is not shown where it runs");
            }
        }
    }

    /// Tells all containers where they run now.
    pub(super) fn export_all(&self) {
        self.export(self.entries.keys());
    }

    /// Both halves of a plan at once: nobody is being created.
    pub(super) async fn run_plan(&mut self, plan: &Plan) {
        let all: Vec<_> = plan.before.iter().chain(&plan.after).cloned().collect();
        if let Err(error) = self.execute(&all, false).await {
            tracing::error!(%error, "a placement could not be written; trying again");
        }
    }

    /// Writes the steps in order. With `undo`, the first failure takes back what was done; without,
    /// the others are done all the same and the reconciliation tries again.
    pub(super) async fn execute(&mut self, steps: &[Step], undo: bool) -> Result<(), String> {
        if steps.is_empty() {
            return Ok(());
        }
        let work: Vec<_> = steps
            .iter()
            .filter_map(|step| {
                let entry = self.entries.get(&step.id)?;
                (entry.stage != Stage::Reserved).then(|| (step.clone(), Arc::clone(entry)))
            })
            .collect();
        let cgroups = Arc::clone(&self.cgroups);
        let failures = tokio::task::spawn_blocking(move || write_all(&cgroups, &work, undo))
            .await
            .unwrap_or_else(|panic| vec![panic.to_string()]);
        self.counts.write_failures += failures.len() as u64;
        match failures.into_iter().next() {
            None => Ok(()),
            Some(first) => Err(first),
        }
    }

    /// A creation or a change is over: whoever was to grow, grows.
    pub(super) async fn end_growth(&mut self, id: &ContainerId) {
        if let Some(pending) = self.pending.remove(id) {
            self.grow(pending.growing).await;
        }
    }

    /// Containers that waited for their CPUs get them, from what they had until now.
    async fn grow(&mut self, growing: BTreeMap<ContainerId, Wanted>) {
        let steps: Vec<_> = growing
            .into_iter()
            .filter_map(|(id, undo)| {
                let to = self.wanted(&id)?;
                Some(Step {
                    id,
                    phase: crate::enforce::Phase::Grow,
                    undo,
                    to,
                })
            })
            .collect();
        if let Err(error) = self.execute(&steps, false).await {
            tracing::error!(%error, "a placement could not be written; trying again");
        }
    }

    pub(super) async fn reconcile_all(&mut self) {
        let ids: Vec<_> = self.entries.keys().cloned().collect();
        self.reconcile_some(&ids).await;
    }

    /// Compares with the kernel, repairs and reports.
    pub(super) async fn reconcile_some(&mut self, ids: &[ContainerId]) {
        if self.restored {
            return;
        }
        let growing: BTreeSet<_> = self
            .pending
            .values()
            .flat_map(|pending| pending.growing.keys().cloned())
            .collect();
        let shelter = self.shelter();
        let work: Vec<_> = ids
            .iter()
            .filter(|id| !growing.contains(id))
            .filter_map(|id| {
                let entry = self.entries.get(id)?;
                let wanted = wanted_of(entry, &shelter);
                let unsettled = entry.stage == Stage::Created || self.unsettled.contains_key(id);
                let shares = entry.asked.cpu_shares.zip(wanted.cpu_shares);
                let shares = shares.filter(|_shares| unsettled);
                (entry.stage != Stage::Reserved && !wanted.is_nothing())
                    .then(|| (id.clone(), entry.cgroup_parent.clone(), wanted, shares))
            })
            .collect();
        if work.is_empty() {
            return;
        }
        let unwatched: BTreeSet<_> = work
            .iter()
            .filter(|(id, ..)| {
                self.watcher
                    .as_ref()
                    .is_some_and(|watcher| !watcher.watches(id))
            })
            .map(|(id, ..)| id.clone())
            .collect();
        let cgroups = Arc::clone(&self.cgroups);
        let looked = tokio::task::spawn_blocking(move || {
            work.into_iter()
                .map(|(id, parent, wanted, shares)| {
                    let place = Place {
                        id: &id.0,
                        parent: &parent,
                    };
                    if let Some((asked, wanted)) = shares {
                        cgroups.learn_weights(&place, asked, wanted);
                    }
                    let found = cgroups.locate(&place).ok();
                    let result = reconcile::reconcile(&cgroups, &id, &place, &wanted);
                    (id, found, result)
                })
                .collect::<Vec<_>>()
        })
        .await
        .unwrap_or_default();
        let mut shown = false;
        for (id, found, result) in looked {
            if let (Some(found), Some(watcher)) = (&found, &mut self.watcher)
                && unwatched.contains(&id)
                && let Err(error) = watcher.add(&id, &found.cpuset)
            {
                tracing::debug!(%error, container = %id, "not watched, only looked at");
            }
            match result {
                Ok(drifts) => {
                    let created = |entry: &Arc<Entry>| entry.stage == Stage::Created;
                    let starting = self.entries.get(&id).is_some_and(created);
                    let unsettled = starting || self.unsettled.contains_key(&id);
                    for drift in drifts {
                        if starting && drift.found.is_empty() {
                            // Nobody's write: the runtime has made the cgroup and not filled it in.
                            continue;
                        }
                        if unsettled && matches!(drift.field, Field::Shares | Field::Quota) {
                            // The runtime writes what the kubelet asked for.
                            continue;
                        }
                        shown = true;
                        self.counts.drifts += 1;
                        tracing::warn!(container = %drift.container, field = %drift.field,
                            found = drift.found, wanted = drift.wanted,
                            "a setting was changed behind our back; repaired");
                    }
                    if found.is_some() {
                        self.told.remove(&id);
                    }
                }
                Err(error) if error.is_absent() => {}
                Err(error) => {
                    shown = true;
                    self.counts.write_failures += 1;
                    tracing::error!(%error, source = ?std::error::Error::source(&error),
                        container = %id, "the kernel does not have the wanted placement");
                }
            }
        }
        if shown {
            self.show();
        }
    }
}

fn wanted_of(entry: &Entry, shelter: &resmgr_topology::CpuSet) -> Wanted {
    match (&entry.placement, &entry.unplaced) {
        (Some(placement), _) => Wanted::from(placement),
        (None, Some(_why)) => {
            let asked = entry.asked.cpus.intersection(shelter);
            Wanted {
                cpus: if asked.is_empty() { *shelter } else { asked },
                ..Wanted::default()
            }
        }
        (None, None) => Wanted::default(),
    }
}

/// A container that runs without a decision, in its own history. Where it runs is the explanation's word:
/// the CPUs follow what the others hold.
pub(super) fn unplaced_note(why: &str) -> Note {
    Note {
        at_unix_s: unix_s(),
        cpus: resmgr_topology::CpuSet::EMPTY,
        why: Explanation {
            summary: "not placed: it runs on all CPUs that nobody holds exclusively".to_owned(),
            reasons: vec![why.to_owned()],
            candidates: Vec::new(),
        },
    }
}

fn write_all(cgroups: &Cgroups, work: &[(Step, Arc<Entry>)], undo: bool) -> Vec<String> {
    let write = |id: &ContainerId, entry: &Entry, from: &Wanted, to: &Wanted| {
        let place = Place {
            id: &id.0,
            parent: &entry.cgroup_parent,
        };
        match cgroups.change(&place, from, to, &entry.asked) {
            Err(error) if error.is_absent() => Ok(()), // not started, or ended: nothing runs there
            other => other,
        }
    };
    let mut failures = Vec::new();
    for (index, (step, entry)) in work.iter().enumerate() {
        if let Err(error) = write(&step.id, entry, &step.undo, &step.to) {
            failures.push(describe(&step.id, &error));
            if undo {
                for (step, entry) in work.iter().take(index + 1).rev() {
                    if let Err(error) = write(&step.id, entry, &step.to, &step.undo) {
                        failures.push(describe(&step.id, &error));
                    }
                }
                break;
            }
        }
    }
    failures
}

fn describe(id: &ContainerId, error: &EnforceError) -> String {
    match std::error::Error::source(error) {
        Some(source) => format!("container {id}: {error}: {source}"),
        None => format!("container {id}: {error}"),
    }
}
