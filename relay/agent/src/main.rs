//! cri-resmgr-agent: watches the ConfigMaps of one node, pushes them into cri-resmgr, and relays
//! node operations and Events of cri-resmgr to the API server.

use std::process::ExitCode;

mod args;
mod choose;
mod condition;
mod events;
mod health;
mod metrics;
mod node;
mod push;
mod run;
mod socket;
mod status;
mod views;
mod watch;

fn main() -> ExitCode {
    let args = match args::AgentArgs::from_words(std::env::args_os()) {
        Ok(args) => args,
        Err(args::ArgsError::Clap(error)) => error.exit(),
        Err(error) => return run::report(&error.into(), 2),
    };
    match run::run(args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => run::report(&error, 1),
    }
}
