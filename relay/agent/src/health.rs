//! `/healthz` (the process answers) and `/readyz` (the configuration is in force) over HTTP.

use axum::{Router, extract::State, http::StatusCode, routing::get};
use prometheus_client::metrics::counter::Counter;
use resmgr_io::http::{HttpLimits, HttpServer};
use tokio::{net::TcpListener, sync::watch::Receiver};
use tokio_util::sync::CancellationToken;

use crate::push::PushOutcome;

/// Serves for ever.
pub(crate) async fn run(listener: TcpListener, outcome: Receiver<PushOutcome>) {
    let router = Router::new()
        .route("/healthz", get(async || "ok\n"))
        .route("/readyz", get(ready))
        .with_state(outcome);
    let server = HttpServer::new(router, HttpLimits::default(), Counter::default());
    server.serve(listener, CancellationToken::new()).await;
}

async fn ready(State(outcome): State<Receiver<PushOutcome>>) -> (StatusCode, String) {
    match outcome.borrow().problem() {
        None => (StatusCode::OK, "ok\n".to_owned()),
        Some(problem) => (StatusCode::SERVICE_UNAVAILABLE, format!("{problem}\n")),
    }
}
