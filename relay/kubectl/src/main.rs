//! `kubectl resmgr`: what cri-resmgr does on the nodes of a cluster, asked through the API server.
//!
//! A view (state, explain, top) is read from the agent of its node, through the API server's proxy for pods; Events are read from
//! the API server. Nothing is changed.

use std::process::ExitCode;

mod args;
mod cluster;
mod events;
mod output;
mod run;
mod target;
mod views;

fn main() -> ExitCode {
    let arguments = match args::Arguments::from_words(std::env::args_os()) {
        Ok(arguments) => arguments,
        Err(error) => {
            // Help and version, to standard output, or a mistake, to standard error; closed ones leave nothing to be told.
            drop(error.print());
            return ExitCode::from(u8::from(error.use_stderr()));
        }
    };
    match run::run(arguments) {
        Ok(output::Completeness::Whole) => ExitCode::SUCCESS,
        Ok(output::Completeness::Partial) => ExitCode::FAILURE,
        Err(error) => {
            output::report(&error);
            ExitCode::FAILURE
        }
    }
}
