//! The pod annotation `intel.com/resources`: what Kubernetes was asked for, which CRI does not carry.

use super::basis::Annotated;
use crate::quantity::{Quantity, QuantityError};
use alloc::{
    collections::BTreeMap,
    string::{String, ToString},
};
use resmgr_topology::MilliCpu;
use serde::Deserialize;

/// Key of the annotation.
pub const RESOURCES_ANNOTATION: &str = "intel.com/resources";

/// Why the annotation cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AnnotationError {
    /// Not the JSON expected.
    #[error(
        "annotation {RESOURCES_ANNOTATION} is not {{\"initContainers\":{{…}},\"containers\":{{…}}}}: {reason}"
    )]
    Json {
        /// What the parser said.
        reason: String,
    },
    /// A value is not a quantity, or a negative one.
    #[error("annotation {RESOURCES_ANNOTATION}: container {container}, {resource}: {source}")]
    Value {
        /// Name of the container.
        container: String,
        /// Name of the resource.
        resource: String,
        /// What is wrong with it.
        source: QuantityError,
    },
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Pod {
    #[serde(default)]
    init_containers: BTreeMap<String, AnnotatedResources>,
    #[serde(default)]
    containers: BTreeMap<String, AnnotatedResources>,
    #[serde(default)]
    pod: Option<AnnotatedResources>,
}

/// What the annotation tells one container.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Entry {
    /// Its own resources; `None` when the annotation does not name it.
    pub own: Option<Annotated>,
    /// Whether it is named as an init container.
    pub init: bool,
    /// The pod-level resources (`spec.resources`), if the pod has any.
    pub pod: Option<Annotated>,
}

#[derive(Default, Deserialize)]
struct AnnotatedResources {
    #[serde(default)]
    limits: BTreeMap<String, Text>,
    #[serde(default)]
    requests: BTreeMap<String, Text>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Text {
    String(String),
    Number(serde_json::Number),
}

/// What the annotation tells the container of this name, looked up in init containers and then in
/// containers.
///
/// # Errors
/// [`AnnotationError`] when the text is malformed.
pub fn entry_of_annotation(json: &str, container: &str) -> Result<Entry, AnnotationError> {
    let mut pod: Pod = serde_json::from_str(json).map_err(|error| AnnotationError::Json {
        reason: error.to_string(),
    })?;
    let init = pod.init_containers.remove(container);
    let (own, init) = match init {
        Some(own) => (Some(own), true),
        None => (pod.containers.remove(container), false),
    };
    let read = |resources: AnnotatedResources| annotated(&resources, container);
    Ok(Entry {
        own: own.map(read).transpose()?,
        init,
        pod: pod.pod.map(read).transpose()?,
    })
}

fn annotated(
    resources: &AnnotatedResources,
    container: &str,
) -> Result<Annotated, AnnotationError> {
    let read = |from: &BTreeMap<String, Text>, resource: &str| {
        let Some(text) = from.get(resource) else {
            return Ok(None);
        };
        let text = match text {
            Text::String(text) => text.clone(),
            Text::Number(number) => number.to_string(),
        };
        let quantity = text.parse::<Quantity>().and_then(|quantity| {
            if quantity < Quantity::default() {
                return Err(QuantityError { text });
            }
            Ok(quantity)
        });
        quantity.map(Some).map_err(|source| AnnotationError::Value {
            container: container.to_string(),
            resource: resource.to_string(),
            source,
        })
    };
    let milli = |quantity: Quantity| MilliCpu(u32::try_from(quantity.millis()).unwrap_or(u32::MAX));
    let bytes = |quantity: Quantity| u64::try_from(quantity.units()).unwrap_or(u64::MAX);
    let limit = read(&resources.limits, "cpu")?;
    // The API server defaults a request to its limit.
    let request = read(&resources.requests, "cpu")?.or(limit);
    let memory_limit = read(&resources.limits, "memory")?;
    let memory_request = read(&resources.requests, "memory")?.or(memory_limit);
    let mut extended = BTreeMap::new();
    for name in resources.requests.keys().chain(resources.limits.keys()) {
        if !name.contains('/') {
            continue;
        }
        let value = read(&resources.requests, name)?;
        let value = match value {
            None => read(&resources.limits, name)?,
            value => value,
        };
        let units = value.unwrap_or_default().units();
        extended.insert(name.clone(), i64::try_from(units).unwrap_or(i64::MAX));
    }
    Ok(Annotated {
        cpu_request: request.map(milli),
        cpu_limit: limit.map(milli),
        memory_request_bytes: memory_request.map(bytes),
        memory_limit_bytes: memory_limit.map(bytes),
        extended,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn containers_are_found_by_name_init_containers_first() {
        let json = r#"{"initContainers":{"i":{"requests":{"cpu":"100m"}}},"containers":{"c0":{"limits":
            {"cpu":"2","memory":"100M"},"requests":{"cpu":"2","memory":"100M","cmk.intel.com/exclusive-cores":"2"}},"e":{}}}"#;
        let of = |name| entry_of_annotation(json, name).unwrap();
        let (c0, init) = (of("c0").own.unwrap(), of("c0").init);
        let two = Some(MilliCpu(2000));
        assert_eq!((c0.cpu_request, c0.cpu_limit, init), (two, two, false));
        assert_eq!(c0.memory_limit_bytes, Some(100_000_000));
        assert_eq!(c0.extended.get("cmk.intel.com/exclusive-cores"), Some(&2));
        assert!(of("i").init);
        // An empty entry asks for nothing; one that is missing tells nothing.
        assert_eq!(of("e").own, Some(Annotated::default()));
        assert_eq!(of("x"), Entry::default());
    }

    #[test]
    fn the_pods_own_resources_stand_beside_those_of_its_containers() {
        let json = r#"{"initContainers":{},"containers":{"a":{}},"pod":{"limits":{"cpu":"1"}}}"#;
        let entry = entry_of_annotation(json, "a").unwrap();
        assert_eq!(entry.own, Some(Annotated::default()));
        assert_eq!(entry.pod.unwrap().cpu_request, Some(MilliCpu(1000)));
    }

    #[test]
    fn malformed_annotations_say_what_is_wrong() {
        assert!(matches!(
            entry_of_annotation("[", "c"),
            Err(AnnotationError::Json { .. })
        ));
        let json = r#"{"containers":{"c":{"requests":{"cpu":"two"}}}}"#;
        let error = entry_of_annotation(json, "c").unwrap_err().to_string();
        assert!(
            error.contains("container c, cpu: \"two\" is not a quantity"),
            "{error}"
        );
    }
}
