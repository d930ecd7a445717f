//! The commands that do not serve: they print, or ask a running daemon, and end.

use super::{Failed, settle::settle};
use crate::{
    config::{Raw, print},
    inspect::{
        client,
        view::{ExplainView, StateView},
    },
};
use anyhow::Context;
use std::{
    io::Write,
    path::{Path, PathBuf},
};

/// Prints a text to standard output.
///
/// # Errors
/// When standard output is gone.
pub fn say(text: &str) -> Result<(), Failed> {
    let mut out = std::io::stdout().lock();
    let newline = if text.ends_with('\n') { "" } else { "\n" };
    write!(out, "{text}{newline}")
        .and_then(|()| out.flush())
        .context("cannot write to standard output")?;
    Ok(())
}

/// Prints the effective configuration, if it is legal on this machine.
///
/// # Errors
/// What is wrong with it.
pub fn print_config(raw: &Raw) -> Result<(), Failed> {
    settle(raw)?;
    say(&print::yaml(raw))
}

/// The socket a daemon with this relay socket serves its views on.
#[must_use]
pub fn views_socket(relay_socket: &Path) -> PathBuf {
    let stem = relay_socket
        .file_stem()
        .unwrap_or_default()
        .to_string_lossy();
    relay_socket.with_file_name(format!("{stem}-inspect.sock"))
}

fn fetch<T: serde::de::DeserializeOwned>(raw: &Raw, view: &str) -> Result<T, Failed> {
    let typed = raw.last("relay-socket").text;
    let socket = views_socket(&crate::cri::listen::socket_path(&typed));
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the async runtime")?;
    let answer = runtime.block_on(client::fetch(&socket, view));
    Ok(answer.map_err(anyhow::Error::from)?)
}

fn json(value: &impl serde::Serialize) -> Result<(), Failed> {
    say(&serde_json::to_string_pretty(value).context("cannot print JSON")?)
}

/// Prints the placement.
///
/// # Errors
/// When no daemon answers.
pub fn state(raw: &Raw, as_json: bool) -> Result<(), Failed> {
    let state: StateView = fetch(raw, "/state")?;
    if as_json {
        json(&state)
    } else {
        say(&state.to_string())
    }
}

/// Prints why a container sits where it sits.
///
/// # Errors
/// When no daemon answers, or it knows no such container.
pub fn explain(raw: &Raw, container: &str) -> Result<(), Failed> {
    let view: ExplainView = fetch(raw, &format!("/explain/{container}"))?;
    say(&view.to_string())
}
