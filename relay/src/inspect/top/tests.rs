use super::{view::worst_first, *};
use std::collections::BTreeMap;

mod screen;

const SECOND: u64 = 1_000_000_000;

/// Two packages of two nodes of one core of two threads.
fn seats() -> Vec<Seat> {
    (0..8)
        .map(|cpu| Seat {
            cpu,
            core: cpu / 2,
            llc: cpu / 2,
            node: cpu / 2,
            package: cpu / 4,
        })
        .collect()
}

fn container(id: &str, run: &[(u32, u64)], waited: u64) -> TopContainer {
    TopContainer {
        id: id.into(),
        namespace: "default".into(),
        pod: id.into(),
        container: "c".into(),
        cpus: "0-3".into(),
        run_ns: run.iter().copied().collect(),
        contention_ns: waited,
        migrations: [0, 1, 0, 0, 2],
        ..TopContainer::default()
    }
}

fn view(containers: Vec<TopContainer>, busy: &[(u32, u64)], at_ns: u64) -> TopView {
    let mut view = TopView {
        quality: "exact".into(),
        at_ns,
        cpus: seats(),
        busy_ns: busy.iter().copied().collect(),
        containers,
        ..TopView::default()
    };
    worst_first(&mut view.containers);
    view
}

#[test]
fn the_text_shows_the_machine_and_where_each_container_ran() {
    let picture = view(
        vec![
            container("db", &[(0, SECOND), (4, SECOND / 100)], 1_500),
            container("batch", &[(2, SECOND / 2)], 0),
        ],
        &[(0, SECOND), (2, SECOND), (3, SECOND / 4), (4, SECOND / 100)],
        0,
    );
    let text = picture.to_string();
    let map = "\
  socket 0  node 0  CPUs 0-1  B█·
            node 1  CPUs 2-3  A█*▃
  socket 1  node 2  CPUs 4-5  B▁·
            node 3  CPUs 6-7  · ·
";
    assert!(text.contains(map), "{text}");
    assert!(text.contains("[█·|··][▁·|··]  1.01s"), "{text}");
    assert!(text.contains("B  default/db/c"), "{text}");
}

#[test]
fn large_machines_are_drawn_by_core_cache_or_node_so_that_lines_stay_short() {
    let mut picture = view(vec![container("db", &[(0, SECOND)], 0)], &[(0, SECOND)], 0);
    picture.cpus = (0..256)
        .map(|cpu| Seat {
            cpu,
            core: cpu / 2,
            llc: cpu / 16,
            node: cpu / 64,
            package: cpu / 128,
        })
        .collect();
    let text = picture.to_string();
    assert!(text.contains("[█···|····][····|····]"), "{text}");
    assert!(text.contains("one character a last-level cache"), "{text}");
    assert!(
        text.lines().all(|line| line.chars().count() < 160),
        "{text}"
    );
}

#[test]
fn the_container_that_is_hurt_most_comes_first() {
    let mut foreign = container("robbed", &[], 10);
    foreign.foreign_ns.insert("thief".into(), 500);
    let throttled = TopContainer {
        throttled_ns: 300,
        ..container("throttled", &[], 0)
    };
    let picture = view(
        vec![container("waits", &[], 400), throttled, foreign],
        &[],
        0,
    );
    let order: Vec<_> = picture
        .containers
        .iter()
        .map(|container| &*container.id)
        .collect();
    assert_eq!(order, ["robbed", "waits", "throttled"]);
}

#[test]
fn the_worst_three_on_exclusive_cpus_are_named_and_the_rest_is_counted() {
    let mut robbed = container("robbed", &[], 10);
    for (name, ns) in [
        ("init.scope", 1_000),
        ("system.slice/chronyd.service", 4_000_000),
        ("system.slice/cron.service", 2_000),
        ("system.slice/dbus.service", 500),
        ("user.slice/user-0.slice", 0),
        ("(outside containers)", 3_000),
    ] {
        robbed.foreign_ns.insert(name.into(), ns);
    }
    let picture = view(vec![robbed], &[], 0);
    let text = picture.to_string();
    let expected = "4ms system.slice/chronyd.service, 3us (outside containers), 2us system.slice/cron.service, 1us 2 more";
    assert!(text.contains(expected), "{text}");
}

#[test]
fn the_longest_waits_of_an_interval_are_those_that_ended_in_it() {
    let mut earlier = container("a", &[], 0);
    earlier.wait_histogram[12] = 50;
    let mut later = earlier.clone();
    later.wait_histogram[2] = 1000;
    later.wait_histogram[12] = 55;
    let between = view(vec![later], &[], 2 * SECOND).since(&view(vec![earlier], &[], SECOND));
    assert_eq!(between.containers[0].wait_p99_ns(), 4096);
    let text = between.to_string();
    assert!(text.contains("WAITED  P99"), "{text}");
}

#[test]
fn a_difference_counts_from_the_earlier_picture() {
    let earlier = view(vec![container("a", &[(0, 100)], 200)], &[(0, 150)], SECOND);
    let later = view(
        vec![container("a", &[(0, 500), (2, 30)], 900)],
        &[(0, 650)],
        3 * SECOND,
    );
    let between = later.since(&earlier);
    assert_eq!(between.over_ns, 2 * SECOND);
    assert_eq!(between.busy_ns[&0], 500);
    let container = &between.containers[0];
    assert_eq!(container.run_ns, BTreeMap::from([(0, 400), (2, 30)]));
    assert_eq!(container.contention_ns, 700);
    assert_eq!(container.migrations, [0; 5]);
}

#[test]
fn a_snapshot_says_by_name_what_a_container_waited_for() {
    use crate::telemetry::{
        ContainerTelemetry, Interference, InterferenceSource, TelemetrySnapshot, Totals,
        sample::ContainerName,
    };
    use resmgr_policy::ContainerId;
    use resmgr_topology::{CpuSet, NodeId, Topology};

    let id = ContainerId("a".into());
    let waited = |wait_ns| Interference {
        preemptions: 1,
        wait_ns,
    };
    let measured = ContainerTelemetry {
        id: id.clone(),
        cpus: CpuSet::EMPTY,
        exclusive: CpuSet::EMPTY,
        total: Totals {
            preempted_by_others: 3,
            ..Totals::default()
        },
        run_ns: BTreeMap::new(),
        outside_ns: 0,
        foreign: Vec::new(),
        interference: BTreeMap::from([
            (InterferenceSource::Container(id), waited(10)),
            (InterferenceSource::Rest, waited(30)),
            (InterferenceSource::Kernel, waited(0)),
        ]),
        resident: BTreeMap::from([(NodeId(1), 4096)]),
    };
    let snapshot = TelemetrySnapshot {
        containers: vec![measured],
        ..TelemetrySnapshot::default()
    };
    let topology = Topology::synthetic("pack:1 numa:1 l3:1 core:1 pu:1").unwrap();
    let name = |id: &str| ContainerName {
        pod: id.to_owned(),
        ..ContainerName::default()
    };
    let mut view = TopView::new(&snapshot, None, None, &topology, name);
    let earlier = view.clone();
    let container = &mut view.containers[0];
    assert_eq!(container.preempted, 3);
    assert_eq!(container.memory_bytes, BTreeMap::from([(1, 4096)]));
    let sums = [("(outside containers)".into(), 30), ("/a/".into(), 10)];
    assert_eq!(container.waited_for_ns, BTreeMap::from(sums));
    *container.waited_for_ns.get_mut("/a/").unwrap() += 5;
    let between = view.since(&earlier);
    assert_eq!(between.containers[0].waited_for_ns["/a/"], 5);
    assert_eq!(between.containers[0].preempted, 0);
}
