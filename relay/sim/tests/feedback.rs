//! Feedback on the model: under a constant load it ends, breaks nothing, and is worth having or harmless.

use proptest::prelude::*;
use resmgr_policy::{
    CpuListConfig, Policy, PoolConfig, QosClass, RebalanceMode, Reserved, Settings, by_name,
};
use resmgr_sim::{
    Behaviour, Class, Feedback, Report, Setup, simulate,
    trace::{Event, Line},
    workload::request,
};
use resmgr_topology::{DistanceClass, MilliCpu, Topology};

const MS: u64 = 1_000_000;

/// Reserves a CPU; the pools are one shared list for each package.
fn policy(name: &str, machine: &Topology) -> Box<dyn Policy> {
    let mut settings = Settings {
        rebalance: RebalanceMode::On,
        ..Settings::default()
    };
    settings.slices.reserved = Some(Reserved::Quantity(MilliCpu(1000)));
    let lists = machine.packages.iter().map(|package| CpuListConfig {
        socket: package.id.0,
        cpuset: package.cpus.to_string(),
    });
    let pool = PoolConfig {
        exclusive: false,
        cpu_lists: lists.collect(),
    };
    settings.pools.pools = [("shared".to_string(), pool)].into();
    by_name(name, machine, &settings).expect("a legal configuration")
}

fn run(name: &str, machine: &Topology, trace: &[Line], seed: u64, feedback: Feedback) -> Report {
    simulate(&Setup {
        topology: machine,
        policy: &*policy(name, machine),
        trace,
        seed,
        duration_ms: 12_000,
        // Half-lives of half a second: a move is judged within a second, a rest is the whole run.
        interval_ms: 100,
        feedback,
    })
}

/// Time lost: waiting, and caches refilled after far migrations.
fn lost_ns(report: &Report) -> u64 {
    let waits = report.containers.iter().flat_map(|one| &one.waits_ns);
    let count = |class| report.migrations.get(&class).copied().unwrap_or(0);
    waits.sum::<u64>()
        + count(DistanceClass::OtherPackage) * 100_000
        + count(DistanceClass::SamePackage) * 50_000
        + count(DistanceClass::SameNode) * 20_000
}

/// What two runs may differ by when nothing is better or worse: a tenth, and a hundredth of the CPU time.
fn noise_ns(report: &Report) -> u64 {
    let ran: u64 = report.containers.iter().map(|one| one.run_ns).sum();
    lost_ns(report) / 10 + ran / 100 + 50 * MS
}

/// Containers that talk over the whole machine, which has room for each of them in one package.
fn talkers() -> Vec<Line> {
    let one = |n: u64| Line {
        at_ms: n * 37,
        event: Event::Create {
            request: Box::new(request(
                &format!("chatty-{n}"),
                QosClass::Burstable,
                MilliCpu(500),
                None,
            )),
            behaviour: Some(Behaviour::of(Class::Chatty, 7)),
        },
    };
    (0..3).map(one).collect()
}

#[test]
fn feedback_lessens_the_wandering_over_packages_and_a_shadow_changes_nothing() {
    let machine = Topology::synthetic("pack:2 core:8 pu:1").unwrap();
    for name in ["static", "static-plus"] {
        let off = run(name, &machine, &talkers(), 3, Feedback::Off);
        let shadow = run(name, &machine, &talkers(), 3, Feedback::Shadow);
        let on = run(name, &machine, &talkers(), 3, Feedback::On);
        assert!(on.moves > 0 && on.violations.is_empty(), "{off}\n{on}");
        assert!(
            on.cross_package() * 5 <= off.cross_package() * 4,
            "{off}\n{on}"
        );
        // What confining gains in caches it may cost in waiting: then it is undone.
        assert!(
            lost_ns(&on) <= lost_ns(&off) + noise_ns(&off),
            "{off}\n{on}"
        );
        // A shadow changes nothing at all.
        assert_eq!(shadow.containers, off.containers);
        assert!(shadow.moves > 0, "{shadow}");
    }
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
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 12, ..ProptestConfig::default() })]

    #[test]
    fn a_constant_load_is_moved_a_bounded_number_of_times_and_not_for_the_worse(
        name in prop_oneof![Just("static"), Just("static-plus"), Just("static-pools")],
        containers in prop::collection::vec(
            (class(), any::<bool>(), any::<bool>(), 1..5u32, 1..20u32, 0..300u64),
            2..9,
        ),
        pack in 1..3u32, numa in 1..3u32, core in 2..5u32, pu in 1..3u32,
        seed in any::<u64>(),
    ) {
        let machine = Topology::synthetic(&format!("pack:{pack} numa:{numa} core:{core} pu:{pu}")).unwrap();
        let mut trace: Vec<Line> = containers
            .iter()
            .enumerate()
            .map(|(n, (class, guaranteed, exchange, threads, tenths, at_ms))| {
                let qos = if *guaranteed { QosClass::Guaranteed } else { QosClass::Burstable };
                let mut one = request(&format!("c{n}"), qos, MilliCpu(tenths * 100), None);
                if *exchange {
                    let key = "rebalance-exclusive.cri-resource-manager.intel.com/pod";
                    one.annotations.insert(key.into(), "true".into());
                }
                Line {
                    at_ms: *at_ms,
                    event: Event::Create {
                        request: Box::new(one),
                        behaviour: Some(Behaviour::of(*class, *threads)),
                    },
                }
            })
            .collect();
        trace.sort_by_key(|line| line.at_ms);
        let off = run(name, &machine, &trace, seed, Feedback::Off);
        let on = run(name, &machine, &trace, seed, Feedback::On);
        prop_assert!(on.violations.is_empty(), "{}", on);
        // The run is shorter than a rest: each is moved once and undone once at most, as is what its pool
        // borrows, which takes the members along; and there are no more than six moves in it.
        let each = if name == "static-plus" { 4 } else { 2 };
        prop_assert!(on.moves <= each * containers.len(), "{}", on);
        prop_assert!(
            lost_ns(&on) <= lost_ns(&off) + noise_ns(&off),
            "{} ms lost without, {} ms with feedback\n{}\n{}",
            lost_ns(&off) / MS, lost_ns(&on) / MS, off, on
        );
    }
}
