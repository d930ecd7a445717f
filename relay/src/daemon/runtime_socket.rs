//! The runtime's sockets at start: a path that can be none is a mistake, and what is not there yet is waited for.

use super::error::ExitError;
use crate::config::{Problem, Raw, RelayConfig};
use std::{io, os::unix::fs::FileTypeExt as _, path::Path, time::Duration};
use tokio::net::UnixStream;

/// How often it is looked whether a runtime listens.
const RETRY: Duration = Duration::from_millis(100);

/// Refuses paths on which no runtime will ever listen.
///
/// # Errors
/// [`ExitError::Usage`], with a line for each.
pub(super) fn check(raw: &Raw, relay: &RelayConfig) -> Result<(), ExitError> {
    let image = (relay.image_socket != relay.runtime_socket).then_some(&relay.image_socket);
    let paths = [
        ("runtime-socket", relay.runtime_socket.as_deref()),
        ("image-socket", image.and_then(Option::as_deref)),
    ];
    let problems = paths.into_iter().filter_map(|(option, path)| {
        let path = path?;
        let problem = Problem {
            key: option.to_owned(),
            value: path.display().to_string(),
            origin: raw.origin(option),
            message: obstacle(path)?,
        };
        Some(problem.to_string())
    });
    let problems: Vec<String> = problems.collect();
    match problems.is_empty() {
        true => Ok(()),
        false => Err(ExitError::Usage(problems.join("\ncri-resmgr: "))),
    }
}

/// Why no socket can ever be at this path.
fn obstacle(path: &Path) -> Option<String> {
    let kind = match path.metadata() {
        Ok(found) => found.file_type(),
        Err(error) if error.kind() == io::ErrorKind::NotADirectory => {
            return Some("leads through a file that is no directory".to_owned());
        }
        Err(_not_there_yet) => return None,
    };
    let found = match () {
        () if kind.is_socket() => return None,
        () if kind.is_dir() => "a directory",
        () if kind.is_file() => "a plain file",
        () => "no socket",
    };
    Some(format!(
        "is {found}; expected the Unix socket of a container runtime"
    ))
}

/// Returns when something listens on the sockets of the runtime and of its image service.
///
/// # Errors
/// When nothing does within `--runtime-wait`.
pub(super) async fn listens(relay: &RelayConfig) -> anyhow::Result<()> {
    let limit = relay.runtime_wait;
    let end = (!limit.is_zero()).then(|| tokio::time::Instant::now() + limit);
    for path in [&relay.runtime_socket, &relay.image_socket] {
        let Some(path) = path.as_deref() else {
            continue;
        };
        let Err(mut error) = UnixStream::connect(path).await else {
            continue;
        };
        let shown = path.display();
        tracing::warn!(target: "resource-manager", "waiting for the runtime at {shown}: {error}");
        loop {
            if end.is_some_and(|end| tokio::time::Instant::now() >= end) {
                anyhow::bail!("no runtime listens at {shown} after {limit:?}: {error}");
            }
            tokio::time::sleep(RETRY).await;
            match UnixStream::connect(path).await {
                Ok(_listens) => break,
                Err(still) => error = still,
            }
        }
        tracing::info!(target: "resource-manager", "the runtime listens at {shown}");
    }
    Ok(())
}
