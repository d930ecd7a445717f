//! Whether the last move kept its promise.

use crate::{
    decision::{Change, Decision},
    explanation::Explanation,
    rebalance::{
        cost::lost_ns_per_s,
        limits::{
            MIN_GAIN_NS, REST_NS, REST_UNDONE_NS, SECOND_NS, VERIFY_FROM_NS, VERIFY_NS,
            VERIFY_WAITING_NS,
        },
        proposal::{Movable, confident},
    },
    request::ContainerId,
    state::{
        rebalance::{Moved, Outcome, Part, RebalanceMemory, Wandered, What},
        workloads::Known,
    },
    view::View,
    workload::key,
};
use alloc::{format, string::String, sync::Arc, vec, vec::Vec};
use resmgr_topology::Nanos;

/// What is known of a move by now.
struct Seen {
    won: i64,
    /// It has kept its promise, and may already be kept.
    proven: bool,
    /// When it is undone, if it is not proven by then.
    until_ns: u64,
    numbers: String,
}

pub(super) fn judge(policy: &impl Movable, view: View<'_>, trial: &Moved) -> Option<Decision> {
    let mut memory = view.state.rebalance.clone();
    let lives = |id: &ContainerId| view.state.containers.contains_key(id);
    let since = view.now.0.saturating_sub(trial.at.0);
    if !trial.judged.iter().any(|one| lives(&one.id)) {
        memory.settle(Outcome::Ended, None);
        return Some(Decision {
            memory: Some(memory),
            ..Decision::default()
        });
    }
    if since < view.measured.paced(VERIFY_FROM_NS) {
        return None;
    }
    let stay = trial.judged.iter().filter(|one| lives(&one.id));
    let stay_lost = stay.fold(0u64, |sum, one| sum.saturating_add(one.lost_ns_per_s));
    if stay_lost < trial.lost_ns_per_s / 2 {
        // Going back would be a second move without a reason; what it is like now is another question.
        let text = "those for whose sake it was made are gone: it stays".into();
        return Some(settled(view, trial, memory, (Outcome::Ended, None), text));
    }
    let seen = match &trial.wandered {
        Some(before) => wandering(view, trial, before),
        None => losing(view, trial),
    };
    let Some(seen) = seen else {
        // Too little is known: what cannot be judged in a while stays, so that others get their turn.
        if since <= view.measured.paced(VERIFY_NS).saturating_mul(10) {
            return None;
        }
        let text = format!(
            "nothing could be measured in {} s: it stays",
            since / SECOND_NS
        );
        return Some(settled(view, trial, memory, (Outcome::Kept, None), text));
    };
    let (won, numbers) = (
        seen.won,
        format!("{} after {} s", seen.numbers, since / SECOND_NS),
    );
    if seen.proven {
        let outcome = (Outcome::Kept, Some(won));
        return Some(settled(view, trial, memory, outcome, numbers));
    }
    if since < seen.until_ns {
        return None;
    }
    memory.settle(Outcome::Undone, Some(won));
    // Others who came meanwhile make everybody wait more: that says little against the move.
    let came = view.state.next_arrival.saturating_sub(trial.arrivals);
    let rest_ns = view
        .measured
        .paced(if came == 0 { REST_UNDONE_NS } else { REST_NS });
    let until = Nanos(view.now.0.saturating_add(rest_ns));
    for part in &trial.parts {
        memory.rest(part, until);
        if came == 0 {
            remember_undone(view, &mut memory, part, until);
        }
        if let What::Pool(name) = &part.what {
            memory.lend(name, part.from);
        }
    }
    let back: Vec<Part> = trial
        .parts
        .iter()
        .filter(|part| lives(&part.id) || matches!(part.what, What::Pool(_)))
        .map(|part| Part {
            from: part.to,
            to: part.from,
            ..part.clone()
        })
        .collect();
    let mut decision = Decision {
        changes: policy.carried_out(view, &back, &memory).unwrap_or_default(),
        memory: Some(memory),
        ..Decision::default()
    };
    let why = |part: &Part| {
        let name = view.state.containers.get(&part.id);
        let name = name.map_or_else(String::new, |one| one.request.full_name());
        let mut reasons = vec![
            format!("{numbers}; not tried again for {} s", rest_ns / SECOND_NS),
            format!("moved back: {}", part.line()),
        ];
        if came > 0 {
            reasons.push(format!(
                "others came meanwhile ({came}), who make everybody wait more: it rests only so long"
            ));
        }
        Explanation {
            summary: format!("{name}: move undone, it did not help ({})", trial.reason),
            reasons,
            candidates: Vec::new(),
        }
    };
    for part in &back {
        tell(&mut decision, &part.id, why(part));
    }
    Some(decision)
}

/// Puts an explanation where its container's change is, or beside the changes.
pub(super) fn tell(decision: &mut Decision, id: &ContainerId, why: Explanation) {
    let change = decision.changes.iter_mut().find(|change| change.id == *id);
    match change {
        Some(Change { explanation, .. }) => *explanation = Some(why),
        None => decision.notes.push((id.clone(), why)),
    }
}

fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

/// What those on whose CPUs somebody was moved lose more than before, beyond what such numbers vary by:
/// nanoseconds per second.
fn harm_ns_per_s(view: View<'_>, trial: &Moved) -> i64 {
    let (mut before, mut after) = (0u64, 0u64);
    for one in &trial.neighbours {
        if let Some(seen) = confident(view, &one.id) {
            before = before.saturating_add(one.lost_ns_per_s);
            after = after.saturating_add(lost_ns_per_s(seen));
        }
    }
    let noise = MIN_GAIN_NS.max(before / 10);
    signed(after.saturating_sub(before).saturating_sub(noise))
}

/// The same for people: nothing where there is none.
fn beside(harm_ns_per_s: i64) -> String {
    match harm_ns_per_s {
        0 => String::new(),
        some => format!(" and {} µs/s more lost by those beside", some / 1000),
    }
}

/// By its migrations: half as many cache refills as were promised must be saved, and at least half of that
/// must be left of it when what it waits more is taken off. Waiting has longer to come right: it varies with
/// other work.
fn wandering(view: View<'_>, trial: &Moved, before: &Wandered) -> Option<Seen> {
    let seen = confident(view, &trial.id)?;
    let after = Wandered::of(seen);
    let won = signed(before.refill_ns_per_s) - signed(after.refill_ns_per_s);
    let ended = won >= signed(trial.promised_ns_per_s / 2);
    let waited = signed(after.wait_ns_per_s) - signed(before.wait_ns_per_s);
    let harm = harm_ns_per_s(view, trial);
    let calm = waited.saturating_add(harm) <= won / 2;
    let until = if ended { VERIFY_WAITING_NS } else { VERIFY_NS };
    Some(Seen {
        won,
        proven: ended && calm,
        until_ns: view.measured.paced(until),
        numbers: format!(
            "promised {} µs/s less cache refill, seen {} µs/s, and {} µs/s waited where it was {} µs/s,{}",
            trial.promised_ns_per_s / 1000,
            won / 1000,
            after.wait_ns_per_s / 1000,
            before.wait_ns_per_s / 1000,
            beside(harm)
        ),
    })
}

/// By the time that is lost, by those who are still there.
fn losing(view: View<'_>, trial: &Moved) -> Option<Seen> {
    let (mut before, mut after) = (0u64, 0u64);
    for one in &trial.judged {
        if !view.state.containers.contains_key(&one.id) {
            continue;
        }
        let seen = confident(view, &one.id)?;
        before = before.saturating_add(one.lost_ns_per_s);
        after = after.saturating_add(lost_ns_per_s(seen));
    }
    // What those who have left would have won is not asked of the others.
    let part = u128::from(before) * u128::from(trial.promised_ns_per_s);
    let promised = part / u128::from(trial.lost_ns_per_s.max(1));
    let promised = u64::try_from(promised).unwrap_or(u64::MAX);
    let harm = harm_ns_per_s(view, trial);
    let saved = signed(before) - signed(after);
    let won = saved.saturating_sub(harm);
    let verify_ns = view.measured.paced(VERIFY_NS);
    let proven = match trial.promised_ns_per_s {
        // It promised nothing, but was not to hurt; that is known at the end.
        0 => {
            let least = -signed(MIN_GAIN_NS.max(before / 10));
            won >= least && view.now.0.saturating_sub(trial.at.0) >= verify_ns
        }
        _ => won >= signed(promised / 2),
    };
    Some(Seen {
        won,
        proven,
        until_ns: verify_ns,
        numbers: format!(
            "promised {} µs/s less waiting and cache refill, seen {} µs/s{}",
            promised / 1000,
            saved / 1000,
            beside(harm)
        ),
    })
}

/// It stays, and who was moved rests.
fn settled(
    view: View<'_>,
    trial: &Moved,
    mut memory: RebalanceMemory,
    (outcome, won): (Outcome, Option<i64>),
    numbers: String,
) -> Decision {
    memory.settle(outcome, won);
    let until = Nanos(view.now.0.saturating_add(view.measured.paced(REST_NS)));
    let mut decision = Decision::default();
    for part in &trial.parts {
        memory.rest(part, until);
        let Some(container) = view.state.containers.get(&part.id) else {
            continue;
        };
        let why = Explanation {
            summary: format!(
                "{}: move kept ({})",
                container.request.full_name(),
                trial.reason
            ),
            reasons: vec![numbers.clone()],
            candidates: Vec::new(),
        };
        decision.notes.push((part.id.clone(), why));
    }
    decision.memory = Some(memory);
    decision
}

/// A container that comes back under another id is not moved the same way again soon.
fn remember_undone(view: View<'_>, memory: &mut RebalanceMemory, part: &Part, until: Nanos) {
    let Some(container) = view.state.containers.get(&part.id) else {
        return;
    };
    let workloads = Arc::make_mut(&mut memory.workloads);
    let known: &mut Known = workloads.entry(key(&container.request)).or_default();
    known.rests_until = Some(until);
}
