//! What the agent did, for Prometheus.

use std::{
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use prometheus_client::{
    encoding::{EncodeLabelSet, text::encode},
    metrics::{counter::Counter, family::Family, gauge::Gauge, info::Info},
    registry::Registry,
};
use resmgr_io::process::ProcessMetrics;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct WatchLabels {
    watch: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OutcomeLabels {
    outcome: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OperationLabels {
    operation: &'static str,
    outcome: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    code: String,
}

/// What became of a configuration that was pushed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PushAnswer {
    /// It is in force.
    Accepted,
    /// It was refused.
    Refused,
    /// There was no answer.
    None,
}

impl PushAnswer {
    const ALL: [Self; 3] = [Self::Accepted, Self::Refused, Self::None];

    fn labels(self) -> OutcomeLabels {
        let outcome = match self {
            Self::Accepted => "accepted",
            Self::Refused => "refused",
            Self::None => "unanswered",
        };
        OutcomeLabels { outcome }
    }
}

/// What became of an Event about a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum EventOutcome {
    /// Written, or counted into an equal one.
    Written,
    /// Left out: there were too many.
    Suppressed,
    /// The API server refused it, or was away for too long.
    Failed,
}

impl EventOutcome {
    const ALL: [Self; 3] = [Self::Written, Self::Suppressed, Self::Failed];

    fn labels(self) -> OutcomeLabels {
        let outcome = match self {
            Self::Written => "written",
            Self::Suppressed => "suppressed",
            Self::Failed => "failed",
        };
        OutcomeLabels { outcome }
    }
}

/// What became of a request for a view.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ViewOutcome {
    /// cri-resmgr's answer was passed on, also that there is no such container.
    Answered,
    /// The token is missing or not valid here, or its user lacks the right.
    Refused,
    /// The API server or cri-resmgr did not answer, or not in time.
    Failed,
}

impl ViewOutcome {
    const ALL: [Self; 3] = [Self::Answered, Self::Refused, Self::Failed];

    fn labels(self) -> OutcomeLabels {
        let outcome = match self {
            Self::Answered => "answered",
            Self::Refused => "refused",
            Self::Failed => "failed",
        };
        OutcomeLabels { outcome }
    }
}

/// The counters and the registry that holds them. Clones share both.
#[derive(Clone, Debug)]
pub(crate) struct AgentMetrics {
    watch_up: Family<WatchLabels, Gauge>,
    watch_event_s: Family<WatchLabels, Gauge>,
    watch_errors: Family<WatchLabels, Counter>,
    pushes: Family<OutcomeLabels, Counter>,
    in_force: Gauge,
    accepted_s: Gauge,
    operations: Family<OperationLabels, Counter>,
    requests: Family<RequestLabels, Counter>,
    events: Family<OutcomeLabels, Counter>,
    views: Family<OutcomeLabels, Counter>,
    cut_connections: Counter,
    registry: Arc<Registry>,
}

impl AgentMetrics {
    /// All at zero.
    pub(crate) fn new() -> Self {
        let mut metrics = Self {
            watch_up: Family::default(),
            watch_event_s: Family::default(),
            watch_errors: Family::default(),
            pushes: Family::default(),
            in_force: Gauge::default(),
            accepted_s: Gauge::default(),
            operations: Family::default(),
            requests: Family::default(),
            events: Family::default(),
            views: Family::default(),
            cut_connections: Counter::default(),
            registry: Arc::default(),
        };
        // Series that are there from the start have a rate from the first event on.
        for outcome in EventOutcome::ALL {
            drop(metrics.events.get_or_create(&outcome.labels()));
        }
        for answer in PushAnswer::ALL {
            drop(metrics.pushes.get_or_create(&answer.labels()));
        }
        for outcome in ViewOutcome::ALL {
            drop(metrics.views.get_or_create(&outcome.labels()));
        }
        let mut registry = Registry::default();
        registry.register_collector(Box::new(ProcessMetrics::default()));
        metrics.register(registry.sub_registry_with_prefix("cri_resmgr_agent"));
        metrics.registry = Arc::new(registry);
        metrics
    }

    fn register(&self, registry: &mut Registry) {
        let build = Info::new([("version", env!("CARGO_PKG_VERSION"))]);
        registry.register(
            "build",
            "What the running cri-resmgr-agent was built of",
            build,
        );
        registry.register(
            "watch_up",
            "Whether a watch of the API server works",
            self.watch_up.clone(),
        );
        registry.register(
            "watch_last_event_timestamp_seconds",
            "When a watch last brought an object, seconds since 1970",
            self.watch_event_s.clone(),
        );
        registry.register(
            "watch_errors",
            "Times that a watch broke, expired or could not begin",
            self.watch_errors.clone(),
        );
        registry.register(
            "pushes",
            "Configurations pushed into cri-resmgr by outcome",
            self.pushes.clone(),
        );
        registry.register(
            "configuration_in_force",
            "Whether the chosen configuration is in force, or there is none to push",
            self.in_force.clone(),
        );
        registry.register(
            "configuration_accepted_timestamp_seconds",
            "When cri-resmgr last accepted a configuration, seconds since 1970",
            self.accepted_s.clone(),
        );
        registry.register(
            "operations",
            "Operations of cri-resmgr on the Node by outcome",
            self.operations.clone(),
        );
        registry.register(
            "api_requests",
            "Requests to the API server by HTTP status",
            self.requests.clone(),
        );
        registry.register(
            "pod_events",
            "Events about pods by outcome",
            self.events.clone(),
        );
        registry.register(
            "views",
            "Requests for views of cri-resmgr by outcome",
            self.views.clone(),
        );
        registry.register(
            "cut_connections",
            "Connections and requests that a limit ended: too many, too slow or too large",
            self.cut_connections.clone(),
        );
    }

    /// Notes that a watch brought an object, or that there is none.
    pub(crate) fn watched(&self, watch: &'static str) {
        let labels = WatchLabels { watch };
        self.watch_up.get_or_create(&labels).set(1);
        self.watch_event_s.get_or_create(&labels).set(now_s());
        drop(self.watch_errors.get_or_create(&labels));
    }

    /// Counts an error of a watch, which works no more.
    pub(crate) fn watch_failed(&self, watch: &'static str) {
        let labels = WatchLabels { watch };
        self.watch_up.get_or_create(&labels).set(0);
        self.watch_errors.get_or_create(&labels).inc();
    }

    /// Counts a configuration that was pushed.
    pub(crate) fn pushed(&self, answer: PushAnswer) {
        if answer == PushAnswer::Accepted {
            self.accepted_s.set(now_s());
        }
        self.pushes.get_or_create(&answer.labels()).inc();
    }

    /// Counts an operation on the Node.
    pub(crate) fn operated(&self, operation: &'static str, is_done: bool) {
        let outcome = if is_done { "done" } else { "failed" };
        let labels = OperationLabels { operation, outcome };
        self.operations.get_or_create(&labels).inc();
    }

    /// Counts a request to the API server: its status, or `none` where there was no answer.
    pub(crate) fn requested(&self, status: Option<http::StatusCode>) {
        let code = status.map_or_else(|| "none".to_owned(), |status| status.as_str().to_owned());
        self.requests.get_or_create(&RequestLabels { code }).inc();
    }

    /// Counts an Event about a pod.
    pub(crate) fn event(&self, outcome: EventOutcome) {
        self.events.get_or_create(&outcome.labels()).inc();
    }

    /// Counts a request for a view.
    pub(crate) fn viewed(&self, outcome: ViewOutcome) {
        self.views.get_or_create(&outcome.labels()).inc();
    }

    /// Counts connections and requests that a limit ended.
    pub(crate) fn cut_connections(&self) -> Counter {
        self.cut_connections.clone()
    }

    /// The page, in the OpenMetrics text format.
    pub(crate) fn page(&self, is_in_force: bool) -> Result<String, std::fmt::Error> {
        self.in_force.set(i64::from(is_in_force));
        let mut page = String::new();
        encode(&mut page, &self.registry)?;
        Ok(page)
    }
}

/// Seconds since 1970.
fn now_s() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.map_or(0, |since| {
        i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
    })
}
