//! Registering containers with the program and sweeping its maps.

use super::{
    blame,
    clock::now_ns,
    error::RegisterError,
    hierarchy::CgroupHierarchy,
    host_cgroups::HostCgroups,
    load::{HOST_SLOTS, Program},
    slots::Slots,
    snapshot::{InterferenceSource, TelemetrySnapshot, Totals},
    status::Quality,
    totals::{Registration, SlotDelta, SlotTotals},
};
use resmgr_common::{CpuState, SLOT_KERNEL, SLOT_OTHER, SLOTS_RESERVED, SlotCounters, SlotRef};
use resmgr_policy::ContainerId;
use resmgr_topology::{CpuId, CpuSet};
use std::{collections::BTreeMap, mem, sync::Arc};

/// A sweep reads only CPUs a container may run on; every tenth sweep reads all of them.
const FULL_SWEEP_EVERY: u64 = 10;
/// How often the state of a CPU that keeps changing under the reader is read.
const RETRIES: u32 = 256;

/// The program and the totals of what it counts.
#[derive(Debug)]
pub(super) struct ExactBackend {
    pub(super) program: Program,
    pub(super) hierarchy: CgroupHierarchy,
    slots: Slots,
    pub(super) registered: BTreeMap<u32, Registration>,
    /// Slots of containers that were unregistered: read on until they are reused, for what ran until the end.
    ended: BTreeMap<u32, SlotTotals>,
    host_cgroups: HostCgroups,
    /// What is neither in a container nor in a cgroup of the host that has a slot now.
    pub(super) outside: SlotTotals,
    pub(super) kernel: SlotTotals,
    pub(super) busy_ns: BTreeMap<CpuId, u64>,
    pub(super) switches: u64,
    unseen: u64,
    /// What the last sweep found on each CPU.
    rows: Vec<CpuSweep>,
    sweep: u64,
    /// A walk that was under way while a container was registered may have stored a stale slot.
    forget_again: bool,
}

/// What the last sweep found on one CPU.
#[derive(Clone, Debug, Default)]
struct CpuSweep {
    /// Switches, all that were seen.
    switches: u64,
    /// Switches that the kernel hid.
    unseen: u32,
    /// Switches when the counters of all slots were last read.
    whole: u64,
    /// Both counts of switches of each slot, as one word; empty before a thread ran there.
    counts: Vec<u64>,
}

impl ExactBackend {
    pub(super) fn new(program: Program, hierarchy: CgroupHierarchy) -> Self {
        let first_host = program.slots - HOST_SLOTS;
        let mut backend = Self {
            rows: vec![CpuSweep::default(); program.rows as usize],
            slots: Slots::new(SLOTS_RESERVED, first_host),
            host_cgroups: HostCgroups::new(Slots::new(first_host, program.slots)),
            program,
            hierarchy,
            registered: BTreeMap::new(),
            ended: BTreeMap::new(),
            outside: SlotTotals::default(),
            kernel: SlotTotals::default(),
            busy_ns: BTreeMap::new(),
            switches: 0,
            unseen: 0,
            sweep: 0,
            forget_again: false,
        };
        backend.follow_host_cgroups(now_ns());
        backend
    }

    /// Counts for a container from now on.
    pub(super) fn register(
        &mut self,
        id: ContainerId,
        cgroup: &str,
        cpus: CpuSet,
        exclusive: CpuSet,
    ) -> Result<(), RegisterError> {
        self.unregister(&id);
        let kernel_id = self
            .hierarchy
            .id(cgroup)
            .map_err(|source| RegisterError::Cgroup {
                path: self.hierarchy.folder(cgroup),
                source,
            })?;
        let slot = self.slots.allocate().ok_or(RegisterError::Full {
            capacity: self.program.slots - SLOTS_RESERVED - HOST_SLOTS,
        })?;
        self.host_cgroups
            .make_way_for(cgroup, &mut self.program, self.sweep);
        let owner = SlotRef { slot, flags: 0 };
        if let Err(error) = self.program.cgroups.insert(kernel_id, owner.word(), 0) {
            self.slots.recycle(slot);
            return Err(RegisterError::Map {
                why: error.to_string(),
            });
        }
        self.registered.insert(
            slot,
            Registration {
                id,
                kernel_id,
                cgroup: cgroup.to_owned(),
                several_threads: (0, false),
                cpus,
                exclusive,
                totals: SlotTotals::default(),
                outside_ns: 0,
                foreign: BTreeMap::new(),
                interference: BTreeMap::new(),
                preemptions_before: BTreeMap::new(),
                preempted_before: 0,
            },
        );
        self.forget_non_containers();
        self.forget_again = true;
        Ok(())
    }

    /// Forgets a container, in the maps too.
    pub(super) fn unregister(&mut self, id: &ContainerId) -> Option<Registration> {
        let slot = *self
            .registered
            .iter()
            .find(|(_, container)| container.id == *id)?
            .0;
        let container = self.registered.remove(&slot)?;
        // The key may only be missing if the map is; then there is nothing to forget.
        let _absent = self.program.cgroups.remove(&container.kernel_id);
        self.program.forget(|found| found == slot);
        self.slots.free(slot, self.sweep);
        self.ended.insert(slot, container.totals.clone());
        // Kept or moved into another sum, its past would look like wait of today.
        let source = InterferenceSource::Container(id.clone());
        for victim in self.registered.values_mut() {
            victim.interference.remove(&source);
        }
        Some(container)
    }

    /// Gives a container another cpuset. What was measured until now is counted under the old one.
    pub(super) fn set_placement(&mut self, id: &ContainerId, cpus: CpuSet, exclusive: CpuSet) {
        self.sweep(now_ns(), true);
        if let Some(container) = self.registered.values_mut().find(|c| c.id == *id) {
            container.cpus = cpus;
            container.exclusive = exclusive;
        }
    }

    /// Sweeps, and gives everything measured.
    pub(super) fn snapshot(&mut self, at_ns: u64, all: bool) -> TelemetrySnapshot {
        let began = now_ns();
        self.sweep(at_ns, all);
        let sweep_ns = now_ns().saturating_sub(began);
        TelemetrySnapshot {
            sweep_ns,
            quality: Quality::Exact,
            at_ns,
            containers: self
                .registered
                .values()
                .map(Registration::telemetry)
                .collect(),
            running: self.registered.len(),
            outside: self.outside(),
            kernel: self.kernel.total.clone(),
            busy_ns: self.busy_ns.clone(),
            switches: self.switches,
            unseen_switches: self.unseen,
        }
    }

    /// All that is outside registered containers, kernel threads apart.
    fn outside(&self) -> Totals {
        let mut outside = self.outside.total.clone();
        for host in self.host_cgroups.by_slot.values() {
            outside.absorb(&host.totals.total);
        }
        outside
    }

    /// Entries in the program's tables that name a slot of this or any registered container.
    pub(super) fn entries(&self) -> usize {
        let containers = SLOTS_RESERVED..self.program.slots - HOST_SLOTS;
        let css = (0..self.program.css.len())
            .filter_map(|index| self.program.css.get(index))
            .map(|entry| entry.owner);
        let keys = self.program.cgroups.iter().filter_map(Result::ok);
        css.chain(keys.map(|(_, owner)| SlotRef::from_word(owner)))
            .filter(|owner| containers.contains(&owner.slot))
            .count()
    }

    /// Cgroups whose slot the program remembers, by css id, which the kernel reuses.
    pub(super) fn remembered(&self) -> usize {
        (0..self.program.css.len())
            .filter_map(|index| self.program.css.get(index))
            .filter(|entry| entry.serial != 0)
            .count()
    }

    /// Drops the entries of cgroups that lead to no container: a cgroup registered since may be nearer.
    fn forget_non_containers(&mut self) {
        self.program
            .forget(|slot| !self.registered.contains_key(&slot));
    }

    fn follow_host_cgroups(&mut self, now_ns: u64) {
        let came = self.host_cgroups.follow(
            &mut self.program,
            &self.hierarchy,
            &self.registered,
            (now_ns, self.sweep),
        );
        if came {
            self.forget_non_containers();
            self.forget_again = true;
        }
    }

    /// Makes a slot free whose counters were zeroed.
    fn recycle(&mut self, slot: u32) {
        let Some(host) = self.host_cgroups.recycle(slot) else {
            self.slots.recycle(slot);
            return;
        };
        // What was counted there stays in the sum of all that is outside containers.
        self.outside.total.absorb(&host.totals.total);
        // A service that was started again has the same path.
        let mut remaining = self.host_cgroups.by_slot.values();
        if !remaining.any(|remaining| remaining.path == host.path) {
            let source = InterferenceSource::HostCgroup(host.path);
            for victim in self.registered.values_mut() {
                victim.interference.remove(&source);
            }
        }
    }

    /// Adds up everything gained since the last sweep.
    pub(super) fn sweep(&mut self, now_ns: u64, all: bool) {
        self.sweep += 1;
        let all = all || self.sweep.is_multiple_of(FULL_SWEEP_EVERY);
        if mem::take(&mut self.forget_again) {
            self.forget_non_containers();
        }
        self.follow_host_cgroups(now_ns);
        let mut reclaimable = self.slots.reclaimable(self.sweep);
        reclaimable.extend(self.host_cgroups.reclaimable(self.sweep));
        for slot in reclaimable {
            self.program.forget(|found| found == slot);
            for row in 0..self.program.rows {
                self.program
                    .counters
                    .zero(self.program.counters_at(row as usize, slot));
                if let Some(counts) = self.rows[row as usize].counts.get_mut(slot as usize) {
                    *counts = 0;
                }
            }
            for partner in 0..self.program.slots {
                self.program.preemptions.zero(self.pair(slot, partner));
                self.program.preemptions.zero(self.pair(partner, slot));
            }
            for victim in self.registered.values_mut() {
                victim.preemptions_before.remove(&slot);
            }
            self.ended.remove(&slot);
            self.recycle(slot);
        }
        for row in 0..self.program.rows {
            self.sweep_row(row, now_ns, all);
        }
        self.count_preemptions();
        if let Some(warnings) = &mut self.program.warnings {
            warnings.forward();
        }
    }

    fn sweep_row(&mut self, row: u32, now_ns: u64, all: bool) {
        let cpu = CpuId(row);
        for _ in 0..RETRIES {
            let Some(state) = self.program.cpu_state(row as usize) else {
                return;
            };
            let Some(last) = self.rows.get_mut(row as usize) else {
                return;
            };
            // Counters change only at a switch: a CPU that has been idle since the last sweep has gained nothing.
            let read_at = if all { last.whole } else { last.switches };
            if state.pid == 0 && state.switches() == read_at {
                return;
            }
            if state.seq % 2 == 1 {
                std::hint::spin_loop();
                continue;
            }
            // The state is read before and after the counters of the running slot, so that no run counts twice.
            let first = self.program.counters_at(row as usize, 0);
            let running = self.program.counters.get(first + state.owner.slot as usize);
            let after = self.program.cpu_state(row as usize);
            let Some(running) =
                running.filter(|_| after.is_some_and(|after| after.seq == state.seq))
            else {
                continue;
            };
            self.switches += state.switches().wrapping_sub(last.switches);
            self.unseen += u64::from(state.unseen.wrapping_sub(last.unseen));
            (last.switches, last.unseen) = (state.switches(), state.unseen);
            if all {
                last.whole = state.switches();
            }
            last.counts.resize(self.program.slots as usize, 0);
            let in_flight = in_flight_ns(&state, now_ns);
            let mut deltas = Vec::new();
            let update =
                |slot: u32, totals: &mut SlotTotals, deltas: &mut Vec<(u32, SlotDelta)>| {
                    let (counters, in_flight) = if slot == state.owner.slot && state.pid != 0 {
                        (Some(running), in_flight)
                    } else {
                        (self.program.counters.get(first + slot as usize), 0)
                    };
                    if let Some(counters) = counters {
                        let delta = totals.update(cpu, &counters, in_flight);
                        if delta != SlotDelta::default() {
                            deltas.push((slot, delta));
                        }
                    }
                };
            update(SLOT_OTHER, &mut self.outside, &mut deltas);
            update(SLOT_KERNEL, &mut self.kernel, &mut deltas);
            // A thread that no longer runs was counted as it left. Every tenth sweep reads all slots: a sweep may come
            // between the count and what the program writes after it.
            let switched = |slot: u32, last: &mut CpuSweep| {
                let counts = self
                    .program
                    .counters
                    .word(first + slot as usize, SlotCounters::SWITCHES_WORD);
                let before = last.counts.get_mut(slot as usize);
                let same = before.is_some_and(|before| mem::replace(before, counts) == counts);
                all || !same || slot == state.owner.slot
            };
            for (slot, host) in &mut self.host_cgroups.by_slot {
                if switched(*slot, last) {
                    update(*slot, &mut host.totals, &mut deltas);
                }
            }
            for (slot, container) in &mut self.registered {
                // Outside its cpuset, only where it has run before: its CPU time is then known as soon as that of the
                // containers that waited for it.
                let may_have_run = all
                    || container.cpus.is_empty()
                    || container.cpus.contains(cpu)
                    || *slot == state.owner.slot
                    || last.counts.get(*slot as usize) != Some(&0);
                if may_have_run && switched(*slot, last) {
                    update(*slot, &mut container.totals, &mut deltas);
                }
            }
            for (slot, totals) in &mut self.ended {
                update(*slot, totals, &mut deltas);
            }
            self.add(cpu, &deltas);
            return;
        }
    }

    /// Adds busy time, time outside the cpuset, and intruders' time on exclusive CPUs.
    fn add(&mut self, cpu: CpuId, deltas: &[(u32, SlotDelta)]) {
        self.attribute_wait(deltas);
        for (slot, SlotDelta { run_ns: gained, .. }) in deltas {
            *self.busy_ns.entry(cpu).or_default() += gained;
            if let Some(container) = self.registered.get_mut(slot)
                && !container.cpus.is_empty()
                && !container.cpus.contains(cpu)
            {
                container.outside_ns += gained;
            }
            if *slot == SLOT_KERNEL || *gained == 0 {
                continue;
            }
            let intruder = self.source(*slot);
            for (owner, container) in &mut self.registered {
                if owner != slot && container.exclusive.contains(cpu) {
                    container.add_foreign(&intruder, cpu, *gained);
                }
            }
        }
    }

    /// Attributes the wait on one CPU to the slots that ran there meanwhile.
    fn attribute_wait(&mut self, deltas: &[(u32, SlotDelta)]) {
        for (slot, SlotDelta { contention_ns, .. }) in deltas {
            let Some(victim) = self.registered.get_mut(slot) else {
                continue;
            };
            if *contention_ns == 0 {
                continue;
            }
            let (hierarchy, sweep) = (&self.hierarchy, self.sweep);
            let parts = blame::divide(*slot, *contention_ns, deltas, || {
                let (asked_at, several) = &mut victim.several_threads;
                if *asked_at != sweep {
                    *asked_at = sweep;
                    // The cgroup of a container that has just ended is gone: what it had last is still true.
                    *several = hierarchy
                        .has_several_threads(&victim.cgroup)
                        .unwrap_or(*several);
                }
                *several
            });
            for (source, part_ns) in parts {
                let source = source.map_or(InterferenceSource::Rest, |slot| self.source(slot));
                if let Some(victim) = self.registered.get_mut(slot) {
                    victim.attribute(source, 0, part_ns);
                }
            }
        }
    }

    /// Adds preemptions by source: read only for containers that were preempted since the last sweep.
    fn count_preemptions(&mut self) {
        let slots: Vec<u32> = self
            .registered
            .iter()
            .filter(|(_, container)| {
                container.totals.total.preempted_by_others != container.preempted_before
            })
            .map(|(slot, _)| *slot)
            .collect();
        for slot in slots {
            for preempting in 0..self.program.slots {
                let count = self.program.preemptions.get(self.pair(slot, preempting));
                let Some(count) = count.filter(|count| *count != 0) else {
                    continue;
                };
                let source = self.source(preempting);
                if let Some(victim) = self.registered.get_mut(&slot) {
                    let before = victim.preemptions_before.insert(preempting, count);
                    victim.attribute(source, count.saturating_sub(before.unwrap_or(0)), 0);
                    victim.preempted_before = victim.totals.total.preempted_by_others;
                }
            }
        }
    }

    fn source(&self, slot: u32) -> InterferenceSource {
        if slot == SLOT_KERNEL {
            return InterferenceSource::Kernel;
        }
        if self.ended.contains_key(&slot) {
            return InterferenceSource::Ended;
        }
        if let Some(container) = self.registered.get(&slot) {
            return InterferenceSource::Container(container.id.clone());
        }
        self.host_cgroups
            .by_slot
            .get(&slot)
            .map_or(InterferenceSource::Rest, |host| {
                InterferenceSource::HostCgroup(Arc::clone(&host.path))
            })
    }

    fn pair(&self, victim: u32, preempting: u32) -> usize {
        victim as usize * self.program.slots as usize + preempting as usize
    }
}

/// How long the task on the CPU has run since it was switched in: the run-queue clock is brought to
/// `CLOCK_MONOTONIC` by the calibration in the CPU's state.
fn in_flight_ns(state: &CpuState, now_ns: u64) -> u64 {
    if state.pid == 0 || state.calibrated_ns == 0 {
        return 0;
    }
    let since = state
        .calibrated_ns
        .saturating_add(state.since.saturating_sub(state.calibrated_clock));
    now_ns.saturating_sub(since)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_in_flight_needs_a_calibrated_clock_and_a_running_thread() {
        let state = CpuState {
            pid: 7,
            since: 5_100,
            calibrated_clock: 5_000,
            calibrated_ns: 90_000,
            ..CpuState::default()
        };
        assert_eq!(in_flight_ns(&state, 90_600), 500);
        assert_eq!(in_flight_ns(&state, 90_000), 0);
        assert_eq!(in_flight_ns(&CpuState { pid: 0, ..state }, 90_600), 0);
        assert_eq!(
            in_flight_ns(
                &CpuState {
                    calibrated_ns: 0,
                    ..state
                },
                90_600
            ),
            0
        );
    }
}
