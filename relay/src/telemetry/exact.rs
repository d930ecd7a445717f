//! Registering containers with the program and sweeping its maps.

use super::{
    RegisterError,
    books::{Account, Registered},
    hierarchy::Hierarchy,
    load::Program,
    now_ns,
    slots::Slots,
    snapshot::Snapshot,
    status::Quality,
};
use resmgr_common::{Css, Record, SLOT_KERNEL, SLOT_OTHER, SLOTS_RESERVED};
use resmgr_policy::ContainerId;
use resmgr_topology::{CpuId, CpuSet};
use std::collections::BTreeMap;

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
    last_switches: BTreeMap<CpuId, u32>,
    sweep: u64,
    /// A walk that was under way while a container was registered may have remembered a stale answer.
    forget_again: bool,
}

impl Exact {
    pub(super) fn new(program: Program, hierarchy: Hierarchy) -> Self {
        Self {
            slots: Slots::new(SLOTS_RESERVED, program.slots),
            program,
            hierarchy,
            registered: BTreeMap::new(),
            other: Account::default(),
            kernel: Account::default(),
            busy_ns: BTreeMap::new(),
            switches: 0,
            last_switches: BTreeMap::new(),
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
        self.sweep(at_ns, all);
        Snapshot {
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
        }
    }

    /// Entries in the program's tables that name a slot of this or any registered container.
    pub(super) fn entries(&self) -> usize {
        let css = (0..self.program.css.len())
            .filter_map(|index| self.program.css.get(index))
            .filter(|entry| entry.slot >= SLOTS_RESERVED)
            .count();
        css + self.program.cgroups.keys().filter_map(Result::ok).count()
    }

    /// Drops remembered answers that lead to `slot`.
    fn forget(&self, slot: u32) {
        for index in 0..self.program.css.len() {
            if let Some(Css {
                serial,
                slot: found,
                ..
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
        if std::mem::take(&mut self.forget_again) {
            self.forget(SLOT_OTHER);
        }
        for slot in self.slots.wake(self.sweep) {
            self.forget(slot);
            for row in 0..self.program.rows {
                self.program.cells.zero(self.cell(row, slot));
            }
            self.slots.rested(slot);
        }
        for row in 0..self.program.rows {
            self.row(row, now_ns, all);
        }
    }

    fn row(&mut self, row: u32, now_ns: u64, all: bool) {
        let cpu = CpuId(row);
        for _ in 0..RETRIES {
            let Some(record) = self.program.records.get(row as usize) else {
                return;
            };
            let last = self.last_switches.get(&cpu).copied().unwrap_or(0);
            let idle_since = record.pid == 0 && record.switches == last;
            if idle_since && !all {
                return;
            }
            if record.seq % 2 == 1 {
                std::hint::spin_loop();
                continue;
            }
            // What is running is read before and after its cell, so that a stint is not counted twice.
            let running = self.program.cells.get(self.cell(row, record.slot));
            let after = self.program.records.get(row as usize);
            let Some(running) = running.filter(|_| after.is_some_and(|a| a.seq == record.seq))
            else {
                continue;
            };
            self.switches += u64::from(record.switches.wrapping_sub(last));
            self.last_switches.insert(cpu, record.switches);
            let in_flight = in_flight_ns(&record, now_ns);
            let mut gains = Vec::new();
            let looked = |slot: u32, account: &mut Account, gains: &mut Vec<(u32, u64)>| {
                let (cell, in_flight) = if slot == record.slot && record.pid != 0 {
                    (Some(running), in_flight)
                } else {
                    let index = row as usize * self.program.slots as usize + slot as usize;
                    (self.program.cells.get(index), 0)
                };
                if let Some(cell) = cell {
                    let gained = account.look(cpu, &cell, in_flight);
                    if gained != 0 {
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
                    || *slot == record.slot
                {
                    looked(*slot, &mut container.account, &mut gains);
                }
            }
            self.book(cpu, &gains);
            return;
        }
    }

    /// Busy time, time outside the cpuset, and time on somebody else's exclusive CPU.
    fn book(&mut self, cpu: CpuId, gains: &[(u32, u64)]) {
        for (slot, gained) in gains {
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

    fn cell(&self, row: u32, slot: u32) -> usize {
        row as usize * self.program.slots as usize + slot as usize
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
