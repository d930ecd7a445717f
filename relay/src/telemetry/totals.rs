//! Running totals of registered containers, kept from one sweep of the maps to the next.

use super::snapshot::{ContainerTelemetry, ForeignRun, Interference, InterferenceSource, Totals};
use resmgr_common::SlotCounters;
use resmgr_policy::ContainerId;
use resmgr_topology::{CpuId, CpuSet};
use std::collections::BTreeMap;

/// The counters of a slot on one CPU at the last sweep.
#[derive(Clone, Copy, Debug, Default)]
struct CpuReading {
    counters: SlotCounters,
    /// CPU time with time in flight, as last reported: an estimate never goes backwards.
    run_ns: u64,
}

/// What a slot gained on one CPU between two sweeps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct SlotDelta {
    /// CPU time, nanoseconds.
    pub(super) run_ns: u64,
    /// Contention wait, nanoseconds.
    pub(super) contention_ns: u64,
}

/// Totals of one slot.
#[derive(Clone, Debug, Default)]
pub(super) struct SlotTotals {
    by_cpu: BTreeMap<CpuId, CpuReading>,
    pub(super) total: Totals,
}

impl SlotTotals {
    /// Takes in the counters on one CPU; gives what they gained.
    pub(super) fn update(
        &mut self,
        cpu: CpuId,
        counters: &SlotCounters,
        in_flight_ns: u64,
    ) -> SlotDelta {
        if *counters == SlotCounters::default() && in_flight_ns == 0 {
            return SlotDelta::default();
        }
        let last = self.by_cpu.entry(cpu).or_default();
        let contention = |counters: &SlotCounters| counters.wait_wake_ns + counters.wait_preempt_ns;
        let contention_ns = contention(counters).saturating_sub(contention(&last.counters));
        self.total.add(&last.counters, counters);
        let run_ns = counters
            .run_ns
            .saturating_add(in_flight_ns)
            .max(last.run_ns);
        let gained = run_ns - last.run_ns;
        *last = CpuReading {
            counters: *counters,
            run_ns,
        };
        self.total.run_ns += gained;
        SlotDelta {
            run_ns: gained,
            contention_ns,
        }
    }

    fn run_ns(&self) -> BTreeMap<CpuId, u64> {
        self.by_cpu
            .iter()
            .map(|(cpu, last)| (*cpu, last.run_ns))
            .collect()
    }
}

/// A registered container.
#[derive(Clone, Debug)]
pub(super) struct Registration {
    pub(super) id: ContainerId,
    pub(super) kernel_id: u64,
    /// Path within the hierarchy.
    pub(super) cgroup: String,
    /// Whether it had more than one thread when that was last asked, and at which sweep.
    pub(super) several_threads: (u64, bool),
    pub(super) cpus: CpuSet,
    pub(super) exclusive: CpuSet,
    pub(super) totals: SlotTotals,
    pub(super) outside_ns: u64,
    /// CPU time of intruders on its exclusive CPUs, nanoseconds.
    pub(super) foreign: BTreeMap<InterferenceSource, BTreeMap<CpuId, u64>>,
    /// What kept it from running.
    pub(super) interference: BTreeMap<InterferenceSource, Interference>,
    /// Preemptions at the last sweep, by the slot that ran instead.
    pub(super) preemptions_before: BTreeMap<u32, u64>,
    /// The sum of them.
    pub(super) preempted_before: u64,
}

/// Sources told apart for one container; those that come later go into [`InterferenceSource::Rest`].
const SOURCES: usize = 64;

/// The source under which a sum is kept. Sums never move from one source to another: the rates of both would leap.
fn kept<T>(
    source: InterferenceSource,
    sums: &BTreeMap<InterferenceSource, T>,
) -> InterferenceSource {
    let is_many = matches!(
        source,
        InterferenceSource::Container(_) | InterferenceSource::HostCgroup(_)
    );
    if is_many && sums.len() >= SOURCES && !sums.contains_key(&source) {
        InterferenceSource::Rest
    } else {
        source
    }
}

impl Registration {
    /// Adds preemptions by `source`, and its part of the wait.
    pub(super) fn attribute(&mut self, source: InterferenceSource, preemptions: u64, wait_ns: u64) {
        let source = kept(source, &self.interference);
        let sum = self.interference.entry(source).or_default();
        sum.preemptions += preemptions;
        sum.wait_ns += wait_ns;
    }

    /// Adds CPU time of `source` on one of its exclusive CPUs.
    pub(super) fn add_foreign(&mut self, source: &InterferenceSource, cpu: CpuId, run_ns: u64) {
        let source = kept(source.clone(), &self.foreign);
        let by_cpu = self.foreign.entry(source).or_default();
        *by_cpu.entry(cpu).or_default() += run_ns;
    }

    /// As a snapshot has it.
    pub(super) fn telemetry(&self) -> ContainerTelemetry {
        ContainerTelemetry {
            id: self.id.clone(),
            cpus: self.cpus,
            exclusive: self.exclusive,
            total: self.totals.total.clone(),
            run_ns: self.totals.run_ns(),
            outside_ns: self.outside_ns,
            foreign: self
                .foreign
                .iter()
                .flat_map(|(source, by_cpu)| {
                    by_cpu.iter().map(|(cpu, run_ns)| ForeignRun {
                        cpu: *cpu,
                        source: source.clone(),
                        run_ns: *run_ns,
                    })
                })
                .collect(),
            interference: self.interference.clone(),
            resident: BTreeMap::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_in_flight_is_counted_once() {
        let mut totals = SlotTotals::default();
        let cpu = CpuId(0);
        assert_eq!(
            totals.update(cpu, &SlotCounters::default(), 100).run_ns,
            100
        );
        let finished = SlotCounters {
            run_ns: 150,
            ..SlotCounters::default()
        };
        assert_eq!(totals.update(cpu, &finished, 0).run_ns, 50);
        assert_eq!(totals.update(cpu, &finished, 0), SlotDelta::default());
        assert_eq!(totals.total.run_ns, 150);
    }

    #[test]
    fn counters_of_32_bits_may_wrap_between_two_sweeps() {
        let mut totals = SlotTotals::default();
        let before = SlotCounters {
            voluntary: u32::MAX,
            ..SlotCounters::default()
        };
        let after = SlotCounters {
            voluntary: 4,
            ..SlotCounters::default()
        };
        totals.update(CpuId(0), &before, 0);
        totals.update(CpuId(0), &after, 0);
        assert_eq!(totals.total.voluntary, u64::from(u32::MAX) + 5);
    }

    fn registration() -> Registration {
        Registration {
            id: ContainerId("victim".into()),
            kernel_id: 1,
            cgroup: "/victim".to_owned(),
            several_threads: (0, false),
            cpus: CpuSet::EMPTY,
            exclusive: CpuSet::EMPTY,
            totals: SlotTotals::default(),
            outside_ns: 0,
            foreign: BTreeMap::new(),
            interference: BTreeMap::new(),
            preemptions_before: BTreeMap::new(),
            preempted_before: 0,
        }
    }

    #[test]
    fn intruders_are_told_apart_by_cpu_and_beyond_the_bound_nothing_is_lost() {
        let mut owner = registration();
        let chronyd = InterferenceSource::HostCgroup("system.slice/chronyd.service".into());
        for (cpu, run_ns) in [(2, 5), (3, 7), (2, 1)] {
            owner.add_foreign(&chronyd, CpuId(cpu), run_ns);
        }
        for n in 0..100 {
            let session = format!("user.slice/user-{n}.slice");
            let session = InterferenceSource::HostCgroup(session.as_str().into());
            owner.add_foreign(&session, CpuId(2), 10);
        }
        owner.add_foreign(&chronyd, CpuId(3), 1);
        let foreign = owner.telemetry().foreign;
        let of = |source: &InterferenceSource| {
            let runs = foreign.iter().filter(|run| run.source == *source);
            runs.map(|run| (run.cpu.0, run.run_ns)).collect::<Vec<_>>()
        };
        assert_eq!(of(&chronyd), [(2, 6), (3, 8)]);
        assert_eq!(of(&InterferenceSource::Rest), [(2, 370)]);
        assert_eq!(foreign.iter().map(|run| run.run_ns).sum::<u64>(), 1014);
    }

    #[test]
    fn however_many_sources_there_are_few_are_kept_and_nothing_is_lost() {
        let mut victim = registration();
        let first = InterferenceSource::Container(ContainerId("first".into()));
        victim.attribute(first.clone(), 7, 1_000_000);
        for n in 0..1000 {
            let id = ContainerId(format!("job-{n}").as_str().into());
            let before = victim.interference.clone();
            victim.attribute(InterferenceSource::Container(id), 1, 10);
            // Each source has what it had before, and at most what has just been added.
            for (source, sum) in &victim.interference {
                let before = before.get(source).copied().unwrap_or_default();
                assert!((0..=10).contains(&(sum.wait_ns - before.wait_ns)));
            }
        }
        assert!(
            victim.interference.len() <= SOURCES + 1,
            "{}",
            victim.interference.len()
        );
        assert_eq!(victim.interference[&first].preemptions, 7);
        let sums = victim.interference.values();
        let (preemptions, wait_ns) = sums.fold((0, 0), |(preemptions, wait_ns), sum| {
            (preemptions + sum.preemptions, wait_ns + sum.wait_ns)
        });
        assert_eq!((preemptions, wait_ns), (1007, 1_010_000));
    }
}
