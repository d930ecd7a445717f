//! Start-up, tasks, signals and shutdown: where the parts are wired.

pub mod signals;
pub mod tasks;
