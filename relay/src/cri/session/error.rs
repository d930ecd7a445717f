//! What a connection does not survive (RFC 9113, 5.4.1).

/// A connection error: its HTTP/2 error code and the reason.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text}")]
pub(in crate::cri) struct ConnectionError {
    pub(in crate::cri) code: u32,
    pub(in crate::cri) text: String,
}

impl ConnectionError {
    pub(super) fn new(code: u32, text: impl Into<String>) -> Self {
        Self {
            code,
            text: text.into(),
        }
    }
}
