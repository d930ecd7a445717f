//! Events, written to the API server: equal ones are counted together, and all together are limited.
//!
//! ```text
//! RecordEvent ──▶ queue ──▶ token bucket ──▶ EventWriter ──create──▶ Event
//!                   │            │                └──equal to a recent one: patch of its series
//!                 full: refused  empty: left out
//! ```

use std::{collections::HashMap, time::Duration};

use k8s_openapi::{
    api::{
        core::v1::ObjectReference,
        events::v1::{Event, EventSeries},
    },
    apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta},
    jiff::{SignedDuration, Timestamp},
};
use kube::{
    Api, Client,
    api::{Patch, PatchParams, PostParams},
};
use resmgr_proto::v1::RecordEventRequest;
use serde_json::json;
use tokio::{
    sync::mpsc::Receiver,
    time::{Instant, sleep, timeout},
};
use tracing::{debug, info, warn};

use crate::{
    condition::is_reason,
    metrics::{AgentMetrics, EventOutcome},
    push::chain,
};

/// Events that may wait for the API server.
pub(crate) const QUEUE: usize = 256;
/// Events about pods that may be written at once. As client-go has it for the Events of one component about one
/// object (`defaultSpamBurst`).
const BURST: u32 = 25;
/// Time in which one more may be written.
const REFILL: Duration = Duration::from_secs(5);
/// How long after an Event an equal one is counted with it: longer than the kubelet waits between two attempts (5 min),
/// and cri-resmgr between two warnings (10 min).
const SERIES: SignedDuration = SignedDuration::from_mins(15);
/// Longest wait for the API server.
const DEADLINE: Duration = Duration::from_secs(10);
/// Wait before a failed write is tried again.
const RETRY: Duration = Duration::from_secs(5);
/// Age at which an Event is no longer written.
const MAX_AGE: SignedDuration = SignedDuration::from_mins(5);
/// Longest note of an Event, in bytes (Kubernetes API, Event v1).
const MAX_NOTE_BYTES: usize = 1024;
/// Longest reason of an Event, in bytes (Kubernetes API, Event v1).
const MAX_REASON_BYTES: usize = 128;

/// An Event to write.
#[derive(Clone, Debug)]
pub(crate) struct EventRecord {
    /// The object that it is about.
    pub(crate) regarding: ObjectReference,
    /// Whether it asks for action.
    pub(crate) is_warning: bool,
    /// What happened, in one word.
    pub(crate) reason: String,
    /// What happened, for people.
    pub(crate) note: String,
    /// What was being done when it happened.
    pub(crate) action: &'static str,
    /// When it happened.
    pub(crate) at: Timestamp,
}

/// Events with the same key are counted together.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct SeriesKey {
    uid: String,
    reason: String,
    note: String,
}

/// An Event that was written, and how often since.
#[derive(Clone, Debug)]
struct WrittenEvent {
    name: String,
    count: i32,
    last: Timestamp,
}

/// Writes the Events of one component.
pub(crate) struct EventWriter {
    client: Client,
    controller: &'static str,
    instance: String,
    written: HashMap<SeriesKey, WrittenEvent>,
}

impl EventWriter {
    /// Writes as `controller` of this node.
    pub(crate) fn new(client: Client, controller: &'static str, node_name: &str) -> Self {
        Self {
            client,
            controller,
            // The API server takes no more.
            instance: format!("{node_name:.128}"),
            written: HashMap::new(),
        }
    }

    /// Writes an Event, or counts it into an equal one of a short while ago.
    pub(crate) async fn write(&mut self, record: &EventRecord) -> Result<(), kube::Error> {
        let about = &record.regarding;
        let note = truncated(&record.note);
        let key = SeriesKey {
            uid: about.uid.clone().unwrap_or_default(),
            reason: record.reason.clone(),
            note: note.to_owned(),
        };
        // Events about objects without a namespace live in this one.
        let namespace = about.namespace.as_deref().unwrap_or("default");
        let events = Api::<Event>::namespaced(self.client.clone(), namespace);
        self.written
            .retain(|_, event| record.at.duration_since(event.last) < SERIES);
        if let Some(event) = self.written.get_mut(&key) {
            let series = EventSeries {
                count: event.count + 1,
                last_observed_time: MicroTime(record.at),
            };
            let patch = Patch::Merge(json!({ "series": series }));
            match events
                .patch(&event.name, &PatchParams::default(), &patch)
                .await
            {
                Ok(_) => {
                    event.count += 1;
                    event.last = record.at;
                    return Ok(());
                }
                // It has expired, or was deleted: a new one begins.
                Err(kube::Error::Api(status)) if status.code == 404 => {}
                Err(error) => return Err(error),
            }
        }
        let about_name = about.name.as_deref().unwrap_or_default();
        // As client-go names them; a name has 253 bytes at most.
        let name = format!("{about_name:.230}.{:x}", Timestamp::now().as_nanosecond());
        let event = Event {
            metadata: ObjectMeta {
                name: Some(name.clone()),
                namespace: Some(namespace.to_owned()),
                ..ObjectMeta::default()
            },
            event_time: Some(MicroTime(record.at)),
            reporting_controller: Some(self.controller.to_owned()),
            reporting_instance: Some(self.instance.clone()),
            action: Some(record.action.to_owned()),
            reason: Some(record.reason.clone()),
            regarding: Some(about.clone()),
            note: Some(note.to_owned()),
            type_: Some(
                if record.is_warning {
                    "Warning"
                } else {
                    "Normal"
                }
                .to_owned(),
            ),
            ..Event::default()
        };
        events.create(&PostParams::default(), &event).await?;
        let written = WrittenEvent {
            name,
            count: 1,
            last: record.at,
        };
        self.written.insert(key, written);
        Ok(())
    }
}

/// The Event that is asked for.
///
/// # Errors
/// What is wrong with it.
pub(crate) fn requested(asked: RecordEventRequest) -> Result<EventRecord, String> {
    // Names become part of a path at the API server.
    let is_name = |text: &str, longest: usize| {
        let known =
            |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '.');
        (1..=longest).contains(&text.len())
            && text.chars().all(known)
            && text.starts_with(|c: char| c.is_ascii_alphanumeric())
    };
    if !is_name(&asked.namespace, 63) || !is_name(&asked.pod, 253) {
        return Err(format!(
            "{:?}/{:?} is no name of a pod",
            asked.namespace, asked.pod
        ));
    }
    let is_warning = match asked.r#type.as_str() {
        "Normal" => false,
        "Warning" => true,
        kind => return Err(format!("type {kind:?} is neither Normal nor Warning")),
    };
    if !is_reason(&asked.reason) || asked.reason.len() > MAX_REASON_BYTES {
        return Err(format!(
            "reason {:?} is not one word of CamelCase, at most {MAX_REASON_BYTES} bytes long",
            asked.reason
        ));
    }
    let at = Timestamp::from_millisecond(asked.at_unix_ms)
        .map_err(|error| format!("at_unix_ms: {error}"))?;
    Ok(EventRecord {
        regarding: ObjectReference {
            api_version: Some("v1".to_owned()),
            kind: Some("Pod".to_owned()),
            namespace: Some(asked.namespace),
            name: Some(asked.pod),
            uid: Some(asked.uid).filter(|uid| !uid.is_empty()),
            ..ObjectReference::default()
        },
        is_warning,
        reason: asked.reason,
        note: asked.message,
        action: "PlaceContainer",
        at,
    })
}

/// Writes what comes from the queue, for ever.
pub(crate) async fn run(
    mut writer: EventWriter,
    mut queue: Receiver<EventRecord>,
    metrics: AgentMetrics,
) {
    let mut bucket = TokenBucket::new(Instant::now());
    let mut failing = false;
    while let Some(record) = queue.recv().await {
        if !bucket.take(Instant::now()) {
            debug!(reason = record.reason, "Event left out: there are too many");
            metrics.event(EventOutcome::Suppressed);
            continue;
        }
        loop {
            let (error, is_final) = match timeout(DEADLINE, writer.write(&record)).await {
                Ok(Ok(())) => {
                    if failing {
                        info!("Events about pods can be written again");
                    }
                    failing = false;
                    metrics.event(EventOutcome::Written);
                    break;
                }
                Ok(Err(error)) => (chain(&error), is_final(&error)),
                Err(_elapsed) => {
                    let silence = format!("no answer within {} s", DEADLINE.as_secs());
                    (silence, false)
                }
            };
            if !failing {
                warn!(%error, reason = record.reason, "cannot write an Event about a pod");
            }
            failing = true;
            if is_final || Timestamp::now().duration_since(record.at) > MAX_AGE {
                metrics.event(EventOutcome::Failed);
                break;
            }
            sleep(RETRY).await;
        }
    }
}

/// Whether the API server will say the same the next time.
fn is_final(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if (400..500).contains(&status.code) && status.code != 429)
}

/// The first bytes of a note, never half a character.
fn truncated(note: &str) -> &str {
    note.get(..note.floor_char_boundary(MAX_NOTE_BYTES))
        .unwrap_or(note)
}

/// Lets [`BURST`] pass at once, and one more each [`REFILL`].
#[derive(Clone, Copy, Debug)]
struct TokenBucket {
    tokens: u32,
    refilled: Instant,
}

impl TokenBucket {
    fn new(now: Instant) -> Self {
        Self {
            tokens: BURST,
            refilled: now,
        }
    }

    /// Takes a token, if there is one.
    fn take(&mut self, now: Instant) -> bool {
        while self.tokens < BURST && now.duration_since(self.refilled) >= REFILL {
            self.tokens += 1;
            self.refilled += REFILL;
        }
        if self.tokens == BURST {
            self.refilled = now;
        }
        let taken = self.tokens > 0;
        self.tokens = self.tokens.saturating_sub(1);
        taken
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked() -> RecordEventRequest {
        RecordEventRequest {
            namespace: "default".to_owned(),
            pod: "db-0".to_owned(),
            uid: "u".to_owned(),
            r#type: "Warning".to_owned(),
            reason: "CPUPlacementRefused".to_owned(),
            message: "no room".to_owned(),
            at_unix_ms: 1_000,
        }
    }

    #[test]
    fn what_is_no_event_about_a_pod_is_refused() {
        let record = requested(asked()).unwrap();
        assert_eq!(record.at.as_second(), 1);
        assert_eq!(record.regarding.uid.as_deref(), Some("u"));
        let refused = |change: &dyn Fn(&mut RecordEventRequest)| {
            let mut asked = asked();
            change(&mut asked);
            requested(asked).err().unwrap_or_default()
        };
        for name in ["", "..", "a/b", "A", &"x".repeat(64)] {
            let why = refused(&|asked| asked.namespace = name.to_owned());
            assert!(why.contains("is no name of a pod"), "{name}: {why}");
        }
        let why = refused(&|asked| asked.pod = "../x".to_owned());
        assert!(why.contains("is no name of a pod"), "{why}");
        let why = refused(&|asked| asked.r#type = "Error".to_owned());
        assert!(why.contains("neither Normal nor Warning"), "{why}");
        let why = refused(&|asked| asked.reason = "no room".to_owned());
        assert!(why.contains("CamelCase"), "{why}");
        let why = refused(&|asked| asked.at_unix_ms = i64::MAX);
        assert!(why.contains("at_unix_ms"), "{why}");
    }

    #[test]
    fn a_burst_passes_and_then_one_each_five_seconds() {
        let start = Instant::now();
        let mut bucket = TokenBucket::new(start);
        let passed = |bucket: &mut TokenBucket, s: u64| {
            let now = start + Duration::from_secs(s);
            (0..100).filter(|_| bucket.take(now)).count()
        };
        assert_eq!(passed(&mut bucket, 60), 25);
        assert_eq!(passed(&mut bucket, 64), 0);
        assert_eq!(passed(&mut bucket, 65), 1);
        assert_eq!(passed(&mut bucket, 76), 2);
        assert_eq!(passed(&mut bucket, 80), 1, "the odd second is not lost");
        assert_eq!(passed(&mut bucket, 1000), 25);
    }

    #[test]
    fn a_long_note_is_cut_between_characters() {
        let long = "ä".repeat(1000);
        assert_eq!(truncated(&long).len(), 1024);
        assert_eq!(truncated("short"), "short");
    }
}
