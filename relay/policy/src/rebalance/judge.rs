//! Whether the last move kept its promise.

use crate::{
    decision::{Change, Decision},
    explanation::{Explanation, Reason},
    rebalance::{
        cost::lost_ns_per_s,
        limits::{
            COOLDOWN_NS, COOLDOWN_UNDONE_NS, MIN_GAIN_NS, SECOND_NS, VERIFY_FROM_NS, VERIFY_NS,
            VERIFY_WAITING_NS,
        },
        proposal::{Movable, confident},
    },
    request::ContainerId,
    state::{
        rebalance::{
            MigrationBaseline, MoveKind, MoveStep, Outcome, RebalanceMemory, RebalanceMove,
        },
        workloads::WorkloadProfile,
    },
    view::View,
    workload::key,
};
use alloc::{boxed::Box, format, string::String, sync::Arc, vec, vec::Vec};
use resmgr_topology::Nanos;

/// What is known of a move by now.
struct Verdict {
    won: i64,
    /// It has kept its promise, and may already be kept.
    proven: bool,
    /// When it is undone, if it is not proven by then.
    until_ns: u64,
    reason: Reason,
}

pub(super) fn judge(
    policy: &impl Movable,
    view: View<'_>,
    trial: &RebalanceMove,
) -> Option<Decision> {
    let mut memory = view.state.rebalance.clone();
    let lives = |id: &ContainerId| view.state.containers.contains_key(id);
    let since = since_ns(view, trial);
    if !trial.baselines.iter().any(|baseline| lives(&baseline.id)) {
        memory.record_outcome(Outcome::Ended, None);
        return Some(Decision {
            memory: Some(memory),
            ..Decision::default()
        });
    }
    if since < view.measured.scaled_to_half_life(VERIFY_FROM_NS) {
        return None;
    }
    let stay = trial
        .baselines
        .iter()
        .filter(|baseline| lives(&baseline.id));
    let stay_lost = stay.fold(0u64, |sum, baseline| {
        sum.saturating_add(baseline.lost_ns_per_s)
    });
    if stay_lost < trial.lost_ns_per_s / 2 {
        // Going back would be a second move without a reason; what it is like now is another question.
        let reason = Reason::BeneficiariesGone;
        return Some(stays(view, trial, memory, (Outcome::Ended, None), reason));
    }
    let verdict = match &trial.migrations_before {
        Some(before) => by_refill(view, trial, before),
        None => by_time(view, trial),
    };
    let Some(verdict) = verdict else {
        // Too little is known: a move that cannot be judged in a while stays, so that the next gets its turn.
        if since
            <= view
                .measured
                .scaled_to_half_life(VERIFY_NS)
                .saturating_mul(10)
        {
            return None;
        }
        let reason = Reason::NothingMeasured {
            after_s: since / SECOND_NS,
        };
        return Some(stays(view, trial, memory, (Outcome::Kept, None), reason));
    };
    let won = verdict.won;
    if verdict.proven {
        let outcome = (Outcome::Kept, Some(won));
        return Some(stays(view, trial, memory, outcome, verdict.reason));
    }
    if since < verdict.until_ns {
        return None;
    }
    memory.record_outcome(Outcome::Undone, Some(won));
    // Containers that came meanwhile make all wait more: that says little against the move.
    let came = view.state.next_arrival.saturating_sub(trial.arrivals);
    let cooldown_ns = view.measured.scaled_to_half_life(if came == 0 {
        COOLDOWN_UNDONE_NS
    } else {
        COOLDOWN_NS
    });
    let until = Nanos(view.now.0.saturating_add(cooldown_ns));
    for step in &trial.steps {
        memory.cool_down(step, until);
        if came == 0 {
            remember_undone(view, &mut memory, step, until);
        }
        if let MoveKind::Pool(name) = &step.kind {
            memory.set_loan(name, step.from);
        }
    }
    let back: Vec<MoveStep> = trial
        .steps
        .iter()
        .filter(|step| lives(&step.id) || matches!(step.kind, MoveKind::Pool(_)))
        .map(|step| MoveStep {
            from: step.to,
            to: step.from,
            ..step.clone()
        })
        .collect();
    let mut decision = Decision {
        changes: policy.apply_steps(view, &back, &memory).unwrap_or_default(),
        memory: Some(memory),
        ..Decision::default()
    };
    let why = |step: &MoveStep| {
        let name = view.state.containers.get(&step.id);
        let name = name.map_or_else(String::new, |container| container.request.full_name());
        let mut reasons = vec![
            not_again(verdict.reason.clone(), cooldown_ns / SECOND_NS),
            Reason::MovedBack {
                step: Box::new(step.clone()),
            },
        ];
        if came > 0 {
            reasons.push(Reason::ArrivedMeanwhile { count: came });
        }
        Explanation {
            summary: format!("{name}: move undone, it did not help ({})", trial.reason),
            reasons,
            candidates: Vec::new(),
        }
    };
    for step in &back {
        tell(&mut decision, &step.id, why(step));
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

fn since_ns(view: View<'_>, trial: &RebalanceMove) -> u64 {
    view.now.0.saturating_sub(trial.at.0)
}

fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

/// What the neighbours of a move lose more than before, beyond what such numbers vary by: nanoseconds per
/// second.
fn harm_ns_per_s(view: View<'_>, trial: &RebalanceMove) -> i64 {
    let (mut before, mut after) = (0u64, 0u64);
    for neighbour in &trial.neighbours {
        if let Some(seen) = confident(view, &neighbour.id) {
            before = before.saturating_add(neighbour.lost_ns_per_s);
            after = after.saturating_add(lost_ns_per_s(seen));
        }
    }
    let noise = MIN_GAIN_NS.max(before / 10);
    signed(after.saturating_sub(before).saturating_sub(noise))
}

/// The same of a move that was undone: not tried again for so long.
fn not_again(mut reason: Reason, seconds: u64) -> Reason {
    if let Reason::TimeWon { cooldown_s, .. } | Reason::RefillWon { cooldown_s, .. } = &mut reason {
        *cooldown_s = Some(seconds);
    }
    reason
}

/// By its migrations: half as many cache refills as were promised must be saved, and at least half of that
/// must be left of it when what it waits more is taken off. Waiting has longer to come right: it varies with
/// other work.
fn by_refill(view: View<'_>, trial: &RebalanceMove, before: &MigrationBaseline) -> Option<Verdict> {
    let seen = confident(view, &trial.id)?;
    let after = MigrationBaseline::of(seen);
    let won = signed(before.refill_ns_per_s) - signed(after.refill_ns_per_s);
    let ended = won >= signed(trial.promised_ns_per_s / 2);
    let waited = signed(after.wait_ns_per_s) - signed(before.wait_ns_per_s);
    let harm = harm_ns_per_s(view, trial);
    let calm = waited.saturating_add(harm) <= won / 2;
    let until = if ended { VERIFY_WAITING_NS } else { VERIFY_NS };
    Some(Verdict {
        won,
        proven: ended && calm,
        until_ns: view.measured.scaled_to_half_life(until),
        reason: Reason::RefillWon {
            promised_ns_per_s: trial.promised_ns_per_s,
            seen_ns_per_s: won,
            wait_before_ns_per_s: before.wait_ns_per_s,
            wait_ns_per_s: after.wait_ns_per_s,
            harm_ns_per_s: harm,
            after_s: since_ns(view, trial) / SECOND_NS,
            cooldown_s: None,
        },
    })
}

/// By the time that is lost by those that are still there.
fn by_time(view: View<'_>, trial: &RebalanceMove) -> Option<Verdict> {
    let (mut before, mut after) = (0u64, 0u64);
    for baseline in &trial.baselines {
        if !view.state.containers.contains_key(&baseline.id) {
            continue;
        }
        let seen = confident(view, &baseline.id)?;
        before = before.saturating_add(baseline.lost_ns_per_s);
        after = after.saturating_add(lost_ns_per_s(seen));
    }
    // What containers that have left would have won is not asked of those that stay.
    let share = u128::from(before) * u128::from(trial.promised_ns_per_s);
    let promised = share / u128::from(trial.lost_ns_per_s.max(1));
    let promised = u64::try_from(promised).unwrap_or(u64::MAX);
    let harm = harm_ns_per_s(view, trial);
    let saved = signed(before) - signed(after);
    let won = saved.saturating_sub(harm);
    let verify_ns = view.measured.scaled_to_half_life(VERIFY_NS);
    let proven = match trial.promised_ns_per_s {
        // It promised nothing, but was not to hurt; that is known at the end.
        0 => {
            let least = -signed(MIN_GAIN_NS.max(before / 10));
            won >= least && since_ns(view, trial) >= verify_ns
        }
        _ => won >= signed(promised / 2),
    };
    Some(Verdict {
        won,
        proven,
        until_ns: verify_ns,
        reason: Reason::TimeWon {
            promised_ns_per_s: promised,
            seen_ns_per_s: saved,
            harm_ns_per_s: harm,
            after_s: since_ns(view, trial) / SECOND_NS,
            cooldown_s: None,
        },
    })
}

/// The move stays, and the containers that were moved cool down.
fn stays(
    view: View<'_>,
    trial: &RebalanceMove,
    mut memory: RebalanceMemory,
    (outcome, won): (Outcome, Option<i64>),
    reason: Reason,
) -> Decision {
    memory.record_outcome(outcome, won);
    let until = Nanos(
        view.now
            .0
            .saturating_add(view.measured.scaled_to_half_life(COOLDOWN_NS)),
    );
    let mut decision = Decision::default();
    for step in &trial.steps {
        memory.cool_down(step, until);
        let Some(container) = view.state.containers.get(&step.id) else {
            continue;
        };
        let why = Explanation {
            summary: format!(
                "{}: move kept ({})",
                container.request.full_name(),
                trial.reason
            ),
            reasons: vec![reason.clone()],
            candidates: Vec::new(),
        };
        decision.notes.push((step.id.clone(), why));
    }
    decision.memory = Some(memory);
    decision
}

/// A container that comes back under another id is not moved the same way again soon.
fn remember_undone(view: View<'_>, memory: &mut RebalanceMemory, step: &MoveStep, until: Nanos) {
    let Some(container) = view.state.containers.get(&step.id) else {
        return;
    };
    let workloads = Arc::make_mut(&mut memory.workloads);
    let profile: &mut WorkloadProfile = workloads.entry(key(&container.request)).or_default();
    profile.cooldown_until = Some(until);
}
