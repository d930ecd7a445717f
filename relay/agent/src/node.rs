//! The `Agent` service: node operations for cri-resmgr, which has no cluster credentials.

use std::collections::BTreeMap;

use k8s_openapi::{api::core::v1::Node, jiff::Timestamp};
use kube::{
    Api, Client,
    api::{Patch, PatchParams},
};
use resmgr_proto::v1::{
    GetConfigReply, GetConfigRequest, GetNodeReply, GetNodeRequest, HealthCheckReply,
    HealthCheckRequest, JsonPatch, PatchNodeReply, PatchNodeRequest, RecordEventReply,
    RecordEventRequest, SetNodeConditionReply, SetNodeConditionRequest, UpdateNodeCapacityReply,
    UpdateNodeCapacityRequest, agent_server::Agent,
};
use serde_json::{Value, json};
use tokio::sync::{mpsc::Sender, watch::Receiver};
use tonic::{Code, Request, Response, Status};

use crate::{
    choose::MapChoice,
    condition::{self, ConditionPatch},
    events::{self, EventRecord},
    metrics::AgentMetrics,
    push::{PushOutcome, chain},
};

/// Maps of the Node that may be missing, though operations add below them.
const MAPS: [&str; 2] = ["/metadata/labels", "/metadata/annotations"];
/// How often a patch is tried again when the Node changes under it.
const ATTEMPTS: usize = 5;

/// The service.
#[derive(Debug)]
pub(crate) struct NodeService {
    nodes: Api<Node>,
    node_name: String,
    choices: Receiver<MapChoice>,
    outcomes: Receiver<PushOutcome>,
    events: Sender<EventRecord>,
    metrics: AgentMetrics,
}

impl NodeService {
    /// Serves operations on the Node of that name, and hands on Events about pods.
    pub(crate) fn new(
        client: Client,
        node_name: String,
        choices: Receiver<MapChoice>,
        outcomes: Receiver<PushOutcome>,
        events: Sender<EventRecord>,
        metrics: AgentMetrics,
    ) -> Self {
        Self {
            nodes: Api::all(client),
            node_name,
            choices,
            outcomes,
            events,
            metrics,
        }
    }

    /// Does an operation and counts it.
    async fn counted<T>(
        &self,
        operation: &'static str,
        done: impl Future<Output = Result<T, Status>>,
    ) -> Result<Response<T>, Status> {
        let done = done.await;
        self.metrics.operated(operation, done.is_ok());
        done.map(Response::new)
    }

    async fn node(&self) -> Result<Node, Status> {
        let got = self.nodes.get(&self.node_name).await;
        got.map_err(|error| self.failed("cannot read", &error))
    }

    fn failed(&self, operation: &str, error: &kube::Error) -> Status {
        let code = match error {
            kube::Error::Api(status) => match status.code {
                400 | 422 => Code::InvalidArgument,
                401 | 403 => Code::PermissionDenied,
                404 => Code::NotFound,
                409 => Code::Aborted,
                _ => Code::Unavailable,
            },
            _ => Code::Unavailable,
        };
        let why = match error {
            kube::Error::Api(status) => status.message.clone(),
            error => chain(error),
        };
        Status::new(code, format!("{operation} Node {}: {why}", self.node_name))
    }

    /// Adds the maps that the operations need and the Node lacks, guarded by its version.
    async fn with_missing_maps(&self, operations: &[Value]) -> Result<Vec<Value>, Status> {
        let needed: Vec<&str> = MAPS
            .into_iter()
            .filter(|map| {
                operations
                    .iter()
                    .any(|operation| adds_below(operation, map))
            })
            .collect();
        let mut all = Vec::new();
        if !needed.is_empty() {
            let meta = self.node().await?.metadata;
            for map in needed {
                let present = match map {
                    "/metadata/labels" => meta.labels.as_ref(),
                    _ => meta.annotations.as_ref(),
                };
                if present.is_none_or(BTreeMap::is_empty) {
                    let version = meta.resource_version.as_deref().unwrap_or_default();
                    all.push(
                        json!({"op": "test", "path": "/metadata/resourceVersion", "value": version}),
                    );
                    all.push(json!({"op": "add", "path": map, "value": {}}));
                }
            }
        }
        all.extend_from_slice(operations);
        Ok(all)
    }
}

#[tonic::async_trait]
impl Agent for NodeService {
    async fn get_node(
        &self,
        _request: Request<GetNodeRequest>,
    ) -> Result<Response<GetNodeReply>, Status> {
        self.counted("get_node", async {
            let node = serde_json::to_string(&self.node().await?).map_err(|error| {
                Status::internal(format!("cannot write the Node as JSON: {error}"))
            })?;
            Ok(GetNodeReply { node })
        })
        .await
    }

    async fn patch_node(
        &self,
        request: Request<PatchNodeRequest>,
    ) -> Result<Response<PatchNodeReply>, Status> {
        self.counted("patch_node", async {
            let operations = operations(&request.into_inner().patches)?;
            let guarded = operations.iter().any(|operation| operation["op"] == "test");
            for attempt in 1.. {
                let all = self.with_missing_maps(&operations).await?;
                let added = all.len() > operations.len();
                let patch: json_patch::Patch =
                    serde_json::from_value(Value::Array(all)).map_err(|error| {
                        Status::invalid_argument(format!("not a JSON patch: {error}"))
                    })?;
                let patched = self
                    .nodes
                    .patch_metadata(
                        &self.node_name,
                        &PatchParams::default(),
                        &Patch::Json::<()>(patch),
                    )
                    .await;
                match patched {
                    Ok(_) => break,
                    // Our own guard failed, not the caller's: the Node changed, so it is read again.
                    Err(_) if added && !guarded && attempt < ATTEMPTS => {}
                    Err(error) => return Err(self.failed("cannot patch", &error)),
                }
            }
            Ok(PatchNodeReply {})
        })
        .await
    }

    async fn update_node_capacity(
        &self,
        request: Request<UpdateNodeCapacityRequest>,
    ) -> Result<Response<UpdateNodeCapacityReply>, Status> {
        self.counted("update_node_capacity", async {
            let capacities = request.into_inner().capacities;
            if capacities.is_empty() {
                return Err(Status::invalid_argument("no capacity given"));
            }
            for (name, quantity) in &capacities {
                check_capacity(name, quantity).map_err(Status::invalid_argument)?;
            }
            let patch = Patch::Merge(json!({ "status": { "capacity": capacities } }));
            self.nodes
                .patch_status(&self.node_name, &PatchParams::default(), &patch)
                .await
                .map_err(|error| self.failed("cannot set the capacity of", &error))?;
            Ok(UpdateNodeCapacityReply {})
        })
        .await
    }

    async fn set_node_condition(
        &self,
        request: Request<SetNodeConditionRequest>,
    ) -> Result<Response<SetNodeConditionReply>, Status> {
        self.counted("set_node_condition", async {
            let asked = request.into_inner();
            condition::check(&asked).map_err(Status::invalid_argument)?;
            let since = condition::since(&self.node().await?, &asked.r#type, &asked.status);
            let condition = ConditionPatch {
                kind: &asked.r#type,
                status: &asked.status,
                reason: &asked.reason,
                message: &asked.message,
                since: since.unwrap_or_else(Timestamp::now),
            };
            let patch = Patch::Strategic(condition.patch());
            self.nodes
                .patch_status(&self.node_name, &PatchParams::default(), &patch)
                .await
                .map_err(|error| self.failed("cannot set a condition of", &error))?;
            Ok(SetNodeConditionReply {})
        })
        .await
    }

    async fn record_event(
        &self,
        request: Request<RecordEventRequest>,
    ) -> Result<Response<RecordEventReply>, Status> {
        let event = events::requested(request.into_inner()).map_err(Status::invalid_argument)?;
        self.events.try_send(event).map_err(|_full| {
            Status::resource_exhausted("too many Events wait for the API server")
        })?;
        Ok(Response::new(RecordEventReply {}))
    }

    async fn get_config(
        &self,
        _request: Request<GetConfigRequest>,
    ) -> Result<Response<GetConfigReply>, Status> {
        let config = match &*self.choices.borrow() {
            MapChoice::Push(config) => config.data.clone(),
            MapChoice::Wait | MapChoice::Nothing | MapChoice::Empty { .. } => BTreeMap::new(),
        };
        Ok(Response::new(GetConfigReply {
            node_name: self.node_name.clone(),
            config,
        }))
    }

    async fn health_check(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<HealthCheckReply>, Status> {
        let error = match request.into_inner().query.as_str() {
            "" => String::new(),
            "config-status" => self.outcomes.borrow().problem().unwrap_or_default(),
            query => {
                return Err(Status::invalid_argument(format!(
                    "unknown query {query:?}: empty and \"config-status\" are known"
                )));
            }
        };
        Ok(Response::new(HealthCheckReply { error }))
    }
}

fn adds_below(operation: &Value, map: &str) -> bool {
    operation["op"] == "add"
        && operation["path"]
            .as_str()
            .and_then(|path| path.strip_prefix(map))
            .is_some_and(|rest| rest.starts_with('/'))
}

/// The operations as JSON values.
fn operations(patches: &[JsonPatch]) -> Result<Vec<Value>, Status> {
    let operation = |(index, patch): (usize, &JsonPatch)| {
        let mut operation = json!({ "op": patch.op, "path": patch.path });
        if patch.op != "remove" {
            operation["value"] = serde_json::from_str(&patch.value).map_err(|error| {
                Status::invalid_argument(format!(
                    "patches[{index}] ({} {}): the value is not JSON ({error}); a string needs \
                     its quotes",
                    patch.op, patch.path
                ))
            })?;
        }
        Ok(operation)
    };
    if patches.is_empty() {
        return Err(Status::invalid_argument("no patch given"));
    }
    patches.iter().enumerate().map(operation).collect()
}

/// Refuses capacities that belong to kubelet, or that the API server would refuse.
fn check_capacity(name: &str, quantity: &str) -> Result<(), String> {
    if matches!(name, "cpu" | "memory") || name.starts_with("hugepages-") {
        return Err(format!("{name}: this capacity belongs to kubelet"));
    }
    let domain = name.split_once('/').map(|(domain, _)| domain);
    if !domain.is_some_and(|domain| domain.contains('.')) {
        return Err(format!(
            "{name}: an extended resource is named domain/name, such as example.com/{name}"
        ));
    }
    let digits = quantity.trim_end_matches(|c: char| !c.is_ascii_digit());
    let suffix = quantity.get(digits.len()..).unwrap_or_default();
    let number = digits.strip_prefix('+').unwrap_or(digits);
    let whole = !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit());
    let known = [
        "", "k", "M", "G", "T", "P", "E", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei",
    ];
    if !whole || !known.contains(&suffix) {
        return Err(format!(
            "{name}: {quantity:?} is not a whole, non-negative quantity such as 4 or 2k"
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capacities_of_kubelet_and_names_without_a_domain_are_refused() {
        for name in ["cpu", "memory", "hugepages-2Mi", "cores", "a/b", "a.b"] {
            assert!(check_capacity(name, "1").is_err(), "{name}");
        }
        for quantity in ["", "x", "-1", "1.5", "1Q", "0x10"] {
            assert!(check_capacity("a.b/c", quantity).is_err(), "{quantity}");
        }
        for quantity in ["0", "4", "2k", "1Gi"] {
            assert_eq!(check_capacity("a.b/c", quantity), Ok(()), "{quantity}");
        }
    }

    #[test]
    fn a_value_that_is_not_json_is_named() {
        let patch = JsonPatch {
            op: "add".to_owned(),
            path: "/metadata/labels/a".to_owned(),
            value: "true story".to_owned(),
        };
        let refused = operations(&[patch]).unwrap_err();
        assert!(
            refused
                .message()
                .contains("patches[0] (add /metadata/labels/a)"),
            "{refused}"
        );
    }
}
