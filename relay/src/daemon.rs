//! Start-up, tasks, signals and shutdown: where the parts are wired.
