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
use resmgr_io::metrics::answer;
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

async fn metrics(State(state): State<ServerState>, headers: HeaderMap) -> Response {
    match state.metrics.page() {
        Ok(page) => answer(&headers, page),
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

#[cfg(test)]
mod tests {
    use super::*;
    use axum::{body::Body, http::Request};
    use tower::ServiceExt as _;

    #[tokio::test]
    async fn a_scraper_gets_the_text_format_that_it_takes() {
        let state = ServerState {
            exempt: Arc::default(),
            metrics: WebhookMetrics::new(),
        };
        for (accept, media_type, ends) in [
            ("*/*", "text/plain; version=0.0.4; charset=utf-8", false),
            (
                "application/openmetrics-text; version=1.0.0",
                "application/openmetrics-text; version=1.0.0; charset=utf-8",
                true,
            ),
        ] {
            let request = Request::get("/metrics").header("accept", accept);
            let request = request.body(Body::empty()).unwrap();
            let response = router(state.clone()).oneshot(request).await.unwrap();
            assert_eq!(response.headers()[CONTENT_TYPE], media_type);
            let page = axum::body::to_bytes(response.into_body(), 1 << 20).await;
            let page = page.unwrap();
            assert_eq!(page.ends_with(b"# EOF\n"), ends, "{accept}");
        }
    }
}
