//! `cpu.shares` of cgroup v1 as `cpu.weight` of cgroup v2.
//!
//! Runtimes convert in one of two ways, and the weights of one pod's containers are worth comparing only
//! when all are converted alike: what the runtime wrote for shares that are known tells its way.

use std::sync::{Mutex, PoisonError};

/// The kernel's weight of a cgroup that nothing has written: it tells nothing.
const DEFAULT: u64 = 100;

/// One of the two ways.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Curve {
    Linear,
    Quadratic,
}

/// How the runtime of this machine converts, as far as it is known.
#[derive(Debug, Default)]
pub struct Conversion(Mutex<Option<Curve>>);

impl Conversion {
    fn known(&self) -> Option<Curve> {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The weight that the runtime would write; by a line as long as its way is not known.
    #[must_use]
    pub fn weight(&self, shares: u64) -> u64 {
        match self.known() {
            Some(Curve::Quadratic) => quadratic(shares),
            Some(Curve::Linear) | None => linear(shares),
        }
    }

    /// The fewest shares for which the runtime would write this weight: several come to the same.
    #[must_use]
    pub fn shares(&self, weight: u64) -> u64 {
        let (mut low, mut high) = (2, 262_144);
        while low < high {
            let middle = u64::midpoint(low, high);
            match self.weight(middle) < weight {
                true => low = middle + 1,
                false => high = middle,
            }
        }
        low
    }

    /// Whether a weight stands for these shares: by the runtime's way, or by either as long as that is not
    /// known. One weight may stand for different shares by different ways: 59 for 1536 and for 512.
    #[must_use]
    pub fn stands_for(&self, weight: u64, shares: u64) -> bool {
        match self.known() {
            Some(_) => weight == self.weight(shares),
            None => stands_for(weight, shares),
        }
    }

    /// Learns from a weight in the cgroup of a container for which the runtime was asked for `asked` shares,
    /// and the policy wants `wanted`: unless it may be the policy's, the runtime has written it.
    pub fn learn(&self, asked: u64, wanted: u64, weight: u64) {
        if weight == DEFAULT || weight == self.weight(wanted) || linear(asked) == quadratic(asked) {
            return;
        }
        let curve = match weight {
            weight if weight == linear(asked) => Curve::Linear,
            weight if weight == quadratic(asked) => Curve::Quadratic,
            _ => return,
        };
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(curve);
    }
}

/// Whether a weight stands for these shares by either way.
#[must_use]
pub fn stands_for(weight: u64, shares: u64) -> bool {
    weight == linear(shares) || weight == quadratic(shares)
}

/// 2..262144 onto 1..10000 by a line: Kubernetes' KEP-2254 as it was first, runc before 1.3.2, crun before
/// 1.23.
fn linear(shares: u64) -> u64 {
    1 + (shares.clamp(2, 262_144) - 2) * 9_999 / 262_142
}

/// The same onto a curve on which 1024 shares, the default of cgroup v1, are the weight 100, the default of
/// cgroup v2: KEP-2254 since 2025, with the logarithm to base 2
/// `weight = ⌈10^((log² + 125 log) / 612 - 7/34)⌉`.
#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "shares are small, and the result is between 1 and 10000"
)]
fn quadratic(shares: u64) -> u64 {
    match shares {
        0..=2 => 1,
        262_144.. => 10_000,
        _ => {
            let log = (shares as f64).log2();
            let exponent = (log * log + 125.0 * log) / 612.0 - 7.0 / 34.0;
            10.0_f64.powf(exponent).ceil() as u64
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_found_again_from_their_weight() {
        let conversion = Conversion::default();
        for weight in [1, 2, 39, 79, 9_999, 10_000] {
            assert_eq!(conversion.weight(conversion.shares(weight)), weight);
        }
    }

    #[test]
    fn both_ways_end_alike_and_differ_between() {
        for (shares, line, curve) in [
            (0, 1, 1),
            (2, 1, 1),
            (102, 4, 17),
            (512, 20, 59),
            (1024, 39, 100),
            (4096, 157, 303),
            (262_144, 10_000, 10_000),
            (u64::MAX, 10_000, 10_000),
        ] {
            assert_eq!(
                (linear(shares), quadratic(shares)),
                (line, curve),
                "{shares}"
            );
            assert!(stands_for(line, shares) && stands_for(curve, shares));
        }
        assert!(!stands_for(100, 512));
    }

    #[test]
    fn what_the_runtime_wrote_tells_how_it_converts() {
        let conversion = Conversion::default();
        assert_eq!(conversion.weight(512), 20);
        // Nothing has written this one; it might stand for 1024 as well.
        conversion.learn(1024, 512, 100);
        assert_eq!(conversion.weight(512), 20);
        assert!(conversion.stands_for(59, 512) && conversion.stands_for(20, 512));
        conversion.learn(2560, 512, quadratic(2560));
        assert_eq!(conversion.weight(512), 59);
        assert!(conversion.stands_for(59, 512) && !conversion.stands_for(20, 512));
        // Some other weight tells nothing; that of an older runtime does.
        conversion.learn(2560, 512, 7);
        assert_eq!(conversion.weight(512), 59);
        conversion.learn(2560, 512, linear(2560));
        assert_eq!(conversion.weight(512), 20);
    }

    #[test]
    fn a_weight_that_both_ways_give_for_different_shares_is_told_apart() {
        // One and a half CPUs: 1536 shares are asked for, 512 of the shared CPUs are wanted.
        assert_eq!((linear(1536), quadratic(512)), (59, 59));
        let conversion = Conversion::default();
        conversion.learn(1536, 512, linear(1536));
        assert!(
            !conversion.stands_for(linear(1536), 512),
            "the runtime's is left in place"
        );
        assert_eq!(conversion.weight(512), 20);

        let conversion = Conversion::default();
        conversion.learn(1536, 512, quadratic(1536));
        assert_eq!(conversion.weight(512), 59);
        conversion.learn(1536, 512, 59); // the policy's own
        assert_eq!(conversion.weight(512), 59);
    }
}
