//! From the CPUs that containers hold exclusively to what is written for every container.

use super::{CpuPools, CpuSplit, Item, StaticEngine, Variant, taken, unthrottled};
use crate::{
    annotation::wants_rebalance,
    decision::Change,
    mems::Mems,
    request::{QosClass, Request, estimate::shares_from_milli},
    state::{Placement, Quota},
};
use alloc::{sync::Arc, vec, vec::Vec};
use resmgr_topology::{CpuSet, Cpus, Topology};

/// CPUs that many containers have, each set kept once.
struct Common {
    /// The shared pool.
    pool: Cpus,
    /// For those beyond its capacity.
    spilled: Cpus,
    /// With what it borrows of the reserved CPUs.
    shared_on_loan: Cpus,
    /// The reserved CPUs.
    reserved: Cpus,
    /// With what they borrow of the shared pool.
    reserved_on_loan: Cpus,
}

impl Common {
    fn of(pools: &CpuPools, taken: &CpuSet) -> Self {
        let pool = match pools.shared.difference(taken) {
            // Every CPU of the pool went offline.
            pool if pool.is_empty() => pools.reserved,
            pool => pool,
        };
        let loan = pools.loans.to_reserved.intersection(&pool);
        Self {
            pool: pool.into(),
            spilled: pool.union(&pools.reserved).into(),
            shared_on_loan: pool.union(&pools.loans.to_shared).into(),
            reserved: pools.reserved.into(),
            reserved_on_loan: pools.reserved.union(&loan).into(),
        }
    }

    fn placements(&self) -> impl Iterator<Item = &Cpus> {
        let pool = [&self.pool, &self.spilled, &self.shared_on_loan];
        pool.into_iter()
            .chain([&self.reserved, &self.reserved_on_loan])
    }
}

impl<V: Variant> StaticEngine<V> {
    /// New placements of all containers whose placement changes, in the order of `items`: by id.
    pub(super) fn reassign_shared(
        &self,
        topology: &Topology,
        pools: &CpuPools,
        items: &[Item<'_>],
    ) -> Vec<Change> {
        let common = Common::of(pools, &taken(items));
        let shared: Arc<str> = "shared".into();
        let reserved: Arc<str> = "reserved".into();
        let may_borrow = |request: &Request| wants_rebalance(request) != Some(false);
        let splits = items
            .iter()
            .map(|item| V::split(&self.config, item.request));
        let splits: Vec<CpuSplit> = splits.collect();
        let spills = self.spills(items, &splits, &common.pool);
        let pins = self.config.pin_memory;
        let mut mems = pins.then(|| Mems::new(topology, common.placements()));
        let mut changes = Vec::with_capacity(items.len());
        for ((item, split), spills) in items.iter().zip(splits).zip(spills) {
            let mut placement = Placement {
                exclusive: item.exclusive.clone(),
                shared: split.part,
                ..Placement::default()
            };
            if split.reserved && !common.reserved.is_empty() {
                placement.pool = Some(reserved.clone());
                placement.cpus = if !pools.loans.to_reserved.is_empty() && may_borrow(item.request)
                {
                    common.reserved_on_loan.clone()
                } else {
                    common.reserved.clone()
                };
            } else if item.exclusive.is_empty() || split.part.0 > 0 {
                let base = if spills {
                    &common.spilled
                } else if !pools.loans.to_shared.is_empty() && may_borrow(item.request) {
                    &common.shared_on_loan
                } else {
                    &common.pool
                };
                let fits = |domain: &&Cpus| {
                    let inside = base.intersection(domain);
                    let needs = usize::try_from(split.part.0.div_ceil(1000)).unwrap_or(usize::MAX);
                    inside.len() >= needs.max(1)
                };
                placement.confined = item.confined.as_ref().filter(fits).cloned();
                placement.cpus = match &placement.confined {
                    None if item.exclusive.is_empty() => base.clone(),
                    None => item.exclusive.union(base).into(),
                    Some(domain) => item.exclusive.union(&base.intersection(domain)).into(),
                };
                placement.pool = Some(shared.clone());
            } else {
                placement.cpus = item.exclusive.clone();
            }
            if V::SETS_SHARES {
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
            if let Some(mems) = &mut mems {
                let limit = item.request.requirements.memory_limit_bytes;
                placement.mems = mems.of(&placement.cpus, limit);
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

    /// Which containers have their shared part beyond the pool's capacity, which is given to Guaranteed pods
    /// first, then by arrival.
    fn spills(&self, items: &[Item<'_>], splits: &[CpuSplit], pool: &CpuSet) -> Vec<bool> {
        let mut spills = vec![false; items.len()];
        let counts = |split: &CpuSplit| !split.reserved && (split.full == 0 || split.part.0 > 0);
        let parts = splits.iter().filter(|split| counts(split));
        let asked_milli = parts.fold(0u64, |sum, split| {
            sum.saturating_add(u64::from(split.part.0))
        });
        let capacity = u64::try_from(pool.len()).unwrap_or(u64::MAX);
        let mut left_milli = capacity.saturating_mul(1000);
        if !V::SPILLS || asked_milli <= left_milli {
            return spills;
        }
        let mut order: Vec<(QosClass, u64, usize)> = Vec::with_capacity(items.len());
        let keys = items.iter().enumerate();
        order.extend(keys.map(|(index, item)| (item.request.qos, item.arrival, index)));
        order.sort_unstable();
        let mut full = false;
        for (_, _, index) in order {
            if let (Some(split), Some(slot)) = (splits.get(index), spills.get_mut(index))
                && counts(split)
            {
                let left = left_milli.checked_sub(u64::from(split.part.0));
                full = full || left.is_none();
                left_milli = left.unwrap_or(0);
                *slot = full;
            }
        }
        spills
    }
}
