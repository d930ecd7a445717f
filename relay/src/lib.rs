//! cri-resmgr: a CRI relay that places containers on CPUs and memory nodes.
//!
//! See `docs/architecture.md` for the modules and what each may touch.

pub mod cli;
pub mod config;
pub mod control;
pub mod cri;
pub mod daemon;
pub mod discover;
pub mod dump;
pub mod enforce;
#[cfg(any(test, feature = "fuzz"))]
#[doc(hidden)]
pub mod fuzz;
#[cfg(test)]
mod golden;
pub mod inspect;
pub mod install;
pub mod intercept;
pub mod ledger;
pub mod log;
pub mod manager;
pub mod metrics;
pub mod record;
pub mod suggest;
pub mod telemetry;
pub mod values;
