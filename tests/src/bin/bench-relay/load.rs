//! Sends calls and takes the time of each.

use anyhow::Result;
use resmgr_tests::wire::Wire;
use std::time::{Duration, Instant};

/// What came of some calls.
#[derive(Clone, Debug, Default)]
pub(crate) struct Sample {
    latencies: Vec<Duration>,
    elapsed: Duration,
}

impl Sample {
    pub(crate) fn add(&mut self, other: Self) {
        self.latencies.extend(other.latencies);
        self.elapsed += other.elapsed;
    }

    /// The latency that `percent` of the calls do not exceed, in microseconds.
    pub(crate) fn percentile(&mut self, percent: usize) -> f64 {
        self.latencies.sort_unstable();
        let index = self.latencies.len() * percent / 100;
        let last = self.latencies.len().saturating_sub(1);
        let found = self.latencies.get(index.min(last));
        found.copied().unwrap_or_default().as_secs_f64() * 1e6
    }

    /// Calls a second.
    pub(crate) fn rate(&self) -> f64 {
        let calls = u32::try_from(self.latencies.len()).unwrap_or(u32::MAX);
        f64::from(calls) / self.elapsed.as_secs_f64().max(1e-9)
    }
}

/// Sends `calls` empty requests, `at_once` at a time.
pub(crate) async fn run(
    wire: &Wire,
    path: &'static str,
    at_once: usize,
    calls: usize,
) -> Result<Sample> {
    let began = Instant::now();
    let workers = (0..at_once).map(|_| async {
        let mut latencies = Vec::with_capacity(calls / at_once + 1);
        for _ in 0..(calls / at_once).max(1) {
            let sent = Instant::now();
            wire.hurry(path, &[]).await?;
            latencies.push(sent.elapsed());
        }
        anyhow::Ok(latencies)
    });
    let latencies = futures::future::try_join_all(workers).await?.concat();
    Ok(Sample {
        latencies,
        elapsed: began.elapsed(),
    })
}
