//! The relay between a plain HTTP/2 client and a fake runtime that can be made to misbehave.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod calls;
mod hooks;
mod scene;
mod upstreams;
