//! Moving what already runs: one move at a time, only for more than it costs, checked afterwards and
//! undone when it did not help.
//!
//! Pure: what has to be remembered is a [`RebalanceMemory`](crate::RebalanceMemory) in the state. Without usable measurements
//! nothing moves.
//!
//! ```text
//!            candidates, budget, cool-down            helped
//!   settled ───────────────────────────────▶ trial ──────────▶ settled, container cools down
//!                                              │ did not help
//!                                              └──────────────▶ undone, it cools down for longer
//! ```
//!
//! A move is judged by what it did, not by what the machine did meanwhile: [`evidence`] has the model and the test,
//! [`groups`] the containers that are compared.

pub(crate) mod cost;
mod difference;
mod evidence;
mod groups;
pub(crate) mod interference;
mod judge;
pub(crate) mod limits;
pub(crate) mod proposal;
mod propose;

use crate::{condition::usable, decision::Decision, view::View};
use proposal::Movable;

/// The next step: judge the last move, or make one.
pub(crate) fn rebalance(policy: &impl Movable, view: View<'_>) -> Option<Decision> {
    if !usable(view) || view.measured.containers.is_empty() {
        return None;
    }
    match view.state.rebalance.trial() {
        Some(trial) => judge::judge(policy, view, trial),
        None => propose::propose(policy, view),
    }
}
