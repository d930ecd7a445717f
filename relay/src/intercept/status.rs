//! Refusals of the manager as gRPC statuses.

use crate::{
    cri::intercept::Status,
    manager::{Denied, DenyKind},
};

/// The codes of `google.rpc.GrpcCode` that are sent.
#[derive(Clone, Copy)]
enum GrpcCode {
    InvalidArgument = 3,
    DeadlineExceeded = 4,
    ResourceExhausted = 8,
    Internal = 13,
    Unavailable = 14,
}

impl From<Denied> for Status {
    fn from(denied: Denied) -> Self {
        let code = match denied.kind {
            DenyKind::NoPlace => GrpcCode::ResourceExhausted,
            DenyKind::PolicyLate => GrpcCode::DeadlineExceeded,
            DenyKind::Internal => GrpcCode::Internal,
            DenyKind::Unavailable => GrpcCode::Unavailable,
        };
        Self {
            code: code as u32,
            message: denied.message,
        }
    }
}

/// The request is no message of CRI.
pub(super) fn unreadable(method: &str) -> Status {
    Status {
        code: GrpcCode::InvalidArgument as u32,
        message: format!("cri-resmgr cannot read this {method} request; nothing was started"),
    }
}
