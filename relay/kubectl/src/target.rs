//! What a name on the command line stands for.

use std::collections::BTreeMap;

use anyhow::{Context as _, bail};
use k8s_openapi::api::core::v1::Pod;
use kube::Api;

use crate::cluster::{Agent, Cluster};

/// Nodes, and what of them is meant.
pub(crate) enum NodeScope {
    /// All nodes that run the agent.
    All(Vec<Agent>),
    /// A node.
    Node(Agent),
    /// A pod, and the agent of its node.
    Pod(Box<Pod>, Agent),
}

/// A name as typed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Name<'a> {
    Node(&'a str),
    Pod(&'a str),
    /// The node if there is such a node, otherwise the pod.
    Either(&'a str),
}

impl<'a> Name<'a> {
    /// Reads `node/NAME`, `pod/NAME` or `NAME`.
    ///
    /// # Errors
    /// When it is of another kind, or empty.
    pub(crate) fn parse(text: &'a str) -> anyhow::Result<Self> {
        let (name, parsed) = match text.split_once('/') {
            Some(("node" | "nodes" | "no", name)) => (name, Self::Node(name)),
            Some(("pod" | "pods" | "po", name)) => (name, Self::Pod(name)),
            None => (text, Self::Either(text)),
            Some((kind, _)) => bail!("{kind:?} is neither node nor pod"),
        };
        // Names become part of a path at the API server.
        let is_name =
            |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '.');
        if name.is_empty() || !name.chars().all(is_name) {
            bail!("{name:?} is no name of a node or a pod");
        }
        Ok(parsed)
    }
}

/// Finds the nodes: all of them without a name.
///
/// # Errors
/// When there is no such node or pod, or no agent.
pub(crate) async fn find(cluster: &Cluster, name: Option<Name<'_>>) -> anyhow::Result<NodeScope> {
    let mut agents = cluster.agents().await?;
    match name {
        None => Ok(NodeScope::All(agents.into_values().collect())),
        Some(Name::Node(node)) => Ok(NodeScope::Node(take(&mut agents, node)?)),
        Some(Name::Either(node)) if agents.contains_key(node) => {
            Ok(NodeScope::Node(take(&mut agents, node)?))
        }
        Some(Name::Pod(name) | Name::Either(name)) => {
            let pods = Api::<Pod>::namespaced(cluster.client.clone(), &cluster.namespace);
            let pod = cluster.within(pods.get(name)).await?;
            let node = pod.spec.as_ref().and_then(|spec| spec.node_name.clone());
            let node = node.with_context(|| format!("pod {name} is on no node yet"))?;
            let agent = take(&mut agents, &node).with_context(|| format!("pod {name}"))?;
            Ok(NodeScope::Pod(Box::new(pod), agent))
        }
    }
}

fn take(agents: &mut BTreeMap<String, Agent>, node: &str) -> anyhow::Result<Agent> {
    let agent = agents.remove(node);
    agent.with_context(|| format!("node {node} runs no agent"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_as_kubectl_reads_them() {
        assert_eq!(Name::parse("node/n1").unwrap(), Name::Node("n1"));
        assert_eq!(Name::parse("po/db-0").unwrap(), Name::Pod("db-0"));
        assert_eq!(Name::parse("a.b").unwrap(), Name::Either("a.b"));
        for text in [
            "",
            "pod/",
            "pod/a/b",
            "deployment/x",
            "X",
            "a?b",
            "pod/..%2f",
        ] {
            Name::parse(text).unwrap_err();
        }
    }
}
