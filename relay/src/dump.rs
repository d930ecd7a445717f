//! The message dumper: which CRI messages are shown, and how.
//!
//! It only looks. It never holds up a call: what it cannot write in time it drops, counts and says.

pub mod rule;
