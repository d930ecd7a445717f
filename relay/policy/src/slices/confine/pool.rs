//! Starving pools grow, idle ones shrink: of the shared and the reserved CPUs one may lend a part of its
//! own to the other. The lender goes on running there; nothing exclusive is touched.

use super::Scene;
use crate::{
    rebalance::proposal::{Proposal, Wins, movable},
    request::ContainerId,
    state::rebalance::{Part, What, or},
};
use alloc::{format, string::String, sync::Arc, vec, vec::Vec};
use resmgr_topology::{CpuSet, Preference, allocate};

/// A pool this busy (thousandths) whose members wait this long for each of its CPUs starves.
const STARVES_BUSY_MILLI: u64 = 800;
const STARVES_WAIT_NS_PER_S: u64 = 100_000_000;
/// A pool at most this busy whose members wait less than this is idle and may lend.
const IDLE_BUSY_MILLI: u64 = 300;
const IDLE_WAIT_NS_PER_S: u64 = 10_000_000;
/// What a pool borrowed goes back when it would be at most this busy without it.
const BACK_BUSY_MILLI: u64 = 500;

struct Pool<'a> {
    name: &'static str,
    own: CpuSet,
    /// What it borrows now.
    lent: CpuSet,
    wait_ns_per_s: u64,
    used_milli: u64,
    /// Who waits most.
    worst: Option<(u64, &'a ContainerId)>,
}

impl Pool<'_> {
    fn per_cpu(&self, sum: u64) -> u64 {
        let cpus = self.own.union(&self.lent).len().max(1);
        sum / u64::try_from(cpus).unwrap_or(1)
    }

    fn busy(&self, scene: &Scene<'_>) -> u64 {
        self.per_cpu(scene.contention.sum(&self.own.union(&self.lent)))
    }

    fn starves(&self, scene: &Scene<'_>) -> bool {
        self.busy(scene) >= STARVES_BUSY_MILLI
            && self.per_cpu(self.wait_ns_per_s) >= STARVES_WAIT_NS_PER_S
    }

    fn idle(&self, scene: &Scene<'_>) -> bool {
        self.busy(scene) <= IDLE_BUSY_MILLI && self.per_cpu(self.wait_ns_per_s) < IDLE_WAIT_NS_PER_S
    }

    fn line(&self, scene: &Scene<'_>) -> String {
        format!(
            "pool {}: CPUs {}, borrows {}; {} of 1000 busy, {} µs/s waited for each CPU",
            self.name,
            self.own,
            or(Some(&self.lent), "nothing"),
            self.busy(scene),
            self.per_cpu(self.wait_ns_per_s) / 1000
        )
    }
}

pub(super) fn proposals(scene: &Scene<'_>) -> Vec<Proposal> {
    if scene.pool.is_empty() || scene.sets.reserved.is_empty() {
        return Vec::new();
    }
    let mut shared = pool(scene, "shared", scene.pool, scene.sets.reserved);
    let mut reserved = pool(scene, "reserved", scene.sets.reserved, scene.pool);
    for (id, one) in &scene.view.state.containers {
        let of = match one.placement.pool.as_deref() {
            Some("shared") => &mut shared,
            Some("reserved") => &mut reserved,
            _ => continue,
        };
        if let Some(seen) = movable(scene.view, id, &one.request) {
            of.wait_ns_per_s = of.wait_ns_per_s.saturating_add(seen.wait_ns_per_s);
            of.used_milli += u64::from(seen.utilisation_mcpu);
            of.worst = of.worst.max(Some((seen.wait_ns_per_s, id)));
        }
    }
    let pairs = [(&shared, &reserved), (&reserved, &shared)];
    let each = pairs.into_iter();
    each.filter_map(|(borrower, lender)| proposal(scene, borrower, lender))
        .collect()
}

fn pool<'a>(scene: &Scene<'_>, name: &'static str, own: CpuSet, lender: CpuSet) -> Pool<'a> {
    let lent = scene.view.state.rebalance.lent.get(name);
    Pool {
        name,
        own,
        lent: lent.map_or(CpuSet::EMPTY, |lent| lent.intersection(&lender)),
        wait_ns_per_s: 0,
        used_milli: 0,
        worst: None,
    }
}

fn proposal(scene: &Scene<'_>, borrower: &Pool<'_>, lender: &Pool<'_>) -> Option<Proposal> {
    let (_, worst) = borrower.worst?;
    let candidates = vec![borrower.line(scene), lender.line(scene)];
    let make = |to, reason, gain_ns_per_s, wins, why| Proposal {
        parts: vec![Part {
            id: worst.clone(),
            what: What::Pool(Arc::from(borrower.name)),
            from: (!borrower.lent.is_empty()).then_some(borrower.lent),
            to,
        }],
        watched: Vec::new(),
        reason,
        gain_ns_per_s,
        wins,
        why: vec![why],
        candidates,
    };
    if borrower.lent.is_empty() {
        if !borrower.starves(scene) || !lender.idle(scene) || !lender.lent.is_empty() {
            return None;
        }
        // Half at most, and no more than doubles the borrower: the lender keeps CPUs to itself.
        let count = (lender.own.len() / 2).min(borrower.own.len());
        let cost = |cpu| scene.contention.cost(cpu);
        let preference = Preference {
            near: Some(&borrower.own),
            cost: Some(&cost),
        };
        let lent = allocate(scene.view.topology, &lender.own, count, &preference)
            .filter(|lent| !lent.is_empty())?;
        let parts = u64::try_from(borrower.own.len() + lent.len()).unwrap_or(1);
        let new = u64::try_from(lent.len()).unwrap_or(0);
        let gain = borrower.wait_ns_per_s / parts.max(1) * new;
        let why = format!(
            "pool {} starves ({} of 1000 busy, at least {STARVES_BUSY_MILLI}), pool {} is idle ({}, at most \
             {IDLE_BUSY_MILLI}): it lends {lent}",
            borrower.name,
            borrower.busy(scene),
            lender.name,
            lender.busy(scene)
        );
        return Some(make(Some(lent), "starving", gain, Wins::Time, why));
    }
    let own = u64::try_from(borrower.own.len().max(1)).unwrap_or(1);
    let without = borrower.used_milli / own;
    let calm = borrower.per_cpu(borrower.wait_ns_per_s) < IDLE_WAIT_NS_PER_S;
    if without <= BACK_BUSY_MILLI && calm {
        let why = format!(
            "pool {} would be {without} of 1000 busy without what it borrows, at most {BACK_BUSY_MILLI}",
            borrower.name
        );
        return Some(make(None, "idle", 0, Wins::Order, why));
    }
    if lender.starves(scene) && !borrower.starves(scene) {
        let why = format!(
            "pool {} starves itself ({} of 1000 busy): it takes back what it lent",
            lender.name,
            lender.busy(scene)
        );
        let gain = lender.wait_ns_per_s / 4;
        return Some(make(None, "starving", gain, Wins::Time, why));
    }
    None
}
