//! What is simulated.

use resmgr_policy::{Policy, RebalanceMode, trace::Line};
use resmgr_topology::Topology;

/// One simulation.
#[derive(Clone, Copy, Debug)]
pub struct Setup<'a> {
    /// The machine.
    pub topology: &'a Topology,
    /// The policy that places.
    pub policy: &'a dyn Policy,
    /// What comes and goes.
    pub trace: &'a [Line],
    /// Equal seeds give equal runs.
    pub seed: u64,
    /// How long, milliseconds of simulated time.
    pub duration_ms: u64,
    /// How often the scheduler is measured and the policy asked to rebalance, milliseconds.
    pub interval_ms: u64,
    /// What becomes of the moves the policy wants: with `Off` it is not asked, with `Shadow` they are counted.
    pub feedback: RebalanceMode,
}
