//! Unix sockets that processes of this project serve.

use nix::{
    errno::Errno,
    sys::{
        socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, socket},
        stat::{Mode, fchmod},
    },
    unistd::geteuid,
};
use std::{
    fs::{self, DirBuilder, Permissions},
    io,
    os::{
        fd::AsRawFd as _,
        unix::fs::{DirBuilderExt as _, FileTypeExt as _, PermissionsExt as _, chown},
    },
    path::{Path, PathBuf},
};
use tokio::net::{UnixListener, UnixSocket, UnixStream};

/// Mode of a directory that is made for a socket: other users may pass, not list.
const DIR_MODE: u32 = 0o711;

/// Connections that wait until they are accepted; the kernel lets clients wait beyond.
const BACKLOG: u32 = 1024;

/// Why a socket cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// A process answers there.
    #[error("{} is already served by another process", path.display())]
    InUse {
        /// The socket.
        path: PathBuf,
    },
    /// Something that is not a socket is in the way.
    #[error("{} exists and is not a socket; move it away or choose another path", path.display())]
    NotASocket {
        /// What is there.
        path: PathBuf,
    },
    /// An operation failed.
    #[error("cannot {operation} {}", path.display())]
    Io {
        /// What was tried.
        operation: &'static str,
        /// On what.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
}

fn failed<'a, E: Into<io::Error>>(
    operation: &'static str,
    path: &'a Path,
) -> impl FnOnce(E) -> SocketError + use<'a, E> {
    move |source| SocketError::Io {
        operation,
        path: path.to_owned(),
        source: source.into(),
    }
}

/// Serves a socket with this mode, and this owner and group if they are given. Makes its directory if there is
/// none. A socket that no process serves is replaced; everything else in the way is left as it is.
///
/// At no moment can more users connect than the mode says, whatever the umask: Linux gives the file the mode that
/// the socket has before it is bound (`unix_bind_bsd` in net/unix/af_unix.c), and the umask only takes from it.
///
/// # Errors
/// [`SocketError`].
pub fn bind(
    path: &Path,
    mode: u32,
    owner: Option<(u32, u32)>,
) -> Result<UnixListener, SocketError> {
    if let Some(dir) = path.parent()
        && !dir.exists()
    {
        DirBuilder::new()
            .recursive(true)
            .mode(DIR_MODE)
            .create(dir)
            .map_err(failed("create directory", dir))?;
        fs::set_permissions(dir, Permissions::from_mode(DIR_MODE))
            .map_err(failed("set the mode of", dir))?;
    }
    remove_if_dead(path)?;
    let socket = UnixSocket::new_stream().map_err(failed("make a socket for", path))?;
    // With an owner to come, the file is for ourselves until it has that owner.
    let first = match owner {
        Some(_) => mode & 0o700,
        None => mode,
    };
    fchmod(&socket, Mode::from_bits_truncate(first)).map_err(failed("set the mode of", path))?;
    socket.bind(path).map_err(failed("bind", path))?;
    if let Some((user, group)) = owner {
        chown(path, Some(user), Some(group)).map_err(failed("set the owner of", path))?;
    }
    fs::set_permissions(path, Permissions::from_mode(mode))
        .map_err(failed("set the mode of", path))?;
    socket.listen(BACKLOG).map_err(failed("listen on", path))
}

/// As [`bind`], for our own user and root alone.
///
/// # Errors
/// [`SocketError`].
pub fn bind_private(path: &Path) -> Result<UnixListener, SocketError> {
    bind(path, 0o600, None)
}

fn remove_if_dead(path: &Path) -> Result<(), SocketError> {
    let kind = match fs::symlink_metadata(path) {
        Ok(metadata) => metadata.file_type(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed("look at", path)(error)),
    };
    let path = path.to_owned();
    if !kind.is_socket() {
        return Err(SocketError::NotASocket { path });
    }
    match probe(&path) {
        // EAGAIN: so many clients wait that there is no room for one more.
        Ok(()) | Err(Errno::EAGAIN) => Err(SocketError::InUse { path }),
        Err(Errno::ECONNREFUSED) => {
            fs::remove_file(&path).map_err(failed("replace the dead socket", &path))
        }
        Err(error) => Err(failed("probe", &path)(error)),
    }
}

/// Connects, without waiting for a server that does not accept.
fn probe(path: &Path) -> nix::Result<()> {
    let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
    let probe = socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
    connect(probe.as_raw_fd(), &UnixAddr::new(path)?)
}

/// Why a connection is not served.
#[derive(Debug, thiserror::Error)]
pub enum PeerError {
    /// Its user is neither root nor our own.
    #[error("it is from user {0}")]
    User(u32),
    /// The kernel does not say whose it is.
    #[error("its user is not known")]
    Unknown(#[source] io::Error),
}

/// Checks that a connection is of root or of our own user.
///
/// # Errors
/// [`PeerError`].
pub fn check_peer(stream: &UnixStream) -> Result<(), PeerError> {
    match stream.peer_cred() {
        Ok(peer) if peer.uid() == 0 || peer.uid() == geteuid().as_raw() => Ok(()),
        Ok(peer) => Err(PeerError::User(peer.uid())),
        Err(error) => Err(PeerError::Unknown(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt as _;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().mode() & 0o777
    }

    #[tokio::test]
    async fn a_dead_socket_is_replaced_and_a_live_one_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("sub/relay.sock");
        let live = bind(&path, 0o600, None).unwrap();
        assert_eq!(mode(path.parent().unwrap()), DIR_MODE);
        assert_eq!(mode(&path), 0o600);
        let refused = bind(&path, 0o600, None).unwrap_err();
        assert!(
            refused
                .to_string()
                .ends_with("is already served by another process")
        );
        drop(live);
        bind(&path, 0o666, None).unwrap();
        assert_eq!(mode(&path), 0o666);
    }

    #[tokio::test]
    async fn a_server_that_accepts_no_connection_is_alive_and_not_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("busy.sock");
        let socket = UnixSocket::new_stream().unwrap();
        socket.bind(&path).unwrap();
        let _busy = socket.listen(0).unwrap();
        let _waiting = std::os::unix::net::UnixStream::connect(&path).unwrap();
        for _ in 0..3 {
            let refused = bind(&path, 0o600, None).unwrap_err();
            assert!(matches!(refused, SocketError::InUse { .. }), "{refused}");
        }
    }

    #[tokio::test]
    async fn the_mode_is_that_of_the_unbound_socket_from_the_first_moment() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let socket = UnixSocket::new_stream().unwrap();
        fchmod(&socket, Mode::from_bits_truncate(0o600)).unwrap();
        socket.bind(&path).unwrap();
        assert_eq!(mode(&path), 0o600);
    }

    #[tokio::test]
    async fn what_is_not_a_socket_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("relay.sock");
        fs::write(&path, "precious").unwrap();
        let link = dir.path().join("link.sock");
        std::os::unix::fs::symlink(&path, &link).unwrap();
        for path in [&path, &link] {
            let refused = bind(path, 0o600, None).unwrap_err();
            assert!(
                matches!(refused, SocketError::NotASocket { .. }),
                "{refused}"
            );
        }
        assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
    }

    #[tokio::test]
    async fn connections_of_our_own_user_are_served() {
        let (stream, _peer) = UnixStream::pair().unwrap();
        check_peer(&stream).unwrap();
    }
}
