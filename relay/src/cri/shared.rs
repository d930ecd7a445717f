//! What all connections of the relay share.

use crate::cri::{
    intercept::Interceptor,
    observe::Observer,
    options::{Limit, ServerOptions},
    outage::Outages,
    route::Upstreams,
};
use std::sync::{
    Arc,
    atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering},
};

/// What all connections share.
#[derive(Debug)]
pub(super) struct ConnectionContext {
    pub(super) upstreams: Upstreams,
    pub(super) options: ServerOptions,
    pub(super) interceptor: Option<Arc<dyn Interceptor>>,
    pub(super) observers: Vec<Arc<dyn Observer>>,
    /// The next call's [`seq`](crate::cri::intercept::Call::seq).
    pub(super) seq: AtomicU64,
    pub(super) outages: Outages,
    /// Octets of requests that are held for all clients, and of messages that are kept for observers.
    pub(super) held: AtomicUsize,
    pub(super) kept: AtomicUsize,
    /// Which limits were logged, by their number.
    logged: AtomicU32,
}

impl ConnectionContext {
    pub(super) fn new(
        upstreams: Upstreams,
        options: ServerOptions,
        interceptor: Option<Arc<dyn Interceptor>>,
        observers: Vec<Arc<dyn Observer>>,
    ) -> Self {
        Self {
            upstreams,
            options,
            interceptor,
            observers,
            seq: AtomicU64::new(1),
            outages: Outages::default(),
            held: AtomicUsize::new(0),
            kept: AtomicUsize::new(0),
            logged: AtomicU32::new(0),
        }
    }

    /// A client or the runtime has met a limit: counted every time, logged the first time.
    pub(super) fn limit_reached(&self, limit: Limit) {
        for observer in &self.observers {
            observer.limit_reached(limit);
        }
        let bit = 1 << limit as u32;
        if self.logged.fetch_or(bit, Ordering::Relaxed) & bit == 0 {
            let limit = limit.as_str();
            tracing::warn!(
                limit,
                "a client or the runtime has met a limit of the relay; further ones are counted only"
            );
        }
    }

    #[cfg(test)]
    pub(super) fn for_tests(options: ServerOptions) -> Self {
        let upstreams = Upstreams {
            runtime: None,
            image: None,
        };
        Self::new(upstreams, options, None, Vec::new())
    }
}
