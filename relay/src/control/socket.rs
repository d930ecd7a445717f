//! The configuration socket: 0600, and only for root and ourselves.

use std::{
    fs::Permissions,
    io,
    os::unix::fs::{DirBuilderExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};
use tokio::net::{UnixListener, UnixStream};

/// Why the socket cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum ConfigSocketError {
    /// Another process listens there.
    #[error("{} is already served by another process", path.display())]
    Served {
        /// The socket.
        path: PathBuf,
    },
    /// Something else went wrong.
    #[error("cannot {operation} {}", path.display())]
    Io {
        /// What was tried.
        operation: &'static str,
        /// With what.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
}

/// Binds the socket; a dead one is replaced.
///
/// # Errors
/// [`ConfigSocketError`].
pub fn bind(path: &Path) -> Result<UnixListener, ConfigSocketError> {
    let fail = |operation, source| ConfigSocketError::Io {
        operation,
        path: path.to_owned(),
        source,
    };
    if let Some(dir) = path.parent() {
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o711)
            .create(dir)
            .map_err(|source| fail("create the directory of", source))?;
    }
    match std::os::unix::net::UnixStream::connect(path) {
        Ok(_alive) => {
            return Err(ConfigSocketError::Served {
                path: path.to_owned(),
            });
        }
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            std::fs::remove_file(path).map_err(|source| fail("remove the dead socket", source))?;
        }
        // Not there, or no socket: binding says what is wrong.
        Err(_) => {}
    }
    let listener = UnixListener::bind(path).map_err(|source| fail("listen on", source))?;
    std::fs::set_permissions(path, Permissions::from_mode(0o600))
        .map_err(|source| fail("set the mode of", source))?;
    Ok(listener)
}

/// Whether the peer is root or runs as the same user as we do.
pub(super) fn may_connect(stream: &UnixStream, own_uid: u32) -> bool {
    match stream.peer_cred() {
        Ok(peer) if peer.uid() == 0 || peer.uid() == own_uid => true,
        Ok(peer) => {
            tracing::warn!(
                "refused a connection to the configuration socket from user {}",
                peer.uid()
            );
            false
        }
        Err(error) => {
            tracing::warn!("refused a connection to the configuration socket: {error}");
            false
        }
    }
}
