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
                    growing: BTreeMap::new(),
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
        let placed = if reset {
            self.place_all_anew().await
        } else {
            self.repair().await
        };
        if let Err(problem) = placed {
            tracing::error!(%problem, "not all that runs could be placed as configured");
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
        unknown.sort_by(|a, b| switch::largest_first(&a.request, &b.request));
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
                for id in growing.keys().chain([&id]) {
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
}
