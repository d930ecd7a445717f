//! Views of nodes, side by side: a node that is away does not spoil the rest.

use std::{collections::BTreeMap, fmt::Display};

use anyhow::{Context as _, bail};
use cri_resmgr::inspect::{
    top::TopView,
    view::{ExplainView, StateView},
};
use futures::{StreamExt as _, stream};
use k8s_openapi::api::core::v1::Pod;
use serde_json::Value;

use crate::{
    args::OutputFormat,
    cluster::{Agent, Cluster},
    output::{Completeness, document, print, report},
    target::NodeScope,
};

/// Nodes that are asked at once.
const NODES: usize = 16;

/// What is asked of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NodeView {
    /// Which container runs where.
    State,
    /// What the scheduler did.
    Top,
}

/// A view, or why there is none.
struct NamedView {
    /// The node, or the container.
    name: String,
    view: anyhow::Result<Value>,
}

/// Shows a view of the nodes, or what of it is about a pod.
///
/// # Errors
/// When the only node does not answer, or standard output cannot be written.
pub(crate) async fn show(
    cluster: &Cluster,
    scope: NodeScope,
    view: NodeView,
    output: Option<OutputFormat>,
) -> anyhow::Result<Completeness> {
    let read = async |agent: &Agent| {
        let read = match view {
            NodeView::State => read(cluster, agent, "/state").await,
            NodeView::Top => read(cluster, agent, "/top").await.and_then(measured),
        };
        read.with_context(|| format!("node {}", agent.node))
    };
    let text = match view {
        NodeView::State => text::<StateView>,
        NodeView::Top => text::<TopView>,
    };
    match scope {
        NodeScope::All(agents) => {
            let answers = stream::iter(&agents).map(async |agent| NamedView {
                name: agent.node.clone(),
                view: read(agent).await,
            });
            let answers = answers.buffered(NODES).collect().await;
            let heading = |name: &str| format!("node {name}\n");
            show_several(answers, output, text, heading)
        }
        NodeScope::Node(agent) => show_single(&read(&agent).await?, &agent, output, text),
        NodeScope::Pod(pod, agent) => {
            let mut view = read(&agent).await?;
            retain_pod(&mut view, &pod);
            show_single(&view, &agent, output, text)
        }
    }
}

/// Shows why containers of a pod run where they run: all of it, or a single one.
///
/// # Errors
/// As [`show`].
pub(crate) async fn explain(
    cluster: &Cluster,
    pod: &Pod,
    agent: &Agent,
    container: Option<&str>,
    output: Option<OutputFormat>,
) -> anyhow::Result<Completeness> {
    let containers = containers(pod);
    let name = pod.metadata.name.as_deref().unwrap_or_default();
    let node = || format!("node {}", agent.node);
    let views = cluster.views(agent).await.with_context(node)?;
    let read = async |container: &str| {
        let view = format!("/explain/{}/{name}/{container}", cluster.namespace);
        views.read(&view).await.with_context(node)
    };
    match (container, &*containers) {
        (Some(container), _) if !containers.contains(&container) => {
            bail!(
                "pod {name} has no container {container}, but {}",
                containers.join(", ")
            )
        }
        (Some(container), _) | (None, &[container]) => {
            show_single(&read(container).await?, agent, output, text::<ExplainView>)
        }
        (None, containers) => {
            let mut answers = Vec::new();
            for container in containers {
                answers.push(NamedView {
                    name: (*container).to_owned(),
                    view: read(container).await,
                });
            }
            show_several(answers, output, text::<ExplainView>, |_| String::new())
        }
    }
}

async fn read(cluster: &Cluster, agent: &Agent, view: &str) -> anyhow::Result<Value> {
    cluster.views(agent).await?.read(view).await
}

fn measured(view: Value) -> anyhow::Result<Value> {
    if view.is_null() {
        bail!("its cri-resmgr measures nothing: start it with --ebpf-telemetry");
    }
    Ok(view)
}

/// Leaves of a view's containers those of a pod.
fn retain_pod(view: &mut Value, pod: &Pod) {
    let (namespace, name) = (&pod.metadata.namespace, &pod.metadata.name);
    let is_of_pod = |container: &Value| {
        container["namespace"].as_str() == namespace.as_deref()
            && container["pod"].as_str() == name.as_deref()
    };
    if let Some(containers) = view.get_mut("containers").and_then(Value::as_array_mut) {
        containers.retain(is_of_pod);
    }
}

/// Containers of a pod that keep running: those that only prepare it are over.
fn containers(pod: &Pod) -> Vec<&str> {
    let spec = pod.spec.iter();
    let sidecars = spec
        .clone()
        .flat_map(|spec| spec.init_containers.iter().flatten());
    let sidecars = sidecars.filter(|c| c.restart_policy.as_deref() == Some("Always"));
    let main = spec.flat_map(|spec| &spec.containers);
    main.chain(sidecars)
        .map(|container| &*container.name)
        .collect()
}

/// The text of a view, as `cri-resmgr` on the node prints it.
fn text<T: serde::de::DeserializeOwned + Display>(view: &Value) -> anyhow::Result<String> {
    let read = T::deserialize(view);
    let read = read.context("its cri-resmgr answered something else: is it another version?");
    Ok(read?.to_string())
}

type ToText = fn(&Value) -> anyhow::Result<String>;

fn show_single(
    view: &Value,
    agent: &Agent,
    output: Option<OutputFormat>,
    text: ToText,
) -> anyhow::Result<Completeness> {
    print(&match output {
        Some(OutputFormat::Name) => format!("node/{}\n", agent.node),
        Some(output) => document(view, output)?,
        None => text(view).with_context(|| format!("node {}", agent.node))?,
    })?;
    Ok(Completeness::Whole)
}

/// Shows the answers that there are, as texts one after another or as one object by name, and reports the rest.
fn show_several(
    answers: Vec<NamedView>,
    output: Option<OutputFormat>,
    text: ToText,
    heading: impl Fn(&str) -> String,
) -> anyhow::Result<Completeness> {
    let mut outcome = Completeness::Whole;
    let mut miss = |error: anyhow::Error| {
        report(&error);
        outcome = Completeness::Partial;
    };
    let mut views = BTreeMap::new();
    let mut texts = Vec::new();
    for NamedView { name, view } in answers {
        let shown = view.and_then(|view| match output {
            Some(_) => {
                views.insert(name, view);
                Ok(())
            }
            None => {
                let text = text(&view).with_context(|| name.clone())?;
                texts.push(heading(&name) + &text);
                Ok(())
            }
        });
        if let Err(error) = shown {
            miss(error);
        }
    }
    print(&match output {
        None => texts.join("\n"),
        Some(OutputFormat::Name) => views.keys().map(|name| format!("node/{name}\n")).collect(),
        Some(output) => document(&views, output)?,
    })?;
    Ok(outcome)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_view_keeps_what_it_has_beside_the_containers_of_other_pods() {
        let mut view = json!({
            "policy": "static", "unknown": { "z": 1 },
            "containers": [
                { "namespace": "shop", "pod": "db-0", "newer": true },
                { "namespace": "shop", "pod": "db-1" },
                { "namespace": "test", "pod": "db-0" },
            ],
        });
        let pod = json!({ "metadata": { "namespace": "shop", "name": "db-0" } });
        retain_pod(&mut view, &serde_json::from_value(pod).unwrap());
        let left = json!([{ "namespace": "shop", "pod": "db-0", "newer": true }]);
        assert_eq!(view["containers"], left);
        assert_eq!(view["unknown"], json!({ "z": 1 }));
    }

    #[test]
    fn sidecars_are_explained_and_containers_that_only_prepare_are_not() {
        let pod = json!({ "spec": {
            "containers": [{ "name": "db" }],
            "initContainers": [{ "name": "copy" }, { "name": "proxy", "restartPolicy": "Always" }],
        }});
        let pod: Pod = serde_json::from_value(pod).unwrap();
        assert_eq!(containers(&pod), ["db", "proxy"]);
    }

    #[test]
    fn nothing_measured_is_said() {
        measured(Value::Null).unwrap_err();
        measured(json!({})).unwrap();
    }
}
