//! Prometheus' own judgement of a metrics page.

use anyhow::{Context as _, Result};
use std::{
    io::Write as _,
    path::Path,
    process::{Command, Stdio},
};

/// What `promtool check metrics` complains of in a page; empty where all is well.
///
/// # Errors
/// When it cannot be run.
pub fn complaints(promtool: &Path, page: &str) -> Result<String> {
    let mut check = Command::new(promtool)
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let mut input = check.stdin.take().context("no standard input")?;
    input.write_all(page.as_bytes())?;
    drop(input);
    let checked = check.wait_with_output()?;
    let mut text = String::from_utf8_lossy(&[checked.stdout, checked.stderr].concat()).into_owned();
    if !checked.status.success() && text.is_empty() {
        text = checked.status.to_string();
    }
    Ok(text)
}
