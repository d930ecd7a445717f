//! The views of this node's cri-resmgr (state, explain, top, topology) over HTTPS, for `kubectl resmgr`.
//!
//! Each request has a token that is made for this agent alone ([`resmgr_proto::views_audience`]); the API server says
//! what user it is of and whether the user may read ([`AccessReviews`]). What cri-resmgr answers is passed on as it is.
//! Nothing here changes anything.
//!
//! The certificate is made at each start and vouches for nothing: the API server's proxy checks no certificate of a pod.
//! It is there so that a token cannot be read on the way. A process that stands in the way all the same gets a token that is
//! good for minutes, and only to read what passes it anyway.

mod review;

use std::{path::PathBuf, sync::Arc, time::Duration};

use anyhow::Context as _;
use axum::{
    Json, Router,
    body::{Body, Bytes},
    extract::{OriginalUri, State},
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use futures::FutureExt as _;
use http_body_util::{Empty, Limited};
use hyper::body::Body as _;
use hyper_util::rt::TokioIo;
use resmgr_io::http::{HttpLimits, HttpServer};
use rustls::{ServerConfig, crypto::ring, pki_types::PrivateKeyDer};
use serde_json::json;
use tokio::{
    net::{TcpListener, TcpStream, UnixStream},
    time::timeout,
};
use tokio_io_timeout::TimeoutReader;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tracing::debug;

use crate::metrics::{AgentMetrics, ViewOutcome};

pub(crate) use review::AccessReviews;
use review::ViewRefusal;

/// Longest time from a whole request to the head of its answer, and longest silence of cri-resmgr within it.
const ANSWER: Duration = Duration::from_secs(10);
/// Octets of the largest view that is passed on: ten times what 500 containers on 256 CPUs need.
const MAX_VIEW_BYTES: usize = 32 << 20;

/// Why there is no view.
#[derive(Debug, thiserror::Error)]
enum ViewError {
    /// The request may not be answered.
    #[error(transparent)]
    Refused(#[from] ViewRefusal),
    /// cri-resmgr is away.
    #[error("cri-resmgr does not answer at {}: {reason}", socket.display())]
    Relay { socket: PathBuf, reason: String },
    /// The view is larger than any that is passed on.
    #[error("the view is larger than {} MiB", MAX_VIEW_BYTES >> 20)]
    TooLarge,
    /// It took too long.
    #[error("there was no answer within {} s", ANSWER.as_secs())]
    Late,
}

impl ViewError {
    /// The HTTP status, and the reason as the API server words it.
    fn status(&self) -> (StatusCode, &'static str) {
        match self {
            Self::Refused(ViewRefusal::NoToken | ViewRefusal::Token { .. }) => {
                (StatusCode::UNAUTHORIZED, "Unauthorized")
            }
            Self::Refused(ViewRefusal::Right { .. }) => (StatusCode::FORBIDDEN, "Forbidden"),
            Self::Refused(ViewRefusal::Review { .. }) | Self::Relay { .. } => {
                (StatusCode::SERVICE_UNAVAILABLE, "ServiceUnavailable")
            }
            Self::TooLarge => (StatusCode::INTERNAL_SERVER_ERROR, "InternalError"),
            Self::Late => (StatusCode::GATEWAY_TIMEOUT, "Timeout"),
        }
    }
}

impl IntoResponse for ViewError {
    /// A `Status` object, which clients of the API server understand.
    fn into_response(self) -> Response {
        let (code, reason) = self.status();
        let status = json!({
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": self.to_string(),
            "reason": reason,
            "code": code.as_u16(),
        });
        (code, Json(status)).into_response()
    }
}

/// Answers requests for views.
#[derive(Clone)]
pub(crate) struct ViewServer {
    socket: PathBuf,
    reviews: Arc<AccessReviews>,
    metrics: AgentMetrics,
}

impl ViewServer {
    /// Passes on what the daemon serves on `socket`, to requests that pass the reviews.
    pub(crate) fn new(socket: PathBuf, reviews: AccessReviews, metrics: AgentMetrics) -> Self {
        Self {
            socket,
            reviews: Arc::new(reviews),
            metrics,
        }
    }

    async fn answer(&self, view: &str, headers: &HeaderMap) -> Result<Response, ViewError> {
        self.reviews.check(headers).await?;
        self.fetch(view).await
    }

    /// cri-resmgr's answer, with its status. Its body is passed on as fast as the client takes it: none is held here.
    async fn fetch(&self, view: &str) -> Result<Response, ViewError> {
        let failed = |error: &dyn std::error::Error| ViewError::Relay {
            socket: self.socket.clone(),
            reason: error.to_string(),
        };
        let stream = UnixStream::connect(&self.socket).await;
        let mut stream = TimeoutReader::new(stream.map_err(|error| failed(&error))?);
        stream.set_timeout(Some(ANSWER));
        let stream = TokioIo::new(Box::pin(stream));
        let (mut sender, connection) = hyper::client::conn::http1::handshake(stream)
            .await
            .map_err(|error| failed(&error))?;
        // Ends when the body has been read or dropped, which also says how it ended.
        drop(tokio::spawn(connection));
        let request = hyper::Request::get(view)
            .header(header::HOST, "localhost")
            .body(Empty::<Bytes>::new())
            .map_err(|error| failed(&error))?;
        let answer = sender.send_request(request).await;
        let (head, body) = answer.map_err(|error| failed(&error))?.into_parts();
        if body.size_hint().lower() > MAX_VIEW_BYTES as u64 {
            return Err(ViewError::TooLarge);
        }
        let body = Body::new(Limited::new(body, MAX_VIEW_BYTES));
        let mut response = (head.status, body).into_response();
        if let Some(kind) = head.headers.get(header::CONTENT_TYPE) {
            let headers = response.headers_mut();
            headers.insert(header::CONTENT_TYPE, kind.clone());
        }
        Ok(response)
    }
}

/// Serves for ever.
///
/// # Errors
/// When no certificate can be made.
pub(crate) fn run(
    listener: TcpListener,
    server: ViewServer,
) -> anyhow::Result<impl Future<Output = ()>> {
    let acceptor = TlsAcceptor::from(Arc::new(tls()?));
    let handshake = move |stream: TcpStream| {
        acceptor.accept(stream).map(|shaken| match shaken {
            Ok(stream) => Some(stream),
            Err(error) => {
                debug!(%error, "no TLS");
                None
            }
        })
    };
    let http = HttpServer::new(
        router(server.clone()),
        HttpLimits::default(),
        server.metrics.cut_connections(),
    );
    Ok(http.serve_after(listener, handshake, CancellationToken::new()))
}

/// The views that are passed on; the daemon has more, such as its configuration.
fn router(server: ViewServer) -> Router {
    let views = Router::new()
        .route("/state", get(view))
        .route("/top", get(view))
        .route("/topology", get(view))
        .route("/explain/{*container}", get(view));
    Router::new().nest("/api/v1", views).with_state(server)
}

async fn view(
    State(server): State<ViewServer>,
    OriginalUri(uri): OriginalUri,
    headers: HeaderMap,
) -> Response {
    let answered = timeout(ANSWER, server.answer(uri.path(), &headers)).await;
    let answered = answered.unwrap_or(Err(ViewError::Late));
    let outcome = match &answered {
        Ok(_) => ViewOutcome::Answered,
        Err(ViewError::Refused(ViewRefusal::Review { .. })) => ViewOutcome::Failed,
        Err(ViewError::Refused(_)) => ViewOutcome::Refused,
        Err(_) => ViewOutcome::Failed,
    };
    server.metrics.viewed(outcome);
    answered.unwrap_or_else(|error| {
        debug!(path = uri.path(), %error, "no view");
        error.into_response()
    })
}

/// TLS with a certificate that is made here.
fn tls() -> anyhow::Result<ServerConfig> {
    let made = rcgen::generate_simple_self_signed(vec!["cri-resmgr-agent".to_owned()])
        .context("cannot make a certificate")?;
    let key = PrivateKeyDer::Pkcs8(made.signing_key.serialize_der().into());
    ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .and_then(|config| {
            config
                .with_no_client_auth()
                .with_single_cert(vec![made.cert.der().clone()], key)
        })
        .context("cannot use the certificate that was made")
}
