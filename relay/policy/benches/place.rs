//! One placement on a machine of 1024 CPUs with 2,000 containers, of which some go and others come all the
//! time: the mean of one by criterion, and of thousands the median and the 99th percentile, printed: by the
//! clock, and of the time that this thread had a CPU, which other work on the machine disturbs less.
//!
//! Everything is measured, as on a node with telemetry, and ids are as random as the runtime's. A decision
//! is timed with its own end: what it allocated is freed again. The manager does more for each placement,
//! which is timed apart as `taken over`: it applies the decision to a copy of the state and checks every
//! promise there; the copy becomes the state, and what was before is kept in case the creation fails.
#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "a benchmark")]

use criterion::{Criterion, criterion_group, criterion_main};
use nix::time::{ClockId, clock_gettime};
use resmgr_policy::{
    Confidence, ContainerId, CpuListConfig, EXCLUSIVE_CORES, Measured, Observed, PodRef, Policy,
    PoolConfig, PoolsConfig, QosClass, Request, Requirements, Reserved, State, StaticConfig,
    StaticPlusPolicy, StaticPolicy, StaticPools, View, check, update_profiles,
};
use resmgr_topology::{CpuId, CpuSet, MilliCpu, Nanos, NodeId, Topology};
use std::{fmt::Write, hint::black_box, time::Duration};

/// Containers on the machine.
const PRESENT: u32 = 2000;
/// One of so many holds CPUs exclusively.
const EXCLUSIVE_EACH: u32 = 8;
/// What exclusive containers request, thousandths of a CPU: 870 CPUs in all.
const EXCLUSIVE: [u32; 5] = [1000, 2000, 2500, 4000, 8000];
/// What shared containers request.
const SHARED: [u32; 4] = [20, 50, 100, 150];
/// Placements that are timed, half of them exclusive.
const PLACEMENTS: u32 = 3000;

/// The next number of a sequence that looks random and is always the same (splitmix64).
fn random(seed: u64) -> u64 {
    let mut x = seed.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

fn request(index: u32, milli: u32) -> Request {
    let mut id = String::new();
    for part in 0..4 {
        write!(id, "{:016x}", random(u64::from(index) * 4 + part)).unwrap();
    }
    Request {
        id: ContainerId(id.as_str().into()),
        pod: PodRef {
            sandbox: id.as_str().into(),
            uid: id.as_str().into(),
            name: format!("w{index}").into(),
            namespace: "default".into(),
        },
        name: "main".into(),
        qos: if milli >= 1000 {
            QosClass::Guaranteed
        } else {
            QosClass::Burstable
        },
        requirements: Requirements {
            cpu_request: MilliCpu(milli),
            ..Requirements::default()
        },
        init: false,
        annotations: Default::default(),
        env: Vec::new(),
        command: Vec::new(),
        args: Vec::new(),
    }
}

/// The same, to be served by configured pools.
fn of_pools(index: u32, milli: u32) -> Request {
    let mut request = request(index, milli);
    if let Some(lists) = whole(milli) {
        let count = i64::from(lists);
        let extended = &mut request.requirements.extended;
        extended.insert(EXCLUSIVE_CORES.to_string(), count);
        request
            .env
            .push(("STP_POOL".to_string(), "exclusive".to_string()));
    }
    request
}

/// Lists of two threads that hold a request for whole CPUs.
fn whole(milli: u32) -> Option<u32> {
    (milli >= 1000).then_some((milli / 2000).max(1))
}

/// What a container does that is noticed.
fn seen(index: u32) -> Observed {
    Observed {
        utilisation_mcpu: 50 + index % 100,
        wait_ns_per_s: 1_000_000 * u64::from(index % 50),
        llc_migrations_milli_per_s: 20_000,
        resident_bytes: 1 << 28,
        confidence: Confidence(1000),
        ..Observed::default()
    }
}

/// A machine on which containers come and go.
struct Node<'a> {
    topology: &'a Topology,
    policy: &'a dyn Policy,
    make: fn(u32, u32) -> Request,
    state: State,
    measured: Measured,
    /// The containers that are there: those that hold CPUs exclusively, and the others.
    present: [Vec<(ContainerId, u32)>; 2],
    next: u32,
}

impl<'a> Node<'a> {
    fn full(topology: &'a Topology, policy: &'a dyn Policy, make: fn(u32, u32) -> Request) -> Self {
        let mut measured = Measured::default();
        for cpu in &topology.cpus {
            let busy = cpu.id.0 * 7919 % 1000;
            measured.cpu_busy_milli.insert(cpu.id, busy);
        }
        let mut node = Self {
            topology,
            policy,
            make,
            state: State::default(),
            measured,
            present: [Vec::new(), Vec::new()],
            next: 0,
        };
        for index in 0..PRESENT {
            let at = (index / EXCLUSIVE_EACH) as usize;
            let (class, milli) = match index % EXCLUSIVE_EACH {
                0 => (0, EXCLUSIVE[at % EXCLUSIVE.len()]),
                rest => (1, SHARED[rest as usize % SHARED.len()]),
            };
            let request = node.comes(class, milli);
            let decision = policy.place(node.view(), &request).unwrap();
            node.state.apply(&decision);
        }
        node
    }

    fn view(&self) -> View<'_> {
        View {
            topology: self.topology,
            state: &self.state,
            measured: &self.measured,
            now: Nanos(0),
        }
    }

    fn comes(&mut self, class: usize, milli: u32) -> Request {
        let request = (self.make)(self.next, milli);
        let id = request.id.clone();
        self.measured.containers.insert(id.clone(), seen(self.next));
        self.present[class].push((id, milli));
        self.next += 1;
        request
    }

    /// Takes a container of the class out, and says how much it requested.
    fn goes(&mut self, class: usize) -> u32 {
        let present = &mut self.present[class];
        let position = random(u64::from(self.next)) % present.len() as u64;
        let (id, milli) = present.swap_remove(usize::try_from(position).unwrap());
        let decision = self.policy.release(self.view(), &id);
        self.state.apply(&decision);
        self.measured.containers.remove(&id);
        milli
    }
}

fn measure(
    c: &mut Criterion,
    name: &str,
    topology: &Topology,
    policy: &dyn Policy,
    make: fn(u32, u32) -> Request,
) {
    let name = format!("{name}, 1024 CPUs, 2000 containers");
    let mut node = Node::full(topology, policy, make);
    let new = make(1_000_000, 4000);
    c.bench_function(&name, |b| {
        b.iter(|| policy.place(black_box(node.view()), &new).unwrap())
    });
    let mut decided: [Vec<[Duration; 2]>; 2] = Default::default();
    let mut taken_over: Vec<[Duration; 2]> = Vec::new();
    for step in 0..PLACEMENTS {
        let class = (step % 2) as usize;
        let milli = node.goes(class);
        let request = node.comes(class, milli);
        let start = clocks();
        black_box(policy.place(node.view(), &request).unwrap());
        decided[class].push(since(start));
        let start = clocks();
        let decision = policy.place(node.view(), &request).unwrap();
        let mut after = node.state.clone();
        after.apply(&decision);
        assert!(check(topology, &after, &policy.rules(topology)).is_empty());
        let before = std::mem::replace(&mut node.state, after);
        taken_over.push(since(start));
        drop(before);
    }
    let [exclusive, shared] = decided;
    for (class, times) in [
        ("exclusive", exclusive.clone()),
        ("shared", shared.clone()),
        ("all", [exclusive, shared].concat()),
        ("all, taken over", taken_over),
    ] {
        for (index, clock) in ["clock", "on CPU"].into_iter().enumerate() {
            let mut times: Vec<_> = times.iter().map(|times| times[index]).collect();
            times.sort_unstable();
            let us = |per_mille: usize| times[(times.len() - 1) * per_mille / 1000].as_micros();
            let (p50, p99) = (us(500), us(990));
            println!("{name}: {class}, {clock}: p50 {p50} µs, p99 {p99} µs");
        }
    }
}

/// The time, and that of this thread on a CPU.
fn clocks() -> [Duration; 2] {
    let now = |clock| Duration::from(clock_gettime(clock).unwrap());
    [
        now(ClockId::CLOCK_MONOTONIC),
        now(ClockId::CLOCK_THREAD_CPUTIME_ID),
    ]
}

fn since(start: [Duration; 2]) -> [Duration; 2] {
    let now = clocks();
    [now[0] - start[0], now[1] - start[1]]
}

fn place(c: &mut Criterion) {
    let topology = Topology::synthetic("pack:8 numa:1 l3:8 core:8 pu:2").unwrap();
    let config = StaticConfig {
        reserved: Some(Reserved::Set(CpuSet::single(CpuId(0)))),
        pin_memory: true,
        ..StaticConfig::default()
    };
    let policy = StaticPolicy::new(&topology, config.clone()).unwrap();
    measure(c, "static", &topology, &policy, request);
    let policy = StaticPlusPolicy::new(&topology, config).unwrap();
    measure(c, "static-plus", &topology, &policy, request);
    let policy = StaticPools::new(&topology, &pools()).unwrap();
    measure(c, "static-pools", &topology, &policy, of_pools);
}

/// Of 16 cores 15 are a list each of the exclusive pool, the other one is a list of the shared pool.
fn pools() -> PoolsConfig {
    let pool = |exclusive: bool| PoolConfig {
        exclusive,
        cpu_lists: (0..512)
            .filter(|core| (core % 16 == 0) != exclusive)
            .map(|core| CpuListConfig {
                socket: core / 64,
                cpuset: format!("{}-{}", core * 2, core * 2 + 1),
            })
            .collect(),
    };
    PoolsConfig {
        pools: [
            ("exclusive".to_string(), pool(true)),
            ("shared".to_string(), pool(false)),
        ]
        .into(),
    }
}

/// A whole round: 1,000 containers on 512 CPUs, each with a reason of every kind to be moved, until the
/// decision has been taken over and checked.
fn round(c: &mut Criterion) {
    let topology = Topology::synthetic("pack:4 numa:2 l3:8 core:4 pu:2").unwrap();
    let config = StaticConfig {
        reserved: Some(Reserved::Set(CpuSet::single(CpuId(0)))),
        pin_memory: true,
        ..StaticConfig::default()
    };
    let plus = StaticPlusPolicy::new(&topology, config).unwrap();
    let list = |index: u32| CpuListConfig {
        socket: index * 8 / 128,
        cpuset: format!("{}-{}", index * 8, index * 8 + 7),
    };
    let shared = PoolConfig {
        exclusive: false,
        cpu_lists: (0..64).map(list).collect(),
    };
    let pools = PoolsConfig {
        pools: [("shared".to_string(), shared)].into(),
    };
    let pools = StaticPools::new(&topology, &pools).unwrap();
    one_round(
        c,
        "a round of static-plus, 512 CPUs, 1000 containers",
        &topology,
        &plus,
    );
    one_round(
        c,
        "a round of static-pools, 512 CPUs, 1000 containers",
        &topology,
        &pools,
    );
}

fn one_round(c: &mut Criterion, name: &str, topology: &Topology, policy: &dyn Policy) {
    let mut measured = Measured::default();
    for cpu in &topology.cpus {
        measured
            .cpu_busy_milli
            .insert(cpu.id, cpu.id.0 * 7919 % 600);
    }
    let mut state = State::default();
    let mut before: Option<ContainerId> = None;
    for index in 0..1000 {
        let view = View {
            topology,
            state: &state,
            measured: &measured,
            now: Nanos(0),
        };
        let new = request(index, if index % 10 == 0 { 2000 } else { 100 });
        let decision = policy.place(view, &new).unwrap();
        state.apply(&decision);
        let seen = Observed {
            utilisation_mcpu: 300,
            wait_ns_per_s: 500_000_000 + u64::from(index),
            llc_migrations_milli_per_s: 2_000_000,
            node_migrations_milli_per_s: 1_000_000,
            package_migrations_milli_per_s: 1_000_000,
            intruder_ns_per_s: 1_000_000,
            preempted_by: before.take().map(|by| (by, 100_000)).into_iter().collect(),
            resident_bytes: 1 << 28,
            resident_by_node: [(NodeId(index % 8), 1 << 28)].into(),
            confidence: Confidence(1000),
            ..Observed::default()
        };
        before = Some(new.id.clone());
        measured.containers.insert(new.id, seen);
    }
    let view = View {
        topology,
        state: &state,
        measured: &measured,
        now: Nanos(0),
    };
    let whole = || {
        let decision = policy.rebalance(black_box(view)).unwrap();
        let mut after = state.clone();
        after.apply(&decision);
        assert!(check(topology, &after, &policy.rules(topology)).is_empty());
        after
    };
    assert!(whole().rebalance.trial().is_some());
    c.bench_function(name, |b| b.iter(whole));
    c.bench_function(&format!("{name}: what workloads did"), |b| {
        b.iter(|| update_profiles(black_box(view)));
    });
}

criterion_group!(benches, place, round);
criterion_main!(benches);
