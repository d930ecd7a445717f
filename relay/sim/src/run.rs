//! Passes a trace through a policy and the kernel model, with or without feedback.

pub mod experiment;

use crate::{
    kernel::{Counters, Handle, Kernel, PERIOD_NS},
    report::{ContainerReport, SimulationReport, percentile},
    setup::Setup,
};
use resmgr_policy::{
    Change, Confidence, ContainerId, Decision, Measured, Observed, Quota, RebalanceMode, Request,
    State, View, check,
    trace::{Behaviour, TraceEvent},
};
use resmgr_topology::{CpuSet, DistanceClass, Nanos};
use std::collections::BTreeMap;

const MS: u64 = 1_000_000;

/// A container in the simulation.
#[derive(Debug)]
struct SimulatedContainer {
    handle: Handle,
    behaviour: Behaviour,
    total: Counters,
    intervals: u32,
    /// CPUs before its last move by feedback.
    before: Option<CpuSet>,
}

/// Runs a simulation. A container the policy refuses is not started, and counted.
#[must_use]
pub fn simulate(setup: &Setup<'_>) -> SimulationReport {
    Simulation::new(*setup).run()
}

/// The same, but the policy sees the measurements of the trace in place of the model's: what it decided
/// when they were taken, it decides again.
#[must_use]
pub fn replay(setup: &Setup<'_>) -> SimulationReport {
    let mut simulation = Simulation::new(*setup);
    simulation.replayed = Some(Replayed::default());
    simulation.run()
}

/// Measurements as they were recorded.
#[derive(Debug, Default)]
struct Replayed {
    /// What the daemon's clock showed when the trace began.
    began_ns: Option<u64>,
}

impl Replayed {
    /// On the clock of the simulation, so that what was old then is old now.
    fn brought(&mut self, measured: &Measured, now_ns: u64) -> Measured {
        let taken_ns = measured.at.0;
        let began_ns = *self
            .began_ns
            .get_or_insert_with(|| taken_ns.saturating_sub(now_ns));
        Measured {
            at: Nanos(taken_ns.saturating_sub(began_ns)),
            ..measured.clone()
        }
    }
}

struct Simulation<'a> {
    setup: Setup<'a>,
    kernel: Kernel<'a>,
    state: State,
    measured: Measured,
    replayed: Option<Replayed>,
    running: BTreeMap<ContainerId, SimulatedContainer>,
    now_ns: u64,
    report: SimulationReport,
}

impl<'a> Simulation<'a> {
    fn new(setup: Setup<'a>) -> Self {
        Self {
            kernel: Kernel::new(setup.topology, setup.seed),
            state: State::default(),
            measured: Measured::default(),
            replayed: None,
            running: BTreeMap::new(),
            now_ns: 0,
            report: SimulationReport::new(setup.policy.name(), &setup),
            setup,
        }
    }

    fn run(mut self) -> SimulationReport {
        let end_ns = self.setup.duration_ms.saturating_mul(MS);
        let interval_ns = self.setup.interval_ms.max(1).saturating_mul(MS);
        let mut next_measure_ns = interval_ns;
        let mut trace = self.setup.trace.iter().peekable();
        loop {
            let line = trace
                .peek()
                .map_or(u64::MAX, |line| line.at_ms.saturating_mul(MS));
            let until_ns = line.min(next_measure_ns).min(end_ns);
            self.kernel.run_until(until_ns);
            self.now_ns = until_ns;
            self.report.timeline.add(self.kernel.take_stretches());
            if until_ns == end_ns {
                break;
            }
            if until_ns == next_measure_ns {
                next_measure_ns += interval_ns;
                self.measure(interval_ns);
                self.rebalance();
            } else if let Some(line) = trace.next() {
                self.event(&line.event);
            }
        }
        let ids: Vec<ContainerId> = self.running.keys().cloned().collect();
        for id in ids {
            self.finish(&id);
        }
        self.report.sum_up();
        self.report
    }

    fn view(&self) -> View<'_> {
        View {
            topology: self.setup.topology,
            state: &self.state,
            measured: &self.measured,
            now: Nanos(self.now_ns),
        }
    }

    fn event(&mut self, event: &TraceEvent) {
        match event {
            TraceEvent::Create { request, behaviour } => self.create(request, *behaviour),
            TraceEvent::Exit { id } if self.running.contains_key(id) => {
                let decision = self.setup.policy.release(self.view(), id);
                self.finish(id);
                self.apply(&decision);
            }
            TraceEvent::Measured { measured } => {
                let now_ns = self.now_ns;
                if let Some(replayed) = &mut self.replayed {
                    self.measured = replayed.brought(measured, now_ns);
                }
            }
            TraceEvent::Exit { .. } | TraceEvent::Topology { .. } => {}
        }
    }

    fn create(&mut self, request: &Request, behaviour: Option<Behaviour>) {
        if self.running.contains_key(&request.id) {
            return;
        }
        let decision = match self.setup.policy.place(self.view(), request) {
            Ok(decision) => decision,
            Err(refusal) => {
                let text = format!("{}: {refusal}", request.id);
                self.report.refused.push(text);
                return;
            }
        };
        self.apply(&decision);
        let placed = self.state.containers.get(&request.id);
        let placement = placed
            .map(|container| container.placement.clone())
            .unwrap_or_default();
        let behaviour = behaviour.unwrap_or_else(|| Behaviour::guess(request));
        let asked = &request.requirements;
        let shares = placement
            .cpu_shares
            .unwrap_or_else(|| (u64::from(asked.cpu_request.0) * 1024 / 1000).max(2));
        let quota_ns = match (placement.quota, asked.cpu_limit) {
            (Quota::Keep, Some(limit)) => Some(u64::from(limit.0) * PERIOD_NS / 1000),
            _ => None,
        };
        let handle = self
            .kernel
            .start(behaviour, &placement.cpus, shares, quota_ns);
        self.report
            .timeline
            .name(handle, &request.id, behaviour.class);
        let running = SimulatedContainer {
            handle,
            behaviour,
            total: Counters::default(),
            intervals: 0,
            before: None,
        };
        self.running.insert(request.id.clone(), running);
    }

    /// Takes a decision over into the state and the kernel, and checks what came of it.
    fn apply(&mut self, decision: &Decision) {
        self.state.apply(decision);
        for change in &decision.changes {
            if let Some(running) = self.running.get(&change.id) {
                self.kernel.pin(running.handle, &change.placement.cpus);
            }
        }
        let at_ms = self.now_ns / MS;
        let rules = self.setup.policy.rules(self.setup.topology);
        for violation in check(self.setup.topology, &self.state, &rules) {
            self.report
                .violations
                .push(format!("{at_ms} ms: {violation}"));
        }
    }

    fn finish(&mut self, id: &ContainerId) {
        let Some(mut running) = self.running.remove(id) else {
            return;
        };
        add(
            &mut running.total,
            self.kernel.take_counters(running.handle),
        );
        self.kernel.stop(running.handle);
        if let Some(container) = self.state.containers.get(id) {
            let cpus = *container.placement.cpus;
            self.report.placements.insert(id.clone(), cpus);
        }
        self.measured.containers.remove(id);
        let class = running.behaviour.class;
        let report = ContainerReport::new(id.clone(), class, running.total);
        self.report.containers.push(report);
    }

    /// What the daemon's telemetry would say, smoothed.
    fn measure(&mut self, interval_ns: u64) {
        if self.replayed.is_some() {
            for running in self.running.values_mut() {
                add(
                    &mut running.total,
                    self.kernel.take_counters(running.handle),
                );
            }
            return;
        }
        self.measured.at = Nanos(self.now_ns);
        // That of `observe`: the policy keeps time by it.
        self.measured.half_life = Nanos(interval_ns.saturating_mul(5));
        let mut busy: BTreeMap<_, u64> = BTreeMap::new();
        for (cpu, ran_ns) in self.report.timeline.take_busy() {
            *busy.entry(cpu).or_default() += ran_ns;
        }
        self.measured.cpu_busy_milli = busy
            .into_iter()
            .map(|(cpu, ran)| (cpu, u32::try_from(ran * 1000 / interval_ns).unwrap_or(1000)))
            .collect();
        for (cpu, stolen_ns) in self.kernel.take_stolen() {
            let old = u64::from(
                self.measured
                    .cpu_steal_milli
                    .get(&cpu)
                    .copied()
                    .unwrap_or(0),
            );
            let milli = smooth(SMOOTHED_MILLI, old, stolen_ns * 1000 / interval_ns);
            let milli = u32::try_from(milli).unwrap_or(1000);
            self.measured.cpu_steal_milli.insert(cpu, milli);
        }
        for (id, running) in &mut self.running {
            let seen = self.kernel.take_counters(running.handle);
            running.intervals += 1;
            let old = self.measured.containers.get(id);
            let new = observe(&seen, interval_ns, running.intervals, old);
            self.measured.containers.insert(id.clone(), new);
            add(&mut running.total, seen);
        }
    }

    fn rebalance(&mut self) {
        if self.setup.feedback == RebalanceMode::Off {
            return;
        }
        let Some(decision) = self.setup.policy.rebalance(self.view()) else {
            return;
        };
        if self.setup.feedback == RebalanceMode::Shadow {
            self.report.moves += decision.changes.len();
            // Remembered, so that the same move is not shown again at every step.
            self.state.apply(&decision.shadow());
            return;
        }
        for change in &decision.changes {
            self.count_move(change);
        }
        self.apply(&decision);
    }

    fn count_move(&mut self, change: &Change) {
        let now = self.state.containers.get(&change.id);
        let now = now.map(|container| *container.placement.cpus);
        let Some(running) = self.running.get_mut(&change.id) else {
            return;
        };
        if now == Some(*change.placement.cpus) {
            return;
        }
        self.report.moves += 1;
        self.report.timeline.moved(running.handle, self.now_ns);
        self.report.last_move_ms = Some(self.now_ns / MS);
        if running.before == Some(*change.placement.cpus) {
            self.report.undone += 1;
        }
        running.before = now;
    }
}

fn add(total: &mut Counters, seen: Counters) {
    total.run_ns += seen.run_ns;
    total.throttled_ns += seen.throttled_ns;
    total.waits_ns.extend(seen.waits_ns);
    for (class, count) in seen.migrations {
        *total.migrations.entry(class).or_default() += count;
    }
}

/// The weight of an interval in an average with a half-life of five of them, thousandths.
const SMOOTHED_MILLI: u64 = 129;

fn smooth(weight_milli: u64, old: u64, new: u64) -> u64 {
    (old * (1000 - weight_milli) + new * weight_milli) / 1000
}

/// Smoothed with a half-life of five intervals, and the plain mean before there are so many.
fn observe(seen: &Counters, interval_ns: u64, intervals: u32, old: Option<&Observed>) -> Observed {
    let old = old.cloned().unwrap_or_default();
    let weight = u64::from(1000 / intervals.max(1)).max(SMOOTHED_MILLI);
    let smooth = |old: u64, new: u64| smooth(weight, old, new);
    let per_second = |value: u64| value.saturating_mul(1_000 * MS) / interval_ns;
    let migrations = |class| {
        let count = seen.migrations.get(&class).copied().unwrap_or(0);
        per_second(count * 1000)
    };
    let mut waits = seen.waits_ns.clone();
    waits.sort_unstable();
    let utilisation = smooth(
        old.utilisation_mcpu.into(),
        seen.run_ns * 1000 / interval_ns,
    );
    Observed {
        utilisation_mcpu: u32::try_from(utilisation).unwrap_or(u32::MAX),
        wait_ns_per_s: smooth(old.wait_ns_per_s, per_second(waits.iter().sum())),
        wait_p50_ns: smooth(old.wait_p50_ns, percentile(&waits, 50)),
        wait_p99_ns: smooth(old.wait_p99_ns, percentile(&waits, 99)),
        throttled_ns_per_s: smooth(old.throttled_ns_per_s, per_second(seen.throttled_ns)),
        llc_migrations_milli_per_s: smooth(
            old.llc_migrations_milli_per_s,
            migrations(DistanceClass::SameNode),
        ),
        node_migrations_milli_per_s: smooth(
            old.node_migrations_milli_per_s,
            migrations(DistanceClass::SamePackage),
        ),
        package_migrations_milli_per_s: smooth(
            old.package_migrations_milli_per_s,
            migrations(DistanceClass::OtherPackage),
        ),
        confidence: Confidence(u16::try_from(intervals * 100).unwrap_or(1000).min(1000)),
        ..old
    }
}
