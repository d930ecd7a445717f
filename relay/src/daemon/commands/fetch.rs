//! Views asked of a running daemon.

use crate::{config::Raw, cri::listen::socket_path, daemon::error::ExitError, inspect::client};
use anyhow::Context;
use std::path::{Path, PathBuf};

/// The socket a daemon with this relay socket serves its views on.
#[must_use]
pub fn views_socket(relay_socket: &Path) -> PathBuf {
    let stem = relay_socket
        .file_stem()
        .unwrap_or_default()
        .to_string_lossy();
    relay_socket.with_file_name(format!("{stem}-inspect.sock"))
}

/// The socket on which the daemon that serves the relay socket of these options serves its views.
pub(super) fn views_socket_of(raw: &Raw) -> PathBuf {
    views_socket(&socket_path(&raw.options.relay.relay_socket.text))
}

/// Asks the daemon that serves the relay socket of these options on its socket of views.
///
/// # Errors
/// When no runtime can be had to ask in, and what `ask` fails with.
pub(super) fn ask<T, E: Into<anyhow::Error>, F: Future<Output = Result<T, E>>>(
    raw: &Raw,
    ask: impl FnOnce(PathBuf) -> F,
) -> Result<T, ExitError> {
    let socket = views_socket_of(raw);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the async runtime")?;
    Ok(runtime.block_on(ask(socket)).map_err(Into::into)?)
}

/// A view of the daemon that serves the relay socket of these options.
///
/// # Errors
/// When no daemon answers, or it refuses.
pub(super) fn fetch<T: serde::de::DeserializeOwned>(raw: &Raw, view: &str) -> Result<T, ExitError> {
    ask(raw, async |socket| client::fetch(&socket, view).await)
}
