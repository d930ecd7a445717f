//! What the scheduler model must show before what it says of a policy is believed.

use proptest::prelude::*;
use resmgr_policy::{
    Change, ContainerId, Decision, Placement, Policy, QosClass, RebalanceMode, Refusal, Request,
    Unplaced, View,
    trace::{self, Behaviour, Class, Line, TraceEvent},
};
use resmgr_sim::{
    Setup, SimulationReport, simulate,
    workload::{request, standard_mix},
};
use resmgr_topology::{MilliCpu, Topology};

const UNPINNED: Unplaced = Unplaced::NULL;

fn machine() -> Topology {
    Topology::synthetic("pack:2 numa:2 core:2 pu:2").expect("a legal description")
}

fn run(
    machine: &Topology,
    policy: &dyn Policy,
    trace: &[Line],
    feedback: RebalanceMode,
) -> SimulationReport {
    simulate(&Setup {
        topology: machine,
        policy,
        trace,
        seed: 7,
        duration_ms: 6_000,
        interval_ms: 500,
        feedback,
    })
}

fn create(name: &str, class: Class, threads: u32, limit: Option<u32>) -> Line {
    let request = request(
        name,
        QosClass::Burstable,
        MilliCpu(1000),
        limit.map(MilliCpu),
    );
    Line {
        at_ms: 0,
        event: TraceEvent::Create {
            request: Box::new(request),
            behaviour: Some(Behaviour::of(class, threads)),
        },
    }
}

/// Starts unpinned, then confines containers that cross packages to the package with fewer containers.
#[derive(Debug)]
struct Confining;

impl Policy for Confining {
    fn name(&self) -> &'static str {
        "confining"
    }

    fn place(&self, view: View<'_>, request: &Request) -> Result<Decision, Refusal> {
        UNPINNED.place(view, request)
    }

    fn release(&self, view: View<'_>, gone: &ContainerId) -> Decision {
        UNPINNED.release(view, gone)
    }

    fn reconcile(&self, view: View<'_>) -> Result<Decision, Refusal> {
        UNPINNED.reconcile(view)
    }

    fn rebalance(&self, view: View<'_>) -> Option<Decision> {
        let free = |id: &&ContainerId| {
            let container = view.state.containers.get(*id);
            container.is_some_and(|container| container.placement.cpus.is_empty())
        };
        let (id, _) = view
            .measured
            .containers
            .iter()
            .filter(|(id, seen)| free(id) && seen.package_migrations_milli_per_s > 1000)
            .max_by_key(|(_, seen)| seen.package_migrations_milli_per_s)?;
        let load = |cpus: &resmgr_topology::CpuSet| {
            let here = view.state.containers.iter();
            let here = here.filter(|(_, container)| container.placement.cpus == *cpus);
            here.filter_map(|(id, _)| view.measured.containers.get(id))
                .map(|seen| seen.utilisation_mcpu)
                .sum::<u32>()
        };
        let packages = view.topology.packages.iter();
        let home = packages.min_by_key(|package| load(&package.cpus))?;
        let change = Change {
            id: id.clone(),
            request: None,
            placement: Placement {
                cpus: home.cpus.into(),
                ..Placement::default()
            },
            explanation: None,
        };
        Some(Decision {
            changes: vec![change],
            ..Decision::default()
        })
    }
}

#[test]
fn equal_seeds_give_equal_runs_and_other_seeds_do_not() {
    let machine = machine();
    let mix = standard_mix(&machine);
    let first = run(&machine, &UNPINNED, &mix, RebalanceMode::Off);
    let again = run(&machine, &UNPINNED, &mix, RebalanceMode::Off);
    assert_eq!(first.containers, again.containers);
    assert_eq!(first.timeline.svg("a"), again.timeline.svg("a"));
    let reseeded = simulate(&Setup {
        topology: &machine,
        policy: &UNPINNED,
        trace: &mix,
        seed: 8,
        duration_ms: 6_000,
        interval_ms: 500,
        feedback: RebalanceMode::Off,
    });
    assert_ne!(first.containers, reseeded.containers);
}

#[test]
fn endless_work_fills_all_cpus_and_no_more() {
    let machine = machine();
    let half = run(
        &machine,
        &UNPINNED,
        &[create("b", Class::Batch, 8, None)],
        RebalanceMode::Off,
    );
    assert_eq!(half.containers[0].run_ns, 8 * 6_000_000_000);
    assert_eq!(half.wait_p99_ns, 0);
    let full = run(
        &machine,
        &UNPINNED,
        &[create("b", Class::Batch, 20, None)],
        RebalanceMode::Off,
    );
    assert_eq!(full.containers[0].run_ns, 16 * 6_000_000_000);
    assert!(full.wait_p99_ns > 0);
}

#[test]
fn a_quota_throttles_and_throttling_is_not_waiting() {
    let machine = machine();
    let report = run(
        &machine,
        &UNPINNED,
        &[create("b", Class::Batch, 4, Some(2000))],
        RebalanceMode::Off,
    );
    let ran_ms = report.containers[0].run_ns / 1_000_000;
    assert!(
        (11_900..=12_500).contains(&ran_ms),
        "{ran_ms} ms instead of 12000"
    );
    assert!(report.containers[0].throttled_ns > 0);
    assert_eq!(report.wait_p99_ns, 0);
}

#[test]
fn shares_divide_a_busy_machine() {
    let machine = Topology::synthetic("core:1").expect("a legal description");
    let mut light = create("light", Class::Batch, 1, None);
    if let TraceEvent::Create { request, .. } = &mut light.event {
        request.requirements.cpu_request = MilliCpu(250);
    }
    let trace = [light, create("heavy", Class::Batch, 1, None)];
    let report = run(&machine, &UNPINNED, &trace, RebalanceMode::Off);
    let ran = |name: &str| {
        let found = report
            .containers
            .iter()
            .find(|container| &*container.id.0 == name);
        found.map_or(0, |container| container.run_ns)
    };
    let ratio = ran("heavy") * 100 / ran("light");
    assert!((380..=420).contains(&ratio), "{ratio} instead of 400");
}

#[test]
fn talking_threads_cross_packages_unless_they_are_confined() {
    let machine = machine();
    let mix = standard_mix(&machine);
    let off = run(&machine, &Confining, &mix, RebalanceMode::Off);
    let shadow = run(&machine, &Confining, &mix, RebalanceMode::Shadow);
    let on = run(&machine, &Confining, &mix, RebalanceMode::On);
    assert!(off.cross_package() > 100, "{off}");
    assert_eq!(off.cross_package(), shadow.cross_package());
    assert!(shadow.moves > 0 && off.moves == 0);
    assert!(on.cross_package() < off.cross_package() / 2, "{off}\n{on}");
    assert!(on.moves <= mix.len());
    assert!(on.violations.is_empty());
}

#[test]
fn a_broken_promise_is_reported() {
    #[derive(Debug)]
    struct Careless;
    impl Policy for Careless {
        fn name(&self) -> &'static str {
            "careless"
        }
        fn place(&self, view: View<'_>, request: &Request) -> Result<Decision, Refusal> {
            let mut decision = UNPINNED.place(view, request)?;
            for change in &mut decision.changes {
                change.placement.cpus = view.topology.packages[0].cpus.into();
                change.placement.exclusive = view.topology.cores[0].cpus.into();
            }
            Ok(decision)
        }
        fn release(&self, view: View<'_>, gone: &ContainerId) -> Decision {
            UNPINNED.release(view, gone)
        }
        fn reconcile(&self, view: View<'_>) -> Result<Decision, Refusal> {
            UNPINNED.reconcile(view)
        }
    }
    let trace = [
        create("one", Class::Latency, 1, None),
        create("two", Class::Latency, 1, None),
    ];
    let report = run(&machine(), &Careless, &trace, RebalanceMode::Off);
    assert_eq!(
        report.violations.first().map(String::as_str),
        Some("0 ms: CPU 0 belongs to one alone, but two may run on it")
    );
}

#[test]
fn traces_read_as_they_were_written_and_mistakes_have_a_line() {
    let machine = machine();
    let mut lines = standard_mix(&machine);
    lines.insert(
        0,
        Line {
            at_ms: 0,
            event: TraceEvent::Topology {
                topology: Box::new(machine.clone()),
            },
        },
    );
    let text: Vec<_> = lines
        .iter()
        .map(|line| serde_json::to_string(line).unwrap())
        .collect();
    let read = trace::parse(&text.join("\n\n")).unwrap();
    assert_eq!(read, lines);
    assert_eq!(trace::topology(&read), Some(&machine));
    let error = trace::parse("\n{\"at_ms\":1}").unwrap_err();
    assert_eq!(
        error.to_string(),
        "line 2 of the trace is not a trace event"
    );
}

#[test]
fn containers_end_when_the_trace_says() {
    let mut exit = create("b", Class::Batch, 4, None);
    exit.at_ms = 2_000;
    exit.event = TraceEvent::Exit {
        id: ContainerId("b".into()),
    };
    let trace = [create("b", Class::Batch, 4, None), exit];
    let report = run(&machine(), &UNPINNED, &trace, RebalanceMode::Off);
    assert_eq!(report.containers[0].run_ns, 4 * 2_000_000_000);
}

fn class() -> impl Strategy<Value = Class> {
    prop_oneof![
        Just(Class::Chatty),
        Just(Class::Latency),
        Just(Class::Batch),
        Just(Class::Bursty),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn time_is_neither_made_nor_lost(
        seed in any::<u64>(),
        mix in prop::collection::vec((class(), 1..6u32, prop::option::of(200..4000u32)), 1..6),
        pack in 1..3u32, core in 1..4u32, pu in 1..3u32,
    ) {
        let machine = Topology::synthetic(&format!("pack:{pack} l3:2 core:{core} pu:{pu}")).unwrap();
        let trace: Vec<Line> = mix
            .iter()
            .enumerate()
            .map(|(n, (class, threads, limit))| create(&format!("c{n}"), *class, *threads, *limit))
            .collect();
        let report = simulate(&Setup {
            topology: &machine,
            policy: &Confining,
            trace: &trace,
            seed,
            duration_ms: 1_000,
            interval_ms: 100,
            feedback: RebalanceMode::On,
        });
        let cpus = u64::try_from(machine.cpus.len()).unwrap();
        let ran: u64 = report.containers.iter().map(|container| container.run_ns).sum();
        prop_assert!(ran <= cpus * 1_000_000_000);
        prop_assert_eq!(report.containers.len(), trace.len());
        for (n, (_, threads, limit)) in mix.iter().enumerate() {
            let name = format!("c{n}");
            let container = report.containers.iter().find(|container| *container.id.0 == *name).unwrap();
            prop_assert!(container.run_ns <= u64::from(*threads) * 1_000_000_000);
            if let Some(limit) = limit {
                // A slice that is running on every CPU when the quota ends may overrun it.
                let most = u64::from(*limit) * 1_000_000 + 10 * cpus * 3_000_000;
                prop_assert!(container.run_ns <= most, "{} ran {} of {}", name, container.run_ns, most);
            }
        }
        prop_assert!(report.violations.is_empty());
    }
}
