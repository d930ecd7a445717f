//! The agent's own socket: 0600, and only root or our own user is served.

use std::{
    io,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use futures::{Stream, StreamExt as _};
use tokio::net::{UnixListener, UnixStream};
use tokio_stream::wrappers::UnixListenerStream;
use tracing::warn;

/// Why the socket cannot be served.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AgentSocketError {
    /// Another agent answers on it.
    #[error("another process serves {0}: stop it, or give another --agent-socket")]
    Taken(PathBuf),
    /// It cannot be made.
    #[error("cannot {operation} {path}")]
    Make {
        /// What was tried.
        operation: &'static str,
        /// The file.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
}

/// Binds the socket and yields the connections of root and of our own user.
///
/// The socket is made under another name and renamed when its mode is right, so that no client can
/// connect before; a stale socket is replaced.
pub(crate) fn listen(
    path: &Path,
) -> Result<impl Stream<Item = io::Result<UnixStream>> + Send + use<>, AgentSocketError> {
    let make = |operation| {
        let path = path.to_owned();
        move |source| AgentSocketError::Make {
            operation,
            path,
            source,
        }
    };
    if std::os::unix::net::UnixStream::connect(path).is_ok() {
        return Err(AgentSocketError::Taken(path.to_owned()));
    }
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).map_err(make("make the folder of"))?;
    }
    let mut fresh = path.as_os_str().to_owned();
    fresh.push(".new");
    let fresh = PathBuf::from(fresh);
    match std::fs::remove_file(&fresh) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(make("replace")(error));
        }
        _ => {}
    }
    let listener = UnixListener::bind(&fresh).map_err(make("bind"))?;
    let mode = std::fs::Permissions::from_mode(0o600);
    std::fs::set_permissions(&fresh, mode).map_err(make("set the mode of"))?;
    // The owner of a file we just made is ourselves.
    let own_uid = std::fs::metadata(&fresh).map_err(make("look at"))?.uid();
    std::fs::rename(&fresh, path).map_err(make("put in place"))?;
    Ok(
        UnixListenerStream::new(listener).filter_map(move |connection| {
            std::future::ready(match connection {
                Ok(stream) => allowed(&stream, own_uid).then_some(Ok(stream)),
                Err(error) => Some(Err(error)),
            })
        }),
    )
}

fn allowed(stream: &UnixStream, own_uid: u32) -> bool {
    match stream.peer_cred() {
        Ok(peer) if peer.uid() == 0 || peer.uid() == own_uid => true,
        Ok(peer) => {
            warn!(
                uid = peer.uid(),
                pid = peer.pid(),
                "refused a connection of another user"
            );
            false
        }
        Err(error) => {
            warn!(%error, "refused a connection of an unknown user");
            false
        }
    }
}
