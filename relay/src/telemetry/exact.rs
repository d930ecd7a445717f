//! Registering containers with the program and sweeping its maps.

use super::{
    books::{Account, Gain, Registered},
    clock::now_ns,
    error::RegisterError,
    hierarchy::Hierarchy,
    load::Program,
    slots::Slots,
    snapshot::{Culprit, Snapshot},
    status::Quality,
};
use resmgr_common::{Cell, Css, Owner, Record, SLOT_KERNEL, SLOT_OTHER, SLOTS_RESERVED};
use resmgr_policy::ContainerId;
use resmgr_topology::{CpuId, CpuSet};
use std::{collections::BTreeMap, mem};

/// A sweep looks only at CPUs a container may run on; every so often at all of them.
const FULL_SWEEP_EVERY: u64 = 10;
/// A record that keeps changing under the reader is read at most this often.
const RETRIES: u32 = 256;

/// The program and the books of what it measures.
#[derive(Debug)]
pub(super) struct Exact {
    pub(super) program: Program,
    pub(super) hierarchy: Hierarchy,
    slots: Slots,
    pub(super) registered: BTreeMap<u32, Registered>,
    pub(super) other: Account,
    pub(super) kernel: Account,
    pub(super) busy_ns: BTreeMap<CpuId, u64>,
    pub(super) switches: u64,
    unseen: u64,
    /// What was seen of each CPU.
    rows: Vec<Row>,
    sweep: u64,
    /// A walk that was under way while a container was registered may have remembered a stale answer.
    forget_again: bool,
}

/// What was seen of one CPU.
#[derive(Clone, Debug, Default)]
struct Row {
    /// Switches at the last look.
    switches: u64,
    /// Those the kernel had hidden.
    unseen: u32,
    /// Switches at the last look at all its cells.
    whole: u64,
    /// Both counts of switches of each slot, as one word; empty before anything ran there.
    counts: Vec<u64>,
}

impl Exact {
    pub(super) fn new(program: Program, hierarchy: Hierarchy) -> Self {
        Self {
            rows: vec![Row::default(); program.rows as usize],
            slots: Slots::new(SLOTS_RESERVED, program.slots),
            program,
            hierarchy,
            registered: BTreeMap::new(),
            other: Account::default(),
            kernel: Account::default(),
            busy_ns: BTreeMap::new(),
            switches: 0,
            unseen: 0,
            sweep: 0,
            forget_again: false,
        }
    }

    /// Follows a container from now on.
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
        let slot = self.slots.take().ok_or(RegisterError::Full {
            capacity: self.program.slots - SLOTS_RESERVED,
        })?;
        if let Err(error) = self.program.cgroups.insert(kernel_id, slot, 0) {
            self.slots.rested(slot);
            return Err(RegisterError::Map {
                why: error.to_string(),
            });
        }
        self.forget(SLOT_OTHER);
        self.forget_again = true;
        self.registered.insert(
            slot,
            Registered {
                id,
                kernel_id,
                cpus,
                exclusive,
                account: Account::default(),
                outside_ns: 0,
                foreign: BTreeMap::new(),
                harm: BTreeMap::new(),
                preemptions_seen: BTreeMap::new(),
                preempted_seen: 0,
            },
        );
        Ok(())
    }

    /// Forgets a container; nothing of it stays in the maps.
    pub(super) fn unregister(&mut self, id: &ContainerId) -> Option<Registered> {
        let slot = *self
            .registered
            .iter()
            .find(|(_, container)| container.id == *id)?
            .0;
        let container = self.registered.remove(&slot)?;
        // The key may only be missing if the map is; then there is nothing to forget.
        let _absent = self.program.cgroups.remove(&container.kernel_id);
        self.forget(slot);
        self.slots.put(slot, self.sweep);
        Some(container)
    }

    /// Other CPUs from now on. What was measured until now is booked under the old ones.
    pub(super) fn set_placement(&mut self, id: &ContainerId, cpus: CpuSet, exclusive: CpuSet) {
        self.sweep(now_ns(), true);
        if let Some(container) = self.registered.values_mut().find(|c| c.id == *id) {
            container.cpus = cpus;
            container.exclusive = exclusive;
        }
    }

    /// Sweeps and shows everything.
    pub(super) fn snapshot(&mut self, at_ns: u64, all: bool) -> Snapshot {
        let began = now_ns();
        self.sweep(at_ns, all);
        let sweep_ns = now_ns().saturating_sub(began);
        Snapshot {
            sweep_ns,
            quality: Quality::Exact,
            at_ns,
            containers: self
                .registered
                .values()
                .map(Registered::telemetry)
                .collect(),
            other: self.other.total.clone(),
            kernel: self.kernel.total.clone(),
            busy_ns: self.busy_ns.clone(),
            switches: self.switches,
            unseen_switches: self.unseen,
        }
    }

    /// Entries in the program's tables that name a slot of this or any registered container.
    pub(super) fn entries(&self) -> usize {
        let css = (0..self.program.css.len())
            .filter_map(|index| self.program.css.get(index))
            .filter(|entry| entry.owner.slot >= SLOTS_RESERVED)
            .count();
        css + self.program.cgroups.keys().filter_map(Result::ok).count()
    }

    /// Cgroups whose owner the program remembers, by the id the kernel gives them and takes back.
    pub(super) fn remembered(&self) -> usize {
        (0..self.program.css.len())
            .filter_map(|index| self.program.css.get(index))
            .filter(|entry| entry.serial != 0)
            .count()
    }

    /// Drops remembered answers that lead to `slot`.
    fn forget(&self, slot: u32) {
        for index in 0..self.program.css.len() {
            if let Some(Css {
                serial,
                owner: Owner { slot: found, .. },
            }) = self.program.css.get(index)
                && serial != 0
                && found == slot
            {
                self.program.css.zero(index);
            }
        }
    }

    /// Books everything gained since the last sweep.
    pub(super) fn sweep(&mut self, now_ns: u64, all: bool) {
        self.sweep += 1;
        let all = all || self.sweep.is_multiple_of(FULL_SWEEP_EVERY);
        if mem::take(&mut self.forget_again) {
            self.forget(SLOT_OTHER);
        }
        for slot in self.slots.wake(self.sweep) {
            self.forget(slot);
            for row in 0..self.program.rows {
                self.program
                    .cells
                    .zero(self.program.cell_at(row as usize, slot));
                if let Some(counts) = self.rows[row as usize].counts.get_mut(slot as usize) {
                    *counts = 0;
                }
            }
            for other in 0..self.program.slots {
                self.program.preemptions.zero(self.pair(slot, other));
                self.program.preemptions.zero(self.pair(other, slot));
            }
            for victim in self.registered.values_mut() {
                victim.preemptions_seen.remove(&slot);
            }
            self.slots.rested(slot);
        }
        for row in 0..self.program.rows {
            self.row(row, now_ns, all);
        }
        self.count_culprits();
        if let Some(words) = &mut self.program.words {
            words.forward();
        }
    }

    fn row(&mut self, row: u32, now_ns: u64, all: bool) {
        let cpu = CpuId(row);
        for _ in 0..RETRIES {
            let Some(record) = self.program.record(row as usize) else {
                return;
            };
            let Some(seen) = self.rows.get_mut(row as usize) else {
                return;
            };
            // Cells only change at a switch: idle since then, there is nothing to see.
            let looked_at = if all { seen.whole } else { seen.switches };
            if record.pid == 0 && record.switches() == looked_at {
                return;
            }
            if record.seq % 2 == 1 {
                std::hint::spin_loop();
                continue;
            }
            // What is running is read before and after its cell, so that a stint is not counted twice.
            let first = self.program.cell_at(row as usize, 0);
            let running = self.program.cells.get(first + record.owner.slot as usize);
            let after = self.program.record(row as usize);
            let Some(running) = running.filter(|_| after.is_some_and(|a| a.seq == record.seq))
            else {
                continue;
            };
            self.switches += record.switches().wrapping_sub(seen.switches);
            self.unseen += u64::from(record.unseen.wrapping_sub(seen.unseen));
            (seen.switches, seen.unseen) = (record.switches(), record.unseen);
            if all {
                seen.whole = record.switches();
            }
            seen.counts.resize(self.program.slots as usize, 0);
            let in_flight = in_flight_ns(&record, now_ns);
            let mut gains = Vec::new();
            let looked = |slot: u32, account: &mut Account, gains: &mut Vec<(u32, Gain)>| {
                let (cell, in_flight) = if slot == record.owner.slot && record.pid != 0 {
                    (Some(running), in_flight)
                } else {
                    (self.program.cells.get(first + slot as usize), 0)
                };
                if let Some(cell) = cell {
                    let gained = account.look(cpu, &cell, in_flight);
                    if gained != Gain::default() {
                        gains.push((slot, gained));
                    }
                }
            };
            looked(SLOT_OTHER, &mut self.other, &mut gains);
            looked(SLOT_KERNEL, &mut self.kernel, &mut gains);
            for (slot, container) in &mut self.registered {
                if all
                    || container.cpus.is_empty()
                    || container.cpus.contains(cpu)
                    || *slot == record.owner.slot
                {
                    // Whoever ran and runs no more has been counted as it left. Now and then all are
                    // read: a look may come between the count and what is written after it.
                    let counts = self
                        .program
                        .cells
                        .word(first + *slot as usize, Cell::SWITCHES_WORD);
                    let before = seen.counts.get_mut(*slot as usize);
                    let same = before.is_some_and(|one| mem::replace(one, counts) == counts);
                    if all || !same || *slot == record.owner.slot {
                        looked(*slot, &mut container.account, &mut gains);
                    }
                }
            }
            self.book(cpu, &gains);
            return;
        }
    }

    /// Busy time, time outside the cpuset, and time on somebody else's exclusive CPU.
    fn book(&mut self, cpu: CpuId, gains: &[(u32, Gain)]) {
        self.share_out(gains);
        for (slot, Gain { run_ns: gained, .. }) in gains {
            *self.busy_ns.entry(cpu).or_default() += gained;
            if let Some(container) = self.registered.get_mut(slot)
                && !container.cpus.is_empty()
                && !container.cpus.contains(cpu)
            {
                container.outside_ns += gained;
            }
            let who = self
                .registered
                .get(slot)
                .map(|container| container.id.clone());
            if *slot == SLOT_KERNEL {
                continue;
            }
            for (owner, container) in &mut self.registered {
                if owner != slot && container.exclusive.contains(cpu) {
                    *container.foreign.entry((cpu, who.clone())).or_default() += gained;
                }
            }
        }
    }

    /// The wait on one CPU is the doing of whoever ran there meanwhile: of each by the time it ran.
    fn share_out(&mut self, gains: &[(u32, Gain)]) {
        let ran: u128 = gains.iter().map(|(_, gain)| u128::from(gain.run_ns)).sum();
        if ran == 0 {
            return;
        }
        for (slot, gain) in gains.iter().filter(|(_, gain)| gain.contention_ns != 0) {
            for (culprit, theirs) in gains {
                let part = u128::from(gain.contention_ns) * u128::from(theirs.run_ns) / ran;
                let who = self.who(*culprit);
                if part != 0
                    && let Some(victim) = self.registered.get_mut(slot)
                {
                    victim.blame(who, 0, u64::try_from(part).unwrap_or(u64::MAX));
                }
            }
        }
    }

    /// Who took CPUs from whom: looked up only for containers that were preempted since.
    fn count_culprits(&mut self) {
        let slots: Vec<u32> = self
            .registered
            .iter()
            .filter(|(_, one)| one.account.total.preempted_by_others != one.preempted_seen)
            .map(|(slot, _)| *slot)
            .collect();
        for slot in slots {
            for culprit in 0..self.program.slots {
                let count = self.program.preemptions.get(self.pair(slot, culprit));
                let Some(count) = count.filter(|count| *count != 0) else {
                    continue;
                };
                let who = self.who(culprit);
                if let Some(victim) = self.registered.get_mut(&slot) {
                    let seen = victim.preemptions_seen.insert(culprit, count).unwrap_or(0);
                    victim.blame(who, count.saturating_sub(seen), 0);
                    victim.preempted_seen = victim.account.total.preempted_by_others;
                }
            }
        }
    }

    fn who(&self, slot: u32) -> Culprit {
        if slot == SLOT_KERNEL {
            return Culprit::Kernel;
        }
        self.registered
            .get(&slot)
            .map_or(Culprit::Other, |one| Culprit::Container(one.id.clone()))
    }

    fn pair(&self, victim: u32, culprit: u32) -> usize {
        victim as usize * self.program.slots as usize + culprit as usize
    }
}

/// How long the task on the CPU has run since it was switched in: the run-queue clock is brought to
/// `CLOCK_MONOTONIC` by the record's calibration.
fn in_flight_ns(record: &Record, now_ns: u64) -> u64 {
    if record.pid == 0 || record.calibrated_ns == 0 {
        return 0;
    }
    let since = record
        .calibrated_ns
        .saturating_add(record.since.saturating_sub(record.calibrated_clock));
    now_ns.saturating_sub(since)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_in_flight_needs_a_calibrated_clock_and_somebody_running() {
        let record = Record {
            pid: 7,
            since: 5_100,
            calibrated_clock: 5_000,
            calibrated_ns: 90_000,
            ..Record::default()
        };
        assert_eq!(in_flight_ns(&record, 90_600), 500);
        assert_eq!(in_flight_ns(&record, 90_000), 0);
        assert_eq!(in_flight_ns(&Record { pid: 0, ..record }, 90_600), 0);
        assert_eq!(
            in_flight_ns(
                &Record {
                    calibrated_ns: 0,
                    ..record
                },
                90_600
            ),
            0
        );
    }
}
