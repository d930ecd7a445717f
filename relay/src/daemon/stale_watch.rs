//! Notices that the telemetry was cut off: its program is no longer attached, and what it measured last
//! grows old. Decisions fall back by themselves; this logs it.

use resmgr_policy::STALE_NS;
use resmgr_topology::Nanos;

/// Logs once that the measurements no longer come, and once that they are back.
#[derive(Debug, Default)]
pub struct StaleWatch {
    warned: bool,
}

impl StaleWatch {
    /// The age of the measurements when sampled, both by `CLOCK_MONOTONIC`.
    pub fn observe(&mut self, taken: Nanos, now: Nanos) {
        let age_ns = now.0.saturating_sub(taken.0);
        if age_ns > STALE_NS && !self.warned {
            self.warned = true;
            tracing::warn!(
                target: "telemetry",
                "telemetry was cut off: no switch of a CPU was booked for {} s. Decisions are made as \
                 without telemetry, and nothing is moved; start again to attach it",
                age_ns / 1_000_000_000
            );
        } else if age_ns <= STALE_NS && self.warned {
            self.warned = false;
            tracing::info!(target: "telemetry", "telemetry is back");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_said_once_each_time() {
        let second = |count: u64| Nanos(count * 1_000_000_000);
        let mut watch = StaleWatch::default();
        let mut warned = Vec::new();
        for (taken, now) in [(10, 10), (10, 15), (10, 16), (10, 17), (18, 18), (18, 30)] {
            watch.observe(second(taken), second(now));
            warned.push(watch.warned);
        }
        assert_eq!(warned, [false, false, true, true, false, true]);
    }
}
