//! The program by itself, in variants, to measure what each part of it costs: `cargo xtask bench telemetry`.

use super::{
    hierarchy::CgroupHierarchy,
    load::{OBJECT, Program},
    options::TelemetrySetup,
    status::OffReason,
};
use aya::sys::{Stats, enable_stats};
use resmgr_common::ConstReloc;
use resmgr_topology::Topology;
use std::{fmt, os::fd::OwnedFd};

/// The program built with `bench`, whose parts can be switched off; empty where it was not built.
static SWITCHABLE: &[u8] =
    aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/cri-resmgr-ebpf-bench.o"));

/// What the program leaves out, or does differently.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProgramVariant {
    /// The product's program.
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

impl ProgramVariant {
    /// All.
    pub const ALL: [Self; 5] = [
        Self::Whole,
        Self::NoHistogram,
        Self::NoThrottling,
        Self::NoMigrations,
        Self::OwnClock,
    ];

    fn load(self, topology: &Topology) -> Result<Program, OffReason> {
        let hierarchy = CgroupHierarchy::find(None).ok_or(OffReason::NoHierarchy)?;
        let options = TelemetrySetup::default();
        let (object, overrides) = match self {
            Self::Whole => (OBJECT, Vec::new()),
            Self::NoThrottling => (OBJECT, vec![(ConstReloc::SplitThrottle, 0)]),
            Self::NoHistogram | Self::NoMigrations | Self::OwnClock => {
                let constants = vec![
                    (ConstReloc::Histogram, (self != Self::NoHistogram).into()),
                    (ConstReloc::Migrations, (self != Self::NoMigrations).into()),
                    (ConstReloc::OwnClock, (self == Self::OwnClock).into()),
                ];
                (SWITCHABLE, constants)
            }
        };
        Program::load_object(object, topology, &hierarchy, &options, &overrides)
    }
}

impl fmt::Display for ProgramVariant {
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

/// An attached variant, with its empty twin beside it if asked for; detached when dropped.
#[derive(Debug)]
pub struct BenchProgram {
    program: Program,
}

impl BenchProgram {
    /// Loads and attaches a variant, with room for 250 containers.
    ///
    /// # Errors
    /// Why this machine cannot run it.
    pub fn start(
        topology: &Topology,
        variant: ProgramVariant,
        twin: bool,
    ) -> Result<Self, OffReason> {
        let mut program = variant.load(topology)?;
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
pub fn statistics() -> Result<OwnedFd, OffReason> {
    enable_stats(Stats::RunTime).map_err(|error| OffReason::Refused {
        step: "statistics of programs",
        why: error.to_string(),
    })
}
