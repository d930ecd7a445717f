//! The best move there is, if one is worth it.

use super::judge::tell;
use crate::{
    decision::Decision,
    explanation::{Explanation, Reason},
    rebalance::{
        cost::{PAYBACK_S, cost_ns_per_s},
        groups::{baseline, groups},
        limits::{BUDGET_PER_MINUTE, COOLDOWN_NS, MIN_GAIN_NS, SECOND_NS, VERIFY_NS},
        proposal::{Movable, Proposal, movable},
    },
    state::rebalance::{
        Baseline, Benefit, MigrationBaseline, MoveKind, MoveStep, Outcome, RebalanceMemory,
        RebalanceMove,
    },
    view::View,
    workload::key,
};
use alloc::{format, vec::Vec};
use core::cmp::Reverse;
use resmgr_topology::Nanos;

/// A move of a pool is judged by so many of those that share CPUs, those that lose most.
const POOL_JUDGES: usize = 8;

pub(super) fn propose(policy: &impl Movable, view: View<'_>) -> Option<Decision> {
    let memory = &view.state.rebalance;
    let minute = view.now.0.saturating_sub(60 * SECOND_NS);
    let recent = memory.history.iter().filter(|moved| moved.at.0 > minute);
    if recent.count() >= BUDGET_PER_MINUTE {
        return None;
    }
    let mut proposals: Vec<(u64, Proposal)> = policy
        .proposals(view)
        .into_iter()
        .map(|proposal| {
            let costs = proposal.steps.iter().map(|step| cost_ns_per_s(view, step));
            (costs.fold(0, u64::saturating_add), proposal)
        })
        .filter(|(cost, proposal)| {
            let pays = proposal.gain_ns_per_s >= MIN_GAIN_NS && proposal.gain_ns_per_s > *cost;
            (pays || proposal.benefit == Benefit::Order)
                && !proposal
                    .steps
                    .iter()
                    .any(|step| is_cooling_down(view, memory, step))
        })
        .collect();
    let first = |proposal: &Proposal| proposal.steps.first().map(|step| step.id.clone());
    proposals.sort_by_cached_key(|(cost, proposal)| {
        (
            Reverse(proposal.gain_ns_per_s.saturating_sub(*cost)),
            first(proposal),
        )
    });
    let mut proposals = proposals.into_iter();
    proposals.find_map(|(cost, best)| carry_out(policy, view, cost, best))
}

fn is_cooling_down(view: View<'_>, memory: &RebalanceMemory, step: &MoveStep) -> bool {
    let undone = || {
        let container = view.state.containers.get(&step.id)?;
        memory
            .workloads
            .get(&key(&container.request))?
            .cooldown_until
    };
    memory.is_cooling_down(step, view.now)
        || (!matches!(step.kind, MoveKind::Pool(_))
            && undone().is_some_and(|until| view.now < until))
}

fn carry_out(
    policy: &impl Movable,
    view: View<'_>,
    cost: u64,
    mut best: Proposal,
) -> Option<Decision> {
    let mut memory = view.state.rebalance.clone();
    for step in &best.steps {
        if let MoveKind::Pool(name) = &step.kind {
            memory.set_loan(name, step.to);
        }
    }
    let changes = policy.apply_steps(view, &best.steps, &memory)?;
    let id = best.steps.first()?.id.clone();
    let baselines = judges(view, &best);
    let lost = baselines.iter().fold(0u64, |sum, baseline| {
        sum.saturating_add(baseline.lost_ns_per_s)
    });
    memory
        .cooldown_until
        .retain(|id, until| view.now < *until && view.state.containers.contains_key(id));
    memory
        .pool_cooldown_until
        .retain(|_, until| view.now < *until);
    let until = Nanos(
        view.now
            .0
            .saturating_add(view.measured.scaled_to_half_life(COOLDOWN_NS)),
    );
    for step in &best.steps {
        memory.cool_down(step, until);
    }
    let seen = view.measured.containers.get(&id);
    let migrations_before = seen.map(|seen| MigrationBaseline::of(view, &id, seen));
    let mut reasons = core::mem::take(&mut best.reasons);
    reasons.extend(promise(view, &best, lost, cost));
    let explanations: Vec<_> = best
        .steps
        .iter()
        .filter_map(|step| {
            let container = view.state.containers.get(&step.id)?;
            let name = container.request.full_name();
            let explanation = Explanation {
                summary: format!("{name}: moved because of {}: {step}", best.reason),
                reasons: reasons.clone(),
                candidates: best.candidates.clone(),
            };
            Some((step.id.clone(), explanation))
        })
        .collect();
    let groups = groups(view, &changes, &baselines);
    memory.add(RebalanceMove {
        id,
        at: view.now,
        reason: best.reason.into(),
        steps: best.steps,
        baselines,
        lost_ns_per_s: lost,
        promised_ns_per_s: best.gain_ns_per_s,
        cost_ns_per_s: cost,
        seen_ns_per_s: None,
        outcome: Outcome::Trial,
        arrivals: view.state.next_arrival,
        migrations_before: migrations_before.filter(|_| best.benefit == Benefit::Refill),
        neighbours: groups.neighbours,
        comparison: groups.comparison,
        evidence: None,
    });
    let mut decision = Decision {
        changes,
        memory: Some(memory),
        ..Decision::default()
    };
    for (id, why) in explanations {
        tell(&mut decision, &id, why);
    }
    Some(decision)
}

/// What is expected of a move, and when and how it is judged.
fn promise(view: View<'_>, best: &Proposal, lost: u64, cost: u64) -> Vec<Reason> {
    let seconds = |ns| view.measured.scaled_to_half_life(ns) / SECOND_NS;
    let promise = (best.benefit != Benefit::Order).then_some(Reason::Promise {
        promised_ns_per_s: best.gain_ns_per_s,
        lost_ns_per_s: lost,
        cost_ns_per_s: cost,
        payback_s: PAYBACK_S,
    });
    let rule = Reason::MoveRule {
        benefit: best.benefit,
        min_gain_ns_per_s: MIN_GAIN_NS,
        judged_after_s: seconds(VERIFY_NS),
    };
    promise.into_iter().chain([rule]).collect()
}

/// The containers that a move is judged by: of pools those that lose most, otherwise those that move or are to
/// win by it.
fn judges(view: View<'_>, best: &Proposal) -> Vec<Baseline> {
    let mut baselines = Vec::new();
    for step in &best.steps {
        let MoveKind::Pool(_) = &step.kind else {
            baselines.push(baseline(view, &step.id));
            continue;
        };
        // Members of the lender too: what a loan costs them counts.
        let all = view.state.containers.iter();
        let members = all.filter(|(id, container)| {
            container.placement.pool.is_some() && movable(view, id, &container.request).is_some()
        });
        let mut members: Vec<Baseline> = members.map(|(id, _)| baseline(view, id)).collect();
        members.sort_by_key(|baseline| Reverse(baseline.lost_ns_per_s));
        members.truncate(POOL_JUDGES);
        baselines.extend(members);
    }
    for id in &best.watched {
        if !baselines.iter().any(|baseline| baseline.id == *id) {
            baselines.push(baseline(view, id));
        }
    }
    baselines
}
