//! cri-resmgr-webhook: annotates pods with the resources their containers ask for.

use std::process::ExitCode;

mod admit;
mod args;
mod http;
mod metrics;
mod register;
mod run;
mod tls;

fn main() -> ExitCode {
    let args = match args::WebhookArgs::from_words(std::env::args_os()) {
        Ok(args) => args,
        Err(error) => error.exit(),
    };
    match run::run(args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => run::report(&error),
    }
}
