//! `cpu.shares` of cgroup v1 as `cpu.weight` of cgroup v2.
//!
//! Runtimes convert in one of two ways, and the weights of one pod's containers are worth comparing only
//! when all are converted alike: what the runtime wrote for shares that are known tells its way.

use std::sync::atomic::{AtomicBool, Ordering};

/// The kernel's weight of a cgroup that nobody has written: it tells nothing.
const DEFAULT: u64 = 100;

/// How the runtime of this machine converts. Linear until something else is seen.
#[derive(Debug, Default)]
pub struct Conversion {
    quadratic: AtomicBool,
}

impl Conversion {
    /// The weight that the runtime would write.
    #[must_use]
    pub fn weight(&self, shares: u64) -> u64 {
        if self.quadratic.load(Ordering::Relaxed) {
            quadratic(shares)
        } else {
            linear(shares)
        }
    }

    /// Learns from what the runtime wrote for these shares.
    pub fn learn(&self, shares: u64, weight: u64) {
        if weight != DEFAULT && linear(shares) != quadratic(shares) {
            if weight == linear(shares) {
                self.quadratic.store(false, Ordering::Relaxed);
            } else if weight == quadratic(shares) {
                self.quadratic.store(true, Ordering::Relaxed);
            }
        }
    }
}

/// Whether a weight stands for these shares, whoever converted them.
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
        // Nobody has written this one; it might stand for 1024 as well.
        conversion.learn(1024, 100);
        assert_eq!(conversion.weight(512), 20);
        conversion.learn(2560, quadratic(2560));
        assert_eq!(conversion.weight(512), 59);
        // Some other weight tells nothing; that of an older runtime does.
        conversion.learn(2560, 7);
        assert_eq!(conversion.weight(512), 59);
        conversion.learn(2560, linear(2560));
        assert_eq!(conversion.weight(512), 20);
    }
}
