//! The policies there are.

use crate::{
    config::{ConfigProblem, StaticConfig},
    decision::{Decision, Policy, Refusal},
    none::Unplaced,
    request::{ContainerId, Request},
    rules::Rules,
    state::PoolUse,
    static_plus::StaticPlusPolicy,
    static_policy::StaticPolicy,
    stp::{PoolsConfig, StaticPools},
    view::View,
};
use alloc::{boxed::Box, format, vec, vec::Vec};
use resmgr_topology::Topology;
use serde::Serialize;

/// A policy as listed by `--list-policies`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PolicyInfo {
    /// The name users type.
    pub name: &'static str,
    /// Other names for it.
    pub aliases: &'static [&'static str],
    /// One line.
    pub description: &'static str,
}

/// Every policy.
pub const POLICIES: &[PolicyInfo] = &[
    PolicyInfo {
        name: "null",
        aliases: &[],
        description: "passes every call through unmodified; places nothing",
    },
    PolicyInfo {
        name: "none",
        aliases: &[],
        description: "follows the containers, but places nothing",
    },
    PolicyInfo {
        name: "static",
        aliases: &[],
        description: "gives whole CPUs exclusively to guaranteed containers, like the kubelet's static CPU manager",
    },
    PolicyInfo {
        name: "static-plus",
        aliases: &[],
        description: "gives each container the whole CPUs of its request exclusively and the rest from a shared pool",
    },
    PolicyInfo {
        name: "static-pools",
        aliases: &["stp"],
        description: "runs containers in configured pools, like the CPU Manager for Kubernetes (alias: stp)",
    },
];

/// The policy known by a name or an alias.
#[must_use]
pub fn find(name: &str) -> Option<&'static PolicyInfo> {
    let mut all = POLICIES.iter();
    all.find(|policy| policy.name == name || policy.aliases.contains(&name))
}

/// Configuration of whichever policy runs.
#[derive(Clone, Debug, Default)]
pub struct PolicySettings {
    /// Of `static` and `static-plus`.
    pub slices: StaticConfig,
    /// Of `static-pools`.
    pub pools: PoolsConfig,
    /// Whether it may move what runs.
    pub rebalance: RebalanceMode,
}

/// Whether a policy may move what runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum RebalanceMode {
    /// Never.
    #[default]
    Off,
    /// Decided and remembered, not done.
    Shadow,
    /// Done.
    On,
}

/// Makes the policy of this name (or alias) for this machine.
///
/// # Errors
/// Every problem of its configuration, or that there is no such policy.
pub fn by_name(
    name: &str,
    topology: &Topology,
    settings: &PolicySettings,
) -> Result<Box<dyn Policy>, Vec<ConfigProblem>> {
    Ok(Box::new(Gated {
        policy: make(name, topology, settings)?,
        mode: settings.rebalance,
    }))
}

/// A policy that moves what runs only as far as it may.
#[derive(Debug)]
struct Gated {
    policy: Box<dyn Policy>,
    mode: RebalanceMode,
}

impl Policy for Gated {
    fn name(&self) -> &'static str {
        self.policy.name()
    }
    fn place(&self, view: View<'_>, request: &Request) -> Result<Decision, Refusal> {
        self.policy.place(view, request)
    }
    fn release(&self, view: View<'_>, gone: &ContainerId) -> Decision {
        self.policy.release(view, gone)
    }
    fn reconcile(&self, view: View<'_>) -> Result<Decision, Refusal> {
        self.policy.reconcile(view)
    }
    fn rules(&self, topology: &Topology) -> Rules {
        self.policy.rules(topology)
    }
    fn pools(&self, view: View<'_>) -> Vec<PoolUse> {
        self.policy.pools(view)
    }
    fn rebalance(&self, view: View<'_>) -> Option<Decision> {
        match self.mode {
            RebalanceMode::Off => None,
            RebalanceMode::Shadow => self.policy.rebalance(view).map(Decision::shadow),
            RebalanceMode::On => self.policy.rebalance(view),
        }
    }
}

fn make(
    name: &str,
    topology: &Topology,
    settings: &PolicySettings,
) -> Result<Box<dyn Policy>, Vec<ConfigProblem>> {
    match find(name).map(|policy| policy.name) {
        Some("null") => Ok(Box::new(Unplaced::NULL)),
        Some("none") => Ok(Box::new(Unplaced::NONE)),
        Some("static") => Ok(Box::new(StaticPolicy::new(
            topology,
            settings.slices.clone(),
        )?)),
        Some("static-plus") => Ok(Box::new(StaticPlusPolicy::new(
            topology,
            settings.slices.clone(),
        )?)),
        Some("static-pools") => Ok(Box::new(StaticPools::new(topology, &settings.pools)?)),
        _ => {
            let names: Vec<&str> = POLICIES.iter().map(|policy| policy.name).collect();
            Err(vec![ConfigProblem::new(
                "policy",
                format!(
                    "there is no policy {name:?}; there are {}",
                    names.join(", ")
                ),
            )])
        }
    }
}
