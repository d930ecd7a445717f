//! Standard output and standard error.

use std::io::{self, Write as _};

use anyhow::Context as _;

use crate::args::OutputFormat;

/// Whether all that was asked for was shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Completeness {
    /// All.
    Whole,
    /// What is missing was reported.
    Partial,
}

/// Writes to standard output.
///
/// # Errors
/// When it cannot be written; a reader that has seen enough, such as `head`, is no error.
pub(crate) fn print(text: &str) -> anyhow::Result<()> {
    let mut output = io::stdout().lock();
    match output
        .write_all(text.as_bytes())
        .and_then(|()| output.flush())
    {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(error).context("cannot write to standard output")
        }
        _ => Ok(()),
    }
}

/// Writes a line about a failure to standard error.
pub(crate) fn report(error: &anyhow::Error) {
    let line = format!("{error:#}").trim().replace('\n', "; ");
    // A closed standard error leaves nowhere to report to.
    drop(writeln!(io::stderr(), "error: {line}"));
}

/// Something as YAML or JSON.
///
/// # Errors
/// When it cannot be written so.
pub(crate) fn document(
    value: &impl serde::Serialize,
    output: OutputFormat,
) -> anyhow::Result<String> {
    Ok(match output {
        OutputFormat::Yaml => serde_yaml::to_string(value).context("cannot write YAML")?,
        _ => serde_json::to_string_pretty(value).context("cannot write JSON")? + "\n",
    })
}
