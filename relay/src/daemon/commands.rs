//! The commands that do not serve: they print, or ask a running daemon, and end.

mod check_config;
mod fetch;
mod gather;
mod install;
mod make_pools;
mod output;
mod restore;
mod status;
mod top;

pub use check_config::check_config;
pub use fetch::views_socket;
pub use gather::gather;
pub use install::{install, uninstall};
pub(super) use make_pools::host_name;
pub use make_pools::make_pools;
pub use output::print;
pub use restore::restore;
pub use status::status;
pub use top::top;

use super::{error::ExitError, options::resolve_options};
use crate::{
    config::{self, Raw},
    inspect::view::{ExplainView, StateView},
};
use fetch::fetch;
use output::json;

/// Prints the effective configuration, if it is legal on this machine.
///
/// # Errors
/// What is wrong with it.
pub fn print_config(raw: &Raw) -> Result<(), ExitError> {
    resolve_options(raw)?;
    print(&config::print::yaml(raw))
}

/// Prints the placement.
///
/// # Errors
/// When no daemon answers.
pub fn state(raw: &Raw, as_json: bool) -> Result<(), ExitError> {
    let state: StateView = fetch(raw, "/state")?;
    if as_json {
        json(&state)
    } else {
        print(&state.to_string())
    }
}

/// Prints why a container sits where it sits.
///
/// # Errors
/// When no daemon answers, or it knows no such container.
pub fn explain(raw: &Raw, container: &str, as_json: bool) -> Result<(), ExitError> {
    let view: ExplainView = fetch(raw, &format!("/explain/{container}"))?;
    if as_json {
        json(&view)
    } else {
        print(&view.to_string())
    }
}
