//! Tells the cluster what became of the configuration: an annotation of the Node, and Events.
//!
//! The annotation [`ANNOTATION`] holds JSON: `configMap`, `resourceVersion`, `generation`,
//! `state` (`accepted`, `refused`, `unreachable`, `empty`, `none`) and `error`. A refusal also
//! becomes a warning Event of the Node, once.

use std::time::Duration;

use k8s_openapi::api::core::v1::{Node, ObjectReference};
use kube::{
    Api, Client,
    api::{Patch, PatchParams},
    runtime::events::{Event, EventType, Recorder, Reporter},
};
use serde_json::json;
use tokio::sync::watch::Receiver;
use tracing::{info, warn};

use crate::push::{Outcome, Verdict};

/// Annotation of the Node that tells which configuration is in force.
pub(crate) const ANNOTATION: &str = "cri-resource-manager.intel.com/config-status";
/// Wait before a failed write is tried again.
const RETRY: Duration = Duration::from_secs(2);
/// Longest note of an Event, in bytes (Kubernetes API, Event v1).
const MAX_NOTE_BYTES: usize = 1024;

/// Writes each outcome until it is written; only the newest matters.
pub(crate) async fn run(client: Client, node_name: &str, mut outcomes: Receiver<Outcome>) {
    let nodes = Api::<Node>::all(client.clone());
    let reporter = Reporter {
        controller: "cri-resmgr-agent".to_owned(),
        instance: Some(node_name.to_owned()),
    };
    let recorder = Recorder::new(client, reporter);
    let (mut failing, mut told) = (false, None);
    loop {
        let outcome = outcomes.borrow_and_update().clone();
        if outcome.verdict != Verdict::Waiting {
            match tell(&nodes, &recorder, node_name, &outcome, &mut told).await {
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

async fn tell(
    nodes: &Api<Node>,
    recorder: &Recorder,
    node_name: &str,
    outcome: &Outcome,
    told: &mut Option<Outcome>,
) -> Result<(), kube::Error> {
    // A merge patch also creates a missing map of annotations.
    let patch = json!({ "metadata": { "annotations": { ANNOTATION: annotation(outcome) } } });
    nodes
        .patch_metadata(node_name, &PatchParams::default(), &Patch::Merge(patch))
        .await?;
    if told.as_ref() != Some(outcome)
        && let Verdict::Refused(reason) = &outcome.verdict
    {
        let about = ObjectReference {
            api_version: Some("v1".to_owned()),
            kind: Some("Node".to_owned()),
            name: Some(node_name.to_owned()),
            // As kubelet does: every kubectl finds the events of a Node by this.
            uid: Some(node_name.to_owned()),
            ..ObjectReference::default()
        };
        let event = Event {
            type_: EventType::Warning,
            reason: "ConfigurationRefused".to_owned(),
            note: Some(cut(&format!("{}: {reason}", outcome.origin)).to_owned()),
            action: "SetConfig".to_owned(),
            secondary: None,
        };
        recorder.publish(&event, &about).await?;
    }
    *told = Some(outcome.clone());
    Ok(())
}

/// The value of [`ANNOTATION`].
fn annotation(outcome: &Outcome) -> String {
    let state = match outcome.verdict {
        Verdict::Waiting | Verdict::Nothing => "none",
        Verdict::Empty => "empty",
        Verdict::Accepted => "accepted",
        Verdict::Refused(_) => "refused",
        Verdict::Unreachable(_) => "unreachable",
    };
    json!({
        "state": state,
        "configMap": outcome.origin,
        "resourceVersion": outcome.resource_version,
        "generation": outcome.generation,
        "error": outcome.problem().unwrap_or_default(),
    })
    .to_string()
}

/// The first bytes of a note, never half a character.
fn cut(note: &str) -> &str {
    note.get(..note.floor_char_boundary(MAX_NOTE_BYTES))
        .unwrap_or(note)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_annotation_names_the_map_its_version_and_the_reason() {
        let outcome = Outcome {
            origin: "kube-system/x.default".to_owned(),
            resource_version: "7".to_owned(),
            generation: 3,
            verdict: Verdict::Refused("policy: unknown key".to_owned()),
        };
        let value: serde_json::Value = serde_json::from_str(&annotation(&outcome)).unwrap();
        assert_eq!(
            value,
            json!({
                "state": "refused", "configMap": "kube-system/x.default", "resourceVersion": "7",
                "generation": 3, "error": "kube-system/x.default was refused: policy: unknown key",
            })
        );
    }

    #[test]
    fn a_long_note_is_cut_between_characters() {
        let long = "ä".repeat(1000);
        assert_eq!(cut(&long).len(), 1024);
        assert_eq!(cut("short"), "short");
    }
}
