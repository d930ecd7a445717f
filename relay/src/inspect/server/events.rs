//! `/api/v1/events`: server-sent events (WHATWG HTML, 9.2) that tell a browser what has changed.
//!
//! A listener gets all parts first, then each that has changed, whole, at most once a second. It takes them at its own pace:
//! what has changed meanwhile is sent as it is by then, nothing is queued. What all listeners are sent is rendered once, and
//! only while there are listeners.

use super::views::Views;
use axum::{
    Extension,
    body::{Body, Bytes},
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse as _, Response},
};
use resmgr_io::http::ConnectionEnd;
use serde::Serialize;
use std::{
    collections::VecDeque,
    convert::Infallible,
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

/// Listeners at once.
const LISTENERS: usize = 16;
/// How often it is looked for changes.
const INTERVAL: Duration = Duration::from_secs(1);
/// A rendering serves all listeners that come within this time: a little less than their interval.
const FRESH: Duration = Duration::from_millis(900);
/// A listener that is sent no change is sent a sign of life this often.
const HEARTBEAT: Duration = Duration::from_secs(5);
/// Parts of what is shown; each is an event of its own.
const PARTS: usize = 4;

/// What all listeners share.
#[derive(Clone)]
pub(super) struct Events {
    views: Arc<dyn Views>,
    places: Arc<Semaphore>,
    last: Arc<Mutex<Rendering>>,
}

impl fmt::Debug for Events {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Events")
            .field("places", &self.places.available_permits())
            .finish_non_exhaustive()
    }
}

/// The parts as events, and how often each has changed.
#[derive(Clone, Default)]
struct Rendering {
    at: Option<Instant>,
    parts: [(u64, Bytes); PARTS],
}

impl Events {
    pub(super) fn new(views: Arc<dyn Views>) -> Self {
        Self {
            views,
            places: Arc::new(Semaphore::new(LISTENERS)),
            last: Arc::default(),
        }
    }

    /// The parts as they are now.
    fn render(&self) -> [(u64, Bytes); PARTS] {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if last.at.is_none_or(|at| at.elapsed() >= FRESH) {
            let views = &self.views;
            // The state comes last: a page can draw it when it has the others.
            let parts = [
                event("topology", &views.topology()),
                event("config", &views.config()),
                event("top", &views.top()),
                event("state", &views.state()),
            ];
            for ((version, text), now) in last.parts.iter_mut().zip(parts) {
                if *text != now {
                    *text = now;
                    *version += 1;
                }
            }
            last.at = Some(Instant::now());
        }
        last.parts.clone()
    }
}

/// An event with a view as JSON, in a line.
fn event(name: &str, view: &impl Serialize) -> Bytes {
    let json = serde_json::to_string(view).expect("a view has names, numbers and texts only");
    format!("event: {name}\ndata: {json}\n\n").into()
}

/// Answers with events until the connection ends.
pub(super) async fn listen(
    State(events): State<Events>,
    end: Option<Extension<ConnectionEnd>>,
) -> Response {
    let Ok(place) = Arc::clone(&events.places).try_acquire_owned() else {
        let text = format!(
            "{LISTENERS} pages are told of changes already, which is the limit: ask /api/v1/state and /api/v1/top instead\n"
        );
        return (StatusCode::SERVICE_UNAVAILABLE, text).into_response();
    };
    let listener = Listener {
        events,
        place: Some(place),
        end: end.unwrap_or_default().0.0,
        ticks: tokio::time::interval(INTERVAL),
        sent: [0; PARTS],
        waiting: VecDeque::new(),
        heard: Instant::now(),
    };
    let stream = futures::stream::unfold(listener, async |mut listener| {
        let text = listener.next().await?;
        listener.heard = Instant::now();
        Some((Ok::<_, Infallible>(text), listener))
    });
    let fields = [(header::CONTENT_TYPE, "text/event-stream")];
    (fields, Body::from_stream(stream)).into_response()
}

/// A client that is told of changes.
struct Listener {
    events: Events,
    place: Option<OwnedSemaphorePermit>,
    end: CancellationToken,
    ticks: tokio::time::Interval,
    /// The versions of the parts that it was sent.
    sent: [u64; PARTS],
    /// Events of one rendering that are still to be sent.
    waiting: VecDeque<Bytes>,
    /// When it was sent anything last.
    heard: Instant,
}

impl Listener {
    /// What it is sent next; `None` at the end.
    async fn next(&mut self) -> Option<Bytes> {
        loop {
            if let Some(text) = self.waiting.pop_front() {
                return Some(text);
            }
            tokio::select! {
                () = self.end.cancelled() => return None,
                _now = self.ticks.tick() => {}
            }
            // A large machine has megabytes to render: not on a thread that relays.
            let events = self.events.clone();
            let parts = tokio::task::spawn_blocking(move || events.render());
            let parts = match parts.await {
                Ok(parts) => parts,
                Err(error) => {
                    tracing::error!(target: "metrics", "cannot render events: {error}");
                    return None;
                }
            };
            for (sent, (version, text)) in self.sent.iter_mut().zip(parts) {
                if *sent != version {
                    *sent = version;
                    self.waiting.push_back(text);
                }
            }
            if self.waiting.is_empty() && self.heard.elapsed() >= HEARTBEAT {
                return Some(Bytes::from_static(b"event: alive\ndata:\n\n"));
            }
        }
    }
}

impl Drop for Listener {
    /// The last listener leaves no rendering behind.
    fn drop(&mut self) {
        drop(self.place.take());
        if self.events.places.available_permits() == LISTENERS {
            let mut last = self
                .events
                .last
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            last.at = None;
            // The versions stay: no listener takes a later part for one that it has.
            last.parts
                .iter_mut()
                .for_each(|(_version, text)| text.clear());
        }
    }
}

#[cfg(test)]
mod tests;
