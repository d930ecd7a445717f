//! What the daemon records, the simulator replays: the same policy decides the same again.
#![expect(clippy::unwrap_used, reason = "a test program: helpers fail the test")]

use resmgr_policy::{
    ContainerId, CpuListConfig, PolicySettings, PoolConfig, PoolsConfig, RebalanceMode, by_name,
    trace::{self, Line, TraceEvent},
};
use resmgr_sim::{Setup, SimulationReport, replay};
use resmgr_tests::{Container, Cri, Relay, Runtime, eventually, kernel, skip};
use resmgr_topology::CpuSet;
use std::{
    collections::BTreeMap, fmt::Write as _, os::unix::fs::PermissionsExt as _, time::Duration,
};

/// The online CPUs in two lists, all of one socket as far as the pools are told.
fn halves() -> [String; 2] {
    let online: CpuSet = kernel::online().unwrap().parse().unwrap();
    let (mut first, mut second) = (Vec::new(), Vec::new());
    for (place, cpu) in online.iter().enumerate() {
        if place < online.len() / 2 {
            first.push(cpu.to_string());
        } else {
            second.push(cpu.to_string());
        }
    }
    [first.join(","), second.join(",")]
}

fn placed_again(lines: &[Line], lists: &[String; 2]) -> SimulationReport {
    let topology = trace::topology(lines).unwrap();
    let list = |cpuset: &String| {
        let cpus: CpuSet = cpuset.parse().unwrap();
        let first = topology.cpu(cpus.iter().next().unwrap()).unwrap();
        CpuListConfig {
            socket: first.package.0,
            cpuset: cpuset.clone(),
        }
    };
    let shared = PoolConfig {
        exclusive: false,
        cpu_lists: lists.iter().map(list).collect(),
    };
    let settings = PolicySettings {
        pools: PoolsConfig {
            pools: [("shared".to_owned(), shared)].into(),
        },
        ..PolicySettings::default()
    };
    let policy = by_name("static-pools", topology, &settings).unwrap();
    let last = lines.iter().map(|line| line.at_ms).max().unwrap();
    replay(&Setup {
        topology,
        policy: &*policy,
        trace: lines,
        seed: 1,
        duration_ms: last + 1,
        interval_ms: 1_000,
        feedback: RebalanceMode::Off,
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_recorded_day_replayed_ends_in_the_same_placements() {
    if let Some(why) = skip::no_relay() {
        return skip::skip("record: round trip", &why);
    }
    if kernel::online().unwrap().parse::<CpuSet>().unwrap().len() < 2 {
        return skip::skip("record: round trip", "needs two CPUs");
    }
    let runtime = Runtime::start().unwrap();
    let lists = halves();
    let (pools, trace) = (
        runtime.folder().join("pools.yaml"),
        runtime.folder().join("trace"),
    );
    let topology = socket_of_each(&lists);
    let mut text = String::from("pools:\n  shared:\n    cpuLists:\n");
    for (list, socket) in lists.iter().zip(topology) {
        writeln!(text, "      - {{Socket: {socket}, Cpuset: \"{list}\"}}").unwrap();
    }
    std::fs::write(&pools, text).unwrap();
    let (pools, path) = (pools.display().to_string(), trace.display().to_string());
    let arguments = [
        "--policy",
        "static-pools",
        "--static-pools-conf-file",
        &pools,
        "--record",
        &path,
    ];
    let mut relay = Relay::start(&runtime, &arguments).unwrap();
    let mut cri = Cri::connect(&relay.socket(), runtime.cgroup_parent())
        .await
        .unwrap();
    let pod = cri.run_pod("day", "burstable", &[]).await.unwrap();
    // Which list is the least used depends on all that came and went before.
    let mut ids = Vec::new();
    for (number, milli) in [700, 300, 300, 500, 200].into_iter().enumerate() {
        let container = Container::sleeping(&format!("c{number}")).burstable(milli);
        ids.push(cri.run(&pod, &container).await.unwrap());
    }
    let ended = ids.remove(0);
    cri.stop(&ended).await.unwrap();
    cri.remove(&ended).await.unwrap();
    // The relay learns of an ending by itself; what comes next is to find the room.
    let forgot = eventually(Duration::from_secs(30), async || {
        relay
            .ask(&["state", "--json"])
            .is_ok_and(|state| !state.contains(&ended))
    })
    .await;
    assert!(forgot, "{}", relay.log());
    for (number, milli) in [400, 100].into_iter().enumerate() {
        let container = Container::sleeping(&format!("late{number}")).burstable(milli);
        ids.push(cri.run(&pod, &container).await.unwrap());
    }
    let by_kernel: BTreeMap<ContainerId, CpuSet> = ids
        .iter()
        .map(|id| {
            let cpus = kernel::cpuset_cpus(runtime.cgroup_parent(), id).unwrap();
            (ContainerId(id.as_str().into()), cpus.parse().unwrap())
        })
        .collect();
    relay.stop().unwrap();

    let mode = std::fs::metadata(&trace).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600, "a trace names pods");
    let lines = trace::parse(&std::fs::read_to_string(&trace).unwrap()).unwrap();
    let exits: Vec<_> = lines
        .iter()
        .filter_map(|line| match &line.event {
            TraceEvent::Exit { id } => Some(id.0.to_string()),
            _ => None,
        })
        .collect();
    assert_eq!(exits, std::slice::from_ref(&ended));
    let report = placed_again(&lines, &lists);
    assert_eq!(report.violations, Vec::<String>::new());
    assert_eq!(report.refused, Vec::<String>::new());
    let mut replayed = report.placements;
    replayed.remove(&ContainerId(ended.as_str().into()));
    assert_eq!(replayed, by_kernel, "{lines:#?}");
    let used: std::collections::BTreeSet<_> = by_kernel.values().collect();
    assert_eq!(used.len(), 2, "both lists are used: {by_kernel:?}");
}

/// The package of the first CPU of each list, as sysfs has it.
fn socket_of_each(lists: &[String; 2]) -> [String; 2] {
    lists.each_ref().map(|list| {
        let first = list.split(',').next().unwrap();
        let path = format!("/sys/devices/system/cpu/cpu{first}/topology/physical_package_id");
        std::fs::read_to_string(path).unwrap().trim().to_owned()
    })
}
