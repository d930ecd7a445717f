//! What the server asks of the daemon.

use crate::inspect::{
    history::{HistoryView, PastView},
    top::TopView,
    view::{ConfigView, ExplainView, StateView, TopologyView},
};
use std::fmt;

/// Where the views come from.
pub trait Views: fmt::Debug + Send + Sync + 'static {
    /// The whole placement.
    fn state(&self) -> StateView;

    /// Why a container sits where it sits; by id, a prefix of it, `POD/CONTAINER` or
    /// `NAMESPACE/POD/CONTAINER`.
    ///
    /// # Errors
    /// That no container matches, or several do.
    fn explain(&self, container: &str) -> Result<ExplainView, String>;

    /// What the scheduler did, for `top`.
    ///
    /// `None` when nothing is measured.
    fn top(&self) -> Option<TopView>;

    /// Which moments of the last hour there are samples of.
    fn history(&self) -> HistoryView;

    /// The machine as it was at one of these moments.
    fn past(&self, at_unix_s: u64) -> Option<PastView>;

    /// The configuration in force.
    fn config(&self) -> ConfigView;

    /// The machine as it is now.
    fn topology(&self) -> TopologyView;
}
