//! What the operator chooses.

use resmgr_policy::HALF_LIFE;
use resmgr_topology::Nanos;
use std::path::PathBuf;

/// What telemetry is to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TelemetrySetup {
    /// Load the BPF program; otherwise nothing is measured.
    pub enabled: bool,
    /// Containers measured at once: 192 bytes of kernel memory for each on each possible CPU.
    pub max_containers: u32,
    /// A smoothed number has come half the way to a constant rate after this time.
    pub half_life: Nanos,
    /// Only cgroup file systems mounted at or below this directory are read, as enforcement does; else the first of
    /// each that is mounted.
    pub cgroup_mount: Option<PathBuf>,
}

impl Default for TelemetrySetup {
    fn default() -> Self {
        Self {
            enabled: true,
            max_containers: 250,
            half_life: HALF_LIFE,
            cgroup_mount: None,
        }
    }
}
