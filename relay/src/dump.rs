//! The message dumper.
