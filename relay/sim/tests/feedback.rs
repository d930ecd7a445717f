//! Feedback on the model: under a constant load it ends, breaks nothing, and is worth having or harmless.

use proptest::{prelude::*, test_runner::RngSeed};
use resmgr_policy::{
    CpuListConfig, Policy, PolicySettings, PoolConfig, QosClass, RebalanceMode, Reserved, by_name,
    trace::{Behaviour, Class, Line, TraceEvent},
};
use resmgr_sim::{Setup, SimulationReport, simulate, workload::request};
use resmgr_topology::{DistanceClass, MilliCpu, Topology};

const MS: u64 = 1_000_000;

/// Reserves a CPU; the pools are one shared list for each package.
fn policy(name: &str, machine: &Topology) -> Box<dyn Policy> {
    let mut settings = PolicySettings {
        rebalance: RebalanceMode::On,
        ..PolicySettings::default()
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

/// How long, and how often it is measured: half-lives are five intervals, a rest lasts 150.
#[derive(Clone, Copy)]
struct Pace {
    duration_ms: u64,
    interval_ms: u64,
}

/// A move is judged within a second.
const BRISK: Pace = Pace {
    duration_ms: 12_000,
    interval_ms: 100,
};
/// A half-life holds several bursts, as it does on a node: what one burst does is not taken for a trend.
const STEADY: Pace = Pace {
    duration_ms: 48_000,
    interval_ms: 400,
};

fn run(
    name: &str,
    machine: &Topology,
    trace: &[Line],
    seed: u64,
    feedback: RebalanceMode,
) -> SimulationReport {
    run_for(BRISK, name, machine, trace, seed, feedback)
}

fn run_for(
    pace: Pace,
    name: &str,
    machine: &Topology,
    trace: &[Line],
    seed: u64,
    feedback: RebalanceMode,
) -> SimulationReport {
    simulate(&Setup {
        topology: machine,
        policy: &*policy(name, machine),
        trace,
        seed,
        duration_ms: pace.duration_ms,
        interval_ms: pace.interval_ms,
        feedback,
    })
}

/// Time lost: waiting, and caches refilled after far migrations.
fn lost_ns(report: &SimulationReport) -> u64 {
    let waits = report
        .containers
        .iter()
        .flat_map(|container| &container.waits_ns);
    let count = |class| report.migrations.get(&class).copied().unwrap_or(0);
    waits.sum::<u64>()
        + count(DistanceClass::OtherPackage) * 100_000
        + count(DistanceClass::SamePackage) * 50_000
        + count(DistanceClass::SameNode) * 20_000
}

/// What two runs may differ by when nothing is better or worse: a tenth, and a hundredth of the CPU time.
fn noise_ns(report: &SimulationReport) -> u64 {
    let ran: u64 = report
        .containers
        .iter()
        .map(|container| container.run_ns)
        .sum();
    lost_ns(report) / 10 + ran / 100 + 50 * MS
}

/// Containers that talk over the whole machine, which has room for each of them in one package.
fn talkers() -> Vec<Line> {
    let talker = |n: u64| Line {
        at_ms: n * 37,
        event: TraceEvent::Create {
            request: Box::new(request(
                &format!("chatty-{n}"),
                QosClass::Burstable,
                MilliCpu(500),
                None,
            )),
            behaviour: Some(Behaviour::of(Class::Chatty, 7)),
        },
    };
    (0..3).map(talker).collect()
}

#[test]
fn feedback_lessens_the_wandering_over_packages_and_a_shadow_changes_nothing() {
    let machine = Topology::synthetic("pack:2 core:8 pu:1").unwrap();
    for name in ["static", "static-plus"] {
        let off = run(name, &machine, &talkers(), 3, RebalanceMode::Off);
        let shadow = run(name, &machine, &talkers(), 3, RebalanceMode::Shadow);
        let on = run(name, &machine, &talkers(), 3, RebalanceMode::On);
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

/// Containers whose threads are called from both ends of the machine, and others beside them.
fn called_and_others() -> Vec<Line> {
    let called = (0..2).map(|n| {
        let behaviour = Behaviour {
            sleep_ns: 3 * MS,
            callers: 2,
            ..Behaviour::of(Class::Chatty, 5)
        };
        let name = format!("called-{n}");
        Line {
            at_ms: 100 + n * 50,
            event: TraceEvent::Create {
                request: Box::new(request(&name, QosClass::Burstable, MilliCpu(300), None)),
                behaviour: Some(behaviour),
            },
        }
    });
    let beside = [(Class::Batch, 2), (Class::Bursty, 3), (Class::Latency, 3)];
    let beside = beside.into_iter().map(|(class, threads)| {
        let name = format!("{class:?}").to_lowercase();
        Line {
            at_ms: 10,
            event: TraceEvent::Create {
                request: Box::new(request(&name, QosClass::Burstable, MilliCpu(900), None)),
                behaviour: Some(Behaviour::of(class, threads)),
            },
        }
    });
    beside.chain(called).collect()
}

#[test]
fn under_a_constant_load_the_moves_end_and_the_end_is_no_worse_than_without() {
    const WHOLE_MS: u64 = 24_000;
    const SETTLED_MS: u64 = 18_000;
    let machine = Topology::synthetic("pack:2 numa:2 core:2 pu:2").unwrap();
    let trace = called_and_others();
    let mut moved = 0;
    for seed in 1..=4 {
        for name in ["static", "static-plus", "static-pools"] {
            let for_ms = |duration_ms, feedback| {
                let pace = Pace {
                    duration_ms,
                    ..BRISK
                };
                run_for(pace, name, &machine, &trace, seed, feedback)
            };
            let off = for_ms(WHOLE_MS, RebalanceMode::Off);
            let on = for_ms(WHOLE_MS, RebalanceMode::On);
            let told = format!("seed {seed}\n{off}\n{on}");
            assert!(on.violations.is_empty(), "{told}");
            // Longer than a rest: a container that migrates without end would go on by now.
            assert!(on.last_move_ms.unwrap_or(0) < SETTLED_MS, "{told}");
            assert!(on.moves <= 4 * trace.len(), "{told}");
            moved += on.moves;
            // Equal seeds give equal runs: what is more in the longer one is its end.
            let end = |whole: &SimulationReport, feedback| {
                lost_ns(whole) - lost_ns(&for_ms(SETTLED_MS, feedback))
            };
            let (with, without) = (end(&on, RebalanceMode::On), end(&off, RebalanceMode::Off));
            let noise_ns = noise_ns(&off) * (WHOLE_MS - SETTLED_MS) / WHOLE_MS;
            assert!(
                with <= without + noise_ns,
                "{} ms lost without, {} ms with feedback at the end, seed {seed}\n{off}\n{on}",
                without / MS,
                with / MS
            );
        }
    }
    assert!(moved > 0, "nothing was ever moved");
}

fn class() -> impl Strategy<Value = Class> {
    prop_oneof![
        Just(Class::Chatty),
        Just(Class::Latency),
        Just(Class::Batch),
        Just(Class::Bursty),
    ]
}

/// The same loads in every run, so that what is chance cannot fail one: what the kernel's model does with a load
/// differs by chance too. `PROPTEST_RNG_SEED` draws others, `PROPTEST_CASES` more of them.
fn drawn() -> ProptestConfig {
    let given = ProptestConfig::default();
    ProptestConfig {
        failure_persistence: None,
        cases: match std::env::var_os("PROPTEST_CASES") {
            Some(_) => given.cases,
            None => 12,
        },
        rng_seed: match given.rng_seed {
            RngSeed::Random => RngSeed::Fixed(1),
            drawn @ RngSeed::Fixed(_) => drawn,
        },
        ..given
    }
}

proptest! {
    #![proptest_config(drawn())]

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
                let mut asked = request(&format!("c{n}"), qos, MilliCpu(tenths * 100), None);
                if *exchange {
                    let key = "rebalance-exclusive.cri-resource-manager.intel.com/pod";
                    asked.annotations.insert(key.into(), "true".into());
                }
                Line {
                    at_ms: *at_ms,
                    event: TraceEvent::Create {
                        request: Box::new(asked),
                        behaviour: Some(Behaviour::of(*class, *threads)),
                    },
                }
            })
            .collect();
        trace.sort_by_key(|line| line.at_ms);
        let run = |seed, feedback| run_for(STEADY, name, &machine, &trace, seed, feedback);
        let (off, on) = (run(seed, RebalanceMode::Off), run(seed, RebalanceMode::On));
        prop_assert!(on.violations.is_empty(), "{}", on);
        // The run is shorter than a rest: each is moved once and undone once at most, as is what its pool
        // borrows, which takes the members along; and there are no more than six moves in it.
        let moves_each = if name == "static-plus" { 4 } else { 2 };
        prop_assert!(on.moves <= moves_each * containers.len(), "{}", on);
        if lost_ns(&on) > lost_ns(&off) + noise_ns(&off) {
            // One run in two hundred differs by more from its like with another seed. What is chance goes
            // away over several (eight differ by a third of it on average); what is the moves' does not.
            let (mut with, mut without, mut noise) = (0, 0, 0);
            for seed in (1..=8).map(|n| seed.wrapping_add(n)) {
                let off = run(seed, RebalanceMode::Off);
                with += lost_ns(&run(seed, RebalanceMode::On));
                without += lost_ns(&off);
                noise += noise_ns(&off);
            }
            prop_assert!(
                with <= without + noise / 2,
                "{} ms lost without, {} ms with feedback over eight seeds; of the first:\n{}\n{}",
                without / MS, with / MS, off, on
            );
        }
    }
}
