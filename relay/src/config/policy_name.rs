//! The placement policies, as `--list-policies` shows them.

use crate::suggest::nearest;
use std::{fmt, str::FromStr};

/// A registered policy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PolicyName {
    /// Passes calls through unmodified; follows and places nothing.
    #[default]
    Null,
    /// Follows the containers, but places nothing.
    None,
    /// Whole CPUs for guaranteed containers.
    Static,
    /// Exclusive and shared CPUs for one container.
    StaticPlus,
    /// Pools as in the CPU Manager for Kubernetes.
    StaticPools,
}

impl PolicyName {
    /// Every policy, sorted by name.
    pub const ALL: [Self; 5] = [
        Self::None,
        Self::Null,
        Self::Static,
        Self::StaticPlus,
        Self::StaticPools,
    ];

    /// The name users type.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::None => "none",
            Self::Static => "static",
            Self::StaticPlus => "static-plus",
            Self::StaticPools => "static-pools",
        }
    }

    /// Whether it starts only with CPUs set aside for system tasks.
    #[must_use]
    pub const fn needs_reserved_cpus(self) -> bool {
        matches!(self, Self::Static | Self::StaticPlus)
    }

    /// What it does, in one line.
    #[must_use]
    pub fn description(self) -> &'static str {
        resmgr_policy::find(self.as_str()).map_or("", |policy| policy.description)
    }
}

impl fmt::Display for PolicyName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for PolicyName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let named = resmgr_policy::find(text).map(|policy| policy.name);
        let found = Self::ALL
            .into_iter()
            .find(|policy| named == Some(policy.as_str()));
        found.ok_or_else(|| {
            let names = Self::ALL.map(Self::as_str);
            let near = nearest(text, names).map_or(String::new(), |near| {
                format!("no such policy; did you mean {near:?}? ")
            });
            format!("{near}expected one of {}", names.join(", "))
        })
    }
}

/// What `--list-policies` prints.
#[must_use]
pub fn list() -> String {
    let mut text = "Available policies:\n".to_owned();
    for policy in PolicyName::ALL {
        text += &format!("  {policy}: {}\n", policy.description());
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_policy_that_can_be_named_is_registered_and_the_reverse() {
        for policy in PolicyName::ALL {
            assert_ne!(policy.description(), "", "{policy}");
        }
        for policy in resmgr_policy::POLICIES {
            for name in policy.aliases.iter().chain([&policy.name]) {
                let parsed = name.parse().map(PolicyName::as_str);
                assert_eq!(parsed, Ok(policy.name));
            }
        }
    }
}
