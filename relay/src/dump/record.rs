//! One event, decoded and ready to be shown.

use crate::cri::observe::Kind;
use serde_json::Value;
use std::time::Duration;

/// A message body for people.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Body {
    /// As YAML.
    Decoded(String),
    /// So many bytes of a message this build does not know.
    Opaque(usize),
    /// So many bytes, of which none was kept: more than the limit.
    TooLong { bytes: usize, limit: usize },
}

/// What happened.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum What {
    Request(Body),
    Rewritten(Body),
    Reply(Body),
    Failed(String),
    Named {
        failed: bool,
    },
    Count {
        calls: u64,
        all: u64,
        rate: f64,
    },
    Ended,
    /// Not a call: something the relay itself did.
    Told(Body),
}

/// One event.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Record {
    pub(super) kind: Kind,
    pub(super) service: String,
    pub(super) method: String,
    pub(super) seq: u64,
    pub(super) what: What,
    /// The message for machines.
    pub(super) value: Option<Value>,
    /// Size of the message on the wire.
    pub(super) bytes: usize,
    /// gRPC code, when the call failed.
    pub(super) code: Option<u32>,
    /// Since the request arrived.
    pub(super) latency: Option<Duration>,
    /// Spent waiting for the runtime; known at the end of a call.
    pub(super) runtime: Option<Duration>,
}

impl Record {
    #[cfg(test)]
    pub(super) fn test(kind: Kind, method: &str, seq: u64, what: What) -> Self {
        Self {
            kind,
            service: "runtime.v1.RuntimeService".to_owned(),
            method: method.to_owned(),
            seq,
            what,
            value: None,
            bytes: 0,
            code: None,
            latency: None,
            runtime: None,
        }
    }
}

/// The word for a kind of call.
pub(super) trait Kinded {
    fn word(self) -> &'static str;
}
