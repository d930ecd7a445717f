//! The gRPC API between cri-resmgr and its node agent.
//!
//! [`v1`] is generated from `proto/v1/*.proto`; the files themselves describe every field. The
//! sockets' default paths are here because both sides must agree on them.

/// Where cri-resmgr takes configurations: the `Config` service.
pub const CONFIG_SOCKET: &str = "/var/run/cri-resmgr/cri-resmgr-config.sock";
/// Where the node agent takes node operations: the `Agent` service.
pub const AGENT_SOCKET: &str = "/var/run/cri-resmgr/cri-resmgr-agent.sock";

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
