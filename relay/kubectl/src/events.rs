//! Events that cri-resmgr and its agents wrote, from the API server alone.

use cri_resmgr::inspect::view::table;
use k8s_openapi::{api::core::v1::Event, jiff::Timestamp};
use kube::{Api, api::ListParams};
use serde_json::json;

use crate::{
    args::OutputFormat,
    cluster::Cluster,
    output::{document, print},
    target::Name,
};

/// The components that write them: what is about pods, and what is about the Node.
const COMPONENTS: [&str; 2] = ["cri-resmgr", "cri-resmgr-agent"];

/// Shows the Events about a node with its pods, about a pod, or of the namespace or all namespaces; the oldest first.
///
/// # Errors
/// When they cannot be listed, or standard output cannot be written.
pub(crate) async fn show(
    cluster: &Cluster,
    name: Option<Name<'_>>,
    is_all: bool,
    output: Option<OutputFormat>,
) -> anyhow::Result<()> {
    let name = match name {
        Some(Name::Either(name)) => {
            // Without the right to list agents the name is that of a pod.
            let agents = cluster.agents().await;
            Some(match agents.is_ok_and(|agents| agents.contains_key(name)) {
                true => Name::Node(name),
                false => Name::Pod(name),
            })
        }
        name => name,
    };
    let is_all = is_all || matches!(name, Some(Name::Node(_)));
    let mut events = list(cluster, is_all).await?;
    match name {
        Some(Name::Node(node)) => events.retain(|event| is_of_node(event, node)),
        Some(Name::Pod(pod) | Name::Either(pod)) => events.retain(|event| {
            let object = &event.involved_object;
            object.kind.as_deref() == Some("Pod") && object.name.as_deref() == Some(pod)
        }),
        None => {}
    }
    events.sort_by_key(last_seen);
    print(&match output {
        Some(OutputFormat::Name) => events
            .iter()
            .map(|event| format!("event/{}\n", name_of(event)))
            .collect(),
        Some(output @ (OutputFormat::Json | OutputFormat::Yaml)) => {
            let list =
                json!({ "apiVersion": "v1", "kind": "List", "metadata": {}, "items": events });
            document(&list, output)?
        }
        Some(OutputFormat::Wide) => as_table(&events, is_all, true, Timestamp::now()),
        None => as_table(&events, is_all, false, Timestamp::now()),
    })
}

async fn list(cluster: &Cluster, is_all: bool) -> anyhow::Result<Vec<Event>> {
    let api = if is_all {
        Api::<Event>::all(cluster.client.clone())
    } else {
        Api::namespaced(cluster.client.clone(), &cluster.namespace)
    };
    let mut events = Vec::new();
    for component in COMPONENTS {
        let written = ListParams::default().fields(&format!("reportingComponent={component}"));
        events.extend(cluster.within(api.list(&written)).await?.items);
    }
    Ok(events)
}

/// Whether the agent of the node wrote it.
fn is_of_node(event: &Event, node: &str) -> bool {
    // So long is an instance at most.
    event.reporting_instance.as_deref() == Some(&*format!("{node:.128}"))
}

fn name_of(event: &Event) -> &str {
    event.metadata.name.as_deref().unwrap_or_default()
}

fn last_seen(event: &Event) -> Option<Timestamp> {
    let series = event
        .series
        .as_ref()
        .and_then(|series| series.last_observed_time.as_ref());
    let time = series.or(event.event_time.as_ref()).map(|time| time.0);
    time.or_else(|| event.last_timestamp.as_ref().map(|time| time.0))
}

fn as_table(events: &[Event], is_all: bool, is_wide: bool, now: Timestamp) -> String {
    if events.is_empty() {
        return "no Events of cri-resmgr\n".to_owned();
    }
    let mut head = vec!["LAST SEEN", "TYPE", "REASON", "OBJECT"];
    if is_all {
        head.insert(0, "NAMESPACE");
    }
    if is_wide {
        head.extend(["NODE", "COUNT"]);
    }
    head.push("MESSAGE");
    let text = |text: &Option<String>| text.clone().unwrap_or_default();
    let row = |event: &Event| {
        let object = &event.involved_object;
        let kind = object.kind.as_deref().unwrap_or_default().to_lowercase();
        let mut row = vec![
            last_seen(event).map_or_else(
                || "-".to_owned(),
                |at| age(now.duration_since(at).as_secs()),
            ),
            text(&event.type_),
            text(&event.reason),
            format!("{kind}/{}", text(&object.name)),
        ];
        if is_all {
            row.insert(0, text(&event.metadata.namespace));
        }
        if is_wide {
            let count = event.series.as_ref().and_then(|series| series.count);
            row.push(text(&event.reporting_instance));
            row.push(count.or(event.count).unwrap_or(1).to_string());
        }
        row.push(text(&event.message).replace('\n', " "));
        row
    };
    table(&head, &events.iter().map(row).collect::<Vec<_>>())
}

/// Seconds as kubectl shows ages.
fn age(seconds: i64) -> String {
    match seconds {
        ..120 => format!("{}s", seconds.max(0)),
        120..7200 => format!("{}m", seconds / 60),
        7200..172_800 => format!("{}h", seconds / 3600),
        _ => format!("{}d", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_a_table_with_their_last_time() {
        let event = json!({
            "metadata": { "name": "db-0.1", "namespace": "shop" },
            "involvedObject": { "kind": "Pod", "name": "db-0" },
            "type": "Warning", "reason": "CPUPlacementRefused", "message": "container db:\n1 is free",
            "eventTime": "2026-01-01T00:00:00.000000Z",
            "series": { "count": 3, "lastObservedTime": "2026-01-01T00:00:31.000000Z" },
            "reportingInstance": "n1",
        });
        let events: [Event; 1] = [serde_json::from_value(event).unwrap()];
        let now = "2026-01-01T00:03:31Z".parse().unwrap();
        assert_eq!(
            as_table(&events, true, true, now),
            "NAMESPACE  LAST SEEN  TYPE     REASON               OBJECT    NODE  COUNT  MESSAGE\n\
             shop       3m         Warning  CPUPlacementRefused  pod/db-0  n1    3      container db: 1 is free\n"
        );
        let narrow = as_table(&events, false, false, now);
        assert!(narrow.starts_with("LAST SEEN  TYPE     REASON"), "{narrow}");
        assert!(is_of_node(&events[0], "n1") && !is_of_node(&events[0], "n2"));
    }

    #[test]
    fn ages_are_short() {
        let shown = [-5, 9, 119, 120, 7200, 200_000].map(age);
        assert_eq!(shown, ["0s", "9s", "119s", "2m", "2h", "2d"]);
    }
}
