//! What a connection does not survive (RFC 9113, 5.4.1).

use crate::cri::{frame, options::Limit};

/// A connection error: its HTTP/2 error code and the reason.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text}")]
pub(in crate::cri) struct ConnectionError {
    pub(in crate::cri) code: u32,
    pub(in crate::cri) text: String,
    /// The bound that the peer has met.
    pub(super) limit: Option<Limit>,
}

impl ConnectionError {
    pub(super) fn new(code: u32, text: impl Into<String>) -> Self {
        Self {
            code,
            text: text.into(),
            limit: None,
        }
    }

    /// The peer makes the relay work for nothing.
    pub(super) fn too_many(limit: Limit, text: impl Into<String>) -> Self {
        Self::new(frame::ENHANCE_YOUR_CALM, text).met(limit)
    }

    /// The same error, of a peer that has met `limit`.
    pub(super) fn met(self, limit: Limit) -> Self {
        Self {
            limit: Some(limit),
            ..self
        }
    }
}
