//! What goes from calls to the writer, and what both sides count.

use super::rule::Target;
use crate::cri::{
    intercept::Call,
    observe::{Event, Kind},
};
use serde_json::Value;
use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize},
        mpsc::SyncSender,
    },
    time::Instant,
};

/// What the queue holds.
#[derive(Debug)]
pub(super) enum QueueItem {
    Call(CallEvent),
    Own(OwnEvent),
    Reopen,
    Flush(SyncSender<()>),
    Stop,
}

/// Something that happened to a call.
#[derive(Debug)]
pub(super) struct CallEvent {
    pub(super) call: Arc<Call>,
    pub(super) kind: Kind,
    pub(super) target: Target,
    pub(super) event: Event,
    pub(super) at: Instant,
}

/// Something the relay itself did.
#[derive(Debug)]
pub(super) struct OwnEvent {
    pub(super) name: &'static str,
    pub(super) seq: u64,
    pub(super) target: Target,
    pub(super) value: Value,
    pub(super) at: Instant,
}

/// What both sides of the queue count.
#[derive(Debug, Default)]
pub(super) struct DumpCounters {
    /// Bytes of bodies in the queue.
    pub(super) bytes: AtomicUsize,
    /// Events that did not fit.
    pub(super) dropped: AtomicU64,
    /// Events written.
    pub(super) written: AtomicU64,
}

/// Scheduler measurements of containers, for a full dump.
pub trait Measurements: fmt::Debug + Send + Sync + 'static {
    /// What was measured of each of these containers since it was last asked for, an object each; of those of which
    /// nothing is known there is none.
    fn since_last(&self, containers: &[String]) -> Vec<Value>;
}

/// Bytes of the body that an event carries, 0 without one.
pub(super) fn body_bytes(event: &Event) -> usize {
    match event {
        Event::Request { body } | Event::Rewritten { body } | Event::Reply { body } => body.len(),
        Event::TooLong { .. } | Event::End { .. } => 0,
    }
}
