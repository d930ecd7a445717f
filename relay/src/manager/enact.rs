//! Carries out what was decided: cgroups, the ledger, the files that containers are shown. Nothing else of the
//! manager writes.

use super::{
    book::Book,
    clock::monotonic,
    containers::{ContainerRecord, Stage},
    decide::Failure,
    owner::Owner,
    reservations::Growing,
    snapshot::Snapshot,
};
use crate::enforce::{
    CgroupSettings, Cgroups, Drift, EnforceError, Found, Phase, Place, Plan, Step,
    reconcile::{self, Field},
    writers,
};
use resmgr_policy::ContainerId;
use std::{collections::BTreeSet, path::Path, sync::Arc};
use tokio::time::Instant;

impl Owner {
    /// The containers have changed: the ledger, the containers themselves and every reader are told.
    pub(super) fn publish(&mut self) {
        self.generation += 1;
        let book = Book {
            policy: self.decider.policy.name().to_owned(),
            containers: self.containers.clone(),
            saved_at: monotonic(),
        };
        self.durable.hand_over(self.generation, Arc::new(book));
        // Before all that runs is known, the directory of a container that runs must not be taken for left over.
        if let Some(files) = self.files.as_mut().filter(|_files| self.synced) {
            files.follow(&self.containers);
        }
        self.show();
    }

    /// What could not be written of the files that containers are shown is tried again: nothing else may ever
    /// change.
    pub(super) fn catch_up_files(&mut self) {
        let synced = self.synced;
        let behind = self.files.as_mut();
        if let Some(files) = behind.filter(|files| synced && files.is_behind()) {
            files.follow(&self.containers);
        }
    }

    /// Something that is not kept has changed: readers are told.
    pub(super) fn show(&mut self) {
        self.snapshots.send_replace(Arc::new(Snapshot {
            generation: self.generation,
            synced: self.synced,
            policy: self.decider.policy.name(),
            topology: Arc::clone(&self.decider.topology),
            reserved: self.decider.policy.rules(&self.decider.topology).reserved,
            containers: self.containers.clone(),
            refused: self.refused.clone(),
            in_force: Arc::clone(&self.decider.policy),
            counts: self.counts.clone(),
            moves: self.feedback.moves.clone(),
            measurements: self.feedback.condition,
            other_cpu_manager: self.other_cpu_manager,
            unenforced: Arc::clone(self.presence.unenforced()),
            contested: Arc::clone(self.backoff.contested()),
            ledger: self.durable.health(),
        }));
    }

    /// Has the others make room for a creation or an update. What is to grow when it is over.
    pub(super) async fn make_room(&mut self, plan: Plan) -> Result<Growing, Failure> {
        self.execute(&plan.before, true)
            .await
            .map_err(Failure::NoRoom)?;
        let steps = plan.after.into_iter();
        Ok(steps.map(|step| (step.id, step.undo)).collect())
    }

    /// Both halves of a plan at once: no container is being created.
    pub(super) async fn run_plan(&mut self, plan: &Plan) {
        let all: Vec<_> = plan.before.iter().chain(&plan.after).cloned().collect();
        self.execute_anyway(&all).await;
    }

    /// Writes the steps in order. With `undo`, the first failure takes back what was done; without,
    /// the others are done all the same and the reconciliation tries again.
    pub(super) async fn execute(&mut self, steps: &[Step], undo: bool) -> Result<(), String> {
        let work: Vec<_> = steps
            .iter()
            .filter_map(|step| {
                let container = self.containers.get(&step.id)?;
                let exists = container.stage() != Stage::Reserved;
                exists.then(|| (step.clone(), Arc::clone(container.record)))
            })
            .collect();
        if work.is_empty() {
            return Ok(());
        }
        let steps: Vec<_> = work.iter().map(|(step, _record)| step.clone()).collect();
        let moved = self.move_through_runtime(&steps, undo).await;
        if undo {
            moved.clone()?;
        }
        let cgroups = Arc::clone(&self.cgroups);
        let failures = self
            .blocking
            .run(move || write_all(&cgroups, &work, undo))
            .await
            .unwrap_or_else(|panic| vec![panic.to_string()]);
        self.counts.write_failures += failures.len() as u64;
        match failures.into_iter().next() {
            None => moved,
            Some(first) => {
                if undo {
                    self.move_back_through_runtime(&steps).await;
                }
                Err(first)
            }
        }
    }

    async fn execute_anyway(&mut self, steps: &[Step]) {
        if let Err(error) = self.execute(steps, false).await {
            tracing::error!(%error, "cgroup not written; trying again");
        }
    }

    /// A creation or an update is over: containers that waited for it get their CPUs, from what they had
    /// until now.
    pub(super) async fn end_growth(&mut self, id: &ContainerId) {
        let Some(reservation) = self.reservations.end(id) else {
            return;
        };
        let online = self.online();
        let desired = self.containers.desired(&online);
        let growing = reservation.growing.into_iter();
        let steps: Vec<_> = growing
            .filter_map(|(id, undo)| {
                let to = desired.of(&id)?;
                let phase = Phase::Grow;
                Some(Step {
                    id,
                    phase,
                    to,
                    undo,
                })
            })
            .collect();
        self.execute_anyway(&steps).await;
    }

    pub(super) async fn reconcile_all(&mut self) {
        let ids: Vec<_> = self
            .containers
            .iter()
            .map(|container| container.id.clone())
            .collect();
        self.reconcile_some(&ids).await;
    }

    /// Compares what a regular look or a notice of the kernel is about. Containers that were repaired just
    /// now wait for the end of their pause.
    pub(super) async fn reconcile_paced(&mut self, mut ids: Vec<ContainerId>) {
        let now = Instant::now();
        ids.retain(|id| self.backoff.allows(id, now));
        self.reconcile_some(&ids).await;
    }

    /// Compares with the kernel, repairs and reports.
    pub(super) async fn reconcile_some(&mut self, ids: &[ContainerId]) {
        if self.restored {
            return;
        }
        let online = self.online();
        let desired = self.containers.desired(&online);
        let work: Vec<_> = ids
            .iter()
            .filter(|id| !self.reservations.holds_back(id))
            .filter_map(|id| {
                let container = self.containers.get(id)?;
                let settings = desired.of(id)?;
                let exists = container.stage() != Stage::Reserved;
                (exists && !settings.is_nothing()).then(|| Comparison {
                    id: id.clone(),
                    record: Arc::clone(container.record),
                    settings,
                    unsettled: container.stage() == Stage::Created
                        || self.unsettled.contains_key(id),
                })
            })
            .collect();
        if work.is_empty() {
            return;
        }
        let unwatched: BTreeSet<_> = work
            .iter()
            .map(|work| &work.id)
            .filter(|id| {
                let watcher = self.watcher.as_ref();
                watcher.is_some_and(|watcher| !watcher.watches(id))
            })
            .cloned()
            .collect();
        let cgroups = Arc::clone(&self.cgroups);
        let compared = self.blocking.run(move || {
            let compared = work.into_iter().map(|work| work.run(&cgroups));
            compared.collect::<Vec<_>>()
        });
        let mut shown = false;
        for (id, found, result) in compared.await.unwrap_or_default() {
            if let (Some(found), Some(watcher)) = (&found, &mut self.watcher)
                && unwatched.contains(&id)
                && let Err(error) = watcher.add(&id, &found.cpuset)
            {
                tracing::debug!(%error, container = %id, "cpuset not watched; drift is detected by polling");
            }
            if found.is_some() && self.presence.found(&id) {
                shown = true;
                tracing::info!(container = %id, "the cgroup was found: the placement is enforced");
            }
            match result {
                Ok(drifts) => {
                    let starting = self.containers.stage(&id) == Some(Stage::Created);
                    let unsettled = starting || self.unsettled.contains_key(&id);
                    let mut repaired = Vec::new();
                    for drift in drifts {
                        if starting && drift.found.is_empty() {
                            // The runtime has made the cgroup and not filled it in.
                            continue;
                        }
                        if unsettled && matches!(drift.field, Field::Shares | Field::Quota) {
                            // The runtime writes what the kubelet asked for.
                            continue;
                        }
                        shown = true;
                        self.counts.drifts += 1;
                        repaired.push(drift);
                    }
                    self.report_repaired(&id, found.as_ref(), &repaired, unsettled)
                        .await;
                    if found.is_some() {
                        self.reservations.forget_sent(&id);
                    }
                }
                Err(error) if error.is_absent() => {
                    let runs = self.containers.stage(&id) == Some(Stage::Running);
                    if runs && self.presence.missing(&id, Instant::now()) {
                        tracing::warn!(%error, container = %id,
                            "container runs and has no cgroup on this host: its placement is NOT enforced, the \
                             runtime is asked to keep its CPUs");
                    }
                    if runs && self.presence.is_unanswered(&id) {
                        shown = true;
                        self.ask_runtime_to_keep(&id).await;
                    }
                }
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

impl Owner {
    /// Logs what was repaired of a container, in few lines where it goes on and on. What a runtime writes while it
    /// starts or updates a container begins no pause.
    async fn report_repaired(
        &mut self,
        id: &ContainerId,
        found: Option<&Found>,
        repaired: &[Drift],
        unsettled: bool,
    ) {
        if repaired.is_empty() {
            return;
        }
        let repairs = if unsettled {
            Some(1)
        } else {
            let now = Instant::now();
            self.counts.repeated_repairs += u64::from(self.backoff.repeats(id, now));
            self.backoff.repaired(id, now)
        };
        let Some(repairs) = repairs else { return };
        for drift in repaired {
            tracing::warn!(container = %drift.container, field = %drift.field,
                found = drift.found, wanted = drift.wanted, repairs, "cgroup drift repaired");
        }
        let Some(found) = found.filter(|_found| repairs > 1) else {
            return;
        };
        let file = found.cpuset.join("cpuset.cpus");
        let holders = self
            .blocking
            .run(move || writers::holders(Path::new("/proc"), &file))
            .await
            .unwrap_or_else(|panic| vec![panic.to_string()]);
        let candidates = match holders.is_empty() {
            true => "unknown: no process holds the file open".to_owned(),
            false => holders.join(", "),
        };
        self.backoff.contest(id, &candidates);
        tracing::warn!(container = %id, repairs, candidates,
            "another program keeps changing the cgroup; it is repaired every few seconds");
    }
}

/// One container to be compared with the kernel.
struct Comparison {
    id: ContainerId,
    record: Arc<ContainerRecord>,
    settings: CgroupSettings,
    /// The runtime is about to write what the kubelet asked for, or has just done so.
    unsettled: bool,
}

impl Comparison {
    fn run(
        self,
        cgroups: &Cgroups,
    ) -> (ContainerId, Option<Found>, Result<Vec<Drift>, EnforceError>) {
        let place = Place {
            id: &self.id.0,
            parent: &self.record.cgroup_parent,
        };
        let shares = self
            .record
            .requested
            .cpu_shares
            .zip(self.settings.cpu_shares);
        if let Some((requested, desired)) = shares.filter(|_shares| self.unsettled) {
            cgroups.learn_weights(&place, requested, desired);
        }
        let found = cgroups.locate(&place).ok();
        let result = reconcile::reconcile(cgroups, &self.id, &place, &self.settings);
        (self.id, found, result)
    }
}

fn write_all(cgroups: &Cgroups, work: &[(Step, Arc<ContainerRecord>)], undo: bool) -> Vec<String> {
    let write =
        |id: &ContainerId, record: &ContainerRecord, from: &CgroupSettings, to: &CgroupSettings| {
            let place = Place {
                id: &id.0,
                parent: &record.cgroup_parent,
            };
            match cgroups.change(&place, from, to, &record.requested) {
                Err(error) if error.is_absent() => Ok(()), // not started, or ended: nothing runs there
                changed => changed,
            }
        };
    let mut failures = Vec::new();
    for (index, (step, record)) in work.iter().enumerate() {
        if let Err(error) = write(&step.id, record, &step.undo, &step.to) {
            failures.push(describe(&step.id, &error));
            if undo {
                for (step, record) in work.iter().take(index + 1).rev() {
                    if let Err(error) = write(&step.id, record, &step.to, &step.undo) {
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
