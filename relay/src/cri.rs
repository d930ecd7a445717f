//! The CRI relay: frames in, frames out, with hooks on the calls a policy cares about.
//!
//! The only module that speaks CRI. It never decides anything and never touches a cgroup.

/// The messages of `runtime.v1`, for modules that hook into calls.
pub use k8s_cri::v1 as message;

mod authority;
pub mod client;
mod clients;
mod frame;
#[cfg(any(test, feature = "fuzz"))]
#[doc(hidden)]
pub mod fuzz;
mod held;
pub mod hpack;
pub mod intercept;
pub mod listen;
pub(crate) mod newer;
pub mod observe;
mod options;
mod outage;
pub mod overlay;
mod pump;
mod route;
pub mod schema;
mod server;
mod session;
mod shared;
mod status;
mod tap;

pub use authority::AnyAuthority;
pub use options::{Limit, ServerOptions};
pub use route::Upstreams;
pub use server::Relay;
