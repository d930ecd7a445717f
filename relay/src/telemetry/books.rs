//! Running totals of registered containers, kept from one sweep of the maps to the next.

use super::snapshot::{ContainerTelemetry, Culprit, Foreign, Harm, Totals};
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

/// What a slot gained on one CPU between two looks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Gain {
    /// CPU time, nanoseconds.
    pub(super) run_ns: u64,
    /// Contention wait, nanoseconds.
    pub(super) contention_ns: u64,
}

/// Totals of one slot.
#[derive(Clone, Debug, Default)]
pub(super) struct Account {
    seen: BTreeMap<CpuId, Seen>,
    pub(super) total: Totals,
}

impl Account {
    /// Books a look at one CPU's cell; tells what was gained.
    pub(super) fn look(&mut self, cpu: CpuId, cell: &Cell, in_flight_ns: u64) -> Gain {
        if *cell == Cell::default() && in_flight_ns == 0 {
            return Gain::default();
        }
        let seen = self.seen.entry(cpu).or_default();
        let contention = |cell: &Cell| cell.wait_wake_ns + cell.wait_preempt_ns;
        let contention_ns = contention(cell).saturating_sub(contention(&seen.cell));
        self.total.gain(&seen.cell, cell);
        let run_ns = cell.run_ns.saturating_add(in_flight_ns).max(seen.run_ns);
        let gained = run_ns - seen.run_ns;
        *seen = Seen {
            cell: *cell,
            run_ns,
        };
        self.total.run_ns += gained;
        Gain {
            run_ns: gained,
            contention_ns,
        }
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
    /// Who kept it from running.
    pub(super) harm: BTreeMap<Culprit, Harm>,
    /// The kernel's counts of preemptions at the last look, by slot of who ran instead.
    pub(super) preemptions_seen: BTreeMap<u32, u64>,
    /// How many there were in all.
    pub(super) preempted_seen: u64,
}

/// Culprits told apart for one container; beyond, the smallest go into [`Culprit::Other`].
const CULPRITS: usize = 64;

impl Registered {
    /// Books preemptions by `who`, and its part of the wait.
    pub(super) fn blame(&mut self, who: Culprit, preemptions: u64, wait_ns: u64) {
        let harm = self.harm.entry(who).or_default();
        harm.preemptions += preemptions;
        harm.wait_ns += wait_ns;
        if self.harm.len() > CULPRITS {
            let containers = self
                .harm
                .iter()
                .filter(|(who, _)| matches!(who, Culprit::Container(_)));
            let least = containers
                .min_by_key(|(_, harm)| (harm.wait_ns, harm.preemptions))
                .map(|(who, _)| who.clone());
            if let Some(harm) = least.and_then(|who| self.harm.remove(&who)) {
                self.blame(Culprit::Other, harm.preemptions, harm.wait_ns);
            }
        }
    }

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
            harm: self.harm.clone(),
            resident: BTreeMap::new(),
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
        assert_eq!(account.look(cpu, &Cell::default(), 100).run_ns, 100);
        let finished = Cell {
            run_ns: 150,
            ..Cell::default()
        };
        assert_eq!(account.look(cpu, &finished, 0).run_ns, 50);
        assert_eq!(account.look(cpu, &finished, 0), Gain::default());
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

    #[test]
    fn however_many_come_and_go_the_books_of_culprits_stay_small_and_nothing_is_lost() {
        let mut victim = Registered {
            id: ContainerId("victim".into()),
            kernel_id: 1,
            cpus: CpuSet::EMPTY,
            exclusive: CpuSet::EMPTY,
            account: Account::default(),
            outside_ns: 0,
            foreign: BTreeMap::new(),
            harm: BTreeMap::new(),
            preemptions_seen: BTreeMap::new(),
            preempted_seen: 0,
        };
        let worst = Culprit::Container(ContainerId("worst".into()));
        victim.blame(worst.clone(), 7, 1_000_000);
        for n in 0..1000 {
            let id = ContainerId(format!("job-{n}").as_str().into());
            victim.blame(Culprit::Container(id), 1, 10 + n);
        }
        assert!(victim.harm.len() <= CULPRITS, "{}", victim.harm.len());
        assert_eq!(victim.harm[&worst].preemptions, 7);
        let sum: u64 = victim.harm.values().map(|harm| harm.preemptions).sum();
        assert_eq!(sum, 1007);
    }
}
