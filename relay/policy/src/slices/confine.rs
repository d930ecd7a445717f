//! Moving what a slicing policy placed: which moves there are, and how they are carried out.

mod exclusive;
mod pair;
mod pool;
mod span;

use super::{Flavour, Sets, Slices, items, legal_part, taken};
use crate::{
    annotation::wants_exclusive_moved,
    contention::Contention,
    decision::Change,
    rebalance::proposal::{Movable, Proposal, Wins, movable},
    request::ContainerId,
    state::{
        Placement,
        rebalance::{Part, RebalanceMemory, What},
    },
    view::View,
};
use alloc::{vec, vec::Vec};
use resmgr_topology::{CpuSet, Cpus};

/// What all kinds of moves look at.
pub(super) struct Scene<'a> {
    pub(super) view: View<'a>,
    pub(super) sets: Sets,
    /// The shared pool now, without what it borrows.
    pub(super) pool: CpuSet,
    pub(super) taken: CpuSet,
    pub(super) contention: Contention,
    pub(super) spans: Vec<span::Span>,
}

/// A shared container that may be moved.
#[derive(Clone, Copy)]
pub(super) struct Shared<'a> {
    pub(super) id: &'a ContainerId,
    pub(super) placed: &'a Placement,
    pub(super) seen: &'a crate::measured::Observed,
}

impl<'a> Scene<'a> {
    /// The container, when it runs in the shared pool only and may be moved.
    pub(super) fn shared(&self, id: &'a ContainerId) -> Option<Shared<'a>> {
        let one = self.view.state.containers.get(id)?;
        let placed = &one.placement;
        let shared = placed.exclusive.is_empty() && placed.pool.as_deref() == Some("shared");
        let seen = movable(self.view, id, &one.request).filter(|_| shared)?;
        Some(Shared { id, placed, seen })
    }
}

impl<F: Flavour> Movable for Slices<F> {
    fn proposals(&self, view: View<'_>) -> Vec<Proposal> {
        let sets = self.sets(view.topology);
        let taken = taken(&items(view, None));
        let pool = sets.pool.difference(&taken);
        let contention = Contention::of(view);
        let spans = span::spans(view, &contention, &pool);
        let scene = Scene {
            view,
            sets,
            pool,
            taken,
            contention,
            spans,
        };
        let mut proposals = pair::proposals(&scene);
        for (id, one) in &view.state.containers {
            if let Some(shared) = scene.shared(id) {
                proposals.extend(span::proposal(&scene, shared));
            } else if !one.placement.exclusive.is_empty()
                && let Some(seen) = movable(view, id, &one.request)
                && exclusive::suffers(seen)
                && wants_exclusive_moved(&one.request)
            {
                proposals.extend(exclusive::proposal(self, &scene, id, one, seen));
            }
        }
        if F::SPILLS {
            proposals.extend(pool::proposals(&scene));
        }
        proposals
    }

    fn carried_out(
        &self,
        view: View<'_>,
        parts: &[Part],
        memory: &RebalanceMemory,
    ) -> Option<Vec<Change>> {
        let mut sets = self.sets(view.topology);
        sets.borrow::<F>(memory);
        let mut items = items(view, None);
        for part in parts {
            match &part.what {
                What::Span => {
                    let item = items.iter_mut().find(|item| *item.id == part.id)?;
                    item.confined = part.to.map(Cpus::from);
                }
                What::Exclusive => {
                    let to = part.to?;
                    let item = items.iter_mut().find(|item| *item.id == part.id)?;
                    let full = item.exclusive.len();
                    let sources = F::sources(&self.config, item.request, full);
                    let legal = legal_part(&sets, &sources, &to, full);
                    item.exclusive = Cpus::EMPTY;
                    let others = taken(&items);
                    let pool = sets.pool.difference(&others).difference(&to);
                    let free = to.is_disjoint(&others) && to.is_subset(&view.topology.online);
                    if legal != to || to.len() != full || !free || pool.is_empty() {
                        return None;
                    }
                    let item = items.iter_mut().find(|item| *item.id == part.id)?;
                    item.exclusive = to.into();
                }
                What::Pool(_) => {}
            }
        }
        let changes = self.settle(view.topology, &sets, &items);
        let done = |part: &Part| {
            let change = changes.iter().find(|change| change.id == part.id);
            match &part.what {
                What::Span => change
                    .is_some_and(|change| change.placement.confined.as_deref() == part.to.as_ref()),
                What::Exclusive => change.is_some(),
                What::Pool(_) => !changes.is_empty(),
            }
        };
        parts.iter().all(done).then_some(changes)
    }
}

/// A part that changes what a shared container is confined to.
pub(super) fn confine(shared: Shared<'_>, to: Option<CpuSet>) -> Part {
    Part {
        id: shared.id.clone(),
        what: What::Span,
        from: shared.placed.confined.as_deref().copied(),
        to,
    }
}

/// One part, one reason.
pub(super) fn single(part: Part, reason: &'static str, gain_ns_per_s: u64) -> Proposal {
    Proposal {
        parts: vec![part],
        watched: Vec::new(),
        reason,
        gain_ns_per_s,
        wins: Wins::Time,
        why: Vec::new(),
        candidates: Vec::new(),
    }
}
