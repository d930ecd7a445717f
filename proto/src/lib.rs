//! The gRPC API between cri-resmgr and its node agent.
//!
//! [`v1`] is generated from `proto/v1/*.proto`; the files themselves describe every field. The
//! sockets' default paths are here because both sides must agree on them, and so is what the agent and
//! `kubectl resmgr` must agree on.

/// Where cri-resmgr takes configurations: the `Config` service.
pub const CONFIG_SOCKET: &str = "/var/run/cri-resmgr/cri-resmgr-config.sock";
/// Where the node agent takes node operations: the `Agent` service.
pub const AGENT_SOCKET: &str = "/var/run/cri-resmgr/cri-resmgr-agent.sock";

/// Where cri-resmgr serves its views when its relay socket is the default one.
pub const INSPECT_SOCKET: &str = "/var/run/cri-resmgr/cri-resmgr-inspect.sock";

/// The container port of the agent's pod on which it serves views over TLS.
pub const VIEWS_PORT: &str = "views";
/// The header with the token of a request for a view. It is not `Authorization`: the API server takes that header out of what it
/// passes on to pods (`WithAuthentication` in k8s.io/apiserver).
pub const VIEWS_TOKEN_HEADER: &str = "x-cri-resmgr-token";

/// The audience of a token for the views of a node: it is of no use to the API server, nor to the agent of another node.
#[must_use]
pub fn views_audience(node: &str) -> String {
    format!("cri-resmgr-agent/{node}")
}

/// Messages, clients and servers of the protobuf package `v1`.
pub mod v1 {
    #![allow(
        missing_docs,
        missing_debug_implementations,
        clippy::all,
        clippy::allow_attributes,
        clippy::allow_attributes_without_reason,
        clippy::missing_errors_doc,
        reason = "generated code; which lints fire depends on the generator's version"
    )]
    tonic::include_proto!("v1");
}
