//! What happens to a container that the policy refuses, fails on, or is too slow for: a stated choice.

use resmgr_policy::{QosClass, Request};
use std::str::FromStr;

/// What becomes of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnFailure {
    /// It is not created; the kubelet shows why and tries again.
    Refuse,
    /// It is created unplaced, kept off exclusive CPUs, and said so.
    PassThrough,
}

/// The choice per namespace and QoS class; the first rule that fits counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FailPolicy {
    rules: Vec<Rule>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Rule {
    namespace: Option<String>,
    qos: Option<QosClass>,
    action: OnFailure,
}

/// Why a text is not a fail policy.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{rule:?} is not a rule (expected [NAMESPACE/]QOS=refuse or =pass, where QOS is guaranteed, burstable, besteffort or *; or NAMESPACE/*=…)"
)]
pub struct FailPolicyError {
    /// The rule as typed.
    pub rule: String,
}

impl Default for FailPolicy {
    /// `kube-system/*=pass,*=refuse`: the node's own pods are never kept from starting.
    fn default() -> Self {
        Self {
            rules: vec![
                Rule {
                    namespace: Some("kube-system".to_owned()),
                    qos: None,
                    action: OnFailure::PassThrough,
                },
                Rule {
                    namespace: None,
                    qos: None,
                    action: OnFailure::Refuse,
                },
            ],
        }
    }
}

impl FailPolicy {
    /// What becomes of this container. Without a rule for it, it is refused.
    #[must_use]
    pub fn action(&self, request: &Request) -> OnFailure {
        self.rules
            .iter()
            .find(|rule| {
                rule.qos.is_none_or(|qos| qos == request.qos)
                    && rule
                        .namespace
                        .as_ref()
                        .is_none_or(|namespace| **namespace == *request.pod.namespace)
            })
            .map_or(OnFailure::Refuse, |rule| rule.action)
    }
}

impl FromStr for FailPolicy {
    type Err = FailPolicyError;

    /// Comma-separated rules, such as `kube-system/*=pass,besteffort=pass,*=refuse`; a bare `refuse` or
    /// `pass` is for all but kube-system, which always passes unless a rule names it.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut rules = Vec::new();
        for typed in text.split(',').map(str::trim) {
            let bad = || FailPolicyError {
                rule: typed.to_owned(),
            };
            let (who, action) = typed.split_once('=').unwrap_or(("*", typed));
            let action = match action.trim() {
                "refuse" => OnFailure::Refuse,
                "pass" => OnFailure::PassThrough,
                _ => return Err(bad()),
            };
            let (namespace, qos) = match who.trim().split_once('/') {
                Some((namespace, qos)) => (Some(namespace), qos),
                None => (None, who.trim()),
            };
            let qos = match qos {
                "*" => None,
                "guaranteed" => Some(QosClass::Guaranteed),
                "burstable" => Some(QosClass::Burstable),
                "besteffort" => Some(QosClass::BestEffort),
                _ => return Err(bad()),
            };
            rules.push(Rule {
                namespace: namespace.filter(|name| *name != "*").map(str::to_owned),
                qos,
                action,
            });
        }
        let names_system = |rule: &Rule| rule.namespace.as_deref() == Some("kube-system");
        if !rules.iter().any(names_system) {
            rules.splice(0..0, Self::default().rules.into_iter().take(1));
        }
        Ok(Self { rules })
    }
}
