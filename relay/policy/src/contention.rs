//! Measured contention as a coarse cost of CPUs: what breaks ties among equally legal choices.

use crate::decision::View;
use alloc::{format, string::String, vec, vec::Vec};
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
    costs: Vec<u64>,
    busy: Vec<u64>,
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
            costs: Vec::new(),
            busy: Vec::new(),
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
        let cpus = view.topology.cpus.last().map_or(0, |cpu| cpu.id.0 + 1);
        let cpus = usize::try_from(cpus).unwrap_or(0);
        this.busy = vec![0; cpus];
        this.costs = vec![0; cpus];
        for (cpu, milli) in &measured.cpu_busy_milli {
            if let Some(slot) = index(*cpu).and_then(|at| this.busy.get_mut(at)) {
                *slot = u64::from(*milli);
            }
        }
        // Half its core, half its last-level cache.
        let cores = view.topology.cores.iter().map(|core| &core.cpus);
        let llcs = view.topology.llcs.iter().map(|llc| &llc.cpus);
        for group in cores.chain(llcs) {
            let half = this.exact_mean(group) / 2;
            for cpu in group.iter() {
                if let Some(slot) = index(cpu).and_then(|at| this.costs.get_mut(at)) {
                    *slot += half;
                }
            }
        }
        this
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.costs.is_empty()
    }

    /// Coarse cost of a CPU; 0 when unknown.
    pub(crate) fn cost(&self, cpu: CpuId) -> u64 {
        let cost = index(cpu).and_then(|at| self.costs.get(at));
        cost.map_or(0, |cost| cost / QUANTUM_MILLI)
    }

    /// Mean busy thousandths of the CPUs, coarse; 0 when unknown.
    pub(crate) fn mean(&self, cpus: &CpuSet) -> u64 {
        self.exact_mean(cpus) / QUANTUM_MILLI * QUANTUM_MILLI
    }

    fn exact_mean(&self, cpus: &CpuSet) -> u64 {
        let each = cpus.iter().filter_map(|cpu| self.busy.get(index(cpu)?));
        let sum: u64 = each.sum();
        sum / u64::try_from(cpus.len().max(1)).unwrap_or(1)
    }
}

fn index(cpu: CpuId) -> Option<usize> {
    usize::try_from(cpu.0).ok()
}
