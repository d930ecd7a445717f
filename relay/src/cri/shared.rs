//! What all connections of the relay share.

use crate::cri::{
    intercept::Interceptor, observe::Observer, options::ServerOptions, outage::Outages,
    route::Upstreams,
};
use std::sync::{Arc, atomic::AtomicU64};

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
}
