//! Hooks on unary calls: one before the runtime has the request, and one when it has answered.

use async_trait::async_trait;
use bytes::Bytes;
use std::{fmt, sync::Arc, time::Instant};

/// One gRPC call through the relay, or one of the relay's own.
#[derive(Clone, Debug)]
pub struct Call {
    /// Counts every call since start-up; ties a reply to its request in the dump.
    pub seq: u64,
    /// The HTTP/2 `:path`, e.g. `/runtime.v1.RuntimeService/CreateContainer`.
    pub path: Arc<str>,
    /// When its headers arrived.
    pub received: Instant,
    /// From `grpc-timeout`, if the client set one.
    pub deadline: Option<Instant>,
}

impl Call {
    /// The bare method name, the last element of the path.
    #[must_use]
    pub fn method(&self) -> &str {
        self.path.rsplit('/').next().unwrap_or_default()
    }

    /// The service, e.g. `runtime.v1.RuntimeService`; empty when the path has none.
    #[must_use]
    pub fn service(&self) -> &str {
        self.path
            .trim_start_matches('/')
            .split('/')
            .next()
            .unwrap_or_default()
    }
}

/// A gRPC status other than OK.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// The code's number (`google.rpc.Code`).
    pub code: u32,
    /// The message, percent-decoded.
    pub message: String,
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "gRPC status {}: {}", self.code, self.message)
    }
}

/// What to do with a call.
pub enum Before {
    /// Send it on: `request` replaces the message body when `Some` (the original bytes plus an overlay;
    /// see `overlay`). `after` hears how it ended, whatever happens.
    Forward {
        /// The message to send in place of the one received.
        request: Option<Bytes>,
        /// Told of the outcome exactly once; before the client sees the end of the reply.
        after: Option<Box<dyn After>>,
    },
    /// Answer with this status; the runtime never sees the call's message.
    Refuse(Status),
}

impl fmt::Debug for Before {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Forward { request, after } => f
                .debug_struct("Forward")
                .field("request", &request.as_ref().map(Bytes::len))
                .field("after", &after.is_some())
                .finish(),
            Self::Refuse(status) => f.debug_tuple("Refuse").field(status).finish(),
        }
    }
}

/// How a forwarded call ended.
#[derive(Clone, Debug)]
pub enum CallOutcome {
    /// Status OK, with the reply message (uncompressed body, no gRPC prefix).
    Reply(Bytes),
    /// The runtime said no: it did not do it.
    Failed(Status),
    /// Not known: the client cancelled, or the connection to the runtime broke after the request
    /// was sent. The text says which.
    Unknown(String),
}

/// A hook waiting for the end of a call.
#[async_trait]
pub trait After: Send {
    /// Called exactly once. Dropping the hook uncalled (the relay itself is being torn down) must be
    /// treated like [`CallOutcome::Unknown`].
    async fn after(self: Box<Self>, outcome: CallOutcome);

    /// Whether the runtime answers the call only when the relay has ended: a relay that ends waits for no such
    /// answer. The call then ends with UNAVAILABLE, and the runtime goes on with it.
    fn awaits_relay_end(&self) -> bool {
        false
    }
}

/// Hooks on unary calls. One instance serves all connections; calls run concurrently, and a
/// hook that needs an order (per pod) keeps it itself.
#[async_trait]
pub trait Interceptor: fmt::Debug + Send + Sync + 'static {
    /// Whether calls on this path are intercepted. Asked once per call; must be cheap.
    fn wants(&self, path: &str) -> bool;

    /// Looks at a request. `request` is the message body without gRPC's 5-byte prefix.
    async fn before(&self, call: &Call, request: &Bytes) -> Before;
}

/// The next number for [`Call::seq`], unique in this process.
#[must_use]
pub fn next_seq() -> u64 {
    static NEXT: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(1);
    NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed)
}
