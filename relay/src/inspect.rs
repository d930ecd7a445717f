//! Read-only views: state, explain, top, the status page. Nothing here changes anything.
//!
//! The daemon serves them as JSON on a socket of its own (0600); `cri-resmgr state`, `explain` and `top` are clients of that socket.
//! The status page draws them, there and beside the metrics.

pub mod client;
pub mod history;
mod page;
pub mod server;
pub mod top;
pub mod view;
