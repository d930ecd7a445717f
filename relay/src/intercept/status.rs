//! Refusals of the manager as gRPC statuses.

use crate::{
    cri::intercept::Status,
    manager::{Denied, DenyKind},
};

/// The codes of `google.rpc.Code` that are sent.
#[derive(Clone, Copy)]
enum Code {
    InvalidArgument = 3,
    DeadlineExceeded = 4,
    ResourceExhausted = 8,
    Internal = 13,
    Unavailable = 14,
}

impl From<Denied> for Status {
    fn from(denied: Denied) -> Self {
        let code = match denied.kind {
            DenyKind::NoPlace => Code::ResourceExhausted,
            DenyKind::PolicyLate => Code::DeadlineExceeded,
            DenyKind::Internal => Code::Internal,
            DenyKind::Unavailable => Code::Unavailable,
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
        code: Code::InvalidArgument as u32,
        message: format!("cri-resmgr cannot read this {method} request; nothing was started"),
    }
}
