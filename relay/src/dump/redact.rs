//! Takes out of a decoded message what nobody should read in a log, and what says nothing.

use serde_json::{Map, Value};

/// What stands for a secret.
pub const HIDDEN: &str = "(hidden)";

/// Annotations whose values are shown: those that the kubelet, the runtime and ourselves write about
/// placement and bookkeeping. All others may hold anything, up to whole manifests.
pub(super) const SAFE_ANNOTATIONS: &[&str] = &[
    "cmk.intel.com/",
    "cri-resource-manager.intel.com/",
    "intel.com/resources",
    "io.kubernetes.container.",
    "io.kubernetes.cri.",
    "io.kubernetes.pod.",
    "kubernetes.io/config.",
];

/// Environment variables whose values are shown.
const SAFE_ENV: &[&str] = &["CMK_", "STP_"];

/// Fields that are maps of the user's, whose empty entries say something.
const MAPS: &[&str] = &[
    "annotations",
    "info",
    "label_selector",
    "labels",
    "sysctls",
    "unified",
];

/// Hides registry credentials, environment values, annotations that are not known to be harmless, the
/// runtime's verbose `info` (it repeats the environment) and what commands print.
pub fn hide_secrets(value: &mut Value) {
    match value {
        Value::Array(items) => items.iter_mut().for_each(hide_secrets),
        Value::Object(fields) => {
            for (name, field) in fields {
                match name.as_str() {
                    "auth" => hide_credentials(field),
                    "envs" => hide_env(field),
                    "annotations" => hide_entries(field, SAFE_ANNOTATIONS),
                    "info" if field.is_object() => hide_entries(field, &[]),
                    "stdout" | "stderr" if field.is_array() => {
                        let bytes = field.as_array().map_or(0, Vec::len);
                        if bytes > 0 {
                            *field = Value::from(hidden_output(bytes));
                        }
                    }
                    _ => hide_secrets(field),
                }
            }
        }
        _ => {}
    }
}

/// Everything about the registry account but the registry's address.
fn hide_credentials(auth: &mut Value) {
    let Value::Object(fields) = auth else {
        hide_text(auth);
        return;
    };
    for (name, field) in fields {
        if name != "server_address" {
            hide_text(field);
        }
    }
}

fn hide_env(env: &mut Value) {
    for entry in env.as_array_mut().into_iter().flatten() {
        let safe = entry
            .get("key")
            .and_then(Value::as_str)
            .is_some_and(is_safe_env);
        if !safe && let Some(value) = entry.get_mut("value") {
            hide_text(value);
        }
    }
}

fn hide_entries(map: &mut Value, safe: &[&str]) {
    for (key, value) in map.as_object_mut().into_iter().flatten() {
        if !starts_with_any(key, safe) {
            hide_text(value);
        }
    }
}

fn hide_text(value: &mut Value) {
    if !matches!(value, Value::Null) && value.as_str() != Some("") {
        *value = Value::from(HIDDEN);
    }
}

/// What stands for what a command printed.
pub(super) fn hidden_output(bytes: usize) -> String {
    format!("(hidden, {bytes} bytes)")
}

/// Whether the environment variable of this name may be shown.
pub(super) fn is_safe_env(name: &str) -> bool {
    starts_with_any(name, SAFE_ENV)
}

/// Whether the field is a map of the user's: empty entries of it say something.
pub(super) fn is_users_map(name: &str) -> bool {
    MAPS.contains(&name)
}

pub(super) fn starts_with_any(text: impl AsRef<[u8]>, beginnings: &[&str]) -> bool {
    beginnings
        .iter()
        .any(|beginning| text.as_ref().starts_with(beginning.as_bytes()))
}

/// Takes out fields that hold their type's empty value, as protobuf's JSON form does.
pub fn drop_empty(value: &mut Value) {
    match value {
        Value::Array(items) => items.iter_mut().for_each(drop_empty),
        Value::Object(fields) => drop_empty_fields(fields),
        _ => {}
    }
}

fn drop_empty_fields(fields: &mut Map<String, Value>) {
    fields.retain(|name, field| {
        if !is_users_map(name) {
            drop_empty(field);
        }
        match field {
            Value::Null => false,
            Value::Bool(on) => *on,
            Value::Number(number) => number.as_f64() != Some(0.0),
            Value::String(text) => !text.is_empty(),
            Value::Array(items) => !items.is_empty(),
            // A message that is there but empty differs from one that is not.
            Value::Object(entries) => !(is_users_map(name) && entries.is_empty()),
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn secrets_are_hidden_wherever_they_sit() {
        let mut message = json!({
            "auth": {"username": "u", "password": "p", "server_address": "registry", "auth": ""},
            "config": {
                "envs": [{"key": "TOKEN", "value": "t"}, {"key": "STP_POOL", "value": "x"}],
                "annotations": {
                    "kubectl.kubernetes.io/last-applied-configuration": "{secret}",
                    "io.kubernetes.container.hash": "1"
                },
                "image": {"annotations": {"a": "b"}}
            },
            "info": {"config": "env"},
            "stdout": [1, 2, 3]
        });
        hide_secrets(&mut message);
        assert_eq!(
            message,
            json!({
                "auth": {"username": HIDDEN, "password": HIDDEN, "server_address": "registry", "auth": ""},
                "config": {
                    "envs": [{"key": "TOKEN", "value": HIDDEN}, {"key": "STP_POOL", "value": "x"}],
                    "annotations": {
                        "kubectl.kubernetes.io/last-applied-configuration": HIDDEN,
                        "io.kubernetes.container.hash": "1"
                    },
                    "image": {"annotations": {"a": HIDDEN}}
                },
                "info": {"config": HIDDEN},
                "stdout": "(hidden, 3 bytes)"
            })
        );
    }

    #[test]
    fn empty_fields_are_dropped_but_the_users_map_entries_stay() {
        let mut message = json!({
            "a": "", "b": 0, "c": false, "d": null, "e": [], "labels": {"x": ""}, "annotations": {},
            "f": {"g": 0}, "h": [{"i": 0, "j": 1}], "k": 1
        });
        drop_empty(&mut message);
        assert_eq!(
            message,
            json!({"labels": {"x": ""}, "f": {}, "h": [{"j": 1}], "k": 1})
        );
    }
}
