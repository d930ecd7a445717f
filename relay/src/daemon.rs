//! Start-up, tasks, signals and shutdown: where the parts are wired.
//!
//! Exit codes: 0 done, or stopped by a signal after a clean shutdown; 1 something failed while starting
//! or running; 2 a mistake on the command line, in an option file or in the configuration, and nothing
//! was started.

pub mod commands;
pub mod configure;
mod error;
mod exclusivity;
#[cfg(all(feature = "faults", debug_assertions))]
mod faults;
mod fence;
mod hotplug;
mod intervals;
pub mod last_good;
pub mod measure;
mod moves;
pub mod node;
pub mod options;
pub mod placement;
mod pod_events;
mod policy;
pub mod recording;
mod runtime_socket;
pub mod signals;
pub mod stale_watch;
pub mod start;
pub mod steal;
pub mod tasks;
pub mod views;

pub use error::ExitError;

use crate::cli::{self, Command, Invocation};

/// Does what the user asked for.
///
/// # Errors
/// [`ExitError`], with the exit code it calls for.
pub fn execute(invocation: Invocation) -> Result<(), ExitError> {
    let Invocation { command, raw } = invocation;
    match command {
        Command::Print(text) => commands::print(&text),
        Command::PrintConfig => commands::print_config(&raw),
        Command::State { json } => commands::state(&raw, json),
        Command::Explain { container, json } => commands::explain(&raw, &container, json),
        Command::Run => start::run(&raw),
        Command::Completion { shell } => commands::print(&cli::help::completion(shell)),
        Command::Man => commands::print(&cli::help::manual().map_err(anyhow::Error::from)?),
        Command::Restore => commands::restore(&raw),
        Command::Install(arguments) => commands::install(&raw, arguments),
        Command::Uninstall => commands::uninstall(&raw),
        Command::Status { listen } => commands::status(&raw, listen),
        Command::Gather(arguments) => commands::gather(&raw, &arguments),
        Command::MakePools(arguments) => commands::make_pools(&raw, &arguments),
        Command::Top { once, json } => commands::top(&raw, once, json),
        Command::CheckConfig { file } => commands::check_config(&raw, &file),
    }
}
