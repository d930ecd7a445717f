//! The placement policies, as `--list-policies` shows them.

use std::{fmt, str::FromStr};

/// A registered policy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PolicyName {
    /// Relays without a look.
    #[default]
    Null,
    /// Looks, but decides nothing.
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

    /// What it does, in one line.
    #[must_use]
    pub const fn description(self) -> &'static str {
        match self {
            Self::Null => "relays every call without a look; places nothing",
            Self::None => "follows the containers, but places nothing",
            Self::Static => {
                "gives whole CPUs exclusively to guaranteed containers, like the kubelet's static CPU manager"
            }
            Self::StaticPlus => {
                "gives each container the whole CPUs of its request exclusively and the rest from a shared pool"
            }
            Self::StaticPools => {
                "runs containers in configured pools, like the CPU Manager for Kubernetes (alias: stp)"
            }
        }
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
        if text == "stp" {
            return Ok(Self::StaticPools);
        }
        Self::ALL
            .into_iter()
            .find(|policy| policy.as_str() == text)
            .ok_or_else(|| format!("expected one of {}", Self::ALL.map(Self::as_str).join(", ")))
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
