//! The socket kubelet connects to: bound, or inherited from a supervisor.

use resmgr_io::socket::{self, SocketError};
use std::{
    fs,
    os::{
        fd::{FromRawFd, OwnedFd, RawFd},
        unix::fs::{MetadataExt, PermissionsExt},
    },
    path::{Path, PathBuf},
};
use tokio::net::UnixListener;

/// Mode of the socket when there is no runtime socket to copy it from.
const SOCKET_MODE: u32 = 0o660;

/// Why the relay socket cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// Not an absolute path.
    #[error(
        "relay socket {path:?} must be an absolute path, such as /var/run/cri-resmgr/cri-resmgr.sock"
    )]
    Relative {
        /// As given, without `unix://`.
        path: PathBuf,
    },
    /// The socket cannot be bound.
    #[error(transparent)]
    Socket(#[from] SocketError),
    /// The supervisor passed something unusable.
    #[error("the inherited listening socket (LISTEN_FDS) cannot be used: {0}")]
    Inherited(String),
}

/// A socket path as users write it: with or without `unix://`.
#[must_use]
pub fn socket_path(text: &str) -> PathBuf {
    PathBuf::from(text.strip_prefix("unix://").unwrap_or(text))
}

/// Binds the socket, making its directory if need be. A dead socket file is replaced, a live one is
/// left alone. Mode and owner are copied from `like` (the runtime's socket) when it exists.
///
/// # Errors
/// [`ListenError`].
pub fn bind(path: &Path, like: Option<&Path>) -> Result<UnixListener, ListenError> {
    if !path.is_absolute() {
        return Err(ListenError::Relative {
            path: path.to_owned(),
        });
    }
    let (mode, owner) = match like.map(fs::metadata) {
        Some(Ok(like)) => (
            like.permissions().mode() & 0o777,
            Some((like.uid(), like.gid())),
        ),
        // No runtime yet: our own default will do until it is copied, at the first connection.
        Some(Err(_)) | None => (SOCKET_MODE, None),
    };
    Ok(socket::bind(path, mode, owner)?)
}

/// Takes over the listener that systemd (or another supervisor) passed, if it passed one.
///
/// Protocol: `sd_listen_fds(3)`; the first descriptor is taken.
///
/// # Errors
/// [`ListenError::Inherited`] when what was passed is not a listening Unix socket.
pub fn inherited() -> Result<Option<UnixListener>, ListenError> {
    let refuse = |reason: &dyn std::fmt::Display| ListenError::Inherited(reason.to_string());
    let mut fds = sd_notify::listen_fds().map_err(|error| refuse(&error))?;
    let Some(fd) = fds.next() else {
        return Ok(None);
    };
    let listener = std::os::unix::net::UnixListener::from(take(fd));
    listener.local_addr().map_err(|error| refuse(&error))?;
    listener
        .set_nonblocking(true)
        .map_err(|error| refuse(&error))?;
    UnixListener::from_std(listener)
        .map(Some)
        .map_err(|error| refuse(&error))
}

#[expect(
    unsafe_code,
    reason = "an inherited descriptor is only a number until it is owned"
)]
fn take(fd: RawFd) -> OwnedFd {
    // SAFETY: sd_listen_fds(3) hands this descriptor to this process, and `inherited` is the only one
    // to take it: listen_fds() checks LISTEN_PID and marks it close-on-exec.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_socket_takes_the_mode_of_the_runtimes() {
        let dir = tempfile::tempdir().unwrap();
        let runtime = dir.path().join("runtime.sock");
        let _runtime = UnixListener::bind(&runtime).unwrap();
        fs::set_permissions(&runtime, fs::Permissions::from_mode(0o606)).unwrap();
        let path = dir.path().join("relay.sock");
        let _relay = bind(&path, Some(&runtime)).unwrap();
        assert_eq!(
            fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o606
        );
    }

    #[tokio::test]
    async fn what_is_not_a_socket_and_what_is_not_absolute_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("relay.sock");
        fs::write(&path, "precious").unwrap();
        assert!(matches!(
            bind(&path, None),
            Err(ListenError::Socket(SocketError::NotASocket { .. }))
        ));
        assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
        assert!(matches!(
            bind(Path::new("x.sock"), None),
            Err(ListenError::Relative { .. })
        ));
    }

    #[test]
    fn paths_are_accepted_with_and_without_a_scheme() {
        assert_eq!(socket_path("unix:///run/a.sock"), Path::new("/run/a.sock"));
        assert_eq!(socket_path("/run/a.sock"), Path::new("/run/a.sock"));
    }
}
