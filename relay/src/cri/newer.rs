//! The messages of `runtime.v1` that k8s-cri does not have: those of the calls that Kubernetes added in
//! 1.32 and later. All by the names of the .proto file, for they are shown by them.
//!
//! Where such a message has a twin in k8s-cri, with the same fields by number, type and name, it is the
//! twin; where a name differs, and where there is no twin, the message is here. What is in them is
//! k8s-cri's.
//!
//! Source: `k8s.io/cri-api` 0.37, `pkg/apis/runtime/v1/api.proto`; the streams are KEP 5825.

pub(super) use k8s_cri::v1::{
    CheckpointContainerResponse as CheckpointPodResponse,
    ListContainerStatsRequest as StreamContainerStatsRequest,
    ListContainersRequest as StreamContainersRequest,
    ListContainersResponse as StreamContainersResponse, ListImagesRequest as StreamImagesRequest,
    ListImagesResponse as StreamImagesResponse,
    ListPodSandboxMetricsRequest as StreamPodSandboxMetricsRequest,
    ListPodSandboxRequest as StreamPodSandboxesRequest,
    ListPodSandboxStatsRequest as StreamPodSandboxStatsRequest,
    UpdateContainerResourcesResponse as UpdatePodSandboxResourcesResponse,
};

use k8s_cri::v1;
use prost::Message;
use serde::Serialize;
use std::collections::HashMap;

/// Some of the pod sandboxes. The list's field has another name: `items`.
#[derive(Clone, PartialEq, Message, Serialize)]
pub(super) struct StreamPodSandboxesResponse {
    #[prost(message, repeated, tag = "1")]
    pod_sandboxes: Vec<v1::PodSandbox>,
}

/// Statistics of some of the containers. The list's field has another name: `stats`.
#[derive(Clone, PartialEq, Message, Serialize)]
pub(super) struct StreamContainerStatsResponse {
    #[prost(message, repeated, tag = "1")]
    container_stats: Vec<v1::ContainerStats>,
}

/// Statistics of some of the pod sandboxes. The list's field has another name: `stats`.
#[derive(Clone, PartialEq, Message, Serialize)]
pub(super) struct StreamPodSandboxStatsResponse {
    #[prost(message, repeated, tag = "1")]
    pod_sandbox_stats: Vec<v1::PodSandboxStats>,
}

/// Metrics of some of the pod sandboxes. The list's field has another name: `pod_metrics`.
#[derive(Clone, PartialEq, Message, Serialize)]
pub(super) struct StreamPodSandboxMetricsResponse {
    #[prost(message, repeated, tag = "1")]
    pod_sandbox_metrics: Vec<v1::PodSandboxMetrics>,
}

/// New resources of a whole pod.
#[derive(Clone, PartialEq, Message, Serialize)]
pub(crate) struct UpdatePodSandboxResourcesRequest {
    #[prost(string, tag = "1")]
    pub(crate) pod_sandbox_id: String,
    #[prost(message, optional, tag = "2")]
    pub(crate) overhead: Option<v1::LinuxContainerResources>,
    /// Of its containers together.
    #[prost(message, optional, tag = "3")]
    pub(crate) resources: Option<v1::LinuxContainerResources>,
}

/// Which containers of a pod are to be checkpointed, and where to.
#[derive(Clone, PartialEq, Message, Serialize)]
pub(super) struct CheckpointPodRequest {
    #[prost(string, tag = "1")]
    pod_sandbox_id: String,
    #[prost(string, tag = "2")]
    output_path: String,
    #[prost(string, repeated, tag = "3")]
    container_ids: Vec<String>,
    /// The runtime's own. CRI forbids secrets in them, so they are shown.
    #[prost(map = "string, string", tag = "4")]
    options: HashMap<String, String>,
}

/// Which pod to make of a checkpoint.
#[derive(Clone, PartialEq, Message, Serialize)]
pub(super) struct RestorePodRequest {
    #[prost(string, tag = "1")]
    checkpoint_path: String,
    #[prost(message, optional, tag = "2")]
    config: Option<v1::PodSandboxConfig>,
    #[prost(string, tag = "3")]
    runtime_handler: String,
    /// As those of [`CheckpointPodRequest`].
    #[prost(map = "string, string", tag = "4")]
    options: HashMap<String, String>,
    #[prost(message, repeated, tag = "5")]
    container_configs: Vec<v1::ContainerConfig>,
}

/// The pod that was made, and its containers.
#[derive(Clone, PartialEq, Message, Serialize)]
pub(super) struct RestorePodResponse {
    #[prost(string, tag = "1")]
    pod_sandbox_id: String,
    #[prost(message, repeated, tag = "2")]
    restored_containers: Vec<RestoredContainer>,
}

/// A container that was made.
#[derive(Clone, PartialEq, Message, Serialize)]
pub(super) struct RestoredContainer {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, tag = "2")]
    container_id: String,
}
