//! Traces: one JSON object a line, recorded by the daemon or written by hand, read by the simulator.

use crate::{
    measured::Measured,
    request::{ContainerId, Request},
};
use alloc::{boxed::Box, vec::Vec};
use resmgr_topology::Topology;
use serde::{Deserialize, Serialize};

/// One line of a trace.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Line {
    /// When, milliseconds from the start.
    pub at_ms: u64,
    /// What.
    #[serde(flatten)]
    pub event: TraceEvent,
}

/// What a line tells.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "lowercase")]
pub enum TraceEvent {
    /// The machine; the first line of a recorded trace.
    Topology {
        /// It.
        topology: Box<Topology>,
    },
    /// A container comes.
    Create {
        /// What it asks for.
        request: Box<Request>,
        /// What it does; guessed from the request where it is not known.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        behaviour: Option<Behaviour>,
    },
    /// A container goes.
    Exit {
        /// Which.
        id: ContainerId,
    },
    /// What the daemon measured then. The model makes its own measurements; these are for people.
    Measured {
        /// They.
        measured: Box<Measured>,
    },
}

/// The kinds of workload that the simulator tells apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Class {
    /// Threads that wake each other all the time.
    Chatty,
    /// Short work at short intervals, which should not wait.
    Latency,
    /// Computes without end.
    Batch,
    /// Computes for a while, then rests.
    Bursty,
}

/// What each thread of a container does, over and over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Behaviour {
    /// What kind this is, for reports.
    pub class: Class,
    /// Threads.
    pub threads: u32,
    /// CPU time of one piece of work, nanoseconds on a core of its own: half to one and a half of it.
    pub work_ns: u64,
    /// Sleep between two pieces, nanoseconds, unless woken.
    pub sleep_ns: u64,
    /// Whether a thread wakes another one of its container when it has done a piece.
    pub talks: bool,
    /// Of the threads those that only call: they are bound, in turn, to the first and to the last CPU the
    /// container may run on, as those are that serve the queues of a network card. Then only they talk, and
    /// the other threads sleep until they are called.
    #[serde(default, skip_serializing_if = "none")]
    pub callers: u32,
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde passes a reference"
)]
fn none(callers: &u32) -> bool {
    *callers == 0
}

impl Behaviour {
    /// The standard behaviour of a class.
    #[must_use]
    pub fn of(class: Class, threads: u32) -> Self {
        let (work_ns, sleep_ns, talks) = match class {
            Class::Chatty => (400_000, 900_000, true),
            Class::Latency => (200_000, 1_300_000, false),
            Class::Batch => (50_000_000, 0, false),
            Class::Bursty => (150_000_000, 250_000_000, false),
        };
        Self {
            class,
            threads,
            work_ns,
            sleep_ns,
            talks,
            callers: 0,
        }
    }

    /// What a container of a recorded trace, of which only the request is known, is taken to do.
    #[must_use]
    pub fn guess(request: &Request) -> Self {
        let threads = request.requirements.cpu_request.0.div_ceil(1000).max(1);
        Self::of(Class::Latency, threads)
    }
}

/// A line that is none.
#[derive(Debug, thiserror::Error)]
#[error("line {number} of the trace is not a trace event")]
pub struct TraceError {
    /// Which, from 1.
    pub number: usize,
    /// Why.
    #[source]
    pub source: serde_json::Error,
}

/// Reads a trace; empty lines are skipped. Lines are put in order of their times.
///
/// # Errors
/// [`TraceError`] with the number of the line at fault.
pub fn parse(text: &str) -> Result<Vec<Line>, TraceError> {
    let mut lines = Vec::new();
    for (index, line) in text.lines().enumerate() {
        if line.trim().is_empty() {
            continue;
        }
        let line = serde_json::from_str(line).map_err(|source| TraceError {
            number: index + 1,
            source,
        })?;
        lines.push(line);
    }
    lines.sort_by_key(|line: &Line| line.at_ms);
    Ok(lines)
}

/// The machine a trace was recorded on, if it says.
#[must_use]
pub fn topology(lines: &[Line]) -> Option<&Topology> {
    lines.iter().find_map(|line| match &line.event {
        TraceEvent::Topology { topology } => Some(&**topology),
        _ => None,
    })
}
