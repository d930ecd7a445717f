//! What every placement of a policy obeys.

use resmgr_topology::CpuSet;

/// What a policy promises on the machine as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rules {
    /// Whether every container must have a cpuset; opted-out ones excepted.
    pub places: bool,
    /// CPUs never given out exclusively.
    pub reserved: CpuSet,
    /// CPUs the policy may use at all; `None`: any online CPU.
    pub usable: Option<CpuSet>,
    /// CPUs that only their exclusive owner may run on, owned or not (kernel-isolated ones).
    pub exclusive_only: CpuSet,
}
