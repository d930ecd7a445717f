use super::*;
use crate::inspect::{
    history::{HistoryView, PastContainerView, PastView},
    top::{TopContainer, TopView},
    view::{
        AppliedConfigView, ConfigView, ContainerView, DecisionView, ExplainView, MeasuredView,
        OptionView, PoolView, PushedView, RefusedConfigView, RefusedView, StateView, TopologyView,
    },
};
use axum::{
    body::{Body, Bytes},
    http::{HeaderMap, Request, header},
};
use http_body_util::BodyExt as _;
use resmgr_topology::Topology;
use serde_json::Value;
use std::collections::BTreeSet;
use tower::ServiceExt as _;

const PAGE: &str = include_str!("../page/page.html");
const STYLE: &str = include_str!("../page/page.css");
const SCRIPT: &str = include_str!("../page/page.js");

/// A machine of two packages, and a container with exclusive CPUs.
#[derive(Debug)]
struct Pinned;

fn container() -> ContainerView {
    ContainerView {
        id: "0123456789abcdef".into(),
        namespace: "default".into(),
        pod: "db-0".into(),
        container: "db".into(),
        exclusive: "2-3".into(),
        cpus: "2-3".into(),
        unplaced: Some("it is opted out".into()),
        ..ContainerView::default()
    }
}

fn pushed() -> PushedView {
    PushedView {
        generation: 1,
        applied: Some(AppliedConfigView::default()),
        refused: Some(RefusedConfigView::default()),
    }
}

impl Views for Pinned {
    fn state(&self) -> StateView {
        StateView {
            policy: "static".into(),
            synced: true,
            online: "0-7".into(),
            withheld: String::new(),
            pools: vec![PoolView::default()],
            containers: vec![container()],
            pushed: pushed(),
            ..StateView::default()
        }
    }

    fn explain(&self, wanted: &str) -> Result<ExplainView, String> {
        if wanted != "default/db-0/db" {
            return Err(format!("no container is called {wanted:?}"));
        }
        Ok(ExplainView {
            container: container(),
            decisions: vec![DecisionView::default()],
            measured: Some(MeasuredView::default()),
            refused: Some(RefusedView::default()),
            ..ExplainView::default()
        })
    }

    fn top(&self) -> Option<TopView> {
        Some(TopView {
            quality: "polled".into(),
            reason: Some("no BTF".into()),
            cost_ns: Some(1.0),
            containers: vec![TopContainer::default()],
            ..TopView::default()
        })
    }

    fn history(&self) -> HistoryView {
        HistoryView {
            interval_s: 10,
            samples: vec![1_767_225_600],
        }
    }

    fn past(&self, at_unix_s: u64) -> Option<PastView> {
        let past = PastView {
            at_unix_s,
            containers: vec![PastContainerView {
                container: Arc::new(container()),
                ..PastContainerView::default()
            }],
            ..PastView::default()
        };
        self.history().samples.contains(&at_unix_s).then_some(past)
    }

    fn config(&self) -> ConfigView {
        ConfigView {
            policy: "static".into(),
            options: vec![OptionView::default()],
            pushed: pushed(),
        }
    }

    fn topology(&self) -> TopologyView {
        let mut topology = Topology::synthetic("pack:2 numa:1 l3:1 core:2 pu:2").unwrap();
        topology.online = "0-6".parse().unwrap();
        topology.notes = vec!["a cache was mended".into()];
        TopologyView::new(Arc::new(topology), "0".parse().unwrap())
    }
}

/// Nothing is placed, and nothing is measured.
#[derive(Debug)]
struct Null;

impl Views for Null {
    fn state(&self) -> StateView {
        StateView {
            policy: "null".into(),
            ..StateView::default()
        }
    }

    fn explain(&self, _wanted: &str) -> Result<ExplainView, String> {
        Err("policy null places nothing, so there is nothing to explain".into())
    }

    fn top(&self) -> Option<TopView> {
        None
    }

    fn history(&self) -> HistoryView {
        HistoryView::default()
    }

    fn past(&self, _at_unix_s: u64) -> Option<PastView> {
        None
    }

    fn config(&self) -> ConfigView {
        ConfigView::default()
    }

    fn topology(&self) -> TopologyView {
        Pinned.topology()
    }
}

async fn ask(views: impl Views, method: &str, path: &str) -> (StatusCode, HeaderMap, Bytes) {
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header(header::HOST, "localhost");
    let request = request.body(Body::empty()).unwrap();
    let answer = router(Arc::new(views), AllowedHosts::default())
        .oneshot(request)
        .await
        .unwrap();
    let (head, body) = answer.into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    (head.status, head.headers, body)
}

async fn json_of(views: impl Views, path: &str) -> Value {
    let (status, _headers, body) = ask(views, "GET", path).await;
    assert_eq!(status, StatusCode::OK, "{path}");
    serde_json::from_slice(&body).unwrap()
}

fn members(value: &Value) -> BTreeSet<&str> {
    value
        .as_object()
        .unwrap()
        .keys()
        .map(String::as_str)
        .collect()
}

#[tokio::test]
async fn every_answer_has_its_type_and_the_headers_that_guard_it() {
    for (path, status, content_type) in [
        ("/", 200, "text/html; charset=utf-8"),
        ("/page.css", 200, "text/css; charset=utf-8"),
        ("/page.js", 200, "text/javascript; charset=utf-8"),
        ("/api/v1/state", 200, "application/json"),
        ("/api/v1/top", 200, "application/json"),
        ("/api/v1/config", 200, "application/json"),
        ("/api/v1/topology", 200, "application/json"),
        ("/api/v1/history", 200, "application/json"),
        ("/api/v1/history/1767225600", 200, "application/json"),
        (
            "/api/v1/history/1767225601",
            404,
            "text/plain; charset=utf-8",
        ),
        ("/api/v1/explain/default/db-0/db", 200, "application/json"),
        ("/api/v1/explain/db", 404, "text/plain; charset=utf-8"),
    ] {
        let (answered, headers, body) = ask(Pinned, "GET", path).await;
        assert_eq!(answered, status, "{path}");
        assert_eq!(headers[header::CONTENT_TYPE], content_type, "{path}");
        let policy = headers[header::CONTENT_SECURITY_POLICY].to_str().unwrap();
        assert!(policy.starts_with("default-src 'none'; "), "{policy}");
        assert!(!policy.contains("unsafe"), "{policy}");
        assert_eq!(headers[header::X_CONTENT_TYPE_OPTIONS], "nosniff");
        assert_eq!(headers[header::REFERRER_POLICY], "no-referrer");
        assert_eq!(headers[header::CACHE_CONTROL], "no-store");
        assert!(!body.is_empty());
    }
}

#[tokio::test]
async fn nothing_can_be_changed() {
    for method in ["POST", "PUT", "PATCH", "DELETE"] {
        for path in ["/", "/api/v1/state", "/api/v1/explain/default/db-0/db"] {
            let (status, _headers, _body) = ask(Pinned, method, path).await;
            assert_eq!(status, StatusCode::METHOD_NOT_ALLOWED, "{method} {path}");
        }
    }
}

#[tokio::test]
async fn under_policy_null_every_view_answers_what_it_can() {
    let state = json_of(Null, "/api/v1/state").await;
    assert_eq!(state["policy"], "null");
    assert_eq!(json_of(Null, "/api/v1/top").await, Value::Null);
    let topology = json_of(Null, "/api/v1/topology").await;
    assert_eq!(topology["cpus"].as_array().unwrap().len(), 8);
    let (status, _headers, body) = ask(Null, "GET", "/api/v1/explain/db").await;
    assert_eq!(status, StatusCode::NOT_FOUND);
    assert!(body.starts_with(b"policy null places nothing"));
}

/// The members are an interface of version 1: a program may rely on them. None is for a container's environment,
/// command line or annotations.
#[tokio::test]
async fn the_members_are_those_that_are_documented() {
    let document = include_str!("../../../../docs/status.md");
    let container = BTreeSet::from([
        "id",
        "namespace",
        "pod",
        "container",
        "qos",
        "request_mcpu",
        "request_source",
        "exclusive",
        "pool",
        "cpus",
        "mems",
        "unplaced",
    ]);
    let state = json_of(Pinned, "/api/v1/state").await;
    let explain = json_of(Pinned, "/api/v1/explain/default/db-0/db").await;
    let top = json_of(Pinned, "/api/v1/top").await;
    let config = json_of(Pinned, "/api/v1/config").await;
    let topology = json_of(Pinned, "/api/v1/topology").await;
    assert_eq!(config["pushed"], state["pushed"]);
    let history = json_of(Pinned, "/api/v1/history").await;
    let past = json_of(Pinned, "/api/v1/history/1767225600").await;
    assert_eq!(members(&state["containers"][0]), container);
    assert_eq!(members(&explain["container"]), container);
    assert_eq!(topology["offline"], "7");
    assert_eq!(topology["reserved"], "0");
    assert_eq!(topology["cpus"][7]["package"], 1);
    assert_eq!(topology["cpus"][0]["kind"], "performance");
    for value in [
        &state,
        &state["pools"][0],
        &state["containers"][0],
        &history,
        &past,
        &past["containers"][0],
        &config,
        &config["options"][0],
        &config["pushed"],
        &config["pushed"]["applied"],
        &config["pushed"]["refused"],
        &explain,
        &explain["decisions"][0],
        &explain["measured"],
        &explain["refused"],
        &top,
        &top["containers"][0],
        &topology,
        &topology["cpus"][0],
        &topology["nodes"][0],
        &topology["cores"][0],
    ] {
        for member in members(value) {
            assert!(document.contains(&format!("`{member}`")), "{member}");
            for secret in ["env", "arg", "command", "annotation"] {
                assert!(!member.contains(secret), "{member}");
            }
        }
    }
}

#[test]
fn the_page_names_only_its_own_paths() {
    let paths = ["href=\"", "src=\"", "action=\""].iter();
    let named: Vec<_> = paths
        .flat_map(|attribute| PAGE.split(attribute).skip(1))
        .map(|rest| rest.split('"').next().unwrap())
        .collect();
    assert_eq!(named, ["/page.css", "/page.js"]);
    for (name, text) in [("html", PAGE), ("css", STYLE), ("js", SCRIPT)] {
        for foreign in ["http:", "https:", "url(", "@import", "//cdn"] {
            assert!(!text.contains(foreign), "{foreign} in {name}");
        }
    }
    // What its policy would refuse.
    assert!(!PAGE.contains(" style=") && !PAGE.contains("<style"));
    assert!(!PAGE.contains(" onclick=") && !PAGE.contains("<script>"));
}

#[test]
fn the_script_makes_no_markup_of_texts() {
    for sink in [
        "innerHTML",
        "outerHTML",
        "insertAdjacentHTML",
        "document.write",
        "eval(",
        "new Function",
        "DOMParser",
        "createContextualFragment",
        "localStorage",
        "document.cookie",
    ] {
        assert!(!SCRIPT.contains(sink), "{sink}");
    }
}

#[test]
fn every_table_header_says_what_it_heads() {
    assert_eq!(
        PAGE.matches("<th ").count(),
        PAGE.matches("<th scope=\"col\"").count()
    );
    assert!(PAGE.contains("aria-live=\"polite\""));
    assert!(PAGE.contains("<html lang=\"en\">"));
}
