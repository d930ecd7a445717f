//! The program by itself, in variants, for measurements of what each part of it costs.

use super::{Reason, TelemetryOptions, hierarchy::Hierarchy, load::Program};
use aya::sys::{Stats, enable_stats};
use resmgr_common::Value;
use resmgr_topology::Topology;
use std::{fmt, os::fd::OwnedFd};

/// What the program does without, or differently.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Variant {
    /// As it is.
    Whole,
    /// Without wait histogram.
    NoHistogram,
    /// Without telling throttling from contention.
    NoThrottling,
    /// Without migrations and their distances.
    NoMigrations,
    /// With a time stamp of its own in place of the run queue's clock.
    OwnClock,
}

impl Variant {
    /// All.
    pub const ALL: [Self; 5] = [
        Self::Whole,
        Self::NoHistogram,
        Self::NoThrottling,
        Self::NoMigrations,
        Self::OwnClock,
    ];

    fn numbers(self) -> &'static [(Value, u32)] {
        match self {
            Self::Whole => &[],
            Self::NoHistogram => &[(Value::Histogram, 0)],
            Self::NoThrottling => &[(Value::SplitThrottle, 0)],
            Self::NoMigrations => &[(Value::Migrations, 0)],
            Self::OwnClock => &[(Value::OwnClock, 1)],
        }
    }
}

impl fmt::Display for Variant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Whole => "ours",
            Self::NoHistogram => "ours, no histogram",
            Self::NoThrottling => "ours, no throttling",
            Self::NoMigrations => "ours, no migrations",
            Self::OwnClock => "ours, bpf_ktime_get_ns",
        })
    }
}

/// Nanoseconds spent in a program and how often it ran, while statistics were on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Runs {
    /// Nanoseconds.
    pub ns: u64,
    /// Runs.
    pub count: u64,
}

/// An attached program with its empty twin beside it; taken off when dropped.
#[derive(Debug)]
pub struct Trial {
    program: Program,
}

impl Trial {
    /// Loads and attaches a variant, with room for 250 containers.
    ///
    /// # Errors
    /// Why this machine cannot run it.
    pub fn start(topology: &Topology, variant: Variant, twin: bool) -> Result<Self, Reason> {
        let hierarchy = Hierarchy::find().ok_or(Reason::NoHierarchy)?;
        let options = TelemetryOptions::default();
        let mut program = Program::load(topology, &hierarchy, &options, variant.numbers())?;
        if twin {
            program.empty_twin(true)?;
        }
        Ok(Self { program })
    }

    /// Runs of (the program, its empty twin) since they were attached.
    #[must_use]
    pub fn runs(&self) -> Option<[Runs; 2]> {
        let runs = self.program.run_stats()?;
        Some(runs.map(|(ns, count)| Runs { ns, count }))
    }
}

/// Lets the kernel keep statistics of programs for as long as the answer is held; no setting of the
/// machine is changed.
///
/// # Errors
/// When the kernel does not (before 5.8).
pub fn statistics() -> Result<OwnedFd, Reason> {
    enable_stats(Stats::RunTime).map_err(|error| Reason::Refused {
        what: "statistics of programs",
        why: error.to_string(),
    })
}
