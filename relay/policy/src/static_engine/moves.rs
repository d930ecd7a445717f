//! Moving what a slicing policy placed: which moves there are, and how they are made.

mod confine;
mod context;
mod exclusive;
mod loan;
mod separate;

use super::{StaticEngine, Variant, items, legal_part, taken};
use crate::{
    annotation::wants_exclusive_moved,
    contention::Contention,
    decision::Change,
    rebalance::proposal::{Movable, Proposal, movable},
    state::rebalance::{MoveKind, MoveStep, RebalanceMemory},
    view::View,
};
use alloc::vec::Vec;
use context::{Context, domains};
use resmgr_topology::Cpus;

impl<V: Variant> Movable for StaticEngine<V> {
    fn proposals(&self, view: View<'_>) -> Vec<Proposal> {
        let pools = self.pools(view.topology);
        let taken = taken(&items(view, None));
        let pool = pools.shared.difference(&taken);
        let contention = Contention::of(view);
        let domains = domains(view, &contention, &pool);
        let context = Context {
            view,
            pools,
            pool,
            taken,
            contention,
            domains,
        };
        let mut proposals = separate::proposals(&context);
        for (id, container) in &view.state.containers {
            if let Some(shared) = context.shared(id) {
                proposals.extend(confine::proposal(&context, shared));
            } else if !container.placement.exclusive.is_empty()
                && let Some(seen) = movable(view, id, &container.request)
                && exclusive::suffers(seen)
                && wants_exclusive_moved(&container.request)
            {
                proposals.extend(exclusive::proposal(self, &context, id, container, seen));
            }
        }
        if V::SPILLS {
            proposals.extend(loan::proposals(&context));
        }
        proposals
    }

    fn apply_steps(
        &self,
        view: View<'_>,
        steps: &[MoveStep],
        memory: &RebalanceMemory,
    ) -> Option<Vec<Change>> {
        let pools = self.pools(view.topology).with_loans::<V>(memory);
        let mut items = items(view, None);
        for step in steps {
            match &step.kind {
                MoveKind::Domain => {
                    let item = items.iter_mut().find(|item| *item.id == step.id)?;
                    item.confined = step.to.map(Cpus::from);
                }
                MoveKind::Exclusive => {
                    let to = step.to?;
                    let item = items.iter_mut().find(|item| *item.id == step.id)?;
                    let full = item.exclusive.len();
                    let sources = V::sources(&self.config, item.request, full);
                    let legal = legal_part(&pools, &sources, &to, full);
                    item.exclusive = Cpus::EMPTY;
                    let held = taken(&items);
                    let pool = pools.shared.difference(&held).difference(&to);
                    let free = to.is_disjoint(&held) && to.is_subset(&view.topology.online);
                    if legal != to || to.len() != full || !free || pool.is_empty() {
                        return None;
                    }
                    let item = items.iter_mut().find(|item| *item.id == step.id)?;
                    item.exclusive = to.into();
                }
                MoveKind::Pool(_) => {}
            }
        }
        let changes = self.reassign_shared(view.topology, &pools, &items);
        let done = |step: &MoveStep| {
            let change = changes.iter().find(|change| change.id == step.id);
            match &step.kind {
                MoveKind::Domain => change
                    .is_some_and(|change| change.placement.confined.as_deref() == step.to.as_ref()),
                MoveKind::Exclusive => change.is_some(),
                MoveKind::Pool(_) => !changes.is_empty(),
            }
        };
        steps.iter().all(done).then_some(changes)
    }
}
