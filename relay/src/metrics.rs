//! Prometheus metrics: gauges are derived from the state at each scrape, never kept by increments.
//!
//! One file per family; `registry` owns the registry and renders the page. docs/metrics.md says what
//! each metric means and what to do about it.

mod labels;
pub mod losses;
mod moves;
pub mod placement;
pub mod registry;
pub mod relay;
pub mod scheduler;
mod server;

pub use server::serve_metrics;
