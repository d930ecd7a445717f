//! Words as typed: options, option files, nothing decided.
