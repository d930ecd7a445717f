//! Labels that several families have.

use crate::telemetry::sample::ContainerName;
use prometheus_client::encoding::EncodeLabelSet;
use resmgr_policy::Request;
use std::collections::BTreeSet;

/// Which container a value is about. Two pods of one name differ in their `uid`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, EncodeLabelSet)]
pub(super) struct ContainerLabels {
    namespace: String,
    pod: String,
    container: String,
    uid: String,
}

impl From<&Request> for ContainerLabels {
    fn from(request: &Request) -> Self {
        Self {
            namespace: request.pod.namespace.to_string(),
            pod: request.pod.name.to_string(),
            container: request.name.to_string(),
            uid: request.pod.uid.to_string(),
        }
    }
}

impl From<&ContainerName> for ContainerLabels {
    fn from(name: &ContainerName) -> Self {
        Self {
            namespace: name.namespace.clone(),
            pod: name.pod.clone(),
            container: name.container.clone(),
            uid: name.uid.clone(),
        }
    }
}

/// Which pool a value is about.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct PoolLabels {
    pub(super) pool: String,
}

/// The first value of each container: of two attempts of one container in one pod a page may show one alone, for a
/// scraper refuses a page on which two series have the same labels.
pub(super) fn first_of_each<T>(
    all: impl IntoIterator<Item = (ContainerLabels, T)>,
) -> Vec<(ContainerLabels, T)> {
    let mut known = BTreeSet::new();
    let unknown = |(labels, _value): &(ContainerLabels, T)| known.insert(labels.clone());
    all.into_iter().filter(unknown).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        metrics::{registry::Metrics, scheduler::SchedulerMetrics, text::prometheus},
        telemetry::{ContainerTelemetry, Interference, InterferenceSource, sample::LabelledSample},
    };
    use proptest::prelude::*;
    use resmgr_policy::ContainerId;
    use resmgr_topology::NodeId;
    use std::{collections::BTreeMap, sync::Arc};

    fn name() -> impl Strategy<Value = ContainerName> {
        let word = || prop::sample::select(vec!["a", "b"]).prop_map(str::to_owned);
        (word(), word(), word(), word()).prop_map(|(namespace, pod, container, uid)| {
            ContainerName {
                namespace,
                pod,
                container,
                uid,
            }
        })
    }

    proptest! {
        /// Prometheus refuses a page on which two series have the same labels, all of it.
        #[test]
        fn whatever_containers_are_called_no_two_series_have_the_same_labels(
            names in prop::collection::vec(prop::option::of(name()), 0..12),
        ) {
            let id = |index: usize| ContainerId(format!("c{index}").into());
            let sources = (0..names.len()).map(|index| InterferenceSource::Container(id(index)));
            let sources = sources.chain([
                InterferenceSource::Kernel,
                InterferenceSource::Ended,
                InterferenceSource::Rest,
            ]);
            let harm = Interference { preemptions: 1, wait_ns: 1 };
            let interference: BTreeMap<_, _> = sources.map(|source| (source, harm)).collect();
            let mut sample = LabelledSample::default();
            for (index, name) in names.into_iter().enumerate() {
                sample.snapshot.containers.push(ContainerTelemetry {
                    id: id(index),
                    interference: interference.clone(),
                    resident: [(NodeId(0), 1), (NodeId(1), 1)].into(),
                    ..ContainerTelemetry::default()
                });
                sample.names.extend(name.map(|name| (id(index), name)));
            }
            let sample = Arc::new(sample);
            let metrics = Metrics::default();
            metrics.register(|registry| {
                let collector = SchedulerMetrics::new(move || Arc::clone(&sample));
                registry.register_collector(Box::new(collector));
            });
            let page = prometheus(&metrics.page().unwrap());
            let series = page.lines().filter(|line| !line.starts_with('#'));
            let series = series.filter_map(|line| line.rsplit_once(' '));
            let mut known = BTreeSet::new();
            for (series, _value) in series {
                prop_assert!(known.insert(series.to_owned()), "{series} twice on {page}");
            }
        }
    }
}
