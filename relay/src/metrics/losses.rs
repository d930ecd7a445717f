//! What met a bound: log lines, dumped and recorded events, connections. Each is counted where it is lost.

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric as _},
    metrics::{MetricType, counter::ConstCounter},
};
use std::fmt;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct LossLabels {
    kind: &'static str,
    reason: &'static str,
}

/// Counts of all that was lost at a bound.
#[derive(Default)]
pub struct LossMetrics(Vec<(LossLabels, LossCount)>);

type LossCount = Box<dyn Fn() -> u64 + Send + Sync>;

impl LossMetrics {
    /// Adds a count.
    #[must_use]
    pub fn with(
        mut self,
        kind: &'static str,
        reason: &'static str,
        count: impl Fn() -> u64 + Send + Sync + 'static,
    ) -> Self {
        self.0.push((LossLabels { kind, reason }, Box::new(count)));
        self
    }
}

impl fmt::Debug for LossMetrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list()
            .entries(self.0.iter().map(|(labels, _count)| labels))
            .finish()
    }
}

impl Collector for LossMetrics {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let mut losses = encoder.encode_descriptor(
            "lost",
            "What was lost at a bound, by kind and bound",
            None,
            MetricType::Counter,
        )?;
        for (labels, count) in &self.0 {
            ConstCounter::new(count()).encode(losses.encode_family(labels)?)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::registry::Metrics;

    #[test]
    fn each_loss_is_counted_by_what_was_lost_and_why() {
        let metrics = Metrics::default();
        let losses = LossMetrics::default()
            .with("log_lines", "stalled", || 3)
            .with("dump_events", "stalled", || 0);
        metrics.register(|registry| registry.register_collector(Box::new(losses)));
        let page = metrics.page().unwrap();
        for line in [
            "cri_resmgr_lost_total{kind=\"log_lines\",reason=\"stalled\"} 3",
            "cri_resmgr_lost_total{kind=\"dump_events\",reason=\"stalled\"} 0",
        ] {
            assert!(page.contains(line), "{line} is not in\n{page}");
        }
    }
}
