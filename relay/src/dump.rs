//! The message dumper: which CRI messages are shown, and how.
//!
//! The dumper only looks. It never holds up a call: calls put what happened into a bounded queue, one thread
//! reads the messages, hides secrets and writes. What does not fit into the queue is dropped, counted and
//! reported.
//!
//! ```text
//!  calls ──sink──▶ queue (bounded) ──▶ writer ──▶ message ──▶ yaml, lines ──▶ log (source `message`), dump file
//!       clones only                    (thread)   (redact)    json        ──▶ dump file
//! ```
//!
//! There is one way from the bytes of a message to what is printed, `message.rs`, and one table of what is
//! hidden on it, `redact.rs`.

pub mod rule;

mod diff;
mod error;
mod json;
mod lines;
mod message;
mod queue;
mod record;
mod redact;
mod sink;
mod writer;
mod yaml;

pub use error::DumpError;
#[cfg(any(test, feature = "fuzz"))]
pub(crate) use message::Message;
pub use queue::Measurements;
pub use redact::hide_secrets;
pub use sink::Dumper;
