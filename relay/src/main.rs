//! cri-resmgr: a CRI relay that places containers on CPUs and memory nodes.

use cri_resmgr::{cli, daemon, log};
use std::process::ExitCode;

/// jemalloc gives memory back that many clients have needed at once: docs/performance.md compares.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    let outcome = match cli::parse(std::env::args_os()) {
        Ok(invocation) => daemon::execute(invocation),
        Err(mistake) => Err(daemon::ExitError::Usage(mistake.to_string())),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failed) => {
            log::last_words(&format!("cri-resmgr: {failed}"));
            failed.exit_code()
        }
    }
}
