//! Conditions that cri-resmgr gives the Node.

use resmgr_proto::v1::SetNodeConditionRequest;
use serde_json::Value;
use std::fmt;

/// Condition of the Node: `True` while another CPU manager, most likely the kubelet's own, names CPUs for
/// containers that the policy places.
pub const CONFLICT_CONDITION: &str = "CriResmgrCpuManagerConflict";

/// What a condition of the Node shall say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeCondition {
    /// Its type; the agent takes only those that begin with `CriResmgr`.
    pub kind: &'static str,
    /// Whether it holds.
    pub status: bool,
    /// Why, in one word of CamelCase.
    pub reason: &'static str,
    /// Why, for people.
    pub message: String,
}

impl NodeCondition {
    /// [`CONFLICT_CONDITION`]: another CPU manager is at work beside this policy, or none is.
    #[must_use]
    pub fn conflict(policy: Option<&str>) -> Self {
        let (reason, message) = match policy {
            Some(policy) => (
                "AnotherCpuManager",
                format!(
                    "requests name CPUs for containers that policy {policy} places; the policy's CPUs are \
                     kept. Set the kubelet's cpuManagerPolicy to none"
                ),
            ),
            None => (
                "NoConflict",
                "requests name no CPUs for containers that cri-resmgr places".to_owned(),
            ),
        };
        Self {
            kind: CONFLICT_CONDITION,
            status: policy.is_some(),
            reason,
            message,
        }
    }

    fn word(&self) -> &'static str {
        if self.status { "True" } else { "False" }
    }

    /// Whether the Node says so already. A condition that it does not have does not hold.
    pub(super) fn is_in(&self, node: &Value) -> bool {
        let conditions = node["status"]["conditions"].as_array();
        let mut conditions = conditions.into_iter().flatten();
        match conditions.find(|condition| condition["type"] == self.kind) {
            None => !self.status,
            Some(condition) => {
                condition["status"] == self.word()
                    && condition["reason"] == self.reason
                    && condition["message"] == self.message
            }
        }
    }
}

impl fmt::Display for NodeCondition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "condition {}={}", self.kind, self.word())
    }
}

impl From<&NodeCondition> for SetNodeConditionRequest {
    fn from(condition: &NodeCondition) -> Self {
        Self {
            r#type: condition.kind.to_owned(),
            status: condition.word().to_owned(),
            reason: condition.reason.to_owned(),
            message: condition.message.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_the_node_says_already_is_not_written_and_what_it_lacks_does_not_hold() {
        let (yes, no) = (
            NodeCondition::conflict(Some("static")),
            NodeCondition::conflict(None),
        );
        for node in [
            json!({}),
            json!({ "status": { "conditions": [{ "type": "Ready", "status": "True" }] } }),
        ] {
            assert!(no.is_in(&node) && !yes.is_in(&node), "{node}");
        }
        let with = |condition: &NodeCondition| {
            json!({ "status": { "conditions": [{
                "type": CONFLICT_CONDITION,
                "status": condition.word(),
                "reason": condition.reason,
                "message": condition.message,
            }] } })
        };
        assert!(yes.is_in(&with(&yes)) && !no.is_in(&with(&yes)));
        assert!(no.is_in(&with(&no)) && !yes.is_in(&with(&no)));
        // The condition names the policy, which may have changed.
        assert!(!NodeCondition::conflict(Some("static-plus")).is_in(&with(&yes)));
    }
}
