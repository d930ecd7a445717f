//! Pure placement policies: topology, state, request and measurements in, decision out.
//!
//! No I/O, no clock, no randomness: equal arguments give equal answers, so that every decision can be
//! replayed. What policies need from outside (time, smoothed measurements) is an argument.
#![cfg_attr(not(test), no_std)]

extern crate alloc;

mod decision;
mod measured;
mod request;
mod state;

pub use decision::{Change, Decision, Explanation, Policy, Refusal, View};
pub use measured::{Confidence, Measured, Observed};
pub use request::{ContainerId, Namespace, PodRef, QosClass, Request, Requirements, Source};
pub use state::{Container, Placement, Quota, State};
