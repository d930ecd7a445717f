//! `cargo xtask chaos`: the manager on simulated nodes on which all fails that can.

use crate::shell::{cargo, run};
use anyhow::Result;

/// Options of the program `resmgr-chaos`; `--help` lists them.
#[derive(Clone, Debug, clap::Args)]
#[command(disable_help_flag = true)]
pub(crate) struct Arguments {
    /// Passed on: `--seeds N --steps N`, `--seed N`, `--mutation NAME`, `--verbose`.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    words: Vec<String>,
}

/// Builds it optimised, and runs it.
///
/// # Errors
/// When it does not build, or a promise was broken.
pub(crate) fn run_task(arguments: &Arguments) -> Result<()> {
    run(cargo()
        .args(["run", "--quiet", "--profile", "chaos"])
        .args(["--package", "resmgr-chaos", "--"])
        .args(&arguments.words))
}
