//! Serves the metrics page, the health check and the status page over TCP.

use super::registry::{CONTENT_TYPE, Metrics};
use axum::{
    Router,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use prometheus_client::metrics::counter::Counter;
use resmgr_io::http::{HttpLimits, HttpServer};
use tokio_util::sync::CancellationToken;

/// Serves `/metrics`, `/healthz` and the status page until `stop`, and counts in `cut` the connections that a limit
/// ended.
pub async fn serve_metrics(
    listener: tokio::net::TcpListener,
    metrics: Metrics,
    status_page: Router,
    cut: Counter,
    stop: CancellationToken,
) {
    let router = Router::new()
        .route("/metrics", get(page))
        .route("/healthz", get(async || "ok\n"))
        .with_state(metrics)
        .merge(status_page);
    let server = HttpServer::new(router, HttpLimits::default(), cut);
    server.serve(listener, stop).await;
}

async fn page(State(metrics): State<Metrics>) -> Response {
    match metrics.page() {
        Ok(page) => ([(header::CONTENT_TYPE, CONTENT_TYPE)], page).into_response(),
        Err(error) => {
            tracing::error!(target: "metrics", "cannot render the metrics page: {error}");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}
