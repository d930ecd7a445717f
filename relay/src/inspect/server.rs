//! Serves the views as JSON on the daemon's own socket, and the status page there and beside the metrics.

use super::page;
use axum::{
    Json, Router,
    extract::{Path, State},
    http::StatusCode,
    middleware::{from_fn_with_state, map_response},
    response::{IntoResponse, Response},
    routing::get,
};
use prometheus_client::metrics::counter::Counter;
use resmgr_io::http::{HttpLimits, HttpServer};
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

mod events;
mod hosts;
mod views;

pub use hosts::AllowedHosts;
pub use views::Views;

use events::Events;

/// Serves `/state`, `/top` and `/explain/CONTAINER` as JSON, and the status page, until `stop`, and counts in `cut`
/// the connections that a limit ended.
pub async fn serve_views(
    listener: tokio::net::UnixListener,
    views: Arc<dyn Views>,
    hosts: AllowedHosts,
    cut: Counter,
    stop: CancellationToken,
) {
    let router = json(Arc::clone(&views)).merge(page(views));
    let router = guarded(router, hosts);
    let server = HttpServer::new(router, HttpLimits::default(), cut);
    server.serve(listener, stop).await;
}

/// The status page at `/`, and what it and programs read: `/api/v1/{state,top,config,topology,events,history,explain/CONTAINER}`.
/// docs/status.md describes them. They are served under addresses and the names of `hosts`.
pub fn router(views: Arc<dyn Views>, hosts: AllowedHosts) -> Router {
    guarded(page(views), hosts)
}

fn page(views: Arc<dyn Views>) -> Router {
    let more = Router::new()
        .route(
            "/config",
            get(async |State(views): State<Arc<dyn Views>>| Json(views.config())),
        )
        .route(
            "/topology",
            get(async |State(views): State<Arc<dyn Views>>| Json(views.topology())),
        )
        .with_state(Arc::clone(&views));
    let history = Router::new()
        .route(
            "/history",
            get(async |State(views): State<Arc<dyn Views>>| Json(views.history())),
        )
        .route("/history/{at_unix_s}", get(past))
        .with_state(Arc::clone(&views));
    let events = Router::new()
        .route("/events", get(events::listen))
        .with_state(Events::new(Arc::clone(&views)));
    page::files().nest(
        "/api/v1",
        json(views).merge(more).merge(history).merge(events),
    )
}

/// Keeps what is served from pages of other origins.
fn guarded(router: Router, hosts: AllowedHosts) -> Router {
    router
        .layer(from_fn_with_state(hosts, hosts::check_origin))
        .layer(map_response(page::guard))
}

/// `/state`, `/top` and `/explain/CONTAINER` as JSON.
fn json(views: Arc<dyn Views>) -> Router {
    Router::new()
        .route(
            "/state",
            get(async |State(views): State<Arc<dyn Views>>| Json(views.state())),
        )
        .route(
            "/top",
            get(async |State(views): State<Arc<dyn Views>>| Json(views.top())),
        )
        .route("/explain/{*container}", get(explain))
        .with_state(views)
}

async fn past(State(views): State<Arc<dyn Views>>, Path(at_unix_s): Path<u64>) -> Response {
    match views.past(at_unix_s) {
        Some(past) => Json(past).into_response(),
        None => (StatusCode::NOT_FOUND, "there is no sample of this moment\n").into_response(),
    }
}

async fn explain(State(views): State<Arc<dyn Views>>, Path(container): Path<String>) -> Response {
    match views.explain(&container) {
        Ok(view) => Json(view).into_response(),
        Err(problem) => (StatusCode::NOT_FOUND, problem).into_response(),
    }
}

#[cfg(test)]
mod tests;
