//! The HTTP side: reviews on every path by POST, `/healthz`, `/metrics`. Nothing of a pod is logged.

use std::{collections::BTreeSet, sync::Arc};

use axum::{
    Json, Router,
    body::Bytes,
    extract::{DefaultBodyLimit, State},
    http::{HeaderMap, StatusCode, header::CONTENT_TYPE},
    response::{IntoResponse as _, Response},
    routing::{get, post},
};
use serde_json::Value;
use tracing::{debug, warn};

use crate::{
    admit::{ReviewOutcome, admit},
    metrics::WebhookMetrics,
};

/// State that all handlers share.
#[derive(Clone, Debug)]
pub(crate) struct ServerState {
    /// Namespaces left alone.
    pub(crate) exempt: Arc<BTreeSet<String>>,
    /// What is counted.
    pub(crate) metrics: WebhookMetrics,
}

/// All paths.
pub(crate) fn router(state: ServerState) -> Router {
    Router::new()
        .route("/healthz", get(async || "ok\n"))
        .route("/metrics", get(metrics))
        .fallback(post(review))
        // The server has limited it before (`run`).
        .layer(DefaultBodyLimit::disable())
        .with_state(state)
}

async fn metrics(State(state): State<ServerState>) -> Response {
    match state.metrics.page() {
        Ok(page) => page.into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

async fn review(State(state): State<ServerState>, headers: HeaderMap, body: Bytes) -> Response {
    let kind = headers
        .get(CONTENT_TYPE)
        .and_then(|kind| kind.to_str().ok());
    let media = kind.and_then(|kind| kind.split(';').next()).map(str::trim);
    if media != Some("application/json") {
        let text = "the Content-Type of a review is application/json\n";
        return (StatusCode::UNSUPPORTED_MEDIA_TYPE, text).into_response();
    }
    // The parser's message tells the place, never the content.
    let answer = serde_json::from_slice::<Value>(&body)
        .map_err(|error| {
            format!(
                "not JSON (line {}, column {})",
                error.line(),
                error.column()
            )
        })
        .and_then(|review| admit(&review, &state.exempt));
    match answer {
        Ok(answer) => {
            state.metrics.reviewed(answer.outcome);
            debug!(outcome = ?answer.outcome, uid = %answer.review["response"]["uid"], "reviewed");
            Json(answer.review).into_response()
        }
        Err(reason) => {
            state.metrics.reviewed(ReviewOutcome::Refused);
            warn!(reason, "not a review");
            (StatusCode::BAD_REQUEST, format!("{reason}\n")).into_response()
        }
    }
}
