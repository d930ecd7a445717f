//! What else is kept: the configuration pushed last, and what the Node was marked with.

use super::file::StateRecord;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The pushed configuration that was applied last: in force again at the next start, before any agent
/// has come.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastGood {
    /// Where it came from, for people: `ConfigMap kube-system/cri-resmgr-config`.
    pub source: String,
    /// The node it was pushed for.
    pub node: String,
    /// Seconds since 1970 when it was applied.
    pub at_unix_s: u64,
    /// Its keys and their YAML texts.
    pub entries: BTreeMap<String, String>,
}

impl StateRecord for LastGood {
    const NAME: &'static str = "configuration";
    const MAGIC: &'static str = "cri-resmgr-configuration";
}

/// What the Node was marked with, so that it can be unmarked by a later run with another policy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Marks {
    /// A label.
    pub label: bool,
    /// A taint.
    pub taint: bool,
    /// A capacity above zero.
    pub capacity: bool,
    /// The condition that another CPU manager is at work. Earlier versions knew none.
    #[serde(default)]
    pub conflict: bool,
}

impl StateRecord for Marks {
    const NAME: &'static str = "node-marks";
    const MAGIC: &'static str = "cri-resmgr-node-marks";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_of_a_version_that_knew_no_conflict_are_read() {
        let earlier = r#"{"label":true,"taint":false,"capacity":true}"#;
        let marks = Marks {
            label: true,
            capacity: true,
            ..Marks::default()
        };
        assert_eq!(serde_json::from_str::<Marks>(earlier).unwrap(), marks);
    }
}
