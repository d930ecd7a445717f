//! What the webhook did, for Prometheus.

use std::sync::{Arc, atomic::AtomicU64};

use prometheus_client::{
    encoding::{EncodeLabelSet, text::encode},
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};

use crate::admit::ReviewOutcome;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReviewLabels {
    outcome: &'static str,
}

/// The counters and the registry that holds them.
#[derive(Clone, Debug)]
pub(crate) struct WebhookMetrics {
    reviews: Family<ReviewLabels, Counter>,
    loaded_s: Gauge<i64>,
    reload_failures: Counter<u64, AtomicU64>,
    cut_connections: Counter,
    registry: Arc<Registry>,
}

impl WebhookMetrics {
    /// All at zero.
    pub(crate) fn new() -> Self {
        let reviews = Family::<ReviewLabels, Counter>::default();
        let loaded_s = Gauge::<i64>::default();
        let reload_failures = Counter::<u64, AtomicU64>::default();
        let cut_connections = Counter::default();
        let mut registry = Registry::with_prefix("cri_resmgr_webhook");
        registry.register("reviews", "Admission reviews by outcome", reviews.clone());
        registry.register(
            "certificate_loaded_timestamp_seconds",
            "When the certificate in use was loaded, seconds since 1970",
            loaded_s.clone(),
        );
        registry.register(
            "certificate_reload_failures",
            "Changed certificates that could not be used",
            reload_failures.clone(),
        );
        registry.register(
            "cut_connections",
            "Connections and requests that a limit ended: too many, too slow or too large",
            cut_connections.clone(),
        );
        Self {
            reviews,
            loaded_s,
            reload_failures,
            cut_connections,
            registry: Arc::new(registry),
        }
    }

    /// Counts a review.
    pub(crate) fn reviewed(&self, outcome: ReviewOutcome) {
        let outcome = match outcome {
            ReviewOutcome::Annotated => "annotated",
            ReviewOutcome::Unchanged => "unchanged",
            ReviewOutcome::LeftAlone => "left_alone",
            ReviewOutcome::Refused => "refused",
        };
        self.reviews.get_or_create(&ReviewLabels { outcome }).inc();
    }

    /// Notes that a certificate is in use now.
    pub(crate) fn certificate_loaded(&self) {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        let seconds = now.map_or(0, |since| {
            i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
        });
        self.loaded_s.set(seconds);
    }

    /// Counts a changed certificate that could not be used.
    pub(crate) fn certificate_failed(&self) {
        self.reload_failures.inc();
    }

    /// Counts connections and requests that a limit ended.
    pub(crate) fn cut_connections(&self) -> Counter {
        self.cut_connections.clone()
    }

    /// The page.
    pub(crate) fn page(&self) -> Result<String, std::fmt::Error> {
        let mut page = String::new();
        encode(&mut page, &self.registry)?;
        Ok(page)
    }
}
