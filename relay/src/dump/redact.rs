//! What of a message is a secret: the one table, and how it is followed down into the message.
//!
//! Hidden are registry credentials, environment values, annotations that are not known to be harmless, the runtime's
//! verbose `info` (it repeats the environment) and what commands print.

use serde_json::Value;

/// What stands for a secret.
pub(super) const HIDDEN: &str = "(hidden)";

/// What fields of these names hold is hidden, wherever they are.
const SECRETS: &[(&str, Redaction)] = &[
    ("auth", Redaction::Credentials),
    ("envs", Redaction::Environment),
    ("env", Redaction::Environment),
    ("annotations", Redaction::AllBut(SAFE_ANNOTATIONS)),
    ("info", Redaction::AllBut(&[])),
    ("stdout", Redaction::Output),
    ("stderr", Redaction::Output),
];

/// Annotations whose values are shown: those that the kubelet, the runtime and ourselves write about
/// placement and bookkeeping. All others may hold anything, up to whole manifests.
const SAFE_ANNOTATIONS: &[&str] = &[
    "io.kubernetes.container.",
    "io.kubernetes.pod.",
    "io.kubernetes.cri.",
    "kubernetes.io/config.",
    "cmk.intel.com/",
    "cri-resource-manager.intel.com/",
    "intel.com/resources",
];

/// Environment variables whose values are shown.
const SAFE_VARIABLES: &[&str] = &["CMK_", "STP_"];

/// What is hidden of a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Redaction {
    /// Nothing, whatever is in it.
    Nothing,
    /// What fields of the names in [`SECRETS`] hold.
    Secrets,
    /// All of it.
    All,
    /// A registry account: all but the registry's address.
    Credentials,
    /// A list of environment variables.
    Environment,
    /// An environment variable, and whether its value is shown.
    Variable {
        /// Known only after its name.
        shown: bool,
    },
    /// All entries of a map but those whose names begin so.
    AllBut(&'static [&'static str]),
    /// Bytes that a command printed. Flags of the same names are shown.
    Output,
}

impl Redaction {
    /// For the value of field or map entry `name` of a value that is redacted like this.
    pub(super) fn field(self, name: &str) -> Self {
        match self {
            Self::Secrets | Self::Output => SECRETS
                .iter()
                .find(|(secret, _)| *secret == name)
                .map_or(Self::Secrets, |(_, redaction)| *redaction),
            Self::All => Self::All,
            Self::Credentials if name == "server_address" => Self::Nothing,
            Self::Credentials => Self::All,
            Self::Variable { shown: false } if name == "value" => Self::All,
            Self::AllBut(safe) if !starts_with_any(name, safe) => Self::All,
            Self::Nothing | Self::Environment | Self::Variable { .. } | Self::AllBut(_) => {
                Self::Nothing
            }
        }
    }

    /// For the items of a list that is redacted like this.
    pub(super) fn item(self) -> Self {
        match self {
            Self::Environment => Self::Variable { shown: false },
            Self::Output => Self::Secrets,
            _ => self,
        }
    }

    /// Of an environment variable, now that its name is known.
    pub(super) fn of_variable(self, name: &str) -> Self {
        match self {
            Self::Variable { .. } => Self::Variable {
                shown: starts_with_any(name, SAFE_VARIABLES),
            },
            _ => self,
        }
    }

    /// Whether a text, a number or a list that is redacted like this is hidden.
    pub(super) fn hides(self) -> bool {
        matches!(self, Self::All | Self::Credentials)
    }
}

/// Hides in a document what would be hidden of a message with the same fields. An environment is a list of
/// `[name, value]` or of `{"key": …, "value": …}`.
pub fn hide_secrets(document: &mut Value) {
    hide(document, Redaction::Secrets);
}

fn hide(value: &mut Value, redaction: Redaction) {
    match value {
        Value::String(_) | Value::Number(_) | Value::Array(_) if redaction.hides() => {
            *value = HIDDEN.into();
        }
        Value::String(_) if matches!(redaction, Redaction::Variable { .. }) => {
            *value = HIDDEN.into(); // `NAME=value`
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
        Value::Array(items) => match (redaction, items.as_mut_slice()) {
            (Redaction::Variable { .. }, [Value::String(name), value]) => {
                hide(value, redaction.of_variable(name).field("value"));
            }
            (Redaction::Variable { .. }, _) => *value = HIDDEN.into(),
            (_, items) => {
                for item in items {
                    hide(item, redaction.item());
                }
            }
        },
        Value::Object(fields) => {
            let name = fields.get("key").and_then(Value::as_str);
            let redaction = redaction.of_variable(name.unwrap_or_default());
            for (name, value) in fields {
                hide(value, redaction.field(name));
            }
        }
    }
}

/// What stands for what a command printed.
pub(super) fn hidden_output(bytes: usize) -> String {
    format!("(hidden, {bytes} bytes)")
}

fn starts_with_any(text: &str, beginnings: &[&str]) -> bool {
    beginnings
        .iter()
        .any(|beginning| text.starts_with(beginning))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_document_keeps_what_concerns_placement_and_no_secret() {
        let mut document = json!({
            "auth": {"server_address": "registry", "username": "u", "password": ["s3cret"]},
            "nested": [{
                "env": [["STP_POOL", "shared"], ["TOKEN", "s3cret"], ["odd", "s3cret", 3], "TOKEN=s3cret"],
                "envs": [{"key": "CMK_A", "value": "1"}, {"key": "TOKEN", "value": "s3cret"}],
                "annotations": {"intel.com/resources": "2", "example.com/token": {"deep": "s3cret"}},
                "cpus": "0-3",
            }],
            "info": {"config": "s3cret", "pid": 17},
        });
        hide_secrets(&mut document);
        assert_eq!(
            document,
            json!({
                "auth": {"server_address": "registry", "username": HIDDEN, "password": HIDDEN},
                "nested": [{
                    "env": [["STP_POOL", "shared"], ["TOKEN", HIDDEN], HIDDEN, HIDDEN],
                    "envs": [{"key": "CMK_A", "value": "1"}, {"key": "TOKEN", "value": HIDDEN}],
                    "annotations": {"intel.com/resources": "2", "example.com/token": {"deep": HIDDEN}},
                    "cpus": "0-3",
                }],
                "info": {"config": HIDDEN, "pid": HIDDEN},
            })
        );
    }
}
