//! A review in, a review out. Pure.
//!
//! Adds the annotation [`ANNOTATION`] with the resources of every container, in the form
//! `{"initContainers":{NAME:{"limits":{…},"requests":{…}}},"containers":{…}}`, followed by
//! `"pod":{"limits":{…},"requests":{…}}` for a pod with resources of its own (`spec.resources`). The
//! patch is as small as can be, and there is none when the annotation is already right. Static and mirror pods
//! are left alone: the API server refuses changes of theirs. Nothing here is ever a reason to refuse a
//! pod; only what is no review of a pod at all is answered with an error.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

/// The annotation that cri-resmgr reads.
pub(crate) const ANNOTATION: &str = "intel.com/resources";
/// Its place in a pod, as a JSON pointer.
const POINTER: &str = "/metadata/annotations/intel.com~1resources";
/// Annotations that mark a pod made from a file by kubelet, and its mirror in the API server.
const FROM_KUBELET: [&str; 2] = ["kubernetes.io/config.mirror", "kubernetes.io/config.source"];

/// What was done, for the metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum ReviewOutcome {
    /// The annotation was added or changed.
    Annotated,
    /// It was right already.
    Unchanged,
    /// The pod or the request is none of ours.
    LeftAlone,
    /// The review was not understood.
    Refused,
}

/// The answer to a review.
#[derive(Debug)]
pub(crate) struct AdmissionReply {
    /// The review to send back.
    pub(crate) review: Value,
    /// What was done.
    pub(crate) outcome: ReviewOutcome,
}

/// Answers a review of `admission.k8s.io/v1` or `v1beta1`.
///
/// # Errors
/// Why no review can answer: what came is no review of these versions.
pub(crate) fn admit(review: &Value, exempt: &BTreeSet<String>) -> Result<AdmissionReply, String> {
    let version = review["apiVersion"].as_str().unwrap_or_default();
    if review["kind"] != "AdmissionReview"
        || !matches!(version, "admission.k8s.io/v1" | "admission.k8s.io/v1beta1")
    {
        return Err(format!(
            "not an AdmissionReview of admission.k8s.io/v1 or v1beta1, but {version:?}"
        ));
    }
    let request = &review["request"];
    let reply = match decide(request, exempt) {
        Ok(patch) => patch,
        Err(message) => {
            return Ok(AdmissionReply {
                review: json!({
                    "apiVersion": version,
                    "kind": "AdmissionReview",
                    "response": {
                        "uid": request["uid"].as_str().unwrap_or_default(),
                        "allowed": false,
                        "status": { "code": 400, "message": message },
                    },
                }),
                outcome: ReviewOutcome::Refused,
            });
        }
    };
    let mut response = json!({ "uid": request["uid"], "allowed": true });
    let outcome = match reply {
        Reply::LeftAlone => ReviewOutcome::LeftAlone,
        Reply::Unchanged => ReviewOutcome::Unchanged,
        Reply::Patch(patch) => {
            response["patchType"] = json!("JSONPatch");
            response["patch"] = json!(base64(patch.to_string().as_bytes()));
            ReviewOutcome::Annotated
        }
    };
    Ok(AdmissionReply {
        review: json!({
            "apiVersion": version, "kind": "AdmissionReview", "response": response,
        }),
        outcome,
    })
}

#[derive(Debug, PartialEq)]
enum Reply {
    LeftAlone,
    Unchanged,
    Patch(Value),
}

fn decide(request: &Value, exempt: &BTreeSet<String>) -> Result<Reply, String> {
    if request["uid"].as_str().is_none_or(str::is_empty) {
        return Err("the review has no request with a uid".to_owned());
    }
    let resource = &request["resource"];
    if resource["group"] != "" || resource["version"] != "v1" || resource["resource"] != "pods" {
        return Err("the review is not about v1 pods".to_owned());
    }
    let creates = matches!(request["operation"].as_str(), Some("CREATE" | "UPDATE"));
    let whole = request["subResource"].as_str().is_none_or(str::is_empty);
    let namespace = request["namespace"].as_str().unwrap_or_default();
    if !creates || !whole || exempt.contains(namespace) {
        return Ok(Reply::LeftAlone);
    }
    let pod = &request["object"];
    if !pod.is_object() {
        return Err("the review has no pod".to_owned());
    }
    Ok(annotate(pod))
}

/// The patch that makes the annotation of a pod right.
fn annotate(pod: &Value) -> Reply {
    let annotations = pod
        .pointer("/metadata/annotations")
        .and_then(Value::as_object);
    let has = |key| annotations.is_some_and(|all| all.contains_key(key));
    let from_kubelet = |key: &&str| {
        annotations
            .and_then(|all| all.get(*key))
            .is_some_and(|value| value != "api")
    };
    if FROM_KUBELET.iter().any(from_kubelet) {
        return Reply::LeftAlone;
    }
    let wanted = resources(pod);
    if annotations.is_some_and(|all| all.get(ANNOTATION) == Some(&Value::from(wanted.as_str()))) {
        return Reply::Unchanged;
    }
    let op = if has(ANNOTATION) { "replace" } else { "add" };
    Reply::Patch(match annotations {
        None => json!([
            { "op": "add", "path": "/metadata/annotations", "value": { ANNOTATION: wanted } },
        ]),
        Some(_) => json!([{ "op": op, "path": POINTER, "value": wanted }]),
    })
}

/// The value of the annotation: JSON text, init containers first. Native sidecars are init containers.
fn resources(pod: &Value) -> String {
    let spec = &pod["spec"];
    let (init, main) = (
        by_name(&spec["initContainers"]),
        by_name(&spec["containers"]),
    );
    let own = wanted(&spec["resources"]);
    let own = match own.is_empty() {
        true => String::new(),
        false => format!(r#","pod":{}"#, Value::Object(own)),
    };
    format!(r#"{{"initContainers":{init},"containers":{main}{own}}}"#)
}

/// Container name to its limits and requests; a container that asks for nothing has an empty entry.
fn by_name(containers: &Value) -> Value {
    let entry = |container: &Value| {
        let name = container["name"].as_str()?.to_owned();
        Some((name, Value::Object(wanted(&container["resources"]))))
    };
    let all = containers.as_array().map(Vec::as_slice).unwrap_or_default();
    Value::Object(all.iter().filter_map(entry).collect())
}

/// Limits and requests; what is empty is left out.
fn wanted(resources: &Value) -> Map<String, Value> {
    let list = |kind: &str| {
        let list = resources[kind]
            .as_object()
            .filter(|list| !list.is_empty())?;
        Some((kind.to_owned(), Value::Object(list.clone())))
    };
    ["limits", "requests"]
        .into_iter()
        .filter_map(list)
        .collect()
}

/// Base64 with padding (RFC 4648, section 4).
pub(crate) fn base64(bytes: &[u8]) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let group = chunk
            .iter()
            .chain([0; 2].iter())
            .take(3)
            .fold(0_u32, |group, byte| group << 8 | u32::from(*byte));
        for place in 0..4 {
            let letter = LETTERS[(group >> (18 - 6 * place) & 63) as usize];
            text.push(if place > chunk.len() {
                '='
            } else {
                char::from(letter)
            });
        }
    }
    text
}

#[cfg(test)]
mod tests;
