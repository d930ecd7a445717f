//! What happens to a container that the policy cannot place.
//!
//! ```text
//! LIST   := ITEM { "," ITEM }
//! ITEM   := [ SCOPE "=" ] ( "refuse" | "pass" )
//! SCOPE  := ( NAMESPACE | "*" ) [ "/" QOS ]        QOS: Guaranteed, Burstable, BestEffort; any capitals
//! ```
//!
//! The most specific scope counts: namespace and class, then namespace, then class (`*/QOS`), then
//! the rest. Lists add to the built-in `refuse,kube-system=pass`; for one scope the last word counts.

use resmgr_policy::QosClass;
use std::{collections::BTreeMap, fmt};

/// What happens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnFailure {
    /// Its creation fails with a gRPC status that says why.
    #[default]
    Refuse,
    /// It is created without a decision, and a warning is logged; it is kept off every exclusive CPU all the same.
    Pass,
}

impl fmt::Display for OnFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Refuse => "refuse",
            Self::Pass => "pass",
        })
    }
}

type Scope = (Option<String>, Option<QosClass>);

/// The choice for each namespace and QoS class.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FailPolicies(BTreeMap<Scope, OnFailure>);

impl Default for FailPolicies {
    fn default() -> Self {
        Self(BTreeMap::from([
            ((None, None), OnFailure::Refuse),
            ((Some("kube-system".to_owned()), None), OnFailure::Pass),
        ]))
    }
}

impl FailPolicies {
    /// Adds a list.
    ///
    /// # Errors
    /// What is wrong, and what would be right.
    pub fn add(&mut self, list: &str) -> Result<(), String> {
        for item in list.split(',').map(str::trim) {
            if item.is_empty() {
                continue;
            }
            let (scope, choice) = match item.rsplit_once('=') {
                Some((scope, choice)) => (scope.trim(), choice.trim()),
                None => ("*", item),
            };
            let choice = match choice {
                "refuse" => OnFailure::Refuse,
                "pass" => OnFailure::Pass,
                _ => {
                    return Err(format!(
                        "{item:?}: expected refuse, pass, or NAMESPACE[/QOS]=refuse|pass"
                    ));
                }
            };
            self.0.insert(parse_scope(scope)?, choice);
        }
        Ok(())
    }

    /// What happens to a container of this namespace and class.
    #[must_use]
    pub fn choose(&self, namespace: &str, qos: QosClass) -> OnFailure {
        let namespace = Some(namespace.to_owned());
        [
            (namespace.clone(), Some(qos)),
            (namespace, None),
            (None, Some(qos)),
            (None, None),
        ]
        .iter()
        .find_map(|scope| self.0.get(scope))
        .copied()
        .unwrap_or_default()
    }
}

fn parse_scope(scope: &str) -> Result<Scope, String> {
    let (namespace, qos) = match scope.split_once('/') {
        Some((namespace, qos)) => (namespace.trim(), Some(qos.trim())),
        None => (scope, None),
    };
    // A namespace is a DNS label (RFC 1123): lower-case letters, digits, dashes.
    let label = namespace
        .chars()
        .all(|letter| letter.is_ascii_lowercase() || letter.is_ascii_digit() || letter == '-');
    if namespace.is_empty() || (namespace != "*" && !label) {
        return Err(format!("{namespace:?} is not a namespace"));
    }
    let qos = match qos.map(str::to_ascii_lowercase).as_deref() {
        None | Some("*") => None,
        Some("guaranteed") => Some(QosClass::Guaranteed),
        Some("burstable") => Some(QosClass::Burstable),
        Some("besteffort") => Some(QosClass::BestEffort),
        Some(class) => {
            return Err(format!(
                "{class:?} is not a QoS class (Guaranteed, Burstable, BestEffort)"
            ));
        }
    };
    Ok(((namespace != "*").then(|| namespace.to_owned()), qos))
}

impl fmt::Display for FailPolicies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, ((namespace, qos), choice)) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str(",")?;
            }
            match (namespace, qos) {
                (None, None) => {}
                (Some(namespace), None) => write!(f, "{namespace}=")?,
                (namespace, Some(qos)) => {
                    write!(f, "{}/{qos:?}=", namespace.as_deref().unwrap_or("*"))?;
                }
            }
            choice.fmt(f)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policies(list: &str) -> FailPolicies {
        let mut policies = FailPolicies::default();
        policies.add(list).unwrap();
        policies
    }

    #[test]
    fn system_namespaces_pass_and_all_others_are_refused_by_default() {
        let policies = FailPolicies::default();
        assert_eq!(
            policies.choose("kube-system", QosClass::Guaranteed),
            OnFailure::Pass
        );
        assert_eq!(
            policies.choose("default", QosClass::BestEffort),
            OnFailure::Refuse
        );
        assert_eq!(policies.to_string(), "refuse,kube-system=pass");
    }

    #[test]
    fn the_most_specific_scope_counts() {
        let policies = policies("pass, */guaranteed=refuse, batch=refuse, batch/BestEffort=pass");
        for (namespace, qos, expected) in [
            ("web", QosClass::Burstable, OnFailure::Pass),
            ("web", QosClass::Guaranteed, OnFailure::Refuse),
            ("batch", QosClass::Burstable, OnFailure::Refuse),
            ("batch", QosClass::BestEffort, OnFailure::Pass),
            ("kube-system", QosClass::Guaranteed, OnFailure::Pass),
        ] {
            assert_eq!(
                policies.choose(namespace, qos),
                expected,
                "{namespace} {qos:?}"
            );
        }
    }

    #[test]
    fn what_it_prints_it_reads() {
        let policies = policies("x/burstable=pass,*/besteffort=pass,kube-system=refuse");
        let mut again = FailPolicies::default();
        again.add(&policies.to_string()).unwrap();
        assert_eq!(again, policies);
    }

    #[test]
    fn mistakes_are_refused() {
        for list in [
            "maybe",
            "x=maybe",
            "X=pass",
            "x/gold=pass",
            "=pass",
            "a b=pass",
        ] {
            assert!(FailPolicies::default().add(list).is_err(), "{list}");
        }
    }
}
