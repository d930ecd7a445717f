//! The best move there is, if one is worth it.

use super::judge::tell;
use crate::{
    decision::Decision,
    explanation::{Explanation, Reason},
    rebalance::{
        cost::{PAYBACK_S, cost_ns_per_s, lost_ns_per_s},
        limits::{
            BUDGET_PER_MINUTE, MIN_GAIN_NS, REST_NS, SECOND_NS, VERIFY_NS, VERIFY_WAITING_NS,
        },
        proposal::{Movable, Proposal, confident, movable},
    },
    state::rebalance::{Benefit, Judged, Moved, Outcome, Part, RebalanceMemory, Wandered, What},
    view::View,
    workload::key,
};
use alloc::{format, vec::Vec};
use core::cmp::Reverse;
use resmgr_topology::{CpuSet, Nanos};

/// A move of a pool is judged by so many of those that share CPUs, those that lose most.
const POOL_JUDGES: usize = 8;
/// So many of those on whose CPUs somebody is moved are watched, those who share most of theirs.
const NEIGHBOURS: usize = 64;

pub(super) fn propose(policy: &impl Movable, view: View<'_>) -> Option<Decision> {
    let memory = &view.state.rebalance;
    let minute = view.now.0.saturating_sub(60 * SECOND_NS);
    let recent = memory.history.iter().filter(|one| one.at.0 > minute);
    if recent.count() >= BUDGET_PER_MINUTE {
        return None;
    }
    let mut proposals: Vec<(u64, Proposal)> = policy
        .proposals(view)
        .into_iter()
        .map(|one| {
            let costs = one.parts.iter().map(|part| cost_ns_per_s(view, part));
            (costs.fold(0, u64::saturating_add), one)
        })
        .filter(|(cost, one)| {
            let pays = one.gain_ns_per_s >= MIN_GAIN_NS && one.gain_ns_per_s > *cost;
            (pays || one.benefit == Benefit::Order)
                && !one.parts.iter().any(|part| rests(view, memory, part))
        })
        .collect();
    let first = |one: &Proposal| one.parts.first().map(|part| part.id.clone());
    proposals.sort_by_cached_key(|(cost, one)| {
        (Reverse(one.gain_ns_per_s.saturating_sub(*cost)), first(one))
    });
    let mut each = proposals.into_iter();
    each.find_map(|(cost, best)| carry_out(policy, view, cost, best))
}

fn rests(view: View<'_>, memory: &RebalanceMemory, part: &Part) -> bool {
    let undone = || {
        let container = view.state.containers.get(&part.id)?;
        memory.workloads.get(&key(&container.request))?.rests_until
    };
    memory.rests(part, view.now)
        || (!matches!(part.what, What::Pool(_)) && undone().is_some_and(|until| view.now < until))
}

fn carry_out(
    policy: &impl Movable,
    view: View<'_>,
    cost: u64,
    mut best: Proposal,
) -> Option<Decision> {
    let mut memory = view.state.rebalance.clone();
    for part in &best.parts {
        if let What::Pool(name) = &part.what {
            memory.lend(name, part.to);
        }
    }
    let changes = policy.apply_steps(view, &best.parts, &memory)?;
    let id = best.parts.first()?.id.clone();
    let judged = judges(view, &best);
    let lost = judged
        .iter()
        .fold(0u64, |sum, one| sum.saturating_add(one.lost_ns_per_s));
    memory
        .rests_until
        .retain(|id, until| view.now < *until && view.state.containers.contains_key(id));
    memory.pools_rest_until.retain(|_, until| view.now < *until);
    let until = Nanos(view.now.0.saturating_add(view.measured.paced(REST_NS)));
    for part in &best.parts {
        memory.rest(part, until);
    }
    let wandered = view.measured.containers.get(&id).map(Wandered::of);
    let mut reasons = core::mem::take(&mut best.reasons);
    reasons.extend(promise(view, &best, lost, cost));
    let explanations: Vec<_> = best
        .parts
        .iter()
        .filter_map(|part| {
            let container = view.state.containers.get(&part.id)?;
            let name = container.request.full_name();
            let explanation = Explanation {
                summary: format!("{name}: moved because of {}: {part}", best.reason),
                reasons: reasons.clone(),
                candidates: best.candidates.clone(),
            };
            Some((part.id.clone(), explanation))
        })
        .collect();
    let neighbours = neighbours(view, &best, &judged);
    memory.add(Moved {
        id,
        at: view.now,
        reason: best.reason.into(),
        parts: best.parts,
        judged,
        lost_ns_per_s: lost,
        promised_ns_per_s: best.gain_ns_per_s,
        cost_ns_per_s: cost,
        seen_ns_per_s: None,
        outcome: Outcome::Trial,
        arrivals: view.state.next_arrival,
        wandered: wandered.filter(|_| best.benefit == Benefit::Refill),
        neighbours,
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
    let seconds = |ns| view.measured.paced(ns) / SECOND_NS;
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
        judged_waiting_after_s: seconds(VERIFY_WAITING_NS),
    };
    promise.into_iter().chain([rule]).collect()
}

/// Whose loss is compared: of pools those that lose most, otherwise whoever moves or is to win by it.
fn judges(view: View<'_>, best: &Proposal) -> Vec<Judged> {
    let lost = |id| view.measured.containers.get(id).map_or(0, lost_ns_per_s);
    let mut judged = Vec::new();
    for part in &best.parts {
        let What::Pool(_) = &part.what else {
            judged.push(Judged {
                id: part.id.clone(),
                lost_ns_per_s: lost(&part.id),
            });
            continue;
        };
        // Of the lender too: nobody is to pay for it unseen.
        let all = view.state.containers.iter();
        let members = all.filter(|(id, one)| {
            one.placement.pool.is_some() && movable(view, id, &one.request).is_some()
        });
        let mut members: Vec<Judged> = members
            .map(|(id, _)| Judged {
                id: id.clone(),
                lost_ns_per_s: lost(id),
            })
            .collect();
        members.sort_by_key(|one| Reverse(one.lost_ns_per_s));
        members.truncate(POOL_JUDGES);
        judged.extend(members);
    }
    for id in &best.watched {
        if !judged.iter().any(|one| one.id == *id) {
            judged.push(Judged {
                id: id.clone(),
                lost_ns_per_s: lost(id),
            });
        }
    }
    judged
}

/// Who else may run on the CPUs that somebody is moved to, and was measured.
fn neighbours(view: View<'_>, best: &Proposal, judged: &[Judged]) -> Vec<Judged> {
    let mut to = CpuSet::default();
    for part in &best.parts {
        if let (What::Span | What::Exclusive, Some(cpus)) = (&part.what, &part.to) {
            to = to.union(cpus);
        }
    }
    let all = view.state.containers.iter();
    let beside = all.filter_map(|(id, container)| {
        let cpus = &container.placement.cpus;
        let common = cpus.intersection(&to).len();
        if common == 0 || judged.iter().any(|one| one.id == *id) {
            return None;
        }
        // Who is not to be moved is not to be hurt either.
        let seen = confident(view, id)?;
        let one = Judged {
            id: id.clone(),
            lost_ns_per_s: lost_ns_per_s(seen),
        };
        Some((Reverse(common * 1000 / cpus.len()), one))
    });
    let mut beside: Vec<_> = beside.collect();
    beside.sort_by(|(a, one), (b, other)| (a, &one.id).cmp(&(b, &other.id)));
    beside.truncate(NEIGHBOURS);
    beside.into_iter().map(|(_, one)| one).collect()
}
