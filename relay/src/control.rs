//! Our own gRPC API: configuration in, node operations out.
//!
//! ```text
//! node agent ──SetConfig──▶ validate (pure) ──▶ ConfigPush ──channel──▶ daemon::configure
//!            ◀── reply ──── answer: notes, or why it could not be applied ◀──┘
//! ```
//!
//! One push is handled at a time. A configuration that is refused, by validation or when it is applied,
//! changes nothing; the last good one stays in force.

pub mod agent_client;
pub mod check;
mod server;

pub use server::{
    ApplyReport, ConfigPush, ConfigRefusal, ConfigServer, ConfigStatus, ConfigValidator,
    PushedConfig, RefusedConfig, beginning,
};
