//! What the relay tells its observers (the dumper, the metrics) about each call.

use crate::cri::{
    intercept::{Call, Status},
    options::Limit,
    schema::Side,
};
use bytes::Bytes;
use std::{fmt, sync::Arc, time::Duration};

/// Why a call is on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// A hook looks at it.
    Intercepted,
    /// Relayed unmodified, without a hook.
    Passthrough,
    /// The relay's own call to the runtime.
    Own,
}

impl Kind {
    /// The word for it in the dump.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Intercepted => "intercepted",
            Self::Passthrough => "passthrough",
            Self::Own => "own",
        }
    }
}

/// How much an observer wants to know of a call.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Interest {
    /// Nothing.
    #[default]
    None,
    /// That it happened, how it ended and how long it took.
    Ends,
    /// Message bodies too.
    Bodies,
}

/// Something that happened to a call.
#[derive(Clone, Debug)]
pub enum Event {
    /// The request message arrived (for client streams: each message).
    Request {
        /// Message body without the gRPC prefix.
        body: Bytes,
    },
    /// A hook changed the request: this is what goes on to the runtime.
    Rewritten {
        /// Message body without the gRPC prefix.
        body: Bytes,
    },
    /// A reply message (for server streams: each).
    Reply {
        /// Message body without the gRPC prefix.
        body: Bytes,
    },
    /// A message longer than the relay keeps for observers went by; this event takes the place of its body.
    TooLong {
        /// Of which side.
        side: Side,
        /// Its length.
        octets: usize,
        /// The most that is kept.
        limit: usize,
    },
    /// The call is over.
    End {
        /// `None` is OK.
        failed: Option<Status>,
        /// From the arrival of its headers to the end of the reply.
        total: Duration,
        /// The part of it spent waiting for the runtime.
        runtime: Duration,
    },
}

/// Sees calls go by. Must never block: the hot path calls it.
pub trait Observer: fmt::Debug + Send + Sync + 'static {
    /// How much of this call is wanted. Asked once per call; must be cheap.
    fn interest(&self, path: &str) -> Interest;

    /// Something happened. Called in order for one call; with messages only for an observer that wants bodies.
    fn observe(&self, call: &Arc<Call>, kind: Kind, event: Event);

    /// A client or the runtime has met a bound of the relay.
    fn limit_reached(&self, _limit: Limit) {}
}
