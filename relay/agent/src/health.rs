//! `/healthz` (the process answers), `/readyz` (the configuration is in force) and `/metrics` over HTTP.

use axum::{
    Router,
    extract::State,
    http::{HeaderMap, StatusCode},
    response::{IntoResponse as _, Response},
    routing::get,
};
use resmgr_io::{
    http::{HttpLimits, HttpServer},
    metrics::answer,
};
use tokio::{net::TcpListener, sync::watch::Receiver};
use tokio_util::sync::CancellationToken;

use crate::{metrics::AgentMetrics, push::PushOutcome};

type HealthState = (Receiver<PushOutcome>, AgentMetrics);

/// Serves for ever.
pub(crate) async fn run(
    listener: TcpListener,
    outcome: Receiver<PushOutcome>,
    metrics: AgentMetrics,
) {
    let cut = metrics.cut_connections();
    let router = Router::new()
        .route("/healthz", get(async || "ok\n"))
        .route("/readyz", get(ready))
        .route("/metrics", get(page))
        .with_state((outcome, metrics));
    let server = HttpServer::new(router, HttpLimits::default(), cut);
    server.serve(listener, CancellationToken::new()).await;
}

async fn ready(State((outcome, _)): State<HealthState>) -> (StatusCode, String) {
    match outcome.borrow().problem() {
        None => (StatusCode::OK, "ok\n".to_owned()),
        Some(problem) => (StatusCode::SERVICE_UNAVAILABLE, format!("{problem}\n")),
    }
}

async fn page(State((outcome, metrics)): State<HealthState>, headers: HeaderMap) -> Response {
    let is_in_force = outcome.borrow().problem().is_none();
    match metrics.page(is_in_force) {
        Ok(page) => answer(&headers, page),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}
