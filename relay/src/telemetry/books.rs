//! Running totals of registered containers, kept from one sweep of the maps to the next.

use super::snapshot::{ContainerTelemetry, Foreign, Totals};
use resmgr_common::Cell;
use resmgr_policy::ContainerId;
use resmgr_topology::{CpuId, CpuSet};
use std::collections::BTreeMap;

/// Last look at one cell.
#[derive(Clone, Copy, Debug, Default)]
struct Seen {
    cell: Cell,
    /// CPU time with time in flight, as last reported: an estimate never goes backwards.
    run_ns: u64,
}

/// Totals of one slot.
#[derive(Clone, Debug, Default)]
pub(super) struct Account {
    seen: BTreeMap<CpuId, Seen>,
    pub(super) total: Totals,
}

impl Account {
    /// Books a look at one CPU's cell; returns the CPU time gained.
    pub(super) fn look(&mut self, cpu: CpuId, cell: &Cell, in_flight_ns: u64) -> u64 {
        if *cell == Cell::default() && in_flight_ns == 0 {
            return 0;
        }
        let seen = self.seen.entry(cpu).or_default();
        self.total.gain(&seen.cell, cell);
        let run_ns = cell.run_ns.saturating_add(in_flight_ns).max(seen.run_ns);
        let gained = run_ns - seen.run_ns;
        *seen = Seen {
            cell: *cell,
            run_ns,
        };
        self.total.run_ns += gained;
        gained
    }

    fn run_ns(&self) -> BTreeMap<CpuId, u64> {
        self.seen
            .iter()
            .map(|(cpu, seen)| (*cpu, seen.run_ns))
            .collect()
    }
}

/// A registered container.
#[derive(Clone, Debug)]
pub(super) struct Registered {
    pub(super) id: ContainerId,
    pub(super) kernel_id: u64,
    pub(super) cpus: CpuSet,
    pub(super) exclusive: CpuSet,
    pub(super) account: Account,
    pub(super) outside_ns: u64,
    /// Others on its exclusive CPUs; `None` is no registered container.
    pub(super) foreign: BTreeMap<(CpuId, Option<ContainerId>), u64>,
}

impl Registered {
    /// As shown to others.
    pub(super) fn telemetry(&self) -> ContainerTelemetry {
        ContainerTelemetry {
            id: self.id.clone(),
            cpus: self.cpus,
            exclusive: self.exclusive,
            total: self.account.total.clone(),
            run_ns: self.account.run_ns(),
            outside_ns: self.outside_ns,
            foreign: self
                .foreign
                .iter()
                .map(|((cpu, who), run_ns)| Foreign {
                    cpu: *cpu,
                    who: who.clone(),
                    run_ns: *run_ns,
                })
                .collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_in_flight_is_counted_once() {
        let mut account = Account::default();
        let cpu = CpuId(0);
        assert_eq!(account.look(cpu, &Cell::default(), 100), 100);
        let finished = Cell {
            run_ns: 150,
            ..Cell::default()
        };
        assert_eq!(account.look(cpu, &finished, 0), 50);
        assert_eq!(account.look(cpu, &finished, 0), 0);
        assert_eq!(account.total.run_ns, 150);
    }

    #[test]
    fn counters_of_32_bits_may_wrap_between_two_looks() {
        let mut account = Account::default();
        let before = Cell {
            voluntary: u32::MAX,
            ..Cell::default()
        };
        let after = Cell {
            voluntary: 4,
            ..Cell::default()
        };
        account.look(CpuId(0), &before, 0);
        account.look(CpuId(0), &after, 0);
        assert_eq!(account.total.voluntary, u64::from(u32::MAX) + 5);
    }
}
