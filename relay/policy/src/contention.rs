//! Measured contention as a coarse cost of CPUs: what breaks ties among equally legal choices.

use crate::{condition::Condition, decision::View};
use alloc::{format, string::String, vec, vec::Vec};
use resmgr_topology::{CpuId, CpuSet, Cpus, Topology};

/// Confidence from which a container's numbers count.
pub(crate) const CONFIDENT: u16 = 500;

/// Differences below a tenth of a CPU are noise.
const QUANTUM_MILLI: u64 = 100;

/// Cost of each CPU from fresh measurements; empty when there are none.
#[derive(Debug)]
pub(crate) struct Contention {
    costs: Vec<u64>,
    busy: Vec<u64>,
    /// Waiting of those who may run on a CPU, each spread over all its CPUs, microseconds per second.
    waits: Vec<u64>,
    /// Why it is empty.
    pub(crate) note: Option<String>,
}

impl Contention {
    pub(crate) fn of(view: View<'_>) -> Self {
        let measured = view.measured;
        let mut this = Self {
            costs: Vec::new(),
            busy: Vec::new(),
            waits: Vec::new(),
            note: None,
        };
        let condition = Condition::of(measured, view.now);
        if !condition.is_usable() {
            this.note = Some(format!("{condition}"));
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
        this.waits = waits(view, cpus);
        // Busy time and waiting: half its core's, half its last-level cache's.
        let cores = view.topology.cores.iter().map(|core| &core.cpus);
        let llcs = view.topology.llcs.iter().map(|llc| &llc.cpus);
        for group in cores.chain(llcs) {
            let width = u64::try_from(group.len().max(1)).unwrap_or(1);
            let waited_ms = this.waited_us(group) / 1000 / width;
            let half = (this.exact_mean(group) + waited_ms) / 2;
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

    /// Busy thousandths of the CPUs, summed; 0 when unknown.
    pub(crate) fn sum(&self, cpus: &CpuSet) -> u64 {
        let each = cpus.iter().filter_map(|cpu| self.busy.get(index(cpu)?));
        each.sum()
    }

    /// How long those who run on the CPUs waited for them, microseconds per second.
    pub(crate) fn waited_us(&self, cpus: &CpuSet) -> u64 {
        let each = cpus.iter().filter_map(|cpu| self.waits.get(index(cpu)?));
        each.sum()
    }

    /// Mean busy thousandths of what shares a last-level cache with the CPUs, themselves apart; coarse.
    pub(crate) fn around(&self, topology: &Topology, cpus: &CpuSet) -> u64 {
        let llcs = topology.llcs.iter().map(|llc| &llc.cpus);
        let touched = llcs.filter(|llc| !llc.is_disjoint(cpus));
        let all = touched.fold(CpuSet::EMPTY, |all, llc| all.union(llc));
        self.mean(&all.difference(cpus).intersection(&topology.online))
    }

    fn exact_mean(&self, cpus: &CpuSet) -> u64 {
        self.sum(cpus) / u64::try_from(cpus.len().max(1)).unwrap_or(1)
    }
}

/// Shared sets are few and have many members: they are added up first.
const FEW: usize = 32;

fn waits(view: View<'_>, cpus: usize) -> Vec<u64> {
    let mut waits = vec![0; cpus];
    let mut add = |on: &CpuSet, wait_us: u64| {
        let each = wait_us / u64::try_from(on.len().max(1)).unwrap_or(1);
        for cpu in on.iter() {
            if let Some(slot) = index(cpu).and_then(|at| waits.get_mut(at)) {
                *slot += each;
            }
        }
    };
    let mut groups: Vec<(&Cpus, u64)> = Vec::new();
    for (id, seen) in &view.measured.containers {
        let Some(one) = view.state.containers.get(id) else {
            continue;
        };
        let on = &one.placement.cpus;
        let wait_us = seen.wait_ns_per_s / 1000;
        if seen.confidence.0 < CONFIDENT || wait_us == 0 || on.is_empty() {
            continue;
        }
        let room = groups.len() < FEW;
        match groups.iter_mut().find(|(group, _)| *group == on) {
            Some((_, sum)) => *sum = sum.saturating_add(wait_us),
            None if room => groups.push((on, wait_us)),
            None => add(on, wait_us),
        }
    }
    for (on, wait_us) in groups {
        add(on, wait_us);
    }
    waits
}

fn index(cpu: CpuId) -> Option<usize> {
    usize::try_from(cpu.0).ok()
}
