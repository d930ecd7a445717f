//! What the containers of a move lose less than those it did not touch: the differences of [`evidence`](super::evidence).

use super::{
    cost::{lost_ns_per_s, refill_ns_per_s, waited_ns_per_s},
    evidence::{float, whole},
    groups::LEAST_MCPU,
    proposal::confident,
};
use crate::{
    state::rebalance::{Baseline, RebalanceMove},
    view::View,
};
use alloc::vec::Vec;

/// Containers that lose less than this for each second of CPU time are all alike, nanoseconds.
const RATE_PRIOR: f64 = 10_000_000.0;
/// No container reacts more than so many times as strongly as the comparison group, or as many times less.
const MOST_REACTION: f64 = 2.0;

/// What was won by now, compared with before the move, as averages.
#[derive(Debug)]
pub(super) struct Differences {
    /// Of what the move promised, ns/s.
    pub(super) won: i64,
    /// Of the waiting of all that it touched, ns/s; for moves against migrations.
    pub(super) waits: i64,
    /// What the neighbours lost more, ns/s.
    pub(super) harm: i64,
    /// How long the moved container waits, ns/s.
    pub(super) wait_ns_per_s: u64,
    /// What those that are still there were promised.
    pub(super) promised_ns_per_s: u64,
    /// What they lost before the move.
    pub(super) lost_ns_per_s: u64,
    /// How many containers it is about.
    pub(super) containers: u32,
    /// Whether there is a comparison group.
    pub(super) compared: bool,
    /// What other work of the machine is thought to have cost them, ns/s.
    pub(super) common: i64,
}

/// Time lost by CPU time used, of one container before and after a move.
#[derive(Clone, Copy)]
struct LossRates {
    /// CPUs used before.
    used: f64,
    before: f64,
    after: f64,
}

impl LossRates {
    fn new(lost_ns_per_s: (u64, u64), used_mcpu: (u32, u32)) -> Self {
        // What is not known is taken to be as it is on the other side.
        let used = match used_mcpu {
            (0, now) => (now, now),
            known => known,
        };
        Self {
            used: cpus(used.0),
            before: float(lost_ns_per_s.0) / cpus(used.0),
            after: float(lost_ns_per_s.1) / cpus(used.1),
        }
    }

    /// What is lost less than it would be without the move, ns/s, where so much more would be lost for each second of
    /// CPU time.
    fn won(&self, expected_more: f64) -> f64 {
        self.used * (self.before + expected_more - self.after)
    }
}

/// The containers that the move did not touch.
struct ComparisonGroup(Vec<ComparedContainer>);

/// One of these: CPUs used, and time lost, before the move and now.
struct ComparedContainer {
    used: (f64, f64),
    lost: (f64, f64),
}

impl ComparisonGroup {
    fn of(view: View<'_>, group: &[Baseline]) -> Self {
        let measured = group.iter().filter_map(|baseline| {
            let seen = confident(view, &baseline.id)?;
            let now = lost_ns_per_s(view, &baseline.id, seen);
            let used = (baseline.utilisation_mcpu, seen.utilisation_mcpu);
            Some(ComparedContainer {
                used: (cpus(used.0), cpus(used.1)),
                lost: (float(baseline.lost_ns_per_s), float(now)),
            })
        });
        Self(measured.collect())
    }

    /// What a container that lost so much for each second of CPU time before is expected to lose more now.
    fn expected_more(&self, before: f64) -> f64 {
        let drawn = |rate: f64| rate + RATE_PRIOR;
        let (mut used, mut lost) = ((0.0, 0.0), (0.0, 0.0));
        for compared in &self.0 {
            let ratio = drawn(before) / drawn(compared.lost.0 / compared.used.0);
            let alike = ratio.min(1.0 / ratio);
            let weight = alike * alike;
            used = (
                used.0 + weight * compared.used.0,
                used.1 + weight * compared.used.1,
            );
            lost = (
                lost.0 + weight * compared.lost.0,
                lost.1 + weight * compared.lost.1,
            );
        }
        if used.0 <= 0.0 || used.1 <= 0.0 {
            return 0.0;
        }
        let (group_before, group_now) = (lost.0 / used.0, lost.1 / used.1);
        let reaction = drawn(before) / drawn(group_before);
        (group_now - group_before) * reaction.clamp(1.0 / MOST_REACTION, MOST_REACTION)
    }
}

impl Differences {
    /// `None` when a container that the move was made for is not measured.
    pub(super) fn of(view: View<'_>, trial: &RebalanceMove) -> Option<Self> {
        let group = ComparisonGroup::of(view, &trial.comparison);
        let mut containers = 0u32;
        let mut common = 0.0;
        let mut won_by = |baseline: &Baseline| {
            let seen = confident(view, &baseline.id)?;
            let now = lost_ns_per_s(view, &baseline.id, seen);
            let rates = LossRates::new(
                (baseline.lost_ns_per_s, now),
                (baseline.utilisation_mcpu, seen.utilisation_mcpu),
            );
            containers += 1;
            let more = group.expected_more(rates.before);
            common += rates.used * more;
            Some(rates.won(more))
        };
        let (mut won, mut lost_before) = (0.0, 0u64);
        for baseline in &trial.baselines {
            if view.state.containers.contains_key(&baseline.id) {
                won += won_by(baseline)?;
                lost_before = lost_before.saturating_add(baseline.lost_ns_per_s);
            }
        }
        let neighbours = trial.neighbours.iter().filter_map(won_by);
        let harm = -neighbours.sum::<f64>();
        // What containers that have left would have won is not asked of those that stay.
        let share = u128::from(lost_before) * u128::from(trial.promised_ns_per_s);
        let promised = share / u128::from(trial.lost_ns_per_s.max(1));
        let mut differences = Self {
            won: whole(won - harm),
            waits: 0,
            harm: whole(harm),
            wait_ns_per_s: 0,
            promised_ns_per_s: u64::try_from(promised).unwrap_or(u64::MAX),
            lost_ns_per_s: lost_before,
            containers,
            compared: !group.0.is_empty(),
            common: whole(common),
        };
        if let Some(before) = &trial.migrations_before {
            let seen = confident(view, &trial.id)?;
            let own = trial.baselines.iter().find(|own| own.id == trial.id);
            let used = (
                own.map_or(0, |own| own.utilisation_mcpu),
                seen.utilisation_mcpu,
            );
            let lost = (own.map_or(0, |own| own.lost_ns_per_s), 0);
            let more = group.expected_more(LossRates::new(lost, used).before);
            let waited = waited_ns_per_s(view, &trial.id, seen);
            let refill = (before.refill_ns_per_s, refill_ns_per_s(seen));
            let waits = LossRates::new((before.wait_ns_per_s, waited), used);
            differences.won = whole(LossRates::new(refill, used).won(0.0));
            differences.waits = whole(waits.won(more) - harm);
            differences.wait_ns_per_s = waited;
            differences.lost_ns_per_s = before.wait_ns_per_s;
        }
        Some(differences)
    }
}

fn cpus(mcpu: u32) -> f64 {
    f64::from(mcpu.max(LEAST_MCPU)) / 1000.0
}
