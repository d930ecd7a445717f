//! cri-resmgr: a CRI relay that places containers on CPUs and memory nodes.

use cri_resmgr::{cli, daemon};
use std::{io::Write, process::ExitCode};

fn main() -> ExitCode {
    let outcome = match cli::parse(std::env::args_os()) {
        Ok(invocation) => daemon::execute(invocation),
        Err(mistake) => Err(daemon::ExitError::Usage(mistake.to_string())),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failed) => {
            // Without standard error a failure cannot be reported.
            writeln!(std::io::stderr(), "cri-resmgr: {failed}").ok();
            failed.exit_code()
        }
    }
}
