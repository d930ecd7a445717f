//! What policies are configured with, and what can be wrong with it.

use alloc::{
    string::{String, ToString},
    vec,
    vec::Vec,
};
use resmgr_topology::{CpuSet, MilliCpu};

/// CPUs kept for the system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(
    clippy::large_enum_variant,
    reason = "a handful exist, and being Copy is handier"
)]
pub enum Reserved {
    /// Exactly these.
    Set(CpuSet),
    /// As many as this quantity needs, rounded up to whole CPUs; the policy picks them.
    Quantity(MilliCpu),
}

/// Configuration of the policies `static` and `static-plus`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StaticConfig {
    /// CPUs containers may use; `None`: every online CPU.
    pub available: Option<CpuSet>,
    /// CPUs never given out exclusively. Mandatory: without it the policy does not start.
    pub reserved: Option<Reserved>,
    /// `static`: try kernel-isolated CPUs for any number of exclusive CPUs.
    pub relaxed_isolation: bool,
    /// Let `cpuset.mems` follow the NUMA nodes of the CPUs.
    pub pin_memory: bool,
    /// `static-plus`: containers of these namespaces run on the reserved CPUs.
    pub reserved_namespaces: Vec<String>,
    /// `static-plus`: containers of Burstable pods may take exclusive CPUs.
    pub burstable_exclusive: bool,
}

impl Default for StaticConfig {
    fn default() -> Self {
        Self {
            available: None,
            reserved: None,
            relaxed_isolation: false,
            pin_memory: false,
            reserved_namespaces: vec!["kube-system".to_string()],
            burstable_exclusive: true,
        }
    }
}

/// One thing wrong with a configuration on this machine: what, where, and what would be right.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{key}: {message}")]
pub struct ConfigProblem {
    /// The configuration key at fault.
    pub key: String,
    /// For people.
    pub message: String,
}

impl ConfigProblem {
    pub(crate) fn new(key: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            key: key.into(),
            message: message.into(),
        }
    }
}
