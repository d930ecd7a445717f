//! The cluster: the API server, the agents of its nodes, and the views of a node's cri-resmgr.

use std::{collections::BTreeMap, time::Duration};

use anyhow::{Context as _, anyhow, bail};
use futures::AsyncReadExt as _;
use http::{Request, Uri};
use k8s_openapi::api::{
    authentication::v1::{TokenRequest, TokenRequestSpec},
    core::v1::{Pod, ServiceAccount},
};
use kube::{
    Api, Client, Config,
    api::{ListParams, PostParams},
    config::{KubeConfigOptions, Kubeconfig, KubeconfigError},
};
use resmgr_proto::{VIEWS_PORT, VIEWS_TOKEN_HEADER, views_audience};
use serde_json::Value;

use crate::args::ClusterArguments;

/// The label of the agents' pods, as deploy/kustomize/base/agent.yaml has it.
const AGENTS: &str = "app=cri-resmgr-agent";
/// How long a token for an agent is good: the API server makes none that is good for less.
const TOKEN: Duration = Duration::from_secs(600);
/// Octets of the largest view that is taken.
const MAX_VIEW_BYTES: u64 = 64 << 20;

/// The API server, as the kubeconfig says.
pub(crate) struct Cluster {
    pub(crate) client: Client,
    /// The namespace of pods and Events.
    pub(crate) namespace: String,
    arguments: ClusterArguments,
}

/// The agent of a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Agent {
    pub(crate) node: String,
    pod: String,
    port: Option<u16>,
    is_running: bool,
}

impl Cluster {
    /// Reads the kubeconfig; connects to nothing yet.
    ///
    /// # Errors
    /// When there is none, or it cannot be used.
    pub(crate) async fn new(arguments: ClusterArguments) -> anyhow::Result<Self> {
        // The texts of these errors have their causes in them.
        let unusable = |error: KubeconfigError| anyhow!("cannot use the kubeconfig: {error}");
        let read = match &arguments.kubeconfig {
            Some(path) => Kubeconfig::read_from(path),
            None => Kubeconfig::read(),
        };
        let options = KubeConfigOptions {
            context: arguments.context.clone(),
            ..KubeConfigOptions::default()
        };
        let read = read.map_err(unusable)?;
        let config = Config::from_custom_kubeconfig(read, &options).await;
        let mut config = config.map_err(unusable)?;
        // A node that is away is told at once.
        config.default_retry = false;
        let own = config.default_namespace.clone();
        Ok(Self {
            client: Client::try_from(config).context("cannot make a client of the API server")?,
            namespace: arguments.namespace.clone().unwrap_or(own),
            arguments,
        })
    }

    /// Waits for a request, for as long as the command line says.
    ///
    /// # Errors
    /// What the server said, or why there was no answer.
    pub(crate) async fn within<T>(
        &self,
        request: impl Future<Output = Result<T, kube::Error>>,
    ) -> anyhow::Result<T> {
        let limit = self.arguments.request_timeout;
        match tokio::time::timeout(limit, request).await {
            Ok(answer) => answer.map_err(told),
            Err(_elapsed) => bail!("there was no answer within {limit:?} (--request-timeout)"),
        }
    }

    /// The agents, by node.
    ///
    /// # Errors
    /// When they cannot be listed, or there are none.
    pub(crate) async fn agents(&self) -> anyhow::Result<BTreeMap<String, Agent>> {
        let namespace = &self.arguments.agent_namespace;
        let pods = Api::<Pod>::namespaced(self.client.clone(), namespace);
        let selector = ListParams::default().labels(AGENTS);
        let pods = self.within(pods.list(&selector)).await;
        let pods = pods.context("cannot find the agents")?;
        let mut agents = BTreeMap::<String, Agent>::new();
        for agent in pods.items.iter().filter_map(Agent::of) {
            // While an agent is replaced a node has two.
            if agent.is_running || !agents.contains_key(&agent.node) {
                agents.insert(agent.node.clone(), agent);
            }
        }
        if agents.is_empty() {
            bail!(
                "no node runs the agent: namespace {namespace} has no pod with the label {AGENTS}"
            );
        }
        Ok(agents)
    }

    /// The views of the node of this agent.
    ///
    /// # Errors
    /// When there is no token for its agent, or no way to it.
    pub(crate) async fn views(&self, agent: &Agent) -> anyhow::Result<NodeViews<'_>> {
        let namespace = &self.arguments.agent_namespace;
        let (client, prefix) = match (&self.arguments.agent_address, agent.port) {
            (Some(address), _) => (direct(address)?, String::new()),
            (None, Some(port)) => {
                let pod = &agent.pod;
                let proxy = format!("/api/v1/namespaces/{namespace}/pods/https:{pod}:{port}/proxy");
                (self.client.clone(), proxy)
            }
            (None, None) => bail!(
                "its agent serves no views: the pod {namespace}/{} has no port {VIEWS_PORT}",
                agent.pod
            ),
        };
        Ok(NodeViews {
            cluster: self,
            client,
            prefix,
            token: self.token(&agent.node).await?,
        })
    }

    /// A token for the agent of a node, of no use elsewhere.
    async fn token(&self, node: &str) -> anyhow::Result<String> {
        let ClusterArguments {
            agent_namespace,
            service_account,
            ..
        } = &self.arguments;
        let accounts = Api::<ServiceAccount>::namespaced(self.client.clone(), agent_namespace);
        let request = TokenRequest {
            spec: TokenRequestSpec {
                audiences: vec![views_audience(node)],
                expiration_seconds: Some(TOKEN.as_secs().cast_signed()),
                bound_object_ref: None,
            },
            ..TokenRequest::default()
        };
        let post = PostParams::default();
        let made = self.within(accounts.create_token_request(service_account, &post, &request));
        let made = made.await.context("cannot have a token for its agent")?;
        let status = made.status.context("the API server made no token")?;
        Ok(status.token)
    }
}

impl Agent {
    /// The agent that runs in a pod; none of a pod that has ended or is on no node.
    fn of(pod: &Pod) -> Option<Self> {
        let spec = pod.spec.as_ref()?;
        let phase = pod
            .status
            .as_ref()
            .and_then(|status| status.phase.as_deref());
        if matches!(phase, Some("Succeeded" | "Failed")) {
            return None;
        }
        let mut ports = spec
            .containers
            .iter()
            .filter_map(|c| c.ports.as_ref())
            .flatten();
        let port = ports.find(|port| port.name.as_deref() == Some(VIEWS_PORT));
        Some(Self {
            node: spec.node_name.clone()?,
            pod: pod.metadata.name.clone()?,
            port: port.and_then(|port| u16::try_from(port.container_port).ok()),
            is_running: phase == Some("Running") && pod.metadata.deletion_timestamp.is_none(),
        })
    }
}

/// The views of a node, and a token to read them with.
pub(crate) struct NodeViews<'a> {
    cluster: &'a Cluster,
    client: Client,
    prefix: String,
    token: String,
}

impl NodeViews<'_> {
    /// Reads `/state`, `/top` or `/explain/…`, as it is.
    ///
    /// # Errors
    /// What the API server, the agent or cri-resmgr said, or that there was no answer.
    pub(crate) async fn read(&self, view: &str) -> anyhow::Result<Value> {
        let request = Request::get(format!("{}/api/v1{view}", self.prefix))
            .header(VIEWS_TOKEN_HEADER, &self.token)
            .body(Vec::new())
            .context("cannot ask for it")?;
        let read = async {
            let mut body = Vec::new();
            let answer = self.client.request_stream(request).await?;
            let mut answer = std::pin::pin!(answer.take(MAX_VIEW_BYTES + 1));
            let read = answer.read_to_end(&mut body).await;
            read.map_err(|error| kube::Error::Service(error.into()))?;
            Ok(body)
        };
        let body = self.cluster.within(read).await?;
        if body.len() as u64 > MAX_VIEW_BYTES {
            bail!("the answer is larger than {} MiB", MAX_VIEW_BYTES >> 20);
        }
        serde_json::from_slice(&body).context("the answer is not JSON")
    }
}

/// A client of the agent at an address. Its certificate vouches for nothing, through the API server's proxy neither.
fn direct(address: &str) -> anyhow::Result<Client> {
    let uri = format!("https://{address}").parse::<Uri>();
    let uri = uri.with_context(|| format!("--agent-address {address:?} is not HOST:PORT"))?;
    let mut config = Config::new(uri);
    config.accept_invalid_certs = true;
    config.default_retry = false;
    Client::try_from(config).context("cannot make a client of the agent")
}

/// What a server said, or the innermost reason why there was no answer.
fn told(error: kube::Error) -> anyhow::Error {
    match error {
        kube::Error::Api(status) if status.message.is_empty() => {
            anyhow!("it was answered with the HTTP status {}", status.code)
        }
        kube::Error::Api(status) => anyhow!("{}", status.message),
        error => {
            let error = anyhow::Error::new(error);
            anyhow!("there is no answer: {}", error.root_cause())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn agent(pod: Value) -> Option<Agent> {
        Agent::of(&serde_json::from_value(pod).unwrap())
    }

    #[test]
    fn an_agent_is_a_pod_on_a_node_that_has_not_ended() {
        let pod = json!({
            "metadata": { "name": "a" },
            "spec": { "nodeName": "n1", "containers": [
                { "name": "x", "ports": [{ "name": "health", "containerPort": 8893 }] },
                { "name": "y", "ports": [{ "name": "views", "containerPort": 8894 }] },
            ]},
            "status": { "phase": "Running" },
        });
        let found = agent(pod.clone()).unwrap();
        assert_eq!((&*found.node, found.port), ("n1", Some(8894)));
        assert!(found.is_running);
        let with = |pointer: &str, value: Value| {
            let mut pod = pod.clone();
            *pod.pointer_mut(pointer).unwrap() = value;
            agent(pod)
        };
        assert_eq!(with("/status/phase", json!("Failed")), None);
        assert_eq!(with("/spec/nodeName", json!(null)), None);
        assert!(!with("/status/phase", json!("Pending")).unwrap().is_running);
        let earlier = with("/spec/containers/1/ports", json!([])).unwrap();
        assert_eq!(earlier.port, None, "an agent of an earlier version");
    }
}
