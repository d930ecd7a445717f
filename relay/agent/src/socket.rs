//! The agent's own socket: 0600, and only root or our own user is served.

use std::{future::ready, io, path::Path};

use futures::{Stream, StreamExt as _};
use resmgr_io::socket::{SocketError, bind_private, check_peer};
use tokio::net::UnixStream;
use tokio_stream::wrappers::UnixListenerStream;
use tracing::warn;

/// Binds the socket and yields the connections of root and of our own user.
pub(crate) fn listen(
    path: &Path,
) -> Result<impl Stream<Item = io::Result<UnixStream>> + Send + use<>, SocketError> {
    let connections = UnixListenerStream::new(bind_private(path)?);
    Ok(connections.filter(|connection| {
        let refused = connection.as_ref().ok().map(check_peer);
        if let Some(Err(refused)) = &refused {
            warn!("refused a connection: {refused}");
        }
        ready(!matches!(refused, Some(Err(_))))
    }))
}
