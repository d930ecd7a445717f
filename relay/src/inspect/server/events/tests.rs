use super::*;
use crate::inspect::{
    history::{HistoryView, PastView},
    server::{AllowedHosts, router},
    top::TopView,
    view::{ConfigView, ExplainView, StateView, TopologyView},
};
use axum::{Router, http::Request};
use http_body_util::BodyExt as _;
use resmgr_topology::{CpuSet, Topology};
use std::sync::atomic::{AtomicUsize, Ordering};
use tower::ServiceExt as _;

/// Only the policy changes, and it is counted how often it is asked for.
#[derive(Debug, Default)]
struct Changing {
    policy: Mutex<String>,
    asked: AtomicUsize,
}

impl Views for Changing {
    fn state(&self) -> StateView {
        self.asked.fetch_add(1, Ordering::Relaxed);
        StateView {
            policy: self.policy.lock().unwrap().clone(),
            ..StateView::default()
        }
    }

    fn explain(&self, _container: &str) -> Result<ExplainView, String> {
        Err(String::new())
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
        let topology = Topology::synthetic("pack:1 core:1 pu:1").unwrap();
        TopologyView::new(Arc::new(topology), CpuSet::EMPTY)
    }
}

async fn listener(router: &Router) -> Response {
    let request = Request::get("/api/v1/events").header(header::HOST, "localhost");
    let request = request.body(Body::empty()).unwrap();
    router.clone().oneshot(request).await.unwrap()
}

async fn next(body: &mut Body) -> String {
    let frame = body.frame().await.unwrap().unwrap();
    String::from_utf8(frame.into_data().unwrap().to_vec()).unwrap()
}

async fn names_of_all_parts(body: &mut Body) -> Vec<String> {
    let mut names = Vec::new();
    for _ in 0..PARTS {
        let text = next(body).await;
        names.push(text.lines().next().unwrap().to_owned());
    }
    names
}

const ALL: [&str; PARTS] = [
    "event: topology",
    "event: config",
    "event: top",
    "event: state",
];

#[tokio::test]
async fn a_listener_gets_every_part_and_then_what_changes_as_it_is_by_then() {
    let views = Arc::new(Changing::default());
    let router = router(Arc::<Changing>::clone(&views), AllowedHosts::default());
    let response = listener(&router).await;
    assert_eq!(
        response.headers()[header::CONTENT_TYPE],
        "text/event-stream"
    );
    let mut body = response.into_body();
    assert_eq!(names_of_all_parts(&mut body).await, ALL);

    // Nothing changes, and the listener hears that the daemon lives.
    assert_eq!(next(&mut body).await, "event: alive\ndata:\n\n");

    // Of what changes while the listener takes nothing it gets the last.
    for policy in ["static", "static-plus", "static-pools"] {
        *views.policy.lock().unwrap() = policy.to_owned();
        tokio::time::sleep(FRESH).await;
    }
    let text = next(&mut body).await;
    assert!(
        text.starts_with("event: state\ndata: {\"policy\":\"static-pools\","),
        "{text}"
    );
    assert!(text.ends_with("}\n\n"), "{text}");
    assert_eq!(text.lines().count(), 3, "{text}");
}

#[tokio::test]
async fn listeners_share_a_rendering_and_are_limited_in_number() {
    let views = Arc::new(Changing::default());
    let router = router(Arc::<Changing>::clone(&views), AllowedHosts::default());
    let mut bodies = Vec::new();
    for _ in 0..LISTENERS {
        bodies.push(listener(&router).await.into_body());
    }
    let mut first = bodies.remove(0);
    assert_eq!(names_of_all_parts(&mut first).await, ALL);
    for body in &mut bodies {
        assert_eq!(names_of_all_parts(body).await, ALL);
    }
    let asked = views.asked.load(Ordering::Relaxed);
    assert!(
        asked < LISTENERS,
        "{asked} renderings for {LISTENERS} listeners"
    );

    let refused = listener(&router).await;
    assert_eq!(refused.status(), StatusCode::SERVICE_UNAVAILABLE);
    let text = refused.into_body().collect().await.unwrap().to_bytes();
    assert!(text.ends_with(b"ask /api/v1/state and /api/v1/top instead\n"));

    drop(first);
    let mut body = listener(&router).await.into_body();
    assert_eq!(names_of_all_parts(&mut body).await, ALL);
}

#[tokio::test]
async fn the_last_listener_leaves_no_rendering_behind_and_the_next_gets_every_part() {
    let events = Events::new(Arc::new(Changing::default()));
    for _ in 0..2 {
        let response = listen(State(events.clone()), None).await;
        let mut body = response.into_body();
        assert_eq!(names_of_all_parts(&mut body).await, ALL);
        drop(body);
        let last = events.last.lock().unwrap();
        assert!(last.parts.iter().all(|(_version, text)| text.is_empty()));
    }
}

#[tokio::test]
async fn events_end_with_their_connection() {
    let events = Events::new(Arc::new(Changing::default()));
    let end = ConnectionEnd::default();
    let response = listen(State(events.clone()), Some(Extension(end.clone()))).await;
    let mut body = response.into_body();
    assert_eq!(names_of_all_parts(&mut body).await, ALL);
    end.0.cancel();
    assert!(body.frame().await.is_none());
    drop(body);
    assert_eq!(events.places.available_permits(), LISTENERS);
}
