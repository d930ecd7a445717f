//! Learning what runs: at start, after a lost reply, and whenever the runtime's list disagrees.

use super::*;

impl Owner {
    /// The first list: what is gone is released, what was lost is found, the rest is placed anew,
    /// largest guarantee first.
    pub(super) async fn sync(&mut self, listing: &Listing, unknown: Vec<Ask>) {
        for id in self.entries.keys().cloned().collect::<Vec<_>>() {
            // Left over from a run that was killed between the request and the reply.
            if self.is_reserved(&id) {
                let pending = Pending {
                    before: (Arc::clone(&self.state), self.entries.clone()),
                    generation: u64::MAX,
                    growing: BTreeSet::new(),
                    unknown_since: Some(Instant::now()),
                };
                self.pending.insert(id, pending);
            }
        }
        let reset = std::mem::take(&mut self.reset);
        self.take_over(listing, unknown).await;
        // A create the runtime had not heard of when we died cannot still be on its way.
        for id in self.pending.keys().cloned().collect::<Vec<_>>() {
            self.abort(&id).await;
        }
        if reset {
            self.place_all_anew().await;
        }
        if let Err(problem) = self.reconcile_policy().await {
            tracing::error!(%problem, "what runs cannot be placed as configured");
        }
        self.synced = true;
        self.generation += 1;
        self.publish();
        self.reconcile_all().await;
    }

    /// A later list.
    pub(super) async fn listed(&mut self, listing: &Listing, unknown: Vec<Ask>) {
        self.take_over(listing, unknown).await;
        let lost: Vec<_> = self
            .pending
            .iter()
            .filter(|(_id, pending)| {
                pending
                    .unknown_since
                    .is_some_and(|since| since.elapsed() > UNKNOWN_PATIENCE)
            })
            .map(|(id, _pending)| id.clone())
            .collect();
        for id in lost {
            self.abort(&id).await;
        }
    }

    async fn take_over(&mut self, listing: &Listing, unknown: Vec<Ask>) {
        let live: BTreeMap<_, _> = listing
            .containers
            .iter()
            .map(|listed| (ContainerId(Arc::clone(&listed.id)), listed))
            .collect();
        let gone: Vec<_> = self
            .entries
            .iter()
            .filter(|(id, entry)| {
                entry.stage != Stage::Reserved
                    && !live.contains_key(*id)
                    && self
                        .since
                        .get(*id)
                        .is_none_or(|since| *since < listing.asked_at)
            })
            .map(|(id, _entry)| id.clone())
            .collect();
        self.release(&gone).await;
        for (id, listed) in &live {
            if let Some(entry) = self.entries.get_mut(id)
                && entry.stage != listed.stage
                && listed.stage == Stage::Running
            {
                Arc::make_mut(entry).stage = Stage::Running;
            }
        }
        let mut unknown: Vec<_> = unknown
            .into_iter()
            .filter(|ask| {
                let id = &ask.request.id;
                !self.entries.contains_key(id)
                    && self
                        .left
                        .get(id)
                        .is_none_or(|left| *left < listing.asked_at)
            })
            .collect();
        self.left
            .retain(|_id, left| left.elapsed() < MEMORY_OF_THE_GONE);
        unknown.sort_by(|a, b| largest_first(&a.request, &b.request));
        for ask in unknown {
            let reserved = self.entries.iter().find(|(_id, entry)| {
                entry.stage == Stage::Reserved
                    && entry.request.pod.sandbox == ask.request.pod.sandbox
                    && entry.request.name == ask.request.name
                    && entry.attempt == ask.attempt
            });
            let id = ask.request.id.clone();
            if let Some(provisional) = reserved.map(|(id, _entry)| id.clone()) {
                let lost = self
                    .pending
                    .get(&provisional)
                    .is_none_or(|pending| pending.unknown_since.is_some());
                if lost {
                    self.commit(&provisional, id.clone()).await;
                    self.set_running(&id, &live);
                }
                continue; // its reply is still on its way
            }
            self.adopt(ask).await;
            self.set_running(&id, &live);
        }
    }

    /// Reservations for the same container whose end is unknown.
    pub(super) fn same_container(&self, ask: &Ask) -> Vec<ContainerId> {
        self.pending
            .iter()
            .filter(|(id, pending)| {
                pending.unknown_since.is_some()
                    && self.entries.get(*id).is_some_and(|entry| {
                        entry.request.pod.sandbox == ask.request.pod.sandbox
                            && entry.request.name == ask.request.name
                            && entry.attempt == ask.attempt
                    })
            })
            .map(|(id, _pending)| id.clone())
            .collect()
    }

    fn is_reserved(&self, id: &ContainerId) -> bool {
        self.entries
            .get(id)
            .is_some_and(|entry| entry.stage == Stage::Reserved)
    }

    fn set_running(
        &mut self,
        id: &ContainerId,
        live: &BTreeMap<ContainerId, &super::super::Listed>,
    ) {
        if let (Some(entry), Some(listed)) = (self.entries.get_mut(id), live.get(id)) {
            Arc::make_mut(entry).stage = listed.stage;
        }
    }

    /// Places a container that exists already: it cannot be refused any more.
    async fn adopt(&mut self, ask: Ask) {
        let id = ask.request.id.clone();
        let before = (Arc::clone(&self.state), self.entries.clone());
        match self.place(&ask).await {
            Ok(growing) => {
                if let Some(entry) = self.entries.get_mut(&id) {
                    Arc::make_mut(entry).stage = Stage::Created;
                }
                self.counts.placed += 1;
                for id in growing.iter().chain([&id]) {
                    self.reconcile_some(std::slice::from_ref(id)).await;
                }
            }
            Err(failure) => {
                (self.state, self.entries) = before;
                self.count(&failure);
                self.insert_unplaced(ask, &failure.to_string());
                if let Some(entry) = self.entries.get_mut(&id) {
                    Arc::make_mut(entry).stage = Stage::Created;
                }
            }
        }
        self.since.insert(id, Instant::now());
        self.generation += 1;
        self.publish();
    }

    /// Another policy, or another configuration of it: all at once, or nothing.
    pub(super) async fn reconfigure(&mut self, policy: Arc<dyn Policy>) -> Result<(), String> {
        let old = std::mem::replace(&mut self.decider.policy, policy);
        if old.name() == self.decider.policy.name() {
            let done = self.reconcile_policy().await;
            if done.is_err() {
                self.decider.policy = old;
            }
            return done;
        }
        self.place_all_anew().await;
        Ok(())
    }

    /// Places every container as if it had just come, largest guarantee first.
    async fn place_all_anew(&mut self) {
        let was = self.wanted_all();
        let mut asks: Vec<_> = self
            .entries
            .values()
            .map(|entry| entry.request.clone())
            .collect();
        asks.sort_by(largest_first);
        Arc::make_mut(&mut self.state).containers.clear();
        for entry in self.entries.values_mut() {
            Arc::make_mut(entry).placement = None;
        }
        for request in asks {
            let id = request.id.clone();
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
                Ok(decision) => drop(self.apply(&decision)), // written below, in one order
                Err(failure) => {
                    self.count(&failure);
                    tracing::error!(container = %id, %failure, "runs UNPLACED under the new policy");
                    if let Some(entry) = self.entries.get_mut(&id) {
                        Arc::make_mut(entry).unplaced = Some(failure.to_string());
                    }
                }
            }
        }
        let plan = plan(&was, &self.wanted_all());
        let freed: Vec<_> = plan
            .after
            .iter()
            .filter(|step| step.to.cpus.is_empty())
            .map(|step| step.id.clone())
            .collect();
        self.run_plan(&plan).await;
        self.set_free(&freed).await;
        self.generation += 1;
        self.publish();
    }

    /// Containers the policy leaves alone get what the runtime asked for.
    async fn set_free(&mut self, ids: &[ContainerId]) {
        let mut book = self.book();
        book.entries.retain(|id, _entry| ids.contains(id));
        let cgroups = Arc::clone(&self.cgroups);
        let report = tokio::task::spawn_blocking(move || restore(&book, &cgroups)).await;
        for (id, problem) in report.unwrap_or_default().failed {
            tracing::error!(container = %id, problem, "could not be set free");
        }
    }

    /// Has the policy repair the state, and carries it out.
    pub(super) async fn reconcile_policy(&mut self) -> Result<(), String> {
        let decision = self
            .decider
            .ask(&self.state, |policy, view| policy.reconcile(view))
            .await
            .map_err(|failure| failure.to_string())?;
        if decision == Decision::default() {
            self.show();
            return Ok(());
        }
        let plan = self.apply(&decision);
        self.run_plan(&plan).await;
        self.generation += 1;
        self.publish();
        Ok(())
    }
}

/// Guaranteed before Burstable before BestEffort, then by CPU request, then by age of the name.
fn largest_first(a: &resmgr_policy::Request, b: &resmgr_policy::Request) -> std::cmp::Ordering {
    a.qos
        .cmp(&b.qos)
        .then(b.requirements.cpu_request.cmp(&a.requirements.cpu_request))
        .then_with(|| a.pod.name.cmp(&b.pod.name))
        .then_with(|| a.name.cmp(&b.name))
}
