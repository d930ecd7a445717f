//! The client side of the views, for `cri-resmgr state`, `explain` and `top`.

use http_body_util::{BodyExt, Empty};
use hyper_util::rt::TokioIo;
use std::path::{Path, PathBuf};

/// Why a view could not be had.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// No process serves the socket.
    #[error("cannot reach a running cri-resmgr at {path}")]
    Connect {
        /// The socket.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The daemon was reached and the exchange failed.
    #[error("cri-resmgr at {path} did not answer")]
    Exchange {
        /// The socket.
        path: PathBuf,
        /// Why.
        #[source]
        source: hyper::Error,
    },
    /// The daemon refused.
    #[error("{0}")]
    Refused(String),
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

/// Fetches `/state`, `/top` or `/explain/…` from a running daemon.
///
/// # Errors
/// [`ClientError`], by stage.
pub async fn fetch<T: serde::de::DeserializeOwned>(
    socket: &Path,
    view: &str,
) -> Result<T, ClientError> {
    let path = || socket.to_owned();
    let stream = tokio::net::UnixStream::connect(socket)
        .await
        .map_err(|source| ClientError::Connect {
            path: path(),
            source,
        })?;
    let exchange = |source| ClientError::Exchange {
        path: path(),
        source,
    };
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(exchange)?;
    let request = http::Request::get(view)
        .header(http::header::HOST, "localhost")
        .body(Empty::<bytes::Bytes>::new())
        .map_err(|error| ClientError::Refused(format!("{view} is not a name: {error}")))?;
    // Dropping the connection when the reply is complete is what ends it; its own result says no more.
    let driver = tokio::spawn(connection);
    let response = sender.send_request(request).await.map_err(exchange)?;
    let ok = response.status().is_success();
    let body = response
        .into_body()
        .collect()
        .await
        .map_err(exchange)?
        .to_bytes();
    driver.abort();
    if !ok {
        return Err(ClientError::Refused(
            String::from_utf8_lossy(&body).into_owned(),
        ));
    }
    serde_json::from_slice(&body).map_err(|source| ClientError::Format {
        path: path(),
        source,
    })
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
