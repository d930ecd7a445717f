//! Our own gRPC API: configuration in, node operations out.
//!
//! ```text
//! node agent ──SetConfig──▶ judge (pure) ──▶ Pushed ──channel──▶ whoever applies it
//!            ◀── reply ──── answer: notes, or why it could not be applied ◀──┘
//! ```
//!
//! One push is handled at a time. A configuration that is refused, by the judge or by whoever applies it,
//! changes nothing; the last good one stays in force.

pub mod agent_client;
pub mod check;
mod server;
mod socket;

pub use server::{Applied, ConfigServer, Judge, Pushed, Refused};
pub use socket::{SocketError, bind};
