//! The relay's own metrics: calls, failures, and where their time went.

use crate::cri::{
    Limit,
    intercept::Call,
    observe::{Event, Interest, Kind, Observer},
};
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, histogram::Histogram},
    registry::Registry,
};
use std::{sync::Arc, time::Duration};

/// Every method of CRI's two services; anything else is counted as `other`, for a client must not be
/// able to make labels.
const METHODS: &[&str] = &[
    "Attach",
    "CheckpointContainer",
    "CheckpointPod",
    "ContainerStats",
    "ContainerStatus",
    "CreateContainer",
    "Exec",
    "ExecSync",
    "GetContainerEvents",
    "ImageFsInfo",
    "ImageStatus",
    "ListContainerStats",
    "ListContainers",
    "ListImages",
    "ListMetricDescriptors",
    "ListPodSandbox",
    "ListPodSandboxMetrics",
    "ListPodSandboxStats",
    "PodSandboxStats",
    "PodSandboxStatus",
    "PortForward",
    "PullImage",
    "RemoveContainer",
    "RemoveImage",
    "RemovePodSandbox",
    "ReopenContainerLog",
    "RestorePod",
    "RunPodSandbox",
    "RuntimeConfig",
    "StartContainer",
    "Status",
    "StopContainer",
    "StopPodSandbox",
    "StreamContainerStats",
    "StreamContainers",
    "StreamImages",
    "StreamPodSandboxMetrics",
    "StreamPodSandboxStats",
    "StreamPodSandboxes",
    "UpdateContainerResources",
    "UpdatePodSandboxResources",
    "UpdateRuntimeConfig",
    "Version",
];

/// Upper bounds of the latency buckets, seconds: from 25 µs to 26 s by powers of four.
const BUCKETS: [f64; 11] = [
    0.000_025, 0.000_1, 0.000_4, 0.001_6, 0.006_4, 0.025_6, 0.102_4, 0.409_6, 1.638_4, 6.553_6,
    26.214_4,
];

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CallLabels {
    method: &'static str,
    kind: &'static str,
    code: u32,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct PhaseLabels {
    method: &'static str,
    phase: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct LimitLabels {
    limit: &'static str,
}

/// Counts calls and their latency by phase: `own` (in the relay) and `runtime` (waiting for it); and bounds that
/// clients or the runtime have met.
#[derive(Clone, Debug)]
pub struct RelayMetrics {
    calls: Family<CallLabels, Counter>,
    limits: Family<LimitLabels, Counter>,
    latency: Family<PhaseLabels, Histogram>,
}

impl RelayMetrics {
    /// Registers the families.
    #[must_use]
    pub fn new(registry: &mut Registry) -> Self {
        let calls = Family::default();
        let latency: Family<PhaseLabels, Histogram> =
            Family::new_with_constructor(|| Histogram::new(BUCKETS));
        registry.register(
            "relay_calls",
            "Calls that ended, by method, kind (intercepted, passthrough, own) and gRPC status code",
            Family::clone(&calls),
        );
        registry.register(
            "relay_call_duration_seconds",
            "Time calls took, by method and phase: own (in the relay) or runtime (waiting for it)",
            Family::clone(&latency),
        );
        let limits = Family::default();
        registry.register(
            "relay_limit_reached",
            "How often a client or the runtime has met a bound of the relay, by bound",
            Family::clone(&limits),
        );
        Self {
            calls,
            limits,
            latency,
        }
    }

    fn ended(&self, call: &Call, kind: Kind, code: u32, total: Duration, runtime: Duration) {
        let method = METHODS
            .binary_search(&call.method())
            .ok()
            .and_then(|index| METHODS.get(index).copied())
            .unwrap_or("other");
        let kind = match kind {
            Kind::Intercepted => "intercepted",
            Kind::Passthrough => "passthrough",
            Kind::Own => "own",
        };
        self.calls
            .get_or_create(&CallLabels { method, kind, code })
            .inc();
        let phase = |phase, time: Duration| {
            self.latency
                .get_or_create(&PhaseLabels { method, phase })
                .observe(time.as_secs_f64());
        };
        phase("own", total.saturating_sub(runtime));
        phase("runtime", runtime);
    }
}

impl Observer for RelayMetrics {
    fn interest(&self, _path: &str) -> Interest {
        Interest::Ends
    }

    fn observe(&self, call: &Arc<Call>, kind: Kind, event: Event) {
        if let Event::End {
            failed,
            total,
            runtime,
        } = event
        {
            self.ended(
                call,
                kind,
                failed.map_or(0, |status| status.code),
                total,
                runtime,
            );
        }
    }

    fn limit_reached(&self, limit: Limit) {
        let limit = limit.as_str();
        self.limits.get_or_create(&LimitLabels { limit }).inc();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{cri::intercept::Status, metrics::registry::Metrics};
    use std::time::Instant;

    fn call(path: &str) -> Arc<Call> {
        Arc::new(Call {
            seq: 1,
            path: path.into(),
            received: Instant::now(),
            deadline: None,
        })
    }

    #[test]
    fn methods_are_sorted_so_that_they_can_be_looked_up() {
        assert!(METHODS.is_sorted());
    }

    #[test]
    fn calls_are_counted_by_method_kind_and_code_and_strangers_share_one_label() {
        let metrics = Metrics::default();
        let mut relay = None;
        metrics.register(|registry| relay = Some(RelayMetrics::new(registry)));
        let relay = relay.unwrap();
        let end = |failed| Event::End {
            failed,
            total: Duration::from_micros(130),
            runtime: Duration::from_micros(100),
        };
        relay.observe(
            &call("/runtime.v1.RuntimeService/Version"),
            Kind::Passthrough,
            end(None),
        );
        relay.observe(&call("/x.Y/Invented"), Kind::Passthrough, end(None));
        relay.observe(
            &call("/runtime.v1.RuntimeService/CreateContainer"),
            Kind::Intercepted,
            end(Some(Status {
                code: 8,
                message: String::new(),
            })),
        );
        relay.limit_reached(Limit::Streams);
        let page = metrics.page().unwrap();
        for line in [
            "cri_resmgr_relay_limit_reached_total{limit=\"streams\"} 1",
            "cri_resmgr_relay_calls_total{method=\"Version\",kind=\"passthrough\",code=\"0\"} 1",
            "cri_resmgr_relay_calls_total{method=\"other\",kind=\"passthrough\",code=\"0\"} 1",
            "cri_resmgr_relay_calls_total{method=\"CreateContainer\",kind=\"intercepted\",code=\"8\"} 1",
            "cri_resmgr_relay_call_duration_seconds_count{method=\"Version\",phase=\"own\"} 1",
        ] {
            assert!(page.contains(line), "{line} is not in\n{page}");
        }
    }
}
