//! How good the numbers of telemetry are, and why not better.

use thiserror::Error;

/// How good the numbers are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Quality {
    /// Nothing is measured.
    #[default]
    Off,
    /// Polled from `cpu.stat`, cpuacct and schedstat: no migrations, no histogram, no foreign time.
    Polled,
    /// Every switch is counted by the BPF program, but for some of the containers not as theirs: more run than can be
    /// told apart (`--max-containers`), or a cgroup was not found.
    Partial,
    /// Every switch is counted by the BPF program.
    Exact,
}

impl Quality {
    /// Whether the BPF program counts: only then are there waits by length, migrations and foreign time.
    #[must_use]
    pub fn counts_switches(self) -> bool {
        self >= Self::Partial
    }
}

/// Why telemetry is not exact. One line, with what would help.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum OffReason {
    /// Not enabled.
    #[error("telemetry is not asked for (--ebpf-telemetry)")]
    Disabled,
    /// Built with `--no-default-features`.
    #[error("built without BPF (--no-default-features)")]
    WithoutFeature,
    /// The object was not built before.
    #[error("built without BPF object: run cargo xtask build-ebpf and build again")]
    NotBuilt,
    /// No cgroup hierarchy to tell containers apart.
    #[error("no cgroup hierarchy with the cpu or cpuset controller is mounted")]
    NoHierarchy,
    /// The kernel has no type information, or it is unreadable.
    #[error("cannot read the kernel's type information: {why} (CONFIG_DEBUG_INFO_BTF)")]
    NoBtf {
        /// What went wrong.
        why: String,
    },
    /// This kernel has no such field.
    #[error("this kernel has no {field}")]
    MissingField {
        /// `structure.member`.
        field: String,
    },
    /// The object and this kernel do not fit together.
    #[error("the BPF object cannot be adapted to this kernel: {why}")]
    Unfit {
        /// What is in the way.
        why: String,
    },
    /// The kernel refused: capability, lockdown or verifier.
    #[error("the kernel refused {step}: {why} (needs CAP_BPF and CAP_PERFMON, no lockdown)")]
    Refused {
        /// Which step.
        step: &'static str,
        /// The kernel's words.
        why: String,
    },
    /// The program's numbers are not the kernel's.
    #[error("self-check failed: {why}; the numbers cannot be trusted on this kernel")]
    SelfCheck {
        /// Which number.
        why: String,
    },
}

/// State of telemetry.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TelemetryStatus {
    /// How good the numbers are.
    pub quality: Quality,
    /// Why they are not exact.
    pub reason: Option<OffReason>,
    /// Metrics this kernel cannot give.
    pub absent: Vec<&'static str>,
    /// Containers that can be told apart at once.
    pub capacity: u32,
    /// Kernel memory of the maps.
    pub map_bytes: u64,
}
