//! The message of `runtime.v1` that hooks read and k8s-cri does not have yet.
//!
//! Source: `k8s.io/cri-api` 0.37, `pkg/apis/runtime/v1/api.proto`.

use k8s_cri::v1;
use prost::Message;

/// New resources of a whole pod.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct UpdatePodSandboxResourcesRequest {
    #[prost(string, tag = "1")]
    pub(crate) pod_sandbox_id: String,
    #[prost(message, optional, tag = "2")]
    pub(crate) overhead: Option<v1::LinuxContainerResources>,
    /// Of its containers together.
    #[prost(message, optional, tag = "3")]
    pub(crate) resources: Option<v1::LinuxContainerResources>,
}
