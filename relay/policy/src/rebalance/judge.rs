//! Whether the last move kept its promise.

use crate::{
    decision::{Change, Decision},
    explanation::{Certainty, Explanation, Reason},
    measured::HALF_LIFE,
    rebalance::{
        difference::Differences,
        evidence::{Likelihood, share_since},
        limits::{
            COOLDOWN_NS, COOLDOWN_UNDONE_NS, MIN_GAIN_NS, SECOND_NS, VERIFY_FROM_NS, VERIFY_NS,
        },
        proposal::{Movable, confident},
    },
    request::ContainerId,
    state::{
        rebalance::{
            MoveEvidence, MoveKind, MoveStep, Outcome, RebalanceMemory, RebalanceMove, SampleSeries,
        },
        workloads::WorkloadProfile,
    },
    view::View,
    workload::key,
};
use alloc::{boxed::Box, format, string::String, sync::Arc, vec, vec::Vec};
use resmgr_topology::Nanos;

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
    let from = view.measured.scaled_to_half_life(VERIFY_FROM_NS);
    let stay = trial
        .baselines
        .iter()
        .filter(|baseline| lives(&baseline.id));
    let stay_lost = stay.fold(0u64, |sum, baseline| {
        sum.saturating_add(baseline.lost_ns_per_s)
    });
    if since >= from && stay_lost < trial.lost_ns_per_s / 2 {
        // Going back would be a second move without a reason; what it is like now is another question.
        let reason = Reason::BeneficiariesGone;
        return Some(stays(view, trial, memory, (Outcome::Ended, None), reason));
    }
    let until = view.measured.scaled_to_half_life(VERIFY_NS);
    let Some(verdict) = weigh(view, trial) else {
        // Too little is known: a move that cannot be judged in a while stays, so that the next gets its turn.
        if since <= until.saturating_mul(3) {
            return None;
        }
        let reason = Reason::NothingMeasured {
            after_s: since / SECOND_NS,
        };
        return Some(stays(view, trial, memory, (Outcome::Kept, None), reason));
    };
    let timed_out = since >= until;
    let sure = verdict.likelihood.decision().filter(|_| since >= from);
    let decided = sure.or_else(|| timed_out.then_some(verdict.likelihood.likelier()));
    let Some(helped) = decided else {
        let evidence = Some(verdict.evidence);
        if trial.evidence == evidence {
            return None;
        }
        memory.set_evidence(evidence);
        return Some(Decision {
            memory: Some(memory),
            ..Decision::default()
        });
    };
    let verdict = verdict.given(view, trial, sure.is_none());
    let won = verdict.won;
    if helped {
        let outcome = (Outcome::Kept, Some(won));
        return Some(stays(view, trial, memory, outcome, verdict.reason));
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

/// What is known of a move by now.
struct Verdict {
    evidence: MoveEvidence,
    /// Of its having helped.
    likelihood: Likelihood,
    won: i64,
    reason: Reason,
}

impl Verdict {
    /// The same with what it was compared with, and how sure it is.
    fn given(mut self, view: View<'_>, trial: &RebalanceMove, timed_out: bool) -> Self {
        if let Reason::TimeWon { certainty, .. } | Reason::RefillWon { certainty, .. } =
            &mut self.reason
        {
            let moved = view.state.containers.get(&trial.id);
            let compared = trial
                .comparison
                .iter()
                .filter(|baseline| confident(view, &baseline.id).is_some());
            *certainty = Some(Certainty {
                compared: u32::try_from(compared.count()).unwrap_or(u32::MAX),
                rounds: self.evidence.won.count,
                sure_percent: self.likelihood.sure_percent(),
                timed_out,
                stolen_milli: moved.map_or(0, |moved| {
                    view.measured.stolen_of_busy_milli(&moved.placement.cpus)
                }),
            });
        }
        self
    }
}

/// The same of a move that was undone: not tried again for so long.
fn not_again(mut reason: Reason, seconds: u64) -> Reason {
    if let Reason::TimeWon { cooldown_s, .. } | Reason::RefillWon { cooldown_s, .. } = &mut reason {
        *cooldown_s = Some(seconds);
    }
    reason
}

/// Adds what was measured since the last round to the evidence, and weighs it.
fn weigh(view: View<'_>, trial: &RebalanceMove) -> Option<Verdict> {
    let differences = Differences::of(view, trial)?;
    // Without a comparison group all that was lost varies with other work.
    let unexplained = if differences.compared {
        0
    } else {
        differences.lost_ns_per_s / 2
    };
    let promised = match trial.migrations_before {
        Some(_) => trial.promised_ns_per_s,
        None => differences.promised_ns_per_s,
    };
    let noise = (promised / 2).max(MIN_GAIN_NS / 2);
    let wait_noise = noise.max(differences.lost_ns_per_s / 2);
    let before = trial.evidence.unwrap_or(MoveEvidence {
        at: trial.at,
        containers: differences.containers,
        won: SampleSeries::default(),
        waits: SampleSeries::default(),
    });
    let mut evidence = before;
    let elapsed = Nanos(view.measured.at.0.saturating_sub(before.at.0));
    if elapsed.0 > 0 {
        evidence.at = view.measured.at;
        evidence.containers = differences.containers;
        let half_life = match view.measured.half_life {
            Nanos(0) => HALF_LIFE,
            half_life => half_life,
        };
        let share = share_since(elapsed, half_life);
        let common = match trial.migrations_before {
            // What other work does to migrations is little.
            Some(_) => 0,
            None => differences.common,
        };
        let series = [
            (&mut evidence.won, (differences.won, common)),
            (&mut evidence.waits, (differences.waits, differences.common)),
        ];
        for (series, averages) in series {
            if differences.containers == before.containers {
                series.add(averages, share);
            } else {
                // A container ended, or is not measured: the averages are not those of the same containers.
                series.restart_at(averages);
            }
        }
    }
    let after_s = since_ns(view, trial) / SECOND_NS;
    let Some(migrations) = &trial.migrations_before else {
        let effect = evidence.won.effect(noise.max(unexplained));
        let won = effect.ns_per_s();
        let likelihood = if trial.promised_ns_per_s == 0 {
            // It promised nothing, but was not to hurt.
            effect.no_loss(MIN_GAIN_NS.max(differences.lost_ns_per_s / 10))
        } else {
            effect.gain(promised)
        };
        return Some(Verdict {
            evidence,
            likelihood,
            won,
            reason: Reason::TimeWon {
                promised_ns_per_s: promised,
                seen_ns_per_s: won.saturating_add(differences.harm),
                harm_ns_per_s: differences.harm,
                after_s,
                cooldown_s: None,
                certainty: None,
            },
        });
    };
    let effect = evidence.won.effect(noise);
    let calm = evidence.waits.effect(wait_noise).no_loss(promised);
    Some(Verdict {
        evidence,
        likelihood: effect.gain(promised).and(calm),
        won: effect.ns_per_s(),
        reason: Reason::RefillWon {
            promised_ns_per_s: promised,
            seen_ns_per_s: effect.ns_per_s(),
            wait_before_ns_per_s: migrations.wait_ns_per_s,
            wait_ns_per_s: differences.wait_ns_per_s,
            harm_ns_per_s: differences.harm,
            after_s,
            cooldown_s: None,
            certainty: None,
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
