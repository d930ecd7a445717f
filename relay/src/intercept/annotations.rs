//! Annotations that are laid over a create request: what was replaced in it. The runtime keeps them and shows
//! them with the container's status, so that all is known also when the ledger is lost. Nothing in them is
//! secret.

use crate::cri::{message as v1, overlay::ResourceOverlay};
use serde::{Deserialize, Serialize};
use std::collections::HashMap;

/// Annotation of a container: the `cmk isolate` that was taken out of its command line, options alone.
const ISOLATE: &str = "cri-resource-manager.intel.com/cmk-isolate";

/// The annotation for a container whose command line begins with these words no longer.
pub(super) fn isolate_annotation(isolate: &[String]) -> Option<(String, String)> {
    if isolate.is_empty() {
        return None;
    }
    let value = serde_json::to_string(isolate).ok()?;
    Some((ISOLATE.to_owned(), value))
}

/// The words, of a container's annotations. What cannot be read counts as absent.
pub(super) fn isolate_words(annotations: &HashMap<String, String>) -> Option<Vec<String>> {
    let text = annotations.get(ISOLATE)?;
    serde_json::from_str(text)
        .inspect_err(|error| {
            tracing::warn!(%error, text, "annotation {ISOLATE} not readable; ignored");
        })
        .ok()
}

/// Annotation of a container: the resources of its request that were replaced, as they were. The runtime
/// keeps it, so that what was asked for is known even without our own state.
const REPLACED: &str = "cri-resource-manager.intel.com/replaced-resources";

/// ResourceOverlay of a request that an overlay replaced; what it left alone is `None`. Shares and quota are
/// those of earlier versions, which replaced them too.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
struct OriginalResources {
    #[serde(skip_serializing_if = "Option::is_none")]
    cpuset_cpus: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cpuset_mems: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cpu_shares: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cpu_quota: Option<i64>,
}

/// The annotation for a container whose resources `was` are replaced by an overlay.
pub(super) fn original_resources(
    was: v1::LinuxContainerResources,
    by: &ResourceOverlay,
) -> Option<(String, String)> {
    if *by == ResourceOverlay::default() {
        return None;
    }
    let original = OriginalResources {
        cpuset_cpus: by.cpuset_cpus.as_ref().map(|_| was.cpuset_cpus),
        cpuset_mems: by.cpuset_mems.as_ref().map(|_| was.cpuset_mems),
        ..OriginalResources::default()
    };
    let text = serde_json::to_string(&original).ok()?;
    Some((REPLACED.to_owned(), text))
}

/// Whether a container was created with an overlay.
pub(super) fn was_overlaid(annotations: &HashMap<String, String>) -> bool {
    annotations.contains_key(REPLACED)
}

/// Undoes in what the runtime has what an overlay replaced when the container was created. A later change
/// of the same fields by the kubelet is not in there: only our own state knows it. Whether anything was
/// replaced.
pub(super) fn undo_overlay(
    annotations: &HashMap<String, String>,
    has: &mut v1::LinuxContainerResources,
) -> bool {
    let Some(text) = annotations.get(REPLACED) else {
        return false;
    };
    let original: OriginalResources = match serde_json::from_str(text) {
        Ok(original) => original,
        Err(error) => {
            tracing::warn!(%error, text, "annotation {REPLACED} not readable; the resources the runtime has are taken for the requested ones");
            return false;
        }
    };
    if let Some(cpus) = original.cpuset_cpus {
        has.cpuset_cpus = cpus;
    }
    if let Some(mems) = original.cpuset_mems {
        has.cpuset_mems = mems;
    }
    if let Some(shares) = original.cpu_shares {
        has.cpu_shares = shares;
    }
    if let Some(quota) = original.cpu_quota {
        has.cpu_quota = quota;
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_words_taken_out_of_a_command_line_are_found_again_and_nonsense_is_none() {
        let words = ["cmk", "isolate", "--pool=p"].map(str::to_owned).to_vec();
        let annotations = HashMap::from([isolate_annotation(&words).unwrap()]);
        assert_eq!(isolate_words(&annotations), Some(words));
        assert_eq!(isolate_annotation(&[]), None);
        let nonsense = HashMap::from([(ISOLATE.to_owned(), "{".to_owned())]);
        assert_eq!(isolate_words(&nonsense), None);
        assert_eq!(isolate_words(&HashMap::new()), None);
    }
}
