//! Publishes what became of the configuration: an annotation and a condition of the Node, and
//! Events.
//!
//! The annotation [`ANNOTATION`] holds JSON: `state` (`accepted`, `refused`, `unreachable`, `empty`,
//! `none`), `error`, `configMap`, `resourceVersion` and `generation`. The condition [`condition::OWN`] says
//! the same for people. A refusal also becomes a warning Event of the Node, once.

use std::time::Duration;

use k8s_openapi::{
    api::core::v1::{Node, ObjectReference},
    jiff::Timestamp,
};
use kube::{
    Api, Client,
    api::{Patch, PatchParams},
};
use serde::Serialize;
use serde_json::json;
use tokio::{sync::watch::Receiver, time::timeout};
use tracing::{info, warn};

use crate::{
    condition::{self, ConditionPatch},
    events::{EventRecord, EventWriter},
    push::{PushOutcome, PushVerdict},
};

/// Annotation of the Node that says which configuration is in force.
pub(crate) const ANNOTATION: &str = "cri-resource-manager.intel.com/config-status";
/// How long the API server may take for one outcome; the newest must not wait behind an older.
const DEADLINE: Duration = Duration::from_secs(30);
/// Wait before a failed write is tried again.
const RETRY: Duration = Duration::from_secs(2);

/// Writes each outcome until it is written; only the newest matters.
pub(crate) async fn run(client: Client, node_name: &str, mut outcomes: Receiver<PushOutcome>) {
    let mut publisher = StatusPublisher::new(client, node_name);
    let mut failing = false;
    loop {
        let outcome = outcomes.borrow_and_update().clone();
        if outcome.verdict != PushVerdict::Waiting {
            let published = timeout(DEADLINE, publisher.publish(&outcome)).await;
            let published = match published {
                Ok(published) => published.map_err(|error| error.to_string()),
                Err(_elapsed) => Err(format!("no answer within {} s", DEADLINE.as_secs())),
            };
            match published {
                Ok(()) => {
                    if failing {
                        info!("the Node's annotation can be written again");
                    }
                    failing = false;
                }
                Err(error) => {
                    if !failing {
                        warn!(%error, "cannot report to the Node; trying until it works");
                    }
                    failing = true;
                    tokio::select! {
                        () = tokio::time::sleep(RETRY) => {}
                        changed = outcomes.changed() => if changed.is_err() { return },
                    }
                    continue;
                }
            }
        }
        if outcomes.changed().await.is_err() {
            return;
        }
    }
}

struct StatusPublisher {
    nodes: Api<Node>,
    events: EventWriter,
    node_name: String,
    last_published: Option<PushOutcome>,
    /// The condition's status, and since when.
    since: Option<(&'static str, Timestamp)>,
}

impl StatusPublisher {
    fn new(client: Client, node_name: &str) -> Self {
        Self {
            nodes: Api::all(client.clone()),
            events: EventWriter::new(client, "cri-resmgr-agent", node_name),
            node_name: node_name.to_owned(),
            last_published: None,
            since: None,
        }
    }

    async fn publish(&mut self, outcome: &PushOutcome) -> Result<(), kube::Error> {
        // A merge patch also creates a missing map of annotations.
        let patch = json!({ "metadata": { "annotations": { ANNOTATION: annotation(outcome) } } });
        let (name, params) = (&self.node_name, PatchParams::default());
        self.nodes
            .patch_metadata(name, &params, &Patch::Merge(patch))
            .await?;
        let status = condition_status(&outcome.verdict);
        let (_, since) = *self.since.insert(match self.since {
            Some((before, since)) if before == status => (status, since),
            _ => (status, Timestamp::now()),
        });
        let (reason, message) = why(outcome);
        let condition = ConditionPatch {
            kind: condition::OWN,
            status,
            reason,
            message: &message,
            since,
        };
        self.nodes
            .patch_status(name, &params, &Patch::Strategic(condition.patch()))
            .await?;
        if self.last_published.as_ref() != Some(outcome)
            && let PushVerdict::Refused(reason) = &outcome.verdict
        {
            self.publish_refusal(&outcome.origin, reason).await?;
        }
        self.last_published = Some(outcome.clone());
        Ok(())
    }

    async fn publish_refusal(&mut self, origin: &str, reason: &str) -> Result<(), kube::Error> {
        let about = ObjectReference {
            api_version: Some("v1".to_owned()),
            kind: Some("Node".to_owned()),
            name: Some(self.node_name.clone()),
            // As kubelet does: every kubectl finds the events of a Node by this.
            uid: Some(self.node_name.clone()),
            ..ObjectReference::default()
        };
        let record = EventRecord {
            regarding: about,
            is_warning: true,
            reason: "ConfigurationRefused".to_owned(),
            note: format!("{origin}: {reason}"),
            action: "SetConfig",
            at: Timestamp::now(),
        };
        self.events.write(&record).await
    }
}

/// The value of [`ANNOTATION`]. What matters most comes first: kubectl shows no more than its beginning.
fn annotation(outcome: &PushOutcome) -> String {
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct StatusAnnotation<'a> {
        state: &'a str,
        generation: u64,
        config_map: &'a str,
        resource_version: &'a str,
        error: String,
    }
    let status = StatusAnnotation {
        state: match outcome.verdict {
            PushVerdict::Waiting | PushVerdict::Nothing => "none",
            PushVerdict::Empty => "empty",
            PushVerdict::Accepted => "accepted",
            PushVerdict::Refused(_) => "refused",
            PushVerdict::Unreachable(_) => "unreachable",
        },
        generation: outcome.generation,
        config_map: &outcome.origin,
        resource_version: &outcome.resource_version,
        error: outcome.problem().unwrap_or_default(),
    };
    // Texts and numbers always become JSON.
    serde_json::to_string(&status).unwrap_or_default()
}

fn condition_status(verdict: &PushVerdict) -> &'static str {
    match verdict {
        PushVerdict::Accepted | PushVerdict::Nothing => "True",
        PushVerdict::Refused(_) | PushVerdict::Empty => "False",
        PushVerdict::Waiting | PushVerdict::Unreachable(_) => "Unknown",
    }
}

fn in_force(outcome: &PushOutcome) -> String {
    let mut text = format!("{}, generation {}", outcome.origin, outcome.generation);
    for note in &outcome.without_effect {
        text.push_str("; ");
        text.push_str(note);
    }
    text.truncate(text.floor_char_boundary(condition::MAX_MESSAGE_BYTES));
    text
}

/// Reason and message of the condition [`condition::OWN`].
fn why(outcome: &PushOutcome) -> (&'static str, String) {
    let (reason, message) = match &outcome.verdict {
        PushVerdict::Waiting => ("Waiting", String::new()),
        PushVerdict::Nothing => ("NoConfigMap", "no ConfigMap for this node".to_owned()),
        PushVerdict::Empty => ("ConfigMapEmpty", String::new()),
        PushVerdict::Accepted => ("ConfigurationInForce", in_force(outcome)),
        PushVerdict::Refused(_) => ("ConfigurationRefused", String::new()),
        PushVerdict::Unreachable(_) => ("CriResmgrUnreachable", String::new()),
    };
    (reason, outcome.problem().unwrap_or(message))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_annotation_names_the_map_its_version_and_the_reason() {
        let outcome = PushOutcome {
            origin: "kube-system/x.default".to_owned(),
            resource_version: "7".to_owned(),
            generation: 3,
            verdict: PushVerdict::Refused("policy: unknown key".to_owned()),
            without_effect: Vec::new(),
        };
        let value: serde_json::Value = serde_json::from_str(&annotation(&outcome)).unwrap();
        assert_eq!(
            value,
            json!({
                "state": "refused", "configMap": "kube-system/x.default", "resourceVersion": "7",
                "generation": 3, "error": "kube-system/x.default was refused: policy: unknown key",
            })
        );
        assert!(annotation(&outcome).starts_with(r#"{"state":"refused","#));
        let (reason, message) = why(&outcome);
        let patch = ConditionPatch {
            kind: condition::OWN,
            status: condition_status(&outcome.verdict),
            reason,
            message: &message,
            since: Timestamp::UNIX_EPOCH,
        }
        .patch();
        let condition = &patch["status"]["conditions"][0];
        assert_eq!(condition["status"], "False");
        assert_eq!(condition["message"], value["error"]);
        assert_eq!(condition["lastTransitionTime"], "1970-01-01T00:00:00Z");
    }

    #[test]
    fn the_condition_tells_what_of_a_map_in_force_has_no_effect() {
        let outcome = PushOutcome {
            origin: "kube-system/x".to_owned(),
            resource_version: "7".to_owned(),
            generation: 3,
            verdict: PushVerdict::Accepted,
            without_effect: vec!["rdt has no effect: it does not exist here".to_owned()],
        };
        let expected = "kube-system/x, generation 3; rdt has no effect: it does not exist here";
        assert_eq!(why(&outcome), ("ConfigurationInForce", expected.to_owned()));
        let long = PushOutcome {
            without_effect: vec!["é".repeat(64 << 10)],
            ..outcome
        };
        assert!(why(&long).1.len() <= condition::MAX_MESSAGE_BYTES);
    }
}
