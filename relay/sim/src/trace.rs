//! Traces: one JSON object a line, recorded by the daemon or written by hand.

use crate::workload::Behaviour;
use resmgr_policy::{ContainerId, Measured, Request};
use resmgr_topology::Topology;
use serde::{Deserialize, Serialize};

/// One line of a trace.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Line {
    /// When, milliseconds from the start.
    pub at_ms: u64,
    /// What.
    #[serde(flatten)]
    pub event: Event,
}

/// What a line tells.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "lowercase")]
pub enum Event {
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
        Event::Topology { topology } => Some(&**topology),
        _ => None,
    })
}
