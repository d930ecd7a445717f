//! Other resources for containers that exist: updates by the kubelet, and what the containers of a pod tell of
//! each other.

use super::*;
use crate::manager::event::{Update, UpdateEnd, Updated};
use resmgr_policy::{Basis, CriResources, Request};
use resmgr_topology::CpuSet;
use std::collections::VecDeque;

/// What a new container of a pod tells of the others.
#[derive(Debug, Default)]
pub(super) struct Judged {
    /// Containers that turn out to have no CPU request of their own.
    pub(super) revised: Vec<(ContainerId, Basis)>,
    /// Whether anything turned out that depends on all of them being alive still.
    pub(super) news: bool,
}

/// Containers whose creation was refused: the kubelet tries the next of the pod meanwhile, and what both show
/// tells whether either has a request of its own.
#[derive(Debug, Default)]
pub(super) struct Refused(VecDeque<(Instant, Arc<str>, Arc<str>, Basis)>);

impl Refused {
    /// How many are remembered.
    const MOST: usize = 256;

    /// For how long: the kubelet tries again every five minutes at least.
    const PATIENCE: Duration = Duration::from_secs(600);

    /// Remembers one more.
    pub(super) fn add(&mut self, ask: &Ask) {
        self.take(&ask.request);
        self.0.truncate(Self::MOST - 1);
        let Request { pod, name, .. } = &ask.request;
        let (sandbox, name) = (Arc::clone(&pod.sandbox), Arc::clone(name));
        self.0
            .push_front((Instant::now(), sandbox, name, ask.basis.clone()));
    }

    /// A container is no longer refused: what it shows is known as long as it lives.
    pub(super) fn take(&mut self, request: &Request) {
        self.0.retain(|(at, sandbox, name, _basis)| {
            at.elapsed() < Self::PATIENCE
                && (sandbox, name) != (&request.pod.sandbox, &request.name)
        });
    }

    /// A pod is gone.
    pub(super) fn forget(&mut self, sandbox: &str) {
        self.0.retain(|(_at, refused, ..)| **refused != *sandbox);
    }

    /// Name and basis of those of one pod.
    fn of<'a>(&'a self, pod: &'a str) -> impl Iterator<Item = (&'a Arc<str>, &'a Basis)> {
        let recent = self
            .0
            .iter()
            .filter(move |(at, sandbox, ..)| **sandbox == *pod && at.elapsed() < Self::PATIENCE);
        recent.map(|(_at, _sandbox, name, basis)| (name, basis))
    }
}

impl Owner {
    /// The kubelet wants other resources for a container that exists: what the update sets is merged with
    /// what was asked for before, and the container placed anew, in place, if that changes anything.
    pub(super) async fn update(
        &mut self,
        id: &ContainerId,
        update: Update,
    ) -> Result<Option<Updated>, Denied> {
        let Some(entry) = self.entries.get(id).cloned() else {
            return Ok(None);
        };
        let before = (Arc::clone(&self.state), self.entries.clone());
        let mut changed = Entry::clone(&entry);
        changed.basis.merge(&update.numbers);
        changed.request.requirements = self.requirements(&changed.basis, &changed.request);
        let asked = &mut changed.asked;
        if !update.cpus.is_empty() {
            asked.cpus = update.cpus;
        }
        asked.mems = update.mems.or(asked.mems.take());
        let shares = u64::try_from(changed.basis.shown.cpu_shares).ok();
        asked.cpu_shares = shares.filter(|shares| *shares > 0);
        asked.cpu_quota = Some(changed.basis.shown.cpu_quota).filter(|quota| *quota != 0);

        let mut growing = BTreeMap::new();
        if changed.request != entry.request && self.state.containers.contains_key(id) {
            let plan = match self.place_anew(&changed.request).await {
                Ok(plan) => plan,
                Err(failure) => {
                    self.count(&failure);
                    self.counts.refused += 1;
                    self.show();
                    return Err(Denied {
                        code: failure.code(),
                        message: format!("cri-resmgr: the resize does not fit: {failure}"),
                    });
                }
            };
            if let Err(error) = self.execute(&plan.before, true).await {
                (self.state, self.entries) = before;
                self.export_all();
                return Err(Denied {
                    code: 13, // INTERNAL
                    message: format!("cri-resmgr cannot make room: {error}"),
                });
            }
            growing = super::growing(plan);
        }
        if let Some(entry) = self.entries.get_mut(id) {
            let entry = Arc::make_mut(entry);
            entry.asked = changed.asked;
            entry.basis = changed.basis;
            entry.request = changed.request;
        }
        self.generation += 1;
        let wanted = self.wanted(id).unwrap_or_default();
        if !update.cpus.is_empty() {
            self.heed_named_cpus(&update.cpus, &wanted);
        }
        self.publish();
        let pending = Pending {
            before,
            generation: self.generation,
            growing,
            unknown_since: None,
        };
        self.pending.insert(id.clone(), pending);
        self.told.insert(id.clone(), wanted.cpuset());
        self.unsettled.insert(id.clone(), Instant::now());
        Ok(Some(Updated {
            wanted,
            generation: self.generation,
        }))
    }

    /// The runtime has answered an update. What it has written of shares and quota is the kubelet's: the
    /// policy's are written again, and that is no drift.
    pub(super) async fn update_ended(&mut self, id: &ContainerId, end: UpdateEnd) {
        if end == UpdateEnd::Refused
            && let Some(pending) = self.pending.remove(id)
        {
            tracing::warn!(container = %id, "the runtime refused other resources; the old ones count");
            self.take_back_update(id, pending).await;
        }
        self.end_growth(id).await;
        self.reconcile_some(std::slice::from_ref(id)).await;
        self.unsettled.remove(id);
    }

    /// The runtime did not do it: requirements and placement are what they were.
    async fn take_back_update(&mut self, id: &ContainerId, pending: Pending) {
        let wanted = self.wanted_all();
        if pending.generation == self.generation {
            (self.state, self.entries) = pending.before;
            self.export_all();
        } else if let Some(old) = pending.before.1.get(id) {
            if self.state.containers.contains_key(id)
                && let Err(failure) = self.place_anew(&old.request).await
            {
                self.count(&failure);
                tracing::error!(%failure, container = %id, "it keeps the place of the refused update");
                return;
            }
            if let Some(entry) = self.entries.get_mut(id) {
                let entry = Arc::make_mut(entry);
                entry.asked = old.asked.clone();
                entry.basis = old.basis.clone();
                entry.request = old.request.clone();
            }
        }
        self.told.remove(id);
        self.generation += 1;
        self.publish();
        let mut back = self.plan_from(&wanted);
        // What was to grow has not grown yet.
        let waiting = |step: &Step| {
            let grown = pending.growing.get(&step.id);
            grown.is_some_and(|had| *had == step.to)
        };
        back.before.retain(|step| !waiting(step));
        back.after.retain(|step| !waiting(step));
        self.run_plan(&back).await;
    }

    /// Decides on a changed request of a container that is placed, and takes the decision over. On failure
    /// nothing has changed.
    async fn place_anew(&mut self, request: &Request) -> Result<Plan, Failure> {
        let wish = request.clone();
        let decision = self
            .decider
            .ask(&self.state, move |policy, view| policy.place(view, &wish))
            .await?;
        self.decider.check(&self.state, &decision)?;
        Ok(self.apply(&decision))
    }

    fn requirements(&self, basis: &Basis, request: &Request) -> resmgr_policy::Requirements {
        let nodes = self.decider.topology.nodes.iter();
        basis.requirements(request.qos, nodes.map(|node| node.memory_bytes).sum())
    }

    /// Compares a new container with those of its pod that live: together they cannot ask for more than
    /// their pod has.
    pub(super) fn judge_pod(&self, ask: &mut Ask) -> Judged {
        let pod = &ask.request.pod.sandbox;
        let others = self.entries.iter().filter(|(id, entry)| {
            // The same container runs again: its earlier run has ended.
            entry.request.pod.sandbox == *pod
                && entry.request.name != ask.request.name
                && **id != ask.request.id
        });
        let mut others: Vec<_> = others
            .map(|(id, entry)| (id, &entry.basis, entry.basis.clone()))
            .collect();
        let lives = |name: &Arc<str>| {
            let mut others = self.entries.values();
            others.any(|entry| entry.request.pod.sandbox == *pod && entry.request.name == *name)
        };
        let refused = self.refused.of(pod);
        let refused = refused.filter(|(name, _basis)| **name != ask.request.name && !lives(name));
        let mut refused: Vec<_> = refused.map(|(_name, basis)| basis.clone()).collect();
        if pod.is_empty() || (others.is_empty() && refused.is_empty()) {
            return Judged::default();
        }
        let before = ask.basis.clone();
        let known = others.iter_mut().map(|(_id, _before, basis)| basis);
        let known = refused.iter_mut().chain(known);
        let mut members: Vec<_> = known.chain([&mut ask.basis]).collect();
        resmgr_policy::judge_pod(&mut members);
        let revised = others.into_iter().filter_map(|(id, before, basis)| {
            let revised = (basis.of_pod, basis.left) != (before.of_pod, before.left);
            revised.then(|| (id.clone(), basis))
        });
        let revised: Vec<_> = revised.collect();
        let news = !revised.is_empty() || ask.basis != before;
        ask.request.requirements = self.requirements(&ask.basis, &ask.request);
        Judged { revised, news }
    }

    /// Places containers anew of which something else is known now.
    pub(super) async fn revise(&mut self, revised: Vec<(ContainerId, Basis)>) {
        for (id, basis) in revised {
            let Some(entry) = self.entries.get(&id) else {
                continue;
            };
            let mut request = entry.request.clone();
            request.requirements = self.requirements(&basis, &request);
            tracing::info!(container = %request.name, pod = %request.pod.name,
                namespace = %request.pod.namespace, source = %request.requirements.source,
                "its CPU request is {}m", request.requirements.cpu_request);
            if self.state.containers.contains_key(&id) {
                match self.place_anew(&request).await {
                    Ok(plan) => self.run_plan(&plan).await,
                    Err(failure) => {
                        self.count(&failure);
                        tracing::error!(%failure, container = %id, "it cannot be placed anew");
                        continue;
                    }
                }
            }
            if let Some(entry) = self.entries.get_mut(&id) {
                let entry = Arc::make_mut(entry);
                entry.request = request;
                entry.basis = basis;
            }
            self.generation += 1;
        }
    }

    /// The runtime was told of other resources of a whole pod.
    pub(super) fn pod_resources(&mut self, sandbox: &str, resources: &CriResources) {
        for entry in self.entries.values_mut() {
            if *entry.request.pod.sandbox == *sandbox {
                let entry = Arc::make_mut(entry);
                let pod = entry.basis.pod.get_or_insert_default();
                pod.merge(resources);
            }
        }
        self.generation += 1;
        self.publish();
    }

    /// A request of the kubelet for a container that the policy has placed: whether it names CPUs tells
    /// whether the kubelet's own CPU manager is at work. The policy's placement stays.
    pub(super) fn heed_named_cpus(&mut self, named: &CpuSet, wanted: &Wanted) {
        if wanted.cpus.is_empty() {
            return;
        }
        let before = std::mem::replace(&mut self.other_cpu_manager, !named.is_empty());
        if !named.is_empty() {
            self.counts.overridden_cpusets += 1;
            if !before {
                let policy = self.decider.policy.name();
                tracing::warn!(%named, kept = %wanted.cpus,
                    "another CPU manager is at work: requests name CPUs for containers that policy \
                     {policy} places; the policy's CPUs are kept. Set the kubelet's cpuManagerPolicy to none");
            }
        } else if before {
            tracing::info!(
                "the other CPU manager is no longer at work: requests name no CPUs any more"
            );
        }
    }

    /// The runtime is about to write what the kubelet asked for.
    pub(super) fn unsettle(&mut self, id: ContainerId) {
        let differs = self
            .wanted(&id)
            .is_some_and(|wanted| wanted.cpu_shares.is_some() || wanted.cpu_quota.is_some());
        if differs {
            self.unsettled.insert(id, Instant::now());
        }
    }

    /// Writes shares and quota of containers that are being started as soon as they have a cgroup, so that
    /// they hold when the container's program begins.
    pub(super) async fn settle_starting(&mut self) {
        self.unsettled
            .retain(|_id, since| since.elapsed() < STARTING_LIMIT);
        let starting = self.unsettled.keys().filter(|id| {
            let entry = self.entries.get(*id);
            entry.is_some_and(|entry| entry.stage == Stage::Created)
        });
        let starting: Vec<_> = starting.cloned().collect();
        self.reconcile_some(&starting).await;
    }
}
