//! The status page at `/`. docs/status.md describes it.
//!
//! It is three files without a build step. It asks only the server that it came from, and its policy
//! (Content-Security-Policy) forbids the browser all else.

use axum::{
    Router,
    http::{HeaderName, HeaderValue, header},
    response::Response,
    routing::get,
};

/// Sent with the page and with what it reads.
const HEADERS: [(HeaderName, &str); 5] = [
    (
        header::CONTENT_SECURITY_POLICY,
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; base-uri 'none'; \
         form-action 'none'; frame-ancestors 'none'",
    ),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::REFERRER_POLICY, "no-referrer"),
    (
        HeaderName::from_static("cross-origin-resource-policy"),
        "same-origin",
    ),
    // A page of an earlier version must not read answers of a later one.
    (header::CACHE_CONTROL, "no-store"),
];

/// `/`, and its `/page.css` and `/page.js`.
pub(super) fn files() -> Router {
    let file = |content_type, text: &'static str| {
        get(async move || ([(header::CONTENT_TYPE, content_type)], text))
    };
    Router::new()
        .route(
            "/",
            file("text/html; charset=utf-8", include_str!("page/page.html")),
        )
        .route(
            "/page.css",
            file("text/css; charset=utf-8", include_str!("page/page.css")),
        )
        .route(
            "/page.js",
            file(
                "text/javascript; charset=utf-8",
                include_str!("page/page.js"),
            ),
        )
}

/// Adds the headers that keep the page and its answers to themselves.
pub(super) async fn guard(mut response: Response) -> Response {
    for (name, value) in HEADERS {
        response
            .headers_mut()
            .insert(name, HeaderValue::from_static(value));
    }
    response
}
