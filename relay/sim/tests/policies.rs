//! The registered policies on the model: promises kept in every run, and the order one expects of them.

use proptest::prelude::*;
use resmgr_policy::{
    ContainerId, Policy, PolicySettings, QosClass, RebalanceMode, Reserved, by_name,
    trace::{Behaviour, Class, Line, TraceEvent},
};
use resmgr_sim::{
    Setup, SimulationReport, simulate,
    workload::{request, standard_mix},
};
use resmgr_topology::{MilliCpu, Topology};

/// A named policy that keeps one CPU for the system.
fn policy(name: &str, machine: &Topology) -> Box<dyn Policy> {
    let mut settings = PolicySettings::default();
    settings.slices.reserved = Some(Reserved::Quantity(MilliCpu(1000)));
    // The run says whether it is asked.
    settings.rebalance = RebalanceMode::On;
    by_name(name, machine, &settings).expect("a legal configuration")
}

fn run(
    name: &str,
    machine: &Topology,
    trace: &[Line],
    feedback: RebalanceMode,
) -> SimulationReport {
    simulate(&Setup {
        topology: machine,
        policy: &*policy(name, machine),
        trace,
        seed: 3,
        duration_ms: 4_000,
        interval_ms: 500,
        feedback,
    })
}

fn create(at_ms: u64, name: &str, qos: QosClass, cpu: u32, behaviour: Behaviour) -> Line {
    let limit = (qos == QosClass::Guaranteed).then_some(MilliCpu(cpu));
    Line {
        at_ms,
        event: TraceEvent::Create {
            request: Box::new(request(name, qos, MilliCpu(cpu), limit)),
            behaviour: Some(behaviour),
        },
    }
}

#[test]
fn exclusive_cpus_shield_from_a_crowd() {
    let machine = Topology::synthetic("pack:2 numa:2 core:2 pu:2").unwrap();
    // Nearly a CPU each, so that no container's weight protects it: less than a CPU is shared under every policy.
    let crowd = (0..32).map(|n| {
        let name = format!("crowd-{n}");
        create(
            0,
            &name,
            QosClass::Burstable,
            950,
            Behaviour::of(Class::Batch, 1),
        )
    });
    let mut trace: Vec<Line> = crowd.collect();
    let service = Behaviour::of(Class::Latency, 6);
    trace.push(create(10, "service", QosClass::Guaranteed, 2000, service));
    let wait = |name: &str| {
        let report = run(name, &machine, &trace, RebalanceMode::Off);
        assert!(report.violations.is_empty(), "{report}");
        report.classes[&Class::Latency].wait_p99_ns
    };
    let open = wait("null");
    assert!(open > 500_000, "{open} ns in a crowd");
    for name in ["static", "static-plus"] {
        assert!(wait(name) * 2 < open, "{name}: {} of {open} ns", wait(name));
    }
}

#[test]
fn slices_of_one_package_end_the_crossing_of_packages() {
    let machine = Topology::synthetic("pack:2 numa:2 core:2 pu:2").unwrap();
    let mix = standard_mix(&machine);
    let open = run("null", &machine, &mix, RebalanceMode::Off);
    let sliced = run("static-plus", &machine, &mix, RebalanceMode::Off);
    assert!(
        sliced.cross_package() * 10 <= open.cross_package(),
        "{open}\n{sliced}"
    );
}

#[test]
fn a_policy_that_never_rebalances_is_the_same_with_feedback() {
    let machine = Topology::synthetic("pack:2 core:4 pu:2").unwrap();
    let mix = standard_mix(&machine);
    let off = run("null", &machine, &mix, RebalanceMode::Off);
    let on = run("null", &machine, &mix, RebalanceMode::On);
    assert_eq!(off.containers, on.containers);
    assert_eq!(on.moves, 0);
}

fn class() -> impl Strategy<Value = Class> {
    prop_oneof![
        Just(Class::Chatty),
        Just(Class::Latency),
        Just(Class::Batch),
        Just(Class::Bursty),
    ]
}

fn qos() -> impl Strategy<Value = QosClass> {
    prop_oneof![
        Just(QosClass::Guaranteed),
        Just(QosClass::Burstable),
        Just(QosClass::BestEffort),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 32, ..ProptestConfig::default() })]

    #[test]
    fn no_promise_is_broken_whatever_comes_and_goes(
        name in prop_oneof![Just("null"), Just("none"), Just("static"), Just("static-plus")],
        containers in prop::collection::vec(
            (class(), qos(), 1..4u32, prop_oneof![Just(1000u32), Just(2000), Just(3000), Just(1500), Just(300)],
             0..1000u64, 100..1500u64),
            1..12,
        ),
        pack in 1..3u32, numa in 1..3u32, core in 2..4u32, pu in 1..3u32,
        seed in any::<u64>(),
    ) {
        let machine = Topology::synthetic(&format!("pack:{pack} numa:{numa} core:{core} pu:{pu}")).unwrap();
        let mut trace = Vec::new();
        for (n, (class, qos, threads, cpu, at_ms, lives_ms)) in containers.iter().enumerate() {
            let name = format!("c{n}");
            let cpu = if *qos == QosClass::BestEffort { 0 } else { *cpu };
            trace.push(create(*at_ms, &name, *qos, cpu, Behaviour::of(*class, *threads)));
            trace.push(Line { at_ms: at_ms + lives_ms, event: TraceEvent::Exit { id: ContainerId(name.into()) } });
        }
        trace.sort_by_key(|line| line.at_ms);
        let policy = policy(name, &machine);
        let setup = Setup {
            topology: &machine,
            policy: &*policy,
            trace: &trace,
            seed,
            duration_ms: 1_500,
            interval_ms: 100,
            feedback: RebalanceMode::On,
        };
        let report = simulate(&setup);
        prop_assert!(report.violations.is_empty(), "{}", report);
        prop_assert_eq!(report.containers.len() + report.refused.len(), containers.len());
        prop_assert_eq!(&simulate(&setup).containers, &report.containers);
        // Nothing that moves goes on moving for ever.
        prop_assert!(report.moves <= 4 * containers.len(), "{}", report);
    }
}
