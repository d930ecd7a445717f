//! The message dumper: which CRI messages are shown, and how.
//!
//! It only looks. It never holds up a call: calls put what happened into a bounded queue, one thread
//! decodes, hides secrets and writes. What does not fit into the queue is dropped, counted and said.
//!
//! ```text
//!  calls ──observe──▶ queue (bounded) ──▶ writer thread ──▶ log (source `message`)
//!         clone only                       decode, redact    dump file
//! ```

pub mod json;
pub mod redact;
pub mod rule;
pub mod sink;
pub mod text;

mod record;
mod writer;
mod yaml;

pub use sink::{Dumper, Measurements};
