//! Learning what runs: at start, after a lost reply, and whenever the runtime's list disagrees.

use super::{
    answer::ContainerSpec,
    containers::{ContainerRef, Stage},
    owner::Owner,
    replace_all::largest_first,
    runtime::Listing,
};
use resmgr_policy::ContainerId;
use std::{collections::BTreeMap, sync::Arc};
use tokio::time::Instant;

/// The live containers of a list, and how far they have come.
type Live = BTreeMap<ContainerId, Stage>;

impl Owner {
    /// The first list: what is gone is released, what was lost is found, the rest is placed anew,
    /// largest guarantee first.
    pub(super) async fn sync(&mut self, listing: &Listing, unknown: Vec<ContainerSpec>) {
        // Left over from a run that was killed between the request and the reply.
        for container in self.containers.iter() {
            if container.stage() == Stage::Reserved {
                self.reservations
                    .inherit(container.id.clone(), Instant::now());
            }
        }
        let reset = std::mem::take(&mut self.reset);
        self.take_over(listing, unknown).await;
        // A create the runtime had not heard of when we died cannot still be on its way.
        for id in self.reservations.ids() {
            self.abort(&id).await;
        }
        let placed = if reset {
            self.place_all_anew().await
        } else {
            self.repair().await
        };
        if let Err(problem) = placed {
            tracing::error!(%problem, "not all containers could be placed as configured");
        }
        self.synced = true;
        self.publish();
        self.reconcile_all().await;
    }

    /// A later list.
    pub(super) async fn listed(&mut self, listing: &Listing, unknown: Vec<ContainerSpec>) {
        self.take_over(listing, unknown).await;
        for id in self.reservations.expired(Instant::now()) {
            self.abort(&id).await;
        }
        self.catch_up_files();
    }

    async fn take_over(&mut self, listing: &Listing, unknown: Vec<ContainerSpec>) {
        let live: Live = listing
            .containers
            .iter()
            .map(|listed| (ContainerId(Arc::clone(&listed.id)), listed.stage))
            .collect();
        let gone = self.containers.iter().filter(|container| {
            let id = container.id;
            container.stage() != Stage::Reserved
                && !live.contains_key(id)
                && self.freshness.absence_is_news(id, listing.requested_at)
        });
        let gone: Vec<_> = gone.map(|container| container.id.clone()).collect();
        self.release(&gone).await;
        let mut started = false;
        for (id, stage) in &live {
            if *stage == Stage::Running {
                started |= self.containers.set_stage(id, Stage::Running);
            }
        }
        if started {
            self.publish();
        }
        let mut unknown = unknown;
        unknown.retain(|spec| {
            let id = &spec.request.id;
            !self.containers.contains(id)
                && self.freshness.presence_is_news(id, listing.requested_at)
        });
        unknown.sort_by(|a, b| largest_first(&a.request, &b.request));
        for spec in unknown {
            let reserved = self.containers.iter().find_map(|known| {
                let same = known.stage() == Stage::Reserved && is_same(known, &spec);
                same.then(|| known.id.clone())
            });
            let id = spec.request.id.clone();
            if let Some(provisional) = reserved {
                if self.reservations.awaits_answer(&provisional) {
                    continue;
                }
                self.commit(&provisional, id.clone()).await;
            } else {
                self.adopt(spec).await;
            }
            if let Some(stage) = live.get(&id)
                && self.containers.set_stage(&id, *stage)
            {
                self.publish();
            }
        }
    }

    /// Reservations for the same container whose end is unknown.
    pub(super) fn same_container(&self, spec: &ContainerSpec) -> Vec<ContainerId> {
        let lost = self.reservations.of_unknown_end();
        lost.filter(|id| {
            let known = self.containers.get(id);
            known.is_some_and(|known| is_same(known, spec))
        })
        .cloned()
        .collect()
    }

    /// Places a container that exists already: it cannot be refused any more.
    async fn adopt(&mut self, spec: ContainerSpec) {
        let id = spec.request.id.clone();
        let before = self.containers.clone();
        let growing = match self.place(&spec).await {
            Ok(growing) => {
                self.counts.placed += 1;
                growing
            }
            Err(failure) => {
                self.containers = before;
                self.count(&failure);
                self.insert_unplaced(&spec, &failure.to_string());
                BTreeMap::new()
            }
        };
        self.containers.set_stage(&id, Stage::Created);
        self.freshness.created(id.clone(), Instant::now());
        self.publish();
        let waiting: Vec<_> = growing.into_keys().chain([id]).collect();
        self.reconcile_some(&waiting).await;
    }
}

/// Whether a known container is the one a spec tells of: the runtime has named it meanwhile.
fn is_same(known: ContainerRef<'_>, spec: &ContainerSpec) -> bool {
    known.request.pod.sandbox == spec.request.pod.sandbox
        && known.request.name == spec.request.name
        && known.record.attempt == spec.attempt
}
