//! What a policy is shown.

use crate::{measured::Measured, state::State};
use resmgr_topology::{Nanos, Topology};

/// All that a policy may look at.
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    /// The machine.
    pub topology: &'a Topology,
    /// Which container runs where.
    pub state: &'a State,
    /// What the scheduler did.
    pub measured: &'a Measured,
    /// `CLOCK_MONOTONIC`.
    pub now: Nanos,
}
