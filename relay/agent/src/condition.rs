//! Conditions of the Node: what a condition is made of, and which may be asked for.

use k8s_openapi::{api::core::v1::Node, apimachinery::pkg::apis::meta::v1::Time, jiff::Timestamp};
use resmgr_proto::v1::SetNodeConditionRequest;
use serde_json::{Value, json};

/// The agent's own condition: `True` when the chosen configuration is in force, or there is none to push.
pub(crate) const OWN: &str = "CriResmgrConfigured";
/// What the type of every condition that can be asked for begins with.
const PREFIX: &str = "CriResmgr";
/// Longest type, in bytes (Kubernetes, name part of a qualified name).
const MAX_TYPE_BYTES: usize = 63;
/// Longest reason, in bytes (Kubernetes API, meta/v1 Condition).
const MAX_REASON_BYTES: usize = 1024;
/// Longest message, in bytes (Kubernetes API, meta/v1 Condition).
pub(crate) const MAX_MESSAGE_BYTES: usize = 32768;

/// A condition to write, whose status has been the same since `since`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ConditionPatch<'a> {
    /// Type.
    pub(crate) kind: &'a str,
    /// `True`, `False` or `Unknown`.
    pub(crate) status: &'a str,
    /// Why, in one word.
    pub(crate) reason: &'a str,
    /// Why, for people.
    pub(crate) message: &'a str,
    /// When the status changed last.
    pub(crate) since: Timestamp,
}

impl ConditionPatch<'_> {
    /// The strategic merge patch of the Node. Merged by type: the conditions of others stay.
    pub(crate) fn patch(&self) -> Value {
        json!({ "status": { "conditions": [{
            "type": self.kind,
            "status": self.status,
            "reason": self.reason,
            "message": self.message,
            "lastHeartbeatTime": Time(Timestamp::now()),
            "lastTransitionTime": Time(self.since),
        }] } })
    }
}

/// Since when the Node has the condition with this status; `None` when it has not.
pub(crate) fn since(node: &Node, kind: &str, status: &str) -> Option<Timestamp> {
    let conditions = node.status.as_ref()?.conditions.as_ref()?;
    let present = conditions.iter().find(|present| present.type_ == kind)?;
    let since = present.last_transition_time.as_ref()?;
    (present.status == status).then_some(since.0)
}

/// Whether a text is one word of CamelCase, as Kubernetes has reasons.
pub(crate) fn is_reason(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_uppercase())
        && text.chars().all(|c| c.is_ascii_alphanumeric())
}

/// Refuses conditions that are not cri-resmgr's, or that no tool could read.
///
/// # Errors
/// What is wrong, and what would be right.
pub(crate) fn check(asked: &SetNodeConditionRequest) -> Result<(), String> {
    let (kind, reason) = (asked.r#type.as_str(), asked.reason.as_str());
    if kind.is_empty() {
        return Err(format!(
            "the type is empty: it must begin with {PREFIX}, such as {PREFIX}SomethingIsWrong"
        ));
    }
    let inner = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    let ends = |c: char| c.is_ascii_alphanumeric();
    if kind.len() > MAX_TYPE_BYTES || !kind.chars().all(inner) || !kind.ends_with(ends) {
        return Err(format!(
            "type {kind:?} is no type of a condition: at most {MAX_TYPE_BYTES} letters, digits, '-', \
             '_' and '.', a letter or digit last"
        ));
    }
    if kind == OWN {
        return Err(format!("type {OWN} is the agent's own"));
    }
    if !kind.starts_with(PREFIX) {
        return Err(format!(
            "type {kind} belongs to another program: it must begin with {PREFIX}"
        ));
    }
    if !matches!(asked.status.as_str(), "True" | "False" | "Unknown") {
        return Err(format!(
            "{kind}: status {:?} is none of True, False and Unknown",
            asked.status
        ));
    }
    if !is_reason(reason) || reason.len() > MAX_REASON_BYTES {
        return Err(format!(
            "{kind}: reason {reason:?} is not one word of CamelCase, at most {MAX_REASON_BYTES} bytes long"
        ));
    }
    if asked.message.len() > MAX_MESSAGE_BYTES {
        return Err(format!(
            "{kind}: the message has {} bytes, {MAX_MESSAGE_BYTES} are allowed",
            asked.message.len()
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(kind: &str) -> SetNodeConditionRequest {
        SetNodeConditionRequest {
            r#type: kind.to_owned(),
            status: "True".to_owned(),
            reason: "SomeReason2".to_owned(),
            message: String::new(),
        }
    }

    #[test]
    fn only_conditions_of_cri_resmgr_can_be_asked_for_and_not_the_agents_own() {
        for kind in ["CriResmgrX", "CriResmgrConfiguredTwice", "CriResmgr-a.b_c"] {
            assert_eq!(check(&asked(kind)), Ok(()), "{kind}");
        }
        let long = format!("{PREFIX}{}", "x".repeat(MAX_TYPE_BYTES));
        for (kind, words) in [
            ("", "is empty"),
            ("Ready", "belongs to another program"),
            ("criResmgrX", "belongs to another program"),
            (OWN, "the agent's own"),
            ("CriResmgr X", "is no type"),
            ("CriResmgr/X", "is no type"),
            ("CriResmgrX-", "is no type"),
            ("CriResmgrÄ", "is no type"),
            (&long, "is no type"),
        ] {
            let refused = check(&asked(kind)).unwrap_err();
            assert!(refused.contains(words), "{kind}: {refused}");
        }
    }

    #[test]
    fn status_reason_and_message_are_those_of_kubernetes() {
        let refused = |change: &dyn Fn(&mut SetNodeConditionRequest)| {
            let mut asked = asked("CriResmgrX");
            change(&mut asked);
            check(&asked).err().unwrap_or_default()
        };
        for status in ["", "true", "Maybe"] {
            let why = refused(&|asked| asked.status = status.to_owned());
            assert!(why.contains("none of True, False and Unknown"), "{why}");
        }
        let long = "X".repeat(MAX_REASON_BYTES + 1);
        for reason in ["", "no conflict", "noConflict", "No-Conflict", &long] {
            let why = refused(&|asked| asked.reason = reason.to_owned());
            assert!(why.contains("CamelCase"), "{why}");
        }
        let message = |bytes| refused(&|asked| asked.message = "x".repeat(bytes));
        assert_eq!(message(MAX_MESSAGE_BYTES), "");
        let why = message(MAX_MESSAGE_BYTES + 1);
        assert!(why.contains("32769 bytes, 32768 are allowed"), "{why}");
    }

    #[test]
    fn the_time_of_the_last_change_is_kept_while_the_status_stays() {
        let node: Node = serde_json::from_value(json!({ "status": { "conditions": [
            { "type": "Ready", "status": "False", "lastTransitionTime": "1990-01-01T00:00:00Z" },
            { "type": "CriResmgrX", "status": "True", "lastTransitionTime": "1970-01-01T00:00:00Z" },
            { "type": "CriResmgrY", "status": "True" },
        ] } }))
        .unwrap();
        let of = |kind, status| since(&node, kind, status);
        assert_eq!(of("CriResmgrX", "True"), Some(Timestamp::UNIX_EPOCH));
        assert_eq!(of("CriResmgrX", "False"), None);
        assert_eq!(of("CriResmgrY", "True"), None);
        assert_eq!(of("CriResmgrZ", "True"), None);
        assert_eq!(since(&Node::default(), "CriResmgrX", "True"), None);
    }
}
