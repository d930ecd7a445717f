//! Other resources for containers that exist: updates by the kubelet, and what the containers of a pod tell of
//! each other.

use super::{
    answer::{ContainerSpec, Denied, DenyKind, ResourceUpdate, UpdateEnd, Updated},
    containers::{ContainerRef, Stage},
    decide::Failure,
    owner::Owner,
    reservations::{Growing, Reservation},
};
use crate::enforce::{CgroupSettings, Plan, Step};
use resmgr_policy::{Basis, ContainerId, Request, Requirements};
use resmgr_topology::CpuSet;
use std::{sync::Arc, time::Duration};
use tokio::time::Instant;

/// A start that takes longer is left to the regular look.
const STARTING_LIMIT: Duration = Duration::from_secs(60);

/// What a new container of a pod tells of its siblings.
#[derive(Debug, Default)]
pub(super) struct PodJudgement {
    /// Containers that turn out to have no CPU request of their own.
    pub(super) revised: Vec<(ContainerId, Basis)>,
    /// Whether anything turned out that depends on all of them being alive still.
    pub(super) news: bool,
}

impl Owner {
    /// The kubelet wants other resources for a container that exists: what the update sets is merged with
    /// what was asked for before, and the container placed anew, in place, if that changes anything.
    pub(super) async fn update(
        &mut self,
        id: &ContainerId,
        update: ResourceUpdate,
    ) -> Result<Option<Updated>, Denied> {
        let before = self.containers.clone();
        let Some(container) = before.get(id) else {
            return Ok(None);
        };
        let mut basis = container.record.basis.clone();
        basis.merge(&update.numbers);
        let mut request = Request::clone(container.request);
        request.requirements = self.requirements(&basis, &request);

        let mut growing = Growing::new();
        if request != **container.request && self.containers.is_placed(id) {
            let plan = match self.place_anew(&request).await {
                Ok(plan) => plan,
                Err(failure) => {
                    self.count(&failure);
                    self.counts.refused += 1;
                    self.show();
                    return Err(Denied {
                        kind: failure.kind(),
                        message: format!("cri-resmgr: the resize does not fit: {failure}"),
                    });
                }
            };
            growing = match self.make_room(plan).await {
                Ok(growing) => growing,
                Err(failure) => {
                    self.containers = before;
                    return Err(Denied {
                        kind: DenyKind::Internal,
                        message: format!("cri-resmgr cannot resize the container: {failure}"),
                    });
                }
            };
        }
        self.containers.set_request(id, &Arc::new(request));
        if let Some(record) = self.containers.change(id) {
            let requested = &mut record.requested;
            if !update.cpus.is_empty() {
                requested.cpus = update.cpus;
            }
            if update.mems.is_some() {
                requested.mems = update.mems;
            }
            let shares = u64::try_from(basis.shown.cpu_shares).ok();
            requested.cpu_shares = shares.filter(|shares| *shares > 0);
            requested.cpu_quota = Some(basis.shown.cpu_quota).filter(|quota| *quota != 0);
            record.basis = basis;
        }
        let desired = self.desired(id).unwrap_or_default();
        if !update.cpus.is_empty() {
            self.note_named_cpus(&update.cpus, &desired);
        }
        self.publish();
        self.reservations
            .begin(id, before, self.generation, growing, desired.cpuset());
        self.unsettled.insert(id.clone(), Instant::now());
        Ok(Some(Updated {
            desired,
            generation: self.generation,
        }))
    }

    /// The runtime has answered an update. What it has written of shares and quota is the kubelet's: the
    /// policy's are written again, and that is no drift.
    pub(super) async fn update_ended(&mut self, id: &ContainerId, end: UpdateEnd) {
        if end == UpdateEnd::Refused
            && let Some(reservation) = self.reservations.end(id)
        {
            tracing::warn!(container = %id, "update refused by the runtime; the old resources count");
            self.take_back_update(id, reservation).await;
        }
        self.end_growth(id).await;
        self.reconcile_some(std::slice::from_ref(id)).await;
        self.unsettled.remove(id);
    }

    /// The runtime did not do it: requirements and placement are what they were.
    async fn take_back_update(&mut self, id: &ContainerId, reservation: Reservation) {
        let now = self.containers.clone();
        let Reservation {
            before, growing, ..
        } = reservation;
        if reservation.generation == self.generation {
            self.containers = before;
        } else if let Some(old) = before.get(id) {
            if self.containers.is_placed(id)
                && let Err(failure) = self.place_anew(old.request).await
            {
                self.count(&failure);
                tracing::error!(%failure, container = %id, "container keeps the place of the refused update");
                return;
            }
            self.containers.set_request(id, old.request);
            if let Some(record) = self.containers.change(id) {
                record.requested = old.record.requested.clone();
                record.basis = old.record.basis.clone();
            }
        }
        self.reservations.forget_sent(id);
        self.publish();
        let mut back = self.containers.plan_from(&now, &self.online());
        // What was to grow has not grown yet.
        let waiting = |step: &Step| {
            let grown = growing.get(&step.id);
            grown.is_some_and(|had| *had == step.to)
        };
        back.before.retain(|step| !waiting(step));
        back.after.retain(|step| !waiting(step));
        self.run_plan(&back).await;
    }

    /// Decides on a changed request of a container that is placed, and carries the decision out. On failure
    /// nothing has changed.
    async fn place_anew(&mut self, request: &Request) -> Result<Plan, Failure> {
        let state = self.containers.state();
        let decided = self.decider.place(state, request.clone()).await?;
        Ok(self.apply(&decided))
    }

    fn requirements(&self, basis: &Basis, request: &Request) -> Requirements {
        let nodes = self.decider.topology.nodes.iter();
        basis.requirements(request.qos, nodes.map(|node| node.memory_bytes).sum())
    }

    /// Compares a new container with those of its pod that live: together they cannot ask for more than
    /// their pod has.
    pub(super) fn judge_pod(&self, spec: &mut ContainerSpec) -> PodJudgement {
        let (pod, name) = (&spec.request.pod.sandbox, &spec.request.name);
        let in_pod = |container: &ContainerRef<'_>| container.request.pod.sandbox == *pod;
        let members = self.containers.iter().filter(in_pod);
        let members: Vec<_> = members.collect();
        let mut siblings: Vec<_> = members
            .iter()
            // The same container runs again: its earlier run has ended.
            .filter(|member| member.request.name != *name && *member.id != spec.request.id)
            .map(|member| (member.id, &member.record.basis, member.record.basis.clone()))
            .collect();
        let lives = |name: &Arc<str>| members.iter().any(|member| member.request.name == *name);
        let refused = self.refused.of_pod(pod);
        let refused = refused.filter(|(refused, _basis)| *refused != name && !lives(refused));
        let mut refused: Vec<_> = refused.map(|(_name, basis)| basis.clone()).collect();
        if pod.is_empty() || (siblings.is_empty() && refused.is_empty()) {
            return PodJudgement::default();
        }
        let before = spec.basis.clone();
        let known = siblings.iter_mut().map(|(_id, _before, basis)| basis);
        let known = refused.iter_mut().chain(known);
        let mut bases: Vec<_> = known.chain([&mut spec.basis]).collect();
        resmgr_policy::judge_pod(&mut bases);
        let revised = siblings.into_iter().filter_map(|(id, before, basis)| {
            let revised = (basis.of_pod, basis.left) != (before.of_pod, before.left);
            revised.then(|| (id.clone(), basis))
        });
        let revised: Vec<_> = revised.collect();
        let news = !revised.is_empty() || spec.basis != before;
        spec.request.requirements = self.requirements(&spec.basis, &spec.request);
        PodJudgement { revised, news }
    }

    /// Places containers anew of which something else is known now.
    pub(super) async fn revise(&mut self, revised: Vec<(ContainerId, Basis)>) {
        let changed = !revised.is_empty();
        for (id, basis) in revised {
            let Some(container) = self.containers.get(&id) else {
                continue;
            };
            let mut request = Request::clone(container.request);
            request.requirements = self.requirements(&basis, &request);
            tracing::info!(container = %request.name, pod = %request.pod.name,
                namespace = %request.pod.namespace, source = %request.requirements.source,
                "CPU request known now: {}m", request.requirements.cpu_request);
            if self.containers.is_placed(&id) {
                match self.place_anew(&request).await {
                    Ok(plan) => self.run_plan(&plan).await,
                    Err(failure) => {
                        self.count(&failure);
                        tracing::error!(%failure, container = %id, "container not placed anew");
                        continue;
                    }
                }
            }
            self.containers.set_request(&id, &Arc::new(request));
            if let Some(record) = self.containers.change(&id) {
                record.basis = basis;
            }
        }
        if changed {
            self.publish();
        }
    }

    /// A request of the kubelet for a container that the policy has placed: whether it names CPUs tells
    /// whether the kubelet's own CPU manager is at work. The policy's placement stays.
    pub(super) fn note_named_cpus(&mut self, named: &CpuSet, desired: &CgroupSettings) {
        if desired.cpus.is_empty() {
            return;
        }
        let before = std::mem::replace(&mut self.other_cpu_manager, !named.is_empty());
        if !named.is_empty() {
            self.counts.overridden_cpusets += 1;
            if !before {
                let policy = self.decider.policy.name();
                tracing::warn!(%named, kept = %desired.cpus,
                    "another CPU manager is at work: requests name CPUs for containers that policy \
                     {policy} places; the policy's CPUs are kept. Set the kubelet's cpuManagerPolicy to none");
            }
        } else if before {
            tracing::info!(
                "the other CPU manager is no longer at work: requests name no CPUs any more"
            );
        }
    }

    /// The runtime is about to start a container, and to write what the kubelet asked for. What the runtime
    /// must be sent first, if the placement has changed since the container was created.
    pub(super) fn starting(&mut self, id: ContainerId) -> Option<CgroupSettings> {
        let desired = self.desired(&id)?;
        let cpuset = desired.cpuset();
        if desired != cpuset {
            self.unsettled.insert(id.clone(), Instant::now());
        }
        self.reservations.news(&id, cpuset)
    }

    /// Writes shares and quota of containers that are being started as soon as they have a cgroup, so that
    /// they hold when the container's program begins.
    pub(super) async fn settle_starting(&mut self) {
        self.unsettled
            .retain(|_id, since| since.elapsed() < STARTING_LIMIT);
        let starting = self.unsettled.keys();
        let starting = starting.filter(|id| self.containers.stage(id) == Some(Stage::Created));
        let starting: Vec<_> = starting.cloned().collect();
        self.reconcile_some(&starting).await;
    }
}
