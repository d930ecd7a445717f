//! One placement on a machine of 1024 CPUs with 2,000 containers: the mean by criterion, and the 99th
//! percentile of single decisions, printed.
#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "a benchmark")]

use criterion::{Criterion, criterion_group, criterion_main};
use resmgr_policy::{
    Confidence, ContainerId, CpuListConfig, Measured, Observed, PodRef, Policy, PoolConfig,
    PoolsConfig, QosClass, Request, Requirements, Reserved, State, StaticConfig, StaticPlusPolicy,
    StaticPolicy, StaticPools, View, check, remember,
};
use resmgr_topology::{CpuId, CpuSet, MilliCpu, Nanos, NodeId, Topology};
use std::{hint::black_box, time::Instant};

fn request(index: u32, milli: u32) -> Request {
    let name: std::sync::Arc<str> = format!("{index:064x}").into();
    Request {
        id: ContainerId(name.clone()),
        pod: PodRef {
            sandbox: name.clone(),
            uid: name.clone(),
            name: name.clone(),
            namespace: "default".into(),
        },
        name,
        qos: if milli.is_multiple_of(1000) {
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

fn measure(c: &mut Criterion, name: &str, topology: &Topology, policy: &dyn Policy) {
    let mut measured = Measured::default();
    for cpu in &topology.cpus {
        measured
            .cpu_busy_milli
            .insert(cpu.id, cpu.id.0 * 7919 % 1000);
    }
    let mut state = State::default();
    for index in 0..2000 {
        let milli = if index % 5 == 0 { 2000 } else { 100 };
        let view = View {
            topology,
            state: &state,
            measured: &measured,
            now: Nanos(0),
        };
        let decision = policy.place(view, &request(index, milli)).unwrap();
        state.apply(&decision);
    }
    let view = View {
        topology,
        state: &state,
        measured: &measured,
        now: Nanos(0),
    };
    let new = request(5000, 4000);
    c.bench_function(name, |b| {
        b.iter(|| policy.place(black_box(view), &new).unwrap())
    });
    let mut times: Vec<u128> = (0..2000)
        .map(|_| {
            let start = Instant::now();
            black_box(policy.place(view, &new).unwrap());
            start.elapsed().as_nanos()
        })
        .collect();
    times.sort_unstable();
    println!("{name}: p50 {} ns, p99 {} ns", times[1000], times[1980]);
}

fn place(c: &mut Criterion) {
    let topology = Topology::synthetic("pack:8 numa:1 l3:8 core:8 pu:2").unwrap();
    let config = StaticConfig {
        reserved: Some(Reserved::Set(CpuSet::one(CpuId(0)))),
        pin_memory: true,
        ..StaticConfig::default()
    };
    let policy = StaticPolicy::new(&topology, config.clone()).unwrap();
    measure(c, "static, 1024 CPUs, 2000 containers", &topology, &policy);
    let policy = StaticPlusPolicy::new(&topology, config).unwrap();
    measure(
        c,
        "static-plus, 1024 CPUs, 2000 containers",
        &topology,
        &policy,
    );
}

/// A whole round: 1,000 containers on 512 CPUs, each with a reason of every kind to be moved, until the
/// decision has been taken over and checked.
fn round(c: &mut Criterion) {
    let topology = Topology::synthetic("pack:4 numa:2 l3:8 core:4 pu:2").unwrap();
    let config = StaticConfig {
        reserved: Some(Reserved::Set(CpuSet::one(CpuId(0)))),
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
            foreign_ns_per_s: 1_000_000,
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
        b.iter(|| remember(black_box(view)));
    });
}

criterion_group!(benches, place, round);
criterion_main!(benches);
