//! Start-up, tasks, signals and shutdown: where the parts are wired.
//!
//! Exit codes: 0 done, or stopped by a signal after a clean shutdown; 1 something failed while starting
//! or running; 2 a mistake on the command line, in an option file or in the configuration, and nothing
//! was started.

pub mod commands;
pub mod configure;
pub mod cut;
#[cfg(all(feature = "faults", debug_assertions))]
mod faults;
pub mod last_good;
pub mod measure;
mod moves;
pub mod node;
pub mod placement;
pub mod recording;
pub mod settle;
pub mod signals;
pub mod start;
pub mod tasks;
pub mod views;

use crate::cli::{self, Command, Invocation};
use std::{fmt, process::ExitCode};

/// Why the program ends without success.
#[derive(Debug)]
pub enum Failed {
    /// A mistake in what the user typed or wrote; nothing was started.
    Usage(String),
    /// Something failed while starting or running.
    Run(anyhow::Error),
}

impl Failed {
    /// The documented exit code.
    #[must_use]
    pub fn exit_code(&self) -> ExitCode {
        ExitCode::from(match self {
            Self::Usage(_) => 2,
            Self::Run(_) => 1,
        })
    }
}

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Usage(mistake) => f.write_str(mistake),
            Self::Run(error) => write!(f, "{error:#}"),
        }
    }
}

impl From<anyhow::Error> for Failed {
    fn from(error: anyhow::Error) -> Self {
        Self::Run(error)
    }
}

/// Does what the user asked for.
///
/// # Errors
/// [`Failed`], with the exit code it calls for.
pub fn execute(invocation: Invocation) -> Result<(), Failed> {
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
        Command::Top { once, json } => commands::top(&raw, once, json),
        Command::CheckConfig { file } => commands::check_config(&raw, &file),
    }
}
