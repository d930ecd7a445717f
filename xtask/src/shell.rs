//! Running other programs, and saying what is going on.

use anyhow::{Context, Result, bail};
use std::{
    ffi::OsStr,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

/// The root of the workspace.
pub(crate) fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here).to_path_buf()
}

/// Where fetched and built things are kept that git ignores.
pub(crate) fn cache() -> PathBuf {
    root().join(".cache")
}

/// The cargo that started us.
pub(crate) fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root());
    command
}

/// Folders that paths in what is built begin with, and what stands there instead, so that two folders of one commit give
/// the same octets.
///
/// # Errors
/// When cargo's folder is not known.
pub(crate) fn replaced_paths() -> Result<[(String, &'static str); 2]> {
    let cargo_home = std::env::var("CARGO_HOME")
        .or_else(|_unset| std::env::var("HOME").map(|home| home + "/.cargo"))
        .context("neither CARGO_HOME nor HOME is set")?;
    let source = root().display().to_string();
    Ok([(source, "/source"), (cargo_home, "/cargo")])
}

/// Whether a program of this name is in `PATH` (or in the administrator's folders, which an
/// ordinary user's `PATH` lacks).
pub(crate) fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let home = std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cargo/bin"));
    std::env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin", "/usr/lib/qemu", "/usr/libexec"].map(PathBuf::from))
        .chain(home)
        .map(|folder| folder.join(program))
        .find(|file| file.is_file())
}

/// Says what begins.
pub(crate) fn step(name: &str) {
    eprintln!("\n{} {name}", paint("1;36", "==>"));
}

/// `text` in a colour (an SGR number) when standard error is a terminal.
pub(crate) fn paint(sgr: &str, text: &str) -> String {
    use std::io::IsTerminal as _;
    if std::io::stderr().is_terminal() {
        format!("\u{1b}[{sgr}m{text}\u{1b}[0m")
    } else {
        text.to_owned()
    }
}

/// Runs `command` to its end with our own standard streams.
///
/// # Errors
/// When it cannot be started, or fails.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let shown = show(command);
    let status = command
        .status()
        .with_context(|| format!("cannot start {shown}"))?;
    if !status.success() {
        bail!("{shown}: {status}");
    }
    Ok(())
}

/// Runs `command` to its end and returns what it printed.
///
/// # Errors
/// When it cannot be started, or fails.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    let shown = show(command);
    let output = command
        .stderr(Stdio::inherit())
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot start {shown}"))?;
    if !output.status.success() {
        bail!("{shown}: {}", output.status);
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The command line, as a person would type it.
pub(crate) fn show(command: &Command) -> String {
    std::iter::once(command.get_program())
        .chain(command.get_args())
        .map(OsStr::to_string_lossy)
        .collect::<Vec<_>>()
        .join(" ")
}
