//! Loans between pools: of the shared and the reserved CPUs an idle pool may lend a part of its own to an
//! overloaded one. The lender's containers go on running there; nothing exclusive is touched.

use super::context::Context;
use crate::{
    explanation::{Candidate, Reason},
    rebalance::proposal::{Proposal, movable},
    request::ContainerId,
    state::rebalance::{Benefit, MoveKind, MoveStep},
};
use alloc::{sync::Arc, vec, vec::Vec};
use resmgr_topology::{CpuSet, Preference, allocate};

/// A pool this busy (thousandths) whose members wait this long for each of its CPUs is overloaded.
const OVERLOADED_BUSY_MILLI: u64 = 800;
const OVERLOADED_WAIT_NS_PER_S: u64 = 100_000_000;
/// A pool at most this busy whose members wait less than this is idle and may lend.
const IDLE_BUSY_MILLI: u64 = 300;
const IDLE_WAIT_NS_PER_S: u64 = 10_000_000;
/// What a pool borrowed goes back when it would be at most this busy without it.
const RETURN_BUSY_MILLI: u64 = 500;

struct LoanPool<'a> {
    name: &'static str,
    own: CpuSet,
    /// What it borrows now.
    on_loan: CpuSet,
    wait_ns_per_s: u64,
    used_milli: u64,
    /// The member that waits most, and how long.
    worst: Option<(u64, &'a ContainerId)>,
}

impl LoanPool<'_> {
    fn per_cpu(&self, sum: u64) -> u64 {
        let cpus = self.own.union(&self.on_loan).len().max(1);
        sum / u64::try_from(cpus).unwrap_or(1)
    }

    fn busy(&self, context: &Context<'_>) -> u64 {
        self.per_cpu(context.contention.sum(&self.own.union(&self.on_loan)))
    }

    fn is_overloaded(&self, context: &Context<'_>) -> bool {
        self.busy(context) >= OVERLOADED_BUSY_MILLI
            && self.per_cpu(self.wait_ns_per_s) >= OVERLOADED_WAIT_NS_PER_S
    }

    fn is_idle(&self, context: &Context<'_>) -> bool {
        self.busy(context) <= IDLE_BUSY_MILLI
            && self.per_cpu(self.wait_ns_per_s) < IDLE_WAIT_NS_PER_S
    }

    fn candidate(&self, context: &Context<'_>) -> Candidate {
        Candidate::Pool {
            pool: self.name.into(),
            cpus: self.own.into(),
            on_loan: self.on_loan.into(),
            busy_milli: self.busy(context),
            waited_ns_per_s: self.per_cpu(self.wait_ns_per_s),
        }
    }
}

pub(super) fn proposals(context: &Context<'_>) -> Vec<Proposal> {
    if context.pool.is_empty() || context.pools.reserved.is_empty() {
        return Vec::new();
    }
    let mut shared = pool(context, "shared", context.pool, context.pools.reserved);
    let mut reserved = pool(context, "reserved", context.pools.reserved, context.pool);
    for (id, container) in &context.view.state.containers {
        let pool = match container.placement.pool.as_deref() {
            Some("shared") => &mut shared,
            Some("reserved") => &mut reserved,
            _ => continue,
        };
        if let Some(seen) = movable(context.view, id, &container.request) {
            pool.wait_ns_per_s = pool.wait_ns_per_s.saturating_add(seen.wait_ns_per_s);
            pool.used_milli += u64::from(seen.utilisation_mcpu);
            pool.worst = pool.worst.max(Some((seen.wait_ns_per_s, id)));
        }
    }
    let pairs = [(&shared, &reserved), (&reserved, &shared)];
    let proposals = pairs.into_iter();
    let proposals = proposals.filter_map(|(borrower, lender)| proposal(context, borrower, lender));
    proposals.collect()
}

fn pool<'a>(
    context: &Context<'_>,
    name: &'static str,
    own: CpuSet,
    lender: CpuSet,
) -> LoanPool<'a> {
    let loan = context.view.state.rebalance.loans.get(name);
    LoanPool {
        name,
        own,
        on_loan: loan.map_or(CpuSet::EMPTY, |loan| loan.intersection(&lender)),
        wait_ns_per_s: 0,
        used_milli: 0,
        worst: None,
    }
}

fn proposal(
    context: &Context<'_>,
    borrower: &LoanPool<'_>,
    lender: &LoanPool<'_>,
) -> Option<Proposal> {
    let (_, worst) = borrower.worst?;
    let candidates = vec![borrower.candidate(context), lender.candidate(context)];
    let make = |to, reason, gain_ns_per_s, benefit, why| Proposal {
        steps: vec![MoveStep {
            id: worst.clone(),
            kind: MoveKind::Pool(Arc::from(borrower.name)),
            from: (!borrower.on_loan.is_empty()).then_some(borrower.on_loan),
            to,
        }],
        watched: Vec::new(),
        reason,
        gain_ns_per_s,
        benefit,
        reasons: vec![why],
        candidates,
    };
    if borrower.on_loan.is_empty() {
        if !borrower.is_overloaded(context)
            || !lender.is_idle(context)
            || !lender.on_loan.is_empty()
        {
            return None;
        }
        // Half at most, and no more than doubles the borrower: the lender keeps CPUs to itself.
        let count = (lender.own.len() / 2).min(borrower.own.len());
        let cost = |cpu| context.contention.cost(cpu);
        let preference = Preference {
            near: Some(&borrower.own),
            cost: Some(&cost),
        };
        let loan = allocate(context.view.topology, &lender.own, count, &preference)
            .filter(|loan| !loan.is_empty())?;
        let parts = u64::try_from(borrower.own.len() + loan.len()).unwrap_or(1);
        let new = u64::try_from(loan.len()).unwrap_or(0);
        let gain = borrower.wait_ns_per_s / parts.max(1) * new;
        let why = Reason::PoolOverloaded {
            borrower: borrower.name.into(),
            borrower_busy_milli: borrower.busy(context),
            overloaded_milli: OVERLOADED_BUSY_MILLI,
            lender: lender.name.into(),
            lender_busy_milli: lender.busy(context),
            idle_milli: IDLE_BUSY_MILLI,
            cpus: loan.into(),
        };
        return Some(make(Some(loan), "starving", gain, Benefit::Time, why));
    }
    let own = u64::try_from(borrower.own.len().max(1)).unwrap_or(1);
    let without = borrower.used_milli / own;
    let calm = borrower.per_cpu(borrower.wait_ns_per_s) < IDLE_WAIT_NS_PER_S;
    if without <= RETURN_BUSY_MILLI && calm {
        let why = Reason::LoanReturned {
            borrower: borrower.name.into(),
            busy_without_milli: without,
            returned_milli: RETURN_BUSY_MILLI,
        };
        return Some(make(None, "idle", 0, Benefit::Order, why));
    }
    if lender.is_overloaded(context) && !borrower.is_overloaded(context) {
        let why = Reason::LoanTakenBack {
            lender: lender.name.into(),
            busy_milli: lender.busy(context),
        };
        let gain = lender.wait_ns_per_s / 4;
        return Some(make(None, "starving", gain, Benefit::Time, why));
    }
    None
}
