//! Measured contention as a coarse cost of CPUs: what breaks ties among equally legal choices.

use crate::{
    condition::Condition,
    measured::{Measured, Observed},
    request::ContainerId,
    view::View,
};
use alloc::{
    collections::{BTreeMap, btree_map::Entry},
    vec,
    vec::Vec,
};
use resmgr_topology::{Cpu, CpuId, CpuSet, Topology};

/// Confidence from which a container's numbers count.
pub(crate) const CONFIDENT: u16 = 500;

/// Differences below a tenth of a CPU are noise.
const QUANTUM_MILLI: u64 = 100;

/// Cost of each CPU from fresh measurements; empty when there are none.
#[derive(Debug)]
pub(crate) struct Contention {
    costs: Vec<u64>,
    busy: Vec<u64>,
    /// Waiting of the containers that may run on a CPU, spread over all CPUs of each, microseconds per second.
    waits: Vec<u64>,
    /// Why it is empty.
    pub(crate) unusable: Option<Condition>,
}

impl Contention {
    /// No costs, for where nothing is chosen by them; why there would be none either way.
    pub(crate) fn unasked(view: View<'_>) -> Self {
        let condition = Condition::of(view.measured, view.now);
        Self {
            costs: Vec::new(),
            busy: Vec::new(),
            waits: Vec::new(),
            unusable: (!condition.is_usable()).then_some(condition),
        }
    }

    pub(crate) fn of(view: View<'_>) -> Self {
        let measured = view.measured;
        let mut contention = Self::unasked(view);
        if contention.unusable.is_some() {
            return contention;
        }
        let cpus = view.topology.cpus.last().map_or(0, |cpu| cpu.id.0 + 1);
        let cpus = usize::try_from(cpus).unwrap_or(0);
        contention.busy = vec![0; cpus];
        contention.costs = vec![0; cpus];
        for (cpu, milli) in &measured.cpu_busy_milli {
            if let Some(slot) = index(*cpu).and_then(|at| contention.busy.get_mut(at)) {
                *slot = u64::from(*milli);
            }
        }
        contention.waits = waits(view, cpus);
        // Busy time and waiting: half its core's, half its last-level cache's.
        let topology = view.topology;
        contention.add_means(topology, topology.cores.len(), |cpu| cpu.core.0);
        contention.add_means(topology, topology.llcs.len(), |cpu| cpu.llc.0);
        contention
    }

    /// Adds half the mean of its group to the cost of each CPU.
    fn add_means(&mut self, topology: &Topology, groups: usize, group: impl Fn(&Cpu) -> u32) {
        let at = |cpu: &Cpu| usize::try_from(group(cpu)).ok();
        // Busy thousandths, waiting, CPUs.
        let mut sums = vec![(0u64, 0u64, 0u64); groups];
        for cpu in &topology.cpus {
            let Some((busy, wait, width)) = at(cpu).and_then(|at| sums.get_mut(at)) else {
                continue;
            };
            let own = |of: &[u64]| {
                index(cpu.id)
                    .and_then(|at| of.get(at).copied())
                    .unwrap_or(0)
            };
            *busy += own(&self.busy);
            *wait += own(&self.waits);
            *width += 1;
        }
        for cpu in &topology.cpus {
            let sum = at(cpu).and_then(|at| sums.get(at));
            let cost = index(cpu.id).and_then(|at| self.costs.get_mut(at));
            if let (Some((busy, wait, width)), Some(cost)) = (sum, cost) {
                *cost += (busy / width + wait / 1000 / width) / 2;
            }
        }
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
        let busy = cpus.iter().filter_map(|cpu| self.busy.get(index(cpu)?));
        busy.sum()
    }

    /// How long containers waited for the CPUs, microseconds per second.
    pub(crate) fn waited_us(&self, cpus: &CpuSet) -> u64 {
        let waits = cpus.iter().filter_map(|cpu| self.waits.get(index(cpu)?));
        waits.sum()
    }

    /// Mean busy thousandths of what shares a last-level cache with the CPUs, themselves apart; coarse.
    pub(crate) fn around(&self, topology: &Topology, cpus: &CpuSet) -> u64 {
        if self.is_empty() {
            return 0;
        }
        let mut all = CpuSet::EMPTY;
        let mut rest = *cpus;
        while let Some(cpu) = rest.first() {
            rest.remove(cpu);
            if let Some(cpu) = topology.cpu(cpu) {
                let llc = topology.cpus_of_llc(cpu.llc);
                all = all.union(&llc);
                rest = rest.difference(&llc);
            }
        }
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
        let per_cpu = wait_us / u64::try_from(on.len().max(1)).unwrap_or(1);
        for cpu in on.iter() {
            if let Some(slot) = index(cpu).and_then(|at| waits.get_mut(at)) {
                *slot += per_cpu;
            }
        }
    };
    // The lowest CPU tells most of them apart at once.
    let mut groups: BTreeMap<(Option<CpuId>, &CpuSet), u64> = BTreeMap::new();
    let placed = view.state.containers.iter();
    for (container, seen) in with_seen(placed, view.measured) {
        let on = &container.placement.cpus;
        let own_milli = 1000 - view.measured.stolen_of_busy_milli(on);
        let wait_us = seen.wait_ns_per_s / 1_000_000 * own_milli;
        if seen.confidence.0 < CONFIDENT || wait_us == 0 || on.is_empty() {
            continue;
        }
        let room = groups.len() < FEW;
        match groups.entry((on.first(), on)) {
            Entry::Occupied(mut sum) => *sum.get_mut() = sum.get().saturating_add(wait_us),
            Entry::Vacant(sum) if room => {
                sum.insert(wait_us);
            }
            Entry::Vacant(_) => add(on, wait_us),
        }
    }
    for ((_, on), wait_us) in groups {
        add(on, wait_us);
    }
    waits
}

/// What there is of each container, and what was seen of it; of none but those that were seen. Both are in the
/// order of ids: one pass.
pub(crate) fn with_seen<'a, T>(
    containers: impl Iterator<Item = (&'a ContainerId, T)>,
    measured: &'a Measured,
) -> impl Iterator<Item = (T, &'a Observed)> {
    let mut seen = measured.containers.iter().peekable();
    containers.filter_map(move |(id, value)| {
        // Ids that are equal mostly share their text: comparing the pointers comes first.
        while seen
            .next_if(|(seen_id, _)| *seen_id != id && *seen_id < id)
            .is_some()
        {}
        let (_, seen) = seen.next_if(|(seen_id, _)| *seen_id == id)?;
        Some((value, seen))
    })
}

fn index(cpu: CpuId) -> Option<usize> {
    usize::try_from(cpu.0).ok()
}
