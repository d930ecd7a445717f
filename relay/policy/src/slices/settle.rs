//! From who holds what exclusively to what is written for everybody.

use super::{Flavour, Item, Sets, Slices, taken, unthrottled};
use crate::{
    annotation::wants_rebalance,
    decision::Change,
    mems::mems,
    request::{QosClass, estimate::shares_from_milli},
    state::{Placement, Quota},
};
use alloc::{collections::BTreeSet, sync::Arc, vec, vec::Vec};
use resmgr_topology::{CpuSet, NodeId, Topology};

/// Distinct (CPUs, limit) pairs are few: pool members share them.
type Memo = Option<(CpuSet, Option<u64>, Option<BTreeSet<NodeId>>)>;

impl<F: Flavour> Slices<F> {
    /// New placements of all whose placement changes, in the order of `items`: by id.
    pub(super) fn settle(
        &self,
        topology: &Topology,
        sets: &Sets,
        items: &[Item<'_>],
    ) -> Vec<Change> {
        let pool = match sets.pool.difference(&taken(items)) {
            // Every CPU of the pool went offline.
            pool if pool.is_empty() => sets.reserved,
            pool => pool,
        };
        let shared: Arc<str> = "shared".into();
        let reserved: Arc<str> = "reserved".into();
        let spills = self.spills(items, &pool);
        let mut memo: Memo = None;
        let mut changes = Vec::with_capacity(items.len());
        for (item, spills) in items.iter().zip(spills) {
            let split = F::split(&self.config, item.request);
            let mut placement = Placement {
                exclusive: item.exclusive,
                shared: split.part,
                cpus: item.exclusive,
                ..Placement::default()
            };
            if split.reserved && !sets.reserved.is_empty() {
                placement.pool = Some(reserved.clone());
                placement.cpus = sets.reserved;
                if !sets.lent.reserved.is_empty() && wants_rebalance(item.request) != Some(false) {
                    placement.cpus = sets.reserved.union(&sets.lent.reserved.intersection(&pool));
                }
            } else if item.exclusive.is_empty() || split.part.0 > 0 {
                let base = if spills {
                    pool.union(&sets.reserved)
                } else if !sets.lent.shared.is_empty()
                    && wants_rebalance(item.request) != Some(false)
                {
                    pool.union(&sets.lent.shared)
                } else {
                    pool
                };
                let fits = |span: &CpuSet| {
                    let inside = base.intersection(span);
                    let needs = usize::try_from(split.part.0.div_ceil(1000)).unwrap_or(usize::MAX);
                    inside.len() >= needs.max(1)
                };
                placement.confined = item.confined.filter(fits);
                let span = placement
                    .confined
                    .map_or(base, |span| base.intersection(&span));
                placement.pool = Some(shared.clone());
                placement.cpus = item.exclusive.union(&span);
            }
            if F::SETS_SHARES {
                let whole = u32::try_from(split.full).unwrap_or(u32::MAX);
                let milli = if split.part.0 > 0 {
                    split.part.0
                } else {
                    whole.saturating_mul(1000)
                };
                placement.cpu_shares = Some(shares_from_milli(milli));
            }
            if unthrottled(item.request, split) {
                placement.quota = Quota::Unlimited;
            }
            if self.config.pin_memory {
                let limit = item.request.requirements.memory_limit_bytes;
                placement.mems = match &memo {
                    Some((cpus, of, mems)) if *cpus == placement.cpus && *of == limit => {
                        mems.clone()
                    }
                    _ => {
                        let fresh = mems(topology, &placement.cpus, limit);
                        memo = Some((placement.cpus, limit, fresh.clone()));
                        fresh
                    }
                };
            }
            if item.old != Some(&placement) {
                changes.push(Change {
                    id: item.id.clone(),
                    request: None,
                    placement,
                    explanation: None,
                });
            }
        }
        changes
    }

    /// Whose shared part is beyond the pool's capacity: Guaranteed pods first, then by arrival.
    fn spills(&self, items: &[Item<'_>], pool: &CpuSet) -> Vec<bool> {
        let mut spills = vec![false; items.len()];
        if !F::SPILLS {
            return spills;
        }
        let mut order: Vec<(QosClass, u64, usize)> = Vec::with_capacity(items.len());
        let each = items.iter().enumerate();
        order.extend(each.map(|(index, item)| (item.request.qos, item.arrival, index)));
        order.sort_unstable();
        let capacity = i64::try_from(pool.len()).unwrap_or(i64::MAX);
        let mut left_milli = capacity.saturating_mul(1000);
        for (_, _, index) in order {
            if let (Some(item), Some(slot)) = (items.get(index), spills.get_mut(index)) {
                let split = F::split(&self.config, item.request);
                if split.reserved || (split.full > 0 && split.part.0 == 0) {
                    continue;
                }
                left_milli -= i64::from(split.part.0);
                *slot = left_milli < 0;
            }
        }
        spills
    }
}
