//! The pod annotation `intel.com/resources`: what Kubernetes was asked for, which CRI does not carry.

use super::{Requirements, Source};
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
    init_containers: BTreeMap<String, Resources>,
    #[serde(default)]
    containers: BTreeMap<String, Resources>,
}

#[derive(Default, Deserialize)]
struct Resources {
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

/// Requirements of a container by name, looked up in init containers and then in containers, and whether
/// it is an init container. `None` when the annotation does not name it or gives it no resources: then
/// they are to be estimated.
///
/// # Errors
/// [`AnnotationError`] when the text is malformed.
pub fn requirements_from_annotation(
    json: &str,
    container: &str,
) -> Result<Option<(Requirements, bool)>, AnnotationError> {
    let mut pod: Pod = serde_json::from_str(json).map_err(|error| AnnotationError::Json {
        reason: error.to_string(),
    })?;
    let init = pod.init_containers.remove(container);
    let (found, is_init) = match init {
        Some(found) => (Some(found), true),
        None => (pod.containers.remove(container), false),
    };
    match found {
        Some(one) if !one.limits.is_empty() || !one.requests.is_empty() => {
            Ok(Some((requirements(&one, container)?, is_init)))
        }
        _ => Ok(None),
    }
}

fn requirements(resources: &Resources, container: &str) -> Result<Requirements, AnnotationError> {
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
    Ok(Requirements {
        cpu_request: request.map(milli).unwrap_or_default(),
        cpu_limit: limit.map(milli),
        memory_request_bytes: memory_request.map(bytes),
        memory_limit_bytes: memory_limit.map(bytes),
        extended,
        source: Source::Annotation,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn containers_are_found_by_name_init_containers_first() {
        let json = r#"{"initContainers":{"i":{"requests":{"cpu":"100m"}}},"containers":{"c0":{"limits":
            {"cpu":"2","memory":"100M"},"requests":{"cpu":"2","memory":"100M","cmk.intel.com/exclusive-cores":"2"}},"e":{}}}"#;
        let (c0, init) = requirements_from_annotation(json, "c0").unwrap().unwrap();
        assert_eq!(
            (c0.cpu_request, c0.cpu_limit, init),
            (MilliCpu(2000), Some(MilliCpu(2000)), false)
        );
        assert_eq!(c0.memory_limit_bytes, Some(100_000_000));
        assert_eq!(c0.extended.get("cmk.intel.com/exclusive-cores"), Some(&2));
        assert!(requirements_from_annotation(json, "i").unwrap().unwrap().1);
        assert_eq!(requirements_from_annotation(json, "e"), Ok(None));
        assert_eq!(requirements_from_annotation(json, "x"), Ok(None));
    }

    #[test]
    fn malformed_annotations_say_what_is_wrong() {
        assert!(matches!(
            requirements_from_annotation("[", "c"),
            Err(AnnotationError::Json { .. })
        ));
        let json = r#"{"containers":{"c":{"requests":{"cpu":"two"}}}}"#;
        let error = requirements_from_annotation(json, "c")
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("container c, cpu: \"two\" is not a quantity"),
            "{error}"
        );
    }
}
