//! Measured contention as a coarse cost of CPUs: what breaks ties among equally legal choices.

use crate::decision::View;
use alloc::{collections::BTreeMap, format, string::String};
use resmgr_topology::{CpuId, CpuSet};

/// Measurements older than this (5 s) say nothing about now.
pub const STALE_NS: u64 = 5_000_000_000;

/// Confidence from which a container's numbers count.
pub(crate) const CONFIDENT: u16 = 500;

/// Differences below a tenth of a CPU are noise.
const QUANTUM_MILLI: u64 = 100;

/// Cost of each CPU from fresh measurements; empty when there are none.
#[derive(Debug)]
pub(crate) struct Contention {
    costs: BTreeMap<CpuId, u64>,
    busy: BTreeMap<CpuId, u64>,
    /// Why it is empty.
    pub(crate) note: Option<String>,
}

/// Whether the measurements are recent enough to act on.
pub(crate) fn fresh(view: View<'_>) -> bool {
    view.now.0.saturating_sub(view.measured.at.0) <= STALE_NS
}

impl Contention {
    pub(crate) fn of(view: View<'_>) -> Self {
        let measured = view.measured;
        let mut this = Self {
            costs: BTreeMap::new(),
            busy: BTreeMap::new(),
            note: None,
        };
        if measured.cpu_busy_milli.is_empty() {
            return this;
        }
        if !fresh(view) {
            let age_s = view.now.0.saturating_sub(measured.at.0) / 1_000_000_000;
            this.note = Some(format!(
                "measurements are {age_s} s old and not used: as without telemetry"
            ));
            return this;
        }
        let busy = |cpu: CpuId| u64::from(measured.cpu_busy_milli.get(&cpu).copied().unwrap_or(0));
        let mean = |cpus: &CpuSet| {
            let sum: u64 = cpus.iter().map(busy).sum();
            sum / u64::try_from(cpus.len().max(1)).unwrap_or(1)
        };
        for llc in &view.topology.llcs {
            let around = mean(&llc.cpus);
            for cpu in llc.cpus.iter() {
                let core = mean(&view.topology.siblings(cpu));
                this.busy.insert(cpu, busy(cpu));
                this.costs.insert(cpu, (core + around) / 2 / QUANTUM_MILLI);
            }
        }
        this
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.costs.is_empty()
    }

    /// Coarse cost of a CPU; 0 when unknown.
    pub(crate) fn cost(&self, cpu: CpuId) -> u64 {
        self.costs.get(&cpu).copied().unwrap_or(0)
    }

    /// Mean busy thousandths of the CPUs, coarse; 0 when unknown.
    pub(crate) fn mean(&self, cpus: &CpuSet) -> u64 {
        let sum: u64 = cpus.iter().filter_map(|cpu| self.busy.get(&cpu)).sum();
        sum / u64::try_from(cpus.len().max(1)).unwrap_or(1) / QUANTUM_MILLI * QUANTUM_MILLI
    }
}
