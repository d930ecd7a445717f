//! Serves the metrics page, the health check and the status page over TCP.

use super::registry::Metrics;
use axum::{
    Router,
    extract::State,
    http::{HeaderMap, StatusCode},
    response::{IntoResponse, Response},
    routing::get,
};
use prometheus_client::metrics::counter::Counter;
use resmgr_io::{
    http::{HttpLimits, HttpServer},
    metrics::answer,
};
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
    let router = router(metrics, status_page);
    let server = HttpServer::new(router, HttpLimits::default(), cut);
    server.serve(listener, stop).await;
}

fn router(metrics: Metrics, status_page: Router) -> Router {
    Router::new()
        .route("/metrics", get(page))
        .route("/healthz", get(async || "ok\n"))
        .with_state(metrics)
        .merge(status_page)
}

async fn page(State(metrics): State<Metrics>, headers: HeaderMap) -> Response {
    match metrics.page() {
        Ok(page) => answer(&headers, page),
        Err(error) => {
            tracing::error!(target: "metrics", "cannot render the metrics page: {error}");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::{
        body::Body,
        http::{Request, header},
    };
    use tower::ServiceExt as _;

    #[tokio::test]
    async fn metrics_and_the_status_page_have_one_address() {
        let status_page = Router::new().route("/", get(async || "page"));
        let router = router(Metrics::default(), status_page);
        let open_metrics = "application/openmetrics-text; version=1.0.0";
        for (path, accept, status, content_type) in [
            (
                "/metrics",
                "*/*",
                200,
                "text/plain; version=0.0.4; charset=utf-8",
            ),
            (
                "/metrics",
                open_metrics,
                200,
                "application/openmetrics-text; version=1.0.0; charset=utf-8",
            ),
            ("/healthz", "*/*", 200, "text/plain; charset=utf-8"),
            ("/", "*/*", 200, "text/plain; charset=utf-8"),
        ] {
            let request = Request::get(path).header(header::ACCEPT, accept);
            let request = request.body(Body::empty()).unwrap();
            let answer = router.clone().oneshot(request).await.unwrap();
            assert_eq!(answer.status(), status, "{path}");
            assert_eq!(answer.headers()[header::CONTENT_TYPE], content_type);
        }
        let request = Request::get("/none").body(Body::empty()).unwrap();
        let answer = router.oneshot(request).await.unwrap();
        assert_eq!(answer.status(), StatusCode::NOT_FOUND);
    }
}
