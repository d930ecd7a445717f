//! Labels that several families have.

use crate::telemetry::sample::ContainerName;
use prometheus_client::encoding::EncodeLabelSet;
use resmgr_policy::Request;
use std::collections::BTreeMap;

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

/// One value for each container: of several attempts of a container in one pod that of the newest. A scraper refuses a
/// page on which two series have the same labels.
pub(super) fn newest_attempts<A: Ord, T>(
    attempts: impl IntoIterator<Item = (ContainerLabels, A, T)>,
) -> BTreeMap<ContainerLabels, T> {
    let mut newest = BTreeMap::<_, (A, T)>::new();
    for (labels, attempt, value) in attempts {
        if newest
            .get(&labels)
            .is_none_or(|(known, _)| *known < attempt)
        {
            newest.insert(labels, (attempt, value));
        }
    }
    let values = newest.into_iter();
    values
        .map(|(labels, (_attempt, value))| (labels, value))
        .collect()
}

#[cfg(test)]
mod tests;
