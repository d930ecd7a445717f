//! Client of the node agent: labels, taints, extended resources and conditions of our Node, Events about its pods.
//!
//! Connected when first used, and again after each loss; silent but for a log line when the agent
//! goes and another when it is back. cri-resmgr never needs the agent to place containers.

mod condition;
mod event;

use std::{collections::BTreeMap, fmt, path::PathBuf, sync::Arc, time::Duration};

use hyper_util::rt::TokioIo;
use resmgr_proto::v1::{
    GetNodeRequest, JsonPatch, PatchNodeRequest, UpdateNodeCapacityRequest,
    agent_client::AgentClient as Client,
};
use serde_json::{Value, json};
use tokio::{net::UnixStream, sync::watch, time::timeout};
use tonic::{
    Code, Request,
    transport::{Channel, Endpoint},
};
use tracing::{info, warn};

pub use condition::{CONFLICT_CONDITION, NodeCondition};
pub use event::{PodEvent, PodEventReason};

/// Longest call.
const DEADLINE: Duration = Duration::from_secs(5);
/// Wait before a property that the Node lacks is tried again.
const RETRY: Duration = Duration::from_secs(5);
/// How often a Node that has all desired properties is read again: it may have been created anew. And how
/// often an agent that is too old for a property is asked again: a newer agent may have taken its place.
const CHECK_INTERVAL: Duration = Duration::from_secs(300);
/// How often taints are read and written again when the Node changes between the two.
const ATTEMPTS: usize = 5;

/// Label of a node that offers the pools of the static-pools policy.
pub const CMK_LABEL: &str = "cmk.intel.com/cmk-node";
/// Key of the taint that keeps other pods away; its value is `true`, its effect [`CMK_EFFECT`].
pub const CMK_TAINT: &str = "cmk";
/// Effect of the taint [`CMK_TAINT`].
pub const CMK_EFFECT: &str = "NoSchedule";
/// Extended resource: how many exclusive CPU lists there are.
pub const CMK_CAPACITY: &str = resmgr_policy::EXCLUSIVE_CORES;
/// The same for the exclusive pool beside the CPUs that the kernel isolates.
pub const CMK_NON_ISOLCPUS_CAPACITY: &str = resmgr_policy::EXCLUSIVE_NON_ISOLCPUS_CORES;

/// Why a node operation was not done.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// The agent or the API server refused, or is not there.
    #[error("cannot {action}: {}", status.message())]
    Call {
        /// What was tried.
        action: &'static str,
        /// The answer.
        status: Box<tonic::Status>,
    },
    /// No answer in time.
    #[error("cannot {action}: no answer within {} s", DEADLINE.as_secs())]
    Silent {
        /// What was tried.
        action: &'static str,
    },
    /// The Node the agent sent is no JSON.
    #[error("the agent sent a Node that is not JSON")]
    NotJson(#[source] serde_json::Error),
}

impl AgentError {
    /// Whether the agent is of an earlier version, which does not know the call.
    #[must_use]
    pub fn is_too_old(&self) -> bool {
        matches!(self, Self::Call { status, .. } if status.code() == Code::Unimplemented)
    }

    /// Whether the agent would say the same the next time.
    #[must_use]
    pub fn is_refusal(&self) -> bool {
        matches!(self, Self::Call { status, .. } if status.code() == Code::InvalidArgument)
    }
}

/// A property that cri-resmgr desires of the Node; named by its `Display`.
pub trait NodeProperty: Clone + fmt::Display + Send + Sync {
    /// Gives the Node the property, once. Whether anything had to be written.
    ///
    /// # Errors
    /// At the first operation that fails; those before it stay.
    fn ensure(&self, agent: &AgentClient) -> impl Future<Output = Result<bool, AgentError>> + Send;

    /// Whether an administrator waits for it: then a failure is logged as a warning.
    fn is_urgent(&self) -> bool;
}

/// What the static-pools policy desires of the Node: label, taint and extended resource of CMK.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CmkProperties {
    /// Carry [`CMK_LABEL`].
    pub label: bool,
    /// Carry the taint [`CMK_TAINT`].
    pub taint: bool,
    /// Capacity of [`CMK_CAPACITY`]: number of CPU lists in exclusive pools.
    pub exclusive_lists: usize,
    /// Capacity of [`CMK_NON_ISOLCPUS_CAPACITY`]: number of CPU lists in the exclusive pool of that name.
    pub non_isolcpus_lists: usize,
}

impl fmt::Display for CmkProperties {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let or_no = |wanted: bool, property: &str| {
            if wanted {
                property.to_owned()
            } else {
                format!("no {property}")
            }
        };
        write!(
            f,
            "{CMK_CAPACITY}={}, {}, {}",
            self.exclusive_lists,
            or_no(self.label, "label"),
            or_no(self.taint, "taint"),
        )
    }
}

impl NodeProperty for CmkProperties {
    async fn ensure(&self, agent: &AgentClient) -> Result<bool, AgentError> {
        let node = agent.node().await?;
        let label = self.label.then_some("true");
        let taint = self.taint.then_some("true");
        let capacities = [
            (CMK_CAPACITY, self.exclusive_lists),
            (CMK_NON_ISOLCPUS_CAPACITY, self.non_isolcpus_lists),
        ];
        let capacities = capacities.map(|(name, count)| (name.to_owned(), count.to_string()));
        let mut capacities = BTreeMap::from(capacities);
        let known = &node["status"]["capacity"];
        capacities.retain(|name, count| known[name].as_str().unwrap_or("0") != count);
        if capacities.is_empty()
            && label_patch(&node, CMK_LABEL, label).is_none()
            && taint_patches(&node, CMK_TAINT, taint, CMK_EFFECT).is_none()
        {
            return Ok(false);
        }
        if !capacities.is_empty() {
            agent.set_capacity(capacities).await?;
        }
        agent.set_label(CMK_LABEL, label).await?;
        agent.set_taint(CMK_TAINT, taint, CMK_EFFECT).await?;
        Ok(true)
    }

    fn is_urgent(&self) -> bool {
        self.label || self.taint
    }
}

impl NodeProperty for NodeCondition {
    async fn ensure(&self, agent: &AgentClient) -> Result<bool, AgentError> {
        if self.is_in(&agent.node().await?) {
            return Ok(false);
        }
        agent.set_condition(self).await?;
        Ok(true)
    }

    fn is_urgent(&self) -> bool {
        self.status
    }
}

/// Calls the agent. Clones share one connection.
#[derive(Clone, Debug)]
pub struct AgentClient {
    client: Client<Channel>,
    socket: Arc<PathBuf>,
}

impl AgentClient {
    /// A client of the agent at `socket`, which need not exist yet.
    #[must_use]
    pub fn new(socket: PathBuf) -> Self {
        let socket = Arc::new(socket);
        let path = Arc::clone(&socket);
        let connector = tower::service_fn(move |_: http::Uri| {
            let path = Arc::clone(&path);
            async move { Ok::<_, std::io::Error>(TokioIo::new(UnixStream::connect(&*path).await?)) }
        });
        // The address is never looked up: the connector ignores it.
        let channel =
            Endpoint::from_static("http://cri-resmgr-agent").connect_with_connector_lazy(connector);
        Self {
            client: Client::new(channel),
            socket,
        }
    }

    /// The Node, as the API server has it.
    ///
    /// # Errors
    /// When the agent or the API server does not answer, or refuses.
    pub async fn node(&self) -> Result<Value, AgentError> {
        let mut client = self.client.clone();
        let call = client.get_node(request(GetNodeRequest {}));
        let reply = bounded("read the Node", call).await?;
        serde_json::from_str(&reply.node).map_err(AgentError::NotJson)
    }

    /// Sets a label, or removes it with `None`. What is right already is not written.
    ///
    /// # Errors
    /// As [`AgentClient::node`].
    pub async fn set_label(&self, key: &str, value: Option<&str>) -> Result<(), AgentError> {
        match label_patch(&self.node().await?, key, value) {
            None => Ok(()),
            Some(patch) => {
                self.patch("change the labels of the Node", vec![patch])
                    .await
            }
        }
    }

    /// Adds the taint, replacing one of the same key and effect; or removes those of `key` and
    /// `effect` with no `value`. Other taints stay, also those that change at the same time.
    ///
    /// # Errors
    /// As [`AgentClient::node`]; also when the Node keeps changing under it.
    pub async fn set_taint(
        &self,
        key: &str,
        value: Option<&str>,
        effect: &str,
    ) -> Result<(), AgentError> {
        for attempt in 1.. {
            let Some(patches) = taint_patches(&self.node().await?, key, value, effect) else {
                break;
            };
            match self.patch("change the taints of the Node", patches).await {
                Ok(()) => break,
                // The Node changed between reading and writing: it is read again.
                Err(AgentError::Call { status, .. })
                    if attempt < ATTEMPTS
                        && matches!(status.code(), Code::InvalidArgument | Code::Aborted) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Sets the capacity of extended resources.
    ///
    /// # Errors
    /// As [`AgentClient::node`].
    pub async fn set_capacity(
        &self,
        capacities: BTreeMap<String, String>,
    ) -> Result<(), AgentError> {
        let mut client = self.client.clone();
        let call = client.update_node_capacity(request(UpdateNodeCapacityRequest { capacities }));
        bounded("set capacities of the Node", call).await.map(drop)
    }

    /// Sets a condition; all others stay.
    ///
    /// # Errors
    /// As [`AgentClient::node`]; also when the agent is too old, or the condition is none of ours.
    pub async fn set_condition(&self, condition: &NodeCondition) -> Result<(), AgentError> {
        let mut client = self.client.clone();
        let call = client.set_node_condition(request(condition.into()));
        bounded("set a condition of the Node", call).await.map(drop)
    }

    /// Has an Event about a pod written, sooner or later.
    ///
    /// # Errors
    /// When the agent does not answer, is too old, or cannot take the Event.
    pub async fn record_event(&self, event: &PodEvent) -> Result<(), AgentError> {
        let mut client = self.client.clone();
        let call = client.record_event(request(event.into()));
        bounded("write an Event", call).await.map(drop)
    }

    /// Gives the Node the property desired last, trying until it works, and checks it now and then, for as
    /// long as `desired` may change. Calls `ensured` with every property that the Node has.
    pub async fn keep<W: NodeProperty>(
        &self,
        mut desired: watch::Receiver<Option<W>>,
        ensured: impl Fn(&W) + Send,
    ) {
        // Whether the last attempt failed because the agent is too old; `None` when it succeeded.
        let mut last_too_old = None;
        loop {
            let property = desired.borrow_and_update().clone();
            let pause = match &property {
                None => None,
                Some(property) => {
                    let outcome = property.ensure(self).await;
                    match &outcome {
                        Ok(changed) => {
                            if *changed {
                                info!("Node has {property}");
                            }
                            last_too_old = None;
                            ensured(property);
                        }
                        Err(error) => {
                            if last_too_old != Some(error.is_too_old()) {
                                self.complain(property, error);
                            }
                            last_too_old = Some(error.is_too_old());
                        }
                    }
                    Some(pause(&outcome))
                }
            };
            let wait = async {
                match pause {
                    Some(pause) => tokio::time::sleep(pause).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = wait => {}
                changed = desired.changed() => if changed.is_err() { return },
            }
        }
    }

    /// Warns only about what an administrator waits for.
    fn complain(&self, property: &impl NodeProperty, error: &AgentError) {
        let agent = self.socket.display();
        if error.is_too_old() {
            warn!("agent at {agent} is too old to give the Node {property}");
        } else if property.is_urgent() {
            warn!("Node lacks {property}: {error} (agent {agent}); trying until it works");
        } else {
            info!("no agent at {agent} to give the Node {property}; done when an agent comes");
        }
    }

    async fn patch(&self, action: &'static str, patches: Vec<JsonPatch>) -> Result<(), AgentError> {
        let mut client = self.client.clone();
        let call = client.patch_node(request(PatchNodeRequest { patches }));
        bounded(action, call).await.map(drop)
    }
}

/// The wait after an attempt.
fn pause(outcome: &Result<bool, AgentError>) -> Duration {
    match outcome {
        Err(error) if !error.is_too_old() => RETRY,
        _ => CHECK_INTERVAL,
    }
}

fn request<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(DEADLINE);
    request
}

async fn bounded<T>(
    action: &'static str,
    call: impl Future<Output = Result<tonic::Response<T>, tonic::Status>>,
) -> Result<T, AgentError> {
    match timeout(DEADLINE, call).await {
        Ok(Ok(reply)) => Ok(reply.into_inner()),
        Ok(Err(status)) => Err(AgentError::Call {
            action,
            status: Box::new(status),
        }),
        Err(_elapsed) => Err(AgentError::Silent { action }),
    }
}

fn operation(op: &str, path: String, value: &Value) -> JsonPatch {
    JsonPatch {
        op: op.to_owned(),
        path,
        value: value.to_string(),
    }
}

/// The patch that sets or removes a label; `None` when it is right already.
/// The agent adds the map of labels itself when the Node has none.
fn label_patch(node: &Value, key: &str, value: Option<&str>) -> Option<JsonPatch> {
    let now = node["metadata"]["labels"].get(key).and_then(Value::as_str);
    let path = format!("/metadata/labels/{}", pointer_part(key));
    match value {
        _ if now == value => None,
        Some(value) => Some(operation("add", path, &json!(value))),
        None => Some(JsonPatch {
            op: "remove".to_owned(),
            path,
            value: String::new(),
        }),
    }
}

/// The patches that make a taint right, guarded by the version they were made for.
fn taint_patches(
    node: &Value,
    key: &str,
    value: Option<&str>,
    effect: &str,
) -> Option<Vec<JsonPatch>> {
    let before = node["spec"]["taints"]
        .as_array()
        .cloned()
        .unwrap_or_default();
    let same = |taint: &Value| taint["key"] == key && taint["effect"] == effect;
    let right = |taint: &&Value| same(taint) && taint["value"].as_str() == value;
    let (have, good) = (
        before.iter().filter(|taint| same(taint)).count(),
        before.iter().filter(right).count(),
    );
    if have == usize::from(value.is_some()) && good == have {
        return None;
    }
    let mut after: Vec<Value> = before.into_iter().filter(|taint| !same(taint)).collect();
    if let Some(value) = value {
        after.push(json!({ "key": key, "value": value, "effect": effect }));
    }
    let version = &node["metadata"]["resourceVersion"];
    Some(vec![
        operation("test", "/metadata/resourceVersion".to_owned(), version),
        operation("add", "/spec/taints".to_owned(), &Value::Array(after)),
    ])
}

/// A part of a JSON pointer (RFC 6901): `~` first, then `/`.
fn pointer_part(key: &str) -> String {
    key.replace('~', "~0").replace('/', "~1")
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio_stream::wrappers::UnixListenerStream;
    use tonic::{service::Routes, transport::Server};

    #[tokio::test]
    async fn an_agent_that_does_not_know_the_call_is_not_asked_over_and_over() {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("agent.sock");
        let client = AgentClient::new(socket.clone());
        let condition = NodeCondition::conflict(Some("static"));
        let away = client.set_condition(&condition).await.unwrap_err();
        assert!(!away.is_too_old(), "{away}");
        assert_eq!(pause(&Err(away)), RETRY);

        // A server that knows no call at all.
        let listener = tokio::net::UnixListener::bind(&socket).unwrap();
        let earlier = Server::builder()
            .add_routes(Routes::default())
            .serve_with_incoming(UnixListenerStream::new(listener));
        let old = tokio::select! {
            ended = earlier => panic!("{ended:?}"),
            asked = client.set_condition(&condition) => asked.unwrap_err(),
        };
        assert!(old.is_too_old(), "{old}");
        assert_eq!(pause(&Err(old)), CHECK_INTERVAL);
        assert_eq!(pause(&Ok(true)), CHECK_INTERVAL);
    }

    #[test]
    fn keys_are_escaped_and_values_quoted() {
        let patch = label_patch(&json!({}), "a.b/c~d", Some("true")).unwrap();
        assert_eq!(patch.path, "/metadata/labels/a.b~1c~0d");
        assert_eq!(patch.value, "\"true\"");
    }

    #[test]
    fn what_is_right_is_not_written_and_what_is_not_there_not_removed() {
        let node = json!({ "metadata": { "labels": { "a": "1" } } });
        assert_eq!(label_patch(&node, "a", Some("1")), None);
        assert_eq!(label_patch(&node, "b", None), None);
        assert_eq!(label_patch(&node, "a", None).unwrap().op, "remove");
    }

    #[test]
    fn a_taint_is_added_beside_the_others_and_only_it_is_removed() {
        let foreign = json!({ "key": "x", "effect": "NoExecute" });
        let node = json!({
            "metadata": { "resourceVersion": "5" },
            "spec": { "taints": [foreign] },
        });
        let patches = taint_patches(&node, "cmk", Some("true"), "NoSchedule").unwrap();
        assert_eq!(
            (patches[0].op.as_str(), patches[0].value.as_str()),
            ("test", "\"5\"")
        );
        let taints: Value = serde_json::from_str(&patches[1].value).unwrap();
        let ours = json!({ "key": "cmk", "value": "true", "effect": "NoSchedule" });
        assert_eq!(taints, json!([foreign, ours]));

        let tainted =
            json!({ "metadata": { "resourceVersion": "6" }, "spec": { "taints": taints } });
        assert_eq!(
            taint_patches(&tainted, "cmk", Some("true"), "NoSchedule"),
            None
        );
        let patches = taint_patches(&tainted, "cmk", None, "NoSchedule").unwrap();
        let taints: Value = serde_json::from_str(&patches[1].value).unwrap();
        assert_eq!(taints, json!([foreign]));
        assert_eq!(taint_patches(&node, "cmk", None, "NoSchedule"), None);
    }
}
