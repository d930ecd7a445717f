//! One event, ready to be printed.

use super::message::Message;
use crate::cri::observe::Kind;
use serde::{Serialize, Serializer, ser::Error as _};
use serde_json::Value;
use std::time::Duration;

/// A message body.
#[derive(Debug)]
pub(super) enum Body<'a> {
    /// A message of CRI.
    Message(Message<'a>),
    /// What the relay itself says.
    Value(&'a Value),
    /// Of a method that this build does not know, or no message of its method.
    Unknown,
    /// Not kept: longer than so many bytes.
    TooLong { limit: usize },
}

/// What happened.
#[derive(Debug)]
pub(super) enum RecordEvent<'a> {
    Request(Body<'a>),
    Rewritten {
        body: Body<'a>,
        /// How it differs from the request, a line each; `None` when one of the two is unknown.
        changes: Option<String>,
    },
    Reply(Body<'a>),
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
    Own(Body<'a>),
    /// What the scheduler did to the containers of the message before.
    Measured(Body<'a>),
}

/// One event, and the call that it belongs to.
#[derive(Debug)]
pub(super) struct Record<'a> {
    pub(super) kind: Kind,
    pub(super) service: &'a str,
    pub(super) method: &'a str,
    pub(super) seq: u64,
    pub(super) event: RecordEvent<'a>,
    /// Size of the message on the wire.
    pub(super) bytes: usize,
    /// gRPC code, when the call failed.
    pub(super) code: Option<u32>,
    /// Since the request arrived.
    pub(super) latency: Option<Duration>,
    /// Spent waiting for the runtime; known at the end of a call.
    pub(super) runtime: Option<Duration>,
}

impl<'a> RecordEvent<'a> {
    pub(super) fn body(&self) -> Option<&Body<'a>> {
        match self {
            Self::Request(body)
            | Self::Rewritten { body, .. }
            | Self::Reply(body)
            | Self::Own(body)
            | Self::Measured(body) => Some(body),
            Self::Failed(_) | Self::Named { .. } | Self::Count { .. } | Self::Ended => None,
        }
    }

    /// The body turned out to be no message of its method.
    pub(super) fn set_unknown(&mut self) {
        match self {
            Self::Request(body)
            | Self::Rewritten { body, .. }
            | Self::Reply(body)
            | Self::Own(body)
            | Self::Measured(body) => *body = Body::Unknown,
            Self::Failed(_) | Self::Named { .. } | Self::Count { .. } | Self::Ended => {}
        }
    }
}

impl Serialize for Body<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Message(message) => message.serialize(serializer),
            Self::Value(value) => value.serialize(serializer),
            Self::Unknown | Self::TooLong { .. } => Err(S::Error::custom("there is no body")),
        }
    }
}
