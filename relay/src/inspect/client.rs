//! The client side of the views, for `cri-resmgr state`, `explain`, `top` and `gather`.

use http_body_util::{BodyExt, Empty};
use hyper_util::rt::TokioIo;
use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
};
use tokio::io::{AsyncRead, AsyncWrite};

/// Largest answer that is taken.
const MAX_BODY_BYTES: usize = 64 << 20;

/// Why a view could not be had.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// No process serves the socket.
    #[error("cannot reach a running cri-resmgr at {path}")]
    Connect {
        /// The socket, or the address.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The daemon was reached and the exchange failed.
    #[error("cri-resmgr at {path} did not answer")]
    Exchange {
        /// The socket, or the address.
        path: PathBuf,
        /// Why.
        #[source]
        source: hyper::Error,
    },
    /// The daemon refused.
    #[error("{0}")]
    Refused(String),
    /// The answer is larger than any that is made sense of.
    #[error("the answer to {0} is larger than 64 MiB")]
    TooLarge(String),
    /// The answer is not what this version understands.
    #[error("cri-resmgr at {path} answered something else: is it another version?")]
    Format {
        /// The socket.
        path: PathBuf,
        /// Where it differs.
        #[source]
        source: serde_json::Error,
    },
}

/// Fetches `/state`, `/top`, `/explain/…` or `/api/v1/…` from a running daemon.
///
/// # Errors
/// [`ClientError`], by stage.
pub async fn fetch<T: serde::de::DeserializeOwned>(
    socket: &Path,
    view: &str,
) -> Result<T, ClientError> {
    let stream = tokio::net::UnixStream::connect(socket).await;
    let stream = stream.map_err(|source| ClientError::Connect {
        path: socket.to_owned(),
        source,
    })?;
    let body = exchange(stream, socket, view).await?;
    serde_json::from_slice(&body).map_err(|source| ClientError::Format {
        path: socket.to_owned(),
        source,
    })
}

/// Fetches the page of metrics from where a daemon serves it (`--metrics-address`).
///
/// # Errors
/// [`ClientError`], by stage.
pub async fn fetch_metrics(address: SocketAddr) -> Result<String, ClientError> {
    let at = PathBuf::from(address.to_string());
    let stream = tokio::net::TcpStream::connect(address).await;
    let stream = stream.map_err(|source| ClientError::Connect {
        path: at.clone(),
        source,
    })?;
    let body = exchange(stream, &at, "/metrics").await?;
    Ok(String::from_utf8_lossy(&body).into_owned())
}

/// Asks the daemon at the other end of a stream, which leads to `at`, for the body of a page.
async fn exchange(
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    at: &Path,
    page: &str,
) -> Result<Vec<u8>, ClientError> {
    let failed = |source| ClientError::Exchange {
        path: at.to_owned(),
        source,
    };
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(failed)?;
    let request = http::Request::get(page)
        .header(http::header::HOST, "localhost")
        .body(Empty::<bytes::Bytes>::new())
        .map_err(|error| ClientError::Refused(format!("{page} is not a name: {error}")))?;
    // Dropping the connection when the reply is complete is what ends it; its own result says no more.
    let driver = tokio::spawn(connection);
    let mut response = sender.send_request(request).await.map_err(failed)?;
    let mut body = Vec::new();
    while let Some(frame) = response.frame().await {
        let data = frame.map_err(failed)?.into_data().unwrap_or_default();
        if body.len() + data.len() > MAX_BODY_BYTES {
            return Err(ClientError::TooLarge(page.to_owned()));
        }
        body.extend_from_slice(&data);
    }
    driver.abort();
    if response.status().is_success() {
        Ok(body)
    } else {
        let refusal = String::from_utf8_lossy(&body);
        Err(ClientError::Refused(refusal.into_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inspect::{
        history::{HistoryView, PastView},
        server::{AllowedHosts, Views, serve_views},
        top::TopView,
        view::{ConfigView, ExplainView, StateView, TopologyView},
    };
    use prometheus_client::metrics::counter::Counter;
    use resmgr_topology::{CpuSet, Topology};
    use std::sync::Arc;
    use tokio_util::sync::CancellationToken;

    #[derive(Debug)]
    struct Fixed;

    impl Views for Fixed {
        fn state(&self) -> StateView {
            StateView {
                policy: "static".into(),
                ..StateView::default()
            }
        }
        fn explain(&self, container: &str) -> Result<ExplainView, String> {
            Err(format!("no container {container}"))
        }
        fn top(&self) -> Option<TopView> {
            None
        }
        fn history(&self) -> HistoryView {
            HistoryView::default()
        }
        fn past(&self, _at_unix_s: u64) -> Option<PastView> {
            None
        }
        fn config(&self) -> ConfigView {
            ConfigView::default()
        }
        fn topology(&self) -> TopologyView {
            let single = Topology::synthetic("pack:1 numa:1 l3:1 core:1 pu:1").unwrap();
            TopologyView::new(Arc::new(single), CpuSet::EMPTY)
        }
    }

    #[tokio::test]
    async fn views_are_fetched_over_the_socket_and_refusals_keep_their_words() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("views.sock");
        let stop = CancellationToken::new();
        let listener = tokio::net::UnixListener::bind(&socket).unwrap();
        let server = tokio::spawn(serve_views(
            listener,
            Arc::new(Fixed),
            AllowedHosts::default(),
            Counter::default(),
            stop.clone(),
        ));
        let state: StateView = fetch(&socket, "/state").await.unwrap();
        assert_eq!(state.policy, "static");
        let same: StateView = fetch(&socket, "/api/v1/state").await.unwrap();
        assert_eq!(same, state);
        let refused = fetch::<ExplainView>(&socket, "/explain/a/b/c")
            .await
            .unwrap_err();
        assert_eq!(refused.to_string(), "no container a/b/c");
        stop.cancel();
        server.await.unwrap();
        let missing = fetch::<StateView>(&dir.path().join("none"), "/state")
            .await
            .unwrap_err();
        assert!(matches!(missing, ClientError::Connect { .. }));
    }
}
