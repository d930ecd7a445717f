//! What a move did, apart from what the machine did meanwhile: difference in differences, tested sequentially.
//!
//! **Model.** Container *j* loses *y* (ns/s, [`lost_ns_per_s`](super::cost::lost_ns_per_s), time stolen by the hypervisor taken
//! out) and uses *u* CPUs, so it loses *s = y / u* for each second of CPU time. Under two-way fixed effects
//! (Angrist and Pischke, *Mostly Harmless Econometrics*, 2009, section 5.2)
//!
//! ```text
//! s(j,t) = a(j) + b(j) l(t) + d(j) [t after the move] + noise
//! ```
//!
//! *l*, which other work of the machine does to all, is seen in the comparison group *C*: containers on whose CPUs the
//! move changes the load by little. *b* says how strongly a container reacts to it; more is lost by what lost more
//! before. Containers of *C* count the more the more alike they were before (as in a synthetic control group: Abadie and
//! Gardeazabal, American Economic Review 93, 2003); *c* is 0.01:
//!
//! ```text
//! r(i,j) = (s(i,0) + c) / (s(j,0) + c),   k(i,j) = min(r, 1/r)^2
//! S(j,t) = sum over i in C of k(i,j) y(i,t) / sum over i in C of k(i,j) u(i,t)
//! b(j) = (s(j,0) + c) / (S(j,0) + c), from 1/2 to 2
//! D(t) = sum over j of u(j,0) (s(j,0) + b(j) (S(j,t) - S(j,0)) - s(j,t))        won, ns/s
//! ```
//!
//! with *j* the moved containers and those beside them, where they left and where they came. Without a comparison
//! group *S(j,t) - S(j,0)* is taken as 0 and the noise as half of what was lost before, which takes longer to decide.
//!
//! **Samples.** Measurements are averages with a half-life *h*, and so is *D*. What was won since the last round, a
//! time *x* ago, is
//!
//! ```text
//! z = (D(t) - (1 - w) D(t - x)) / w,   w = 1 - 2^(-x / h)
//! ```
//!
//! **Test.** Wald, *Sequential Tests of Statistical Hypotheses*, Annals of Mathematical Statistics 16 (1945), for a mean
//! of *p* (the promise) against 0, after some samples, whose mean is *m* with a variance of *v*:
//!
//! ```text
//! L = p (m - p/2) / v
//! L >=  ln((1 - beta) / alpha): the promise was kept
//! L <= -ln((1 - alpha) / beta): it was not
//! ```
//!
//! *alpha*, a wrong move kept, and *beta*, a right one undone, are 0.05 each. *m* is the mean of *n* samples *z*, and
//!
//! ```text
//! v = var(z) / n + (e x)^2
//! ```
//!
//! with *x* the mean of what the machine is thought to have cost, sum u(j,0) b(j) (S(j,t) - S(j,0)), and *e* = 0.5, to
//! which *b* is known: where the machine did much, it is hard to tell what of it was the move's. The variance of *z* is
//! that of the samples, drawn to a value from before the move; rounds are not independent, as other work lasts longer
//! than a round, for which it is doubled.

use crate::state::rebalance::SampleSeries;
use resmgr_topology::Nanos;

/// ln(0.95 / 0.05), where the odds are 19 to 1.
const SURE: f64 = 2.944_438_979_166_44;
/// How many samples the variance from before the move counts for.
const PRIOR_SAMPLES: f64 = 2.0;
/// Fewer samples decide nothing.
const LEAST_SAMPLES: u32 = 3;
/// A series of rounds that depend on each other says as much as half of them.
const DEPENDENCE: f64 = 2.0;
/// The standard deviation of the error of *b*, as a part of it.
const REACTION_ERROR: f64 = 0.5;

/// What the samples say by now.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Likelihood {
    /// Natural logarithm of how much likelier it is that the promise was kept than that it was not.
    ln_odds: f64,
    samples: u32,
}

impl Likelihood {
    /// Whether the promise was kept; `None` while that is open.
    pub(super) fn decision(self) -> Option<bool> {
        let decided = self.samples >= LEAST_SAMPLES && self.ln_odds.abs() >= SURE;
        decided.then_some(self.ln_odds > 0.0)
    }

    /// Which of both is likelier.
    pub(super) fn likelier(self) -> bool {
        self.ln_odds >= 0.0
    }

    /// Both promises must be kept: the worse one counts.
    pub(super) fn and(self, second: Self) -> Self {
        if second.ln_odds < self.ln_odds {
            second
        } else {
            self
        }
    }

    /// How sure the likelier answer is, percent: 50 to 99.
    pub(super) fn sure_percent(self) -> u8 {
        let odds = libm::exp(self.ln_odds.abs().min(10.0));
        let percent = 100.0 * odds / (1.0 + odds);
        (50..=99u8)
            .rev()
            .find(|whole| f64::from(*whole) <= percent)
            .unwrap_or(50)
    }
}

/// The share of an average that is younger than `elapsed`.
pub(super) fn share_since(elapsed: Nanos, half_life: Nanos) -> f64 {
    1.0 - libm::exp2(-(float(elapsed.0) / float(half_life.0.max(1))))
}

impl SampleSeries {
    /// Adds the sample that averages of what was won and of what the machine cost (ns/s) show, of which the share `w`
    /// is younger than the last one.
    pub(super) fn add(&mut self, averages_ns_per_s: (i64, i64), w: f64) {
        let averages = (averages_ns_per_s.0 / 1000, averages_ns_per_s.1 / 1000);
        let sample =
            |now: i64, before: i64| (signed(now) - (1.0 - w) * signed(before)) / w.max(0.001);
        let won = sample(averages.0, self.averages.0);
        let common = sample(averages.1, self.averages.1);
        self.averages = averages;
        self.count += 1;
        for (sum, value) in [
            (&mut self.won, won),
            (&mut self.won_squares, won * won),
            (&mut self.common, common),
        ] {
            *sum = sum.saturating_add(whole(value));
        }
    }

    /// Forgets the last averages: those of other containers follow.
    pub(super) fn restart_at(&mut self, averages_ns_per_s: (i64, i64)) {
        self.averages = (averages_ns_per_s.0 / 1000, averages_ns_per_s.1 / 1000);
    }

    /// What the move won, given the standard deviation `noise` (ns/s) of a sample from before the move.
    pub(super) fn effect(&self, noise_ns_per_s: u64) -> Effect {
        let count = f64::from(self.count).max(1.0);
        let (mean, common) = (signed(self.won) / count, signed(self.common) / count);
        let noise = float(noise_ns_per_s.max(1000) / 1000);
        let deviations = (signed(self.won_squares) - signed(self.won) * mean).max(0.0);
        let freedom = PRIOR_SAMPLES + (count - 1.0);
        let variance = DEPENDENCE * (PRIOR_SAMPLES * noise * noise + deviations) / freedom;
        let misjudged = REACTION_ERROR * common;
        Effect {
            mean,
            deviation: libm::sqrt(variance),
            mean_variance: (variance / count + misjudged * misjudged).max(1.0),
            samples: self.count,
        }
    }
}

/// What a move won, as estimated; microseconds per second.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Effect {
    mean: f64,
    /// Standard deviation of a sample.
    deviation: f64,
    mean_variance: f64,
    samples: u32,
}

impl Effect {
    /// Won, ns/s.
    pub(super) fn ns_per_s(self) -> i64 {
        whole(self.mean).saturating_mul(1000)
    }

    /// Whether it is `promised` (ns/s) rather than 0.
    pub(super) fn gain(self, promised_ns_per_s: u64) -> Likelihood {
        let promised = float(promised_ns_per_s / 1000);
        self.likelihood(promised, promised / 2.0)
    }

    /// Whether it is 0 rather than a loss of `bound` (ns/s), or of one standard deviation where that is more:
    /// smaller losses cannot be told from noise.
    pub(super) fn no_loss(self, bound_ns_per_s: u64) -> Likelihood {
        let loss = float(bound_ns_per_s / 1000).max(self.deviation);
        self.likelihood(loss, -loss / 2.0)
    }

    fn likelihood(self, distance: f64, middle: f64) -> Likelihood {
        Likelihood {
            ln_odds: distance * (self.mean - middle) / self.mean_variance,
            samples: self.samples,
        }
    }
}

#[expect(
    clippy::cast_precision_loss,
    reason = "times per second have fewer than 53 bits"
)]
pub(super) fn float(value: u64) -> f64 {
    value as f64
}

#[expect(
    clippy::cast_precision_loss,
    reason = "times per second have fewer than 53 bits"
)]
pub(super) fn signed(value: i64) -> f64 {
    value as f64
}

#[expect(clippy::cast_possible_truncation, reason = "the cast saturates")]
pub(super) fn whole(value: f64) -> i64 {
    libm::round(value) as i64
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: i64 = 1_000_000;

    /// Samples, each of which is an average of its own.
    fn series(samples: &[i64]) -> SampleSeries {
        let mut series = SampleSeries::default();
        for sample in samples {
            series.add((*sample, 0), 1.0);
        }
        series
    }

    #[test]
    fn a_sample_is_what_happened_since_the_last_one() {
        // From 0 to a constant 100 ms/s, as an average of which a quarter is young each time.
        let mut series = SampleSeries::default();
        let mut average = 0;
        for _ in 0..4 {
            average += (100 * MS - average) / 4;
            series.add((average, 0), 0.25);
        }
        assert_eq!(series.effect(MS.unsigned_abs()).ns_per_s() / MS, 100);
        assert!(series.won_squares <= 4 * 100_010 * 100_010);
        assert!((share_since(Nanos(10), Nanos(10)) - 0.5).abs() < 1e-12);
    }

    #[test]
    fn what_was_promised_is_told_from_nothing_and_noise_takes_longer() {
        let promised = 100_000_000;
        let decide = |samples: &[i64]| {
            series(samples)
                .effect(promised / 2)
                .gain(promised)
                .decision()
        };
        assert_eq!(decide(&[100 * MS, 100 * MS]), None, "too few");
        assert_eq!(decide(&[100 * MS; 3]), Some(true));
        assert_eq!(decide(&[0; 3]), Some(false));
        assert_eq!(decide(&[50 * MS; 30]), None, "half of it is neither");
        let noisy = [400 * MS, -200 * MS, 300 * MS, -100 * MS];
        assert_eq!(decide(&noisy), None);
        assert_eq!(decide(&noisy.repeat(32)), Some(true));
    }

    #[test]
    fn a_loss_within_the_noise_is_none() {
        let decide = |samples: &[i64]| {
            series(samples)
                .effect(2_500_000)
                .no_loss(5_000_000)
                .decision()
        };
        assert_eq!(decide(&[-50 * MS; 4]), Some(false));
        let noisy = [100 * MS, -120 * MS, 90 * MS, -110 * MS];
        assert_eq!(decide(&noisy.repeat(4)), Some(true));
    }

    #[test]
    fn where_the_machine_did_much_it_is_hard_to_tell_what_the_move_did() {
        let decide = |common: i64| {
            let mut series = SampleSeries::default();
            for _ in 0..8 {
                series.add((50 * MS, common * MS), 1.0);
            }
            series.effect(10_000_000).gain(50_000_000).decision()
        };
        assert_eq!(decide(0), Some(true));
        assert_eq!(decide(20), Some(true));
        assert_eq!(decide(400), None);
    }

    #[test]
    fn sureness_is_a_percentage_of_the_likelier_answer() {
        let sure = |ln_odds| {
            Likelihood {
                ln_odds,
                samples: 9,
            }
            .sure_percent()
        };
        assert_eq!(
            (sure(0.0), sure(SURE), sure(-SURE), sure(50.0)),
            (50, 95, 95, 99)
        );
    }
}
