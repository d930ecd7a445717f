//! A seeded model of the kernel's scheduler, for simulation and property tests.
//!
//! A [`Line`](resmgr_policy::trace::Line) says which containers come and go; [`run::simulate`] passes them through any policy,
//! lets the [`kernel`] model run their threads on the CPUs they were given, measures what the telemetry
//! of the daemon would measure, and feeds it back. Equal arguments give equal reports.
//!
//! The model is for comparing policies, not for predicting times of a real machine.

pub mod draw;
pub mod kernel;
mod noise;
pub mod random;
pub mod report;
pub mod run;
mod setup;
pub mod workload;

pub use report::SimulationReport;
pub use run::{replay, simulate};
pub use setup::Setup;
