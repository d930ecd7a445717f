//! Which requests of a browser the status page answers.
//!
//! A page of any origin can have its own name resolve to the address of the status page (DNS rebinding): the browser
//! then takes both for one origin, and lets that page read the other. The name in the request gives it away: it is
//! neither an address nor a name of this node.

use axum::{
    extract::{Request, State},
    http::{StatusCode, header, uri::Authority},
    middleware::Next,
    response::{IntoResponse as _, Response},
};
use std::{
    collections::BTreeSet,
    net::{Ipv4Addr, Ipv6Addr},
    sync::Arc,
};

/// Names under which the page is served; addresses and `localhost` always are.
#[derive(Clone, Debug, Default)]
pub struct AllowedHosts(Arc<BTreeSet<String>>);

impl FromIterator<String> for AllowedHosts {
    /// Names of hosts; `*` stands for every name.
    fn from_iter<T: IntoIterator<Item = String>>(names: T) -> Self {
        let names = names.into_iter().map(|name| name.to_ascii_lowercase());
        Self(Arc::new(names.collect()))
    }
}

impl AllowedHosts {
    /// Whether the page is served under the name or address `host`, which has no port.
    fn allow(&self, host: &str) -> bool {
        let host = host.to_ascii_lowercase();
        let host = host.strip_suffix('.').unwrap_or(&host);
        let inner = host
            .strip_prefix('[')
            .and_then(|host| host.strip_suffix(']'));
        host == "localhost"
            || host.parse::<Ipv4Addr>().is_ok()
            || inner.is_some_and(|address| address.parse::<Ipv6Addr>().is_ok())
            || self.0.contains(host)
            || self.0.contains("*")
    }
}

/// Refuses a request under a name that is not allowed, and one that a page of another site makes for more than the page.
pub(super) async fn check_origin(
    State(allowed): State<AllowedHosts>,
    request: Request,
    next: Next,
) -> Response {
    // The target of a request beats its field Host (RFC 9112, 3.2.2); HTTP/2 has the target alone.
    let host = match request.uri().authority() {
        Some(authority) => Some(authority.clone()),
        None => request
            .headers()
            .get(header::HOST)
            .and_then(|host| Authority::try_from(host.as_bytes()).ok()),
    };
    let host = host.as_ref().map_or("", Authority::host);
    if !allowed.allow(host) {
        let text = format!(
            "{host:?} is neither an address nor a name of this node: the status page is served under that name when \
             cri-resmgr is started with --metrics-allowed-hosts\n"
        );
        return (StatusCode::MISDIRECTED_REQUEST, text).into_response();
    }
    // Fetch Metadata, a field that every browser sends and no page can set. A link to the page itself may be anywhere.
    let site = request.headers().get("sec-fetch-site");
    if site.is_some_and(|site| site == "cross-site") && request.uri().path() != "/" {
        let text = "a page of another site may not read the status page\n";
        return (StatusCode::FORBIDDEN, text).into_response();
    }
    next.run(request).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::{Router, body::Body, middleware::from_fn_with_state, routing::get};
    use tower::ServiceExt as _;

    async fn status(names: &[&str], request: axum::http::request::Builder) -> u16 {
        let names: AllowedHosts = names.iter().map(ToString::to_string).collect();
        let router = Router::new()
            .route("/", get(async || "page"))
            .route("/api/v1/state", get(async || "state"))
            .layer(from_fn_with_state(names, check_origin));
        let request = request.body(Body::empty()).unwrap();
        router.oneshot(request).await.unwrap().status().as_u16()
    }

    #[tokio::test]
    async fn only_addresses_and_names_of_the_node_are_served() {
        for (host, answer) in [
            ("127.0.0.1:8891", 200),
            ("192.0.2.7", 200),
            ("[::1]:8891", 200),
            ("localhost:8891", 200),
            ("LOCALHOST.", 200),
            ("Node-7.example.com:8891", 200),
            ("node-7.example.com.evil.example", 421),
            ("evil.example:8891", 421),
            ("127.0.0.1.evil.example", 421),
            ("localhost.evil.example", 421),
            ("user@evil.example", 421),
            ("*", 421),
            ("a b", 421),
            ("", 421),
        ] {
            let names = ["node-7.example.com"];
            let request = Request::get("/").header(header::HOST, host);
            assert_eq!(status(&names, request).await, answer, "{host}");
        }
        assert_eq!(status(&[], Request::get("/")).await, 421, "no host");
        let any = Request::get("/").header(header::HOST, "evil.example");
        assert_eq!(status(&["*"], any).await, 200);
        let http2 = Request::get("http://evil.example/").header(header::HOST, "localhost");
        assert_eq!(status(&[], http2).await, 421, "the target counts");
    }

    #[tokio::test]
    async fn a_page_of_another_site_may_link_to_the_page_and_no_further() {
        for (site, path, answer) in [
            ("cross-site", "/", 200),
            ("cross-site", "/api/v1/state", 403),
            ("same-origin", "/api/v1/state", 200),
            ("none", "/api/v1/state", 200),
        ] {
            let request = Request::get(path).header(header::HOST, "localhost");
            let request = request.header("sec-fetch-site", site);
            assert_eq!(status(&[], request).await, answer, "{site} {path}");
        }
    }
}
