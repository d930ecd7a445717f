//! The calls of CRI that a policy cares about: read, handed to the manager, changed.
//!
//! This is the only place where CRI and the manager meet. The manager speaks of containers, CPUs and the
//! runtime; what a message says of them is read here, and what is laid over it is made here.

mod annotations;
mod hooks;
mod own_container;
mod request;
mod runtime;
mod status;

pub use hooks::Hooks;
pub use own_container::OwnContainer;
pub use runtime::RuntimeView;

pub use request::{CreateContainerRequest, container_spec};
