//! What the commands print, to standard output.

use crate::daemon::error::ExitError;
use anyhow::Context;
use std::io::Write;

/// Prints a text to standard output.
///
/// # Errors
/// When standard output is gone.
pub fn print(text: &str) -> Result<(), ExitError> {
    let mut out = std::io::stdout().lock();
    let newline = if text.ends_with('\n') { "" } else { "\n" };
    write!(out, "{text}{newline}")
        .and_then(|()| out.flush())
        .context("cannot write to standard output")?;
    Ok(())
}

/// Prints a value as JSON.
///
/// # Errors
/// When it is no JSON, or standard output is gone.
pub(super) fn json(value: &impl serde::Serialize) -> Result<(), ExitError> {
    print(&serde_json::to_string_pretty(value).context("cannot print JSON")?)
}
