//! Asks a running cri-resmgr what a configuration would do.

use crate::config::Document;
use hyper_util::rt::TokioIo;
use resmgr_proto::v1::{SetConfigRequest, config_client::ConfigClient};
use std::{io, path::Path, time::Duration};
use tokio::net::UnixStream;
use tonic::transport::Endpoint;

/// How long the answer may take; the server gives up earlier.
const DEADLINE: Duration = Duration::from_secs(10);

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum CheckError {
    /// No process serves the socket.
    #[error("no cri-resmgr serves the configuration socket")]
    Away(#[source] io::Error),
    /// The running cri-resmgr answered with an error.
    #[error("the running cri-resmgr cannot say: {0}")]
    Failed(String),
    /// The running cri-resmgr would refuse the configuration.
    #[error("{0}")]
    Refused(String),
}

/// What the configuration would do, line by line.
///
/// # Errors
/// [`CheckError`].
pub async fn check(
    socket: &Path,
    document: Document,
    node: &str,
) -> Result<Vec<String>, CheckError> {
    let stream = UnixStream::connect(socket)
        .await
        .map_err(CheckError::Away)?;
    let mut stream = Some(TokioIo::new(stream));
    let failed = |error: &dyn std::error::Error| CheckError::Failed(error.to_string());
    // The address is never looked up: the connection is there already, and there is no other.
    let channel = Endpoint::from_static("http://cri-resmgr")
        .timeout(DEADLINE)
        .connect_with_connector(tower::service_fn(move |_: http::Uri| {
            let stream = stream.take();
            async move { stream.ok_or(io::Error::from(io::ErrorKind::ConnectionReset)) }
        }))
        .await
        .map_err(|error| failed(&error))?;
    let request = SetConfigRequest {
        node_name: node.to_owned(),
        config: document.entries,
        origin: document.source,
        ..SetConfigRequest::default()
    };
    let reply = ConfigClient::new(channel)
        .check_config(request)
        .await
        .map_err(|status| CheckError::Failed(status.message().to_owned()))?
        .into_inner();
    if reply.error.is_empty() {
        Ok(reply.notes)
    } else {
        Err(CheckError::Refused(reply.error))
    }
}
