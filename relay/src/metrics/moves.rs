//! Moves of what runs: how many, for what reason, what they promised, what was seen of it.

use super::labels::PoolLabels;
use crate::manager::{MoveSum, Snapshot};
use prometheus_client::{
    encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric},
    metrics::{MetricType, counter::ConstCounter, gauge::ConstGauge},
};
use resmgr_policy::Outcome;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct MoveLabels {
    reason: String,
    outcome: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReasonLabels {
    reason: String,
}

#[expect(
    clippy::cast_precision_loss,
    reason = "nanoseconds per second stay far below 2^53"
)]
fn seconds(ns: u64) -> f64 {
    ns as f64 / 1e9
}

#[expect(clippy::cast_possible_wrap, reason = "counts are far below 2^63")]
fn count(number: usize) -> ConstGauge<i64> {
    ConstGauge::new(number as i64)
}

/// The families of moves.
pub(super) fn encode(
    encoder: &mut DescriptorEncoder<'_>,
    snapshot: &Snapshot,
) -> Result<(), std::fmt::Error> {
    let sums = |made: bool| {
        let sums = snapshot.moves.sums.iter();
        let sums =
            sums.filter(move |((_reason, outcome), _sum)| (*outcome == Outcome::Trial) == made);
        sums.map(|((reason, outcome), sum)| {
            let labels = MoveLabels {
                reason: reason.clone(),
                outcome: outcome.word(),
            };
            (labels, sum)
        })
    };
    let mut metric = encoder.encode_descriptor(
        "rebalance_moves",
        "What became of moves of what runs: kept, undone, or ended with their container; shadow were only shown",
        None,
        MetricType::Counter,
    )?;
    for (labels, sum) in sums(false) {
        ConstCounter::new(sum.count).encode(metric.encode_family(&labels)?)?;
    }
    let mut metric = encoder.encode_descriptor(
        "rebalance_made_moves",
        "Moves of what runs that were made, whatever became of them",
        None,
        MetricType::Counter,
    )?;
    for (MoveLabels { reason, outcome: _ }, sum) in sums(true) {
        ConstCounter::new(sum.count).encode(metric.encode_family(&ReasonLabels { reason })?)?;
    }
    type Of = fn(&MoveSum) -> u64;
    let gains: [(&str, &str, Of); 3] = [
        (
            "rebalance_promised_gain",
            "Waiting and cache refill that moves promised to win back, seconds per second, summed over moves",
            |sum| sum.promised_ns_per_s,
        ),
        (
            "rebalance_seen_gain",
            "What moves that helped were seen to win, seconds per second, summed over moves",
            |sum| sum.won_ns_per_s,
        ),
        (
            "rebalance_seen_loss",
            "By how much moves that hurt were seen to hurt, seconds per second, summed over moves",
            |sum| sum.lost_ns_per_s,
        ),
    ];
    for (name, help, of) in gains {
        let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
        for (labels, sum) in sums(false) {
            ConstCounter::new(seconds(of(sum))).encode(metric.encode_family(&labels)?)?;
        }
    }
    let memory = &snapshot.containers.state().rebalance;
    let usable = usize::from(snapshot.measurements.is_usable());
    for (name, help, value) in [
        (
            "rebalance_trials",
            "Moves being watched: 1 until it is known whether the last one helped",
            usize::from(memory.trial().is_some()),
        ),
        (
            "rebalance_resting_containers",
            "Containers that were moved, or whose move was undone, and are left alone for a while",
            memory.cooldown_until.len(),
        ),
        (
            "rebalance_measurements_usable",
            "1 while decisions follow measurements; 0 when these are missing, coarse or old",
            usable,
        ),
        (
            "rebalance_known_workloads",
            "Workloads of which is remembered what their containers did",
            memory.workloads.len(),
        ),
    ] {
        count(value).encode(encoder.encode_descriptor(name, help, None, MetricType::Gauge)?)?;
    }
    let mut metric = encoder.encode_descriptor(
        "rebalance_lent_cpus",
        "CPUs a pool borrows of another one for the time being",
        None,
        MetricType::Gauge,
    )?;
    for (pool, cpus) in &memory.loans {
        let pool = pool.to_string();
        count(cpus.len()).encode(metric.encode_family(&PoolLabels { pool })?)?;
    }
    ConstCounter::new(snapshot.moves.fallbacks).encode(encoder.encode_descriptor(
        "rebalance_fallbacks",
        "How often measurements ceased to be usable, and decisions fell back to what they are without",
        None,
        MetricType::Counter,
    )?)
}
