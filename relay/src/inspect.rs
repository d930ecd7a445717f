//! Read-only views: state, explain, top. Nothing here changes anything.
//!
//! The daemon serves them as JSON on a socket of its own (0600); `cri-resmgr state`, `explain` and `top` are clients of that socket.

pub mod client;
pub mod server;
pub mod top;
pub mod view;
