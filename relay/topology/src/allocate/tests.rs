use super::*;
use crate::{ids::CpuId, model::CoreKind};
use alloc::string::{String, ToString};

fn cpus(list: &str) -> CpuSet {
    list.parse().unwrap()
}

fn machine() -> Topology {
    Topology::synthetic("pack:2 numa:2 core:2 pu:2").unwrap()
}

fn pick(from: &str, count: usize) -> String {
    picked(&machine(), from, count, &Preference::default())
}

fn picked(machine: &Topology, from: &str, count: usize, preference: &Preference<'_>) -> String {
    let chosen = allocate(machine, &cpus(from), count, preference).unwrap();
    assert_eq!(chosen.len(), count);
    chosen.to_string()
}

#[test]
fn an_untouched_machine_fills_from_the_first_package_on() {
    for (count, expected) in [
        (0, ""),
        (1, "0"),
        (2, "0-1"),
        (3, "0-2"),
        (4, "0-3"),
        (5, "0-4"),
        (7, "0-6"),
        (8, "0-7"),
        (9, "0-8"),
        (11, "0-10"),
        (16, "0-15"),
    ] {
        assert_eq!(pick("0-15", count), expected, "{count} CPUs");
    }
}

#[test]
fn broken_cores_are_finished_before_a_whole_one_is_broken() {
    assert_eq!(pick("1-15", 1), "1");
    assert_eq!(pick("0-12,14-15", 1), "12");
    assert_eq!(pick("1-15", 3), "1-3");
}

#[test]
fn whole_cores_are_preferred_to_threads_of_broken_ones() {
    assert_eq!(pick("0,2,4-15", 2), "4-5");
    assert_eq!(pick("0,2,4,6,8-9,10,12,14", 2), "8-9");
}

#[test]
fn a_request_stays_in_one_node_or_package_that_holds_it() {
    assert_eq!(pick("2-15", 3), "4-6");
    assert_eq!(pick("2-15", 4), "4-7");
    assert_eq!(pick("6-15", 5), "8-12");
    assert_eq!(pick("4-10", 3), "8-10");
    assert_eq!(pick("0,2,4,6,8,10,12,14", 3), "0,2,4");
}

#[test]
fn whole_packages_come_first() {
    assert_eq!(pick("1-15", 8), "8-15");
    assert_eq!(pick("1-15", 9), "1,8-15");
    assert_eq!(pick("2-15", 10), "2-3,8-15");
}

#[test]
fn whole_caches_come_before_cores() {
    let machine = Topology::synthetic("pack:2 l3:4 core:2 pu:2").unwrap();
    let none = Preference::default();
    assert_eq!(picked(&machine, "2-31", 4, &none), "4-7");
    assert_eq!(picked(&machine, "2-31", 6, &none), "2-7");
    assert_eq!(picked(&machine, "2-31", 9, &none), "2,4-11");
}

#[test]
fn too_few_cpus_give_nothing_and_offline_ones_do_not_count() {
    let machine = machine().with_online(cpus("0-3,6-15")).unwrap();
    let none = Preference::default();
    assert_eq!(allocate(&machine, &cpus("0-7"), 7, &none), None);
    assert_eq!(picked(&machine, "0-7", 6, &none), "0-3,6-7");
    assert_eq!(picked(&machine, "0-15", 6, &none), "0-3,6-7");
    assert_eq!(allocate(&machine, &cpus("100"), 1, &none), None);
}

#[test]
fn held_cpus_draw_new_ones_to_their_core_cache_node_and_package() {
    let held = cpus("10");
    let preference = Preference {
        near: Some(&held),
        ..Preference::default()
    };
    assert_eq!(picked(&machine(), "0-9,11-15", 1, &preference), "11");
    assert_eq!(picked(&machine(), "0-9,12-15", 2, &preference), "8-9");
    assert_eq!(picked(&machine(), "0-7,12-15", 2, &preference), "12-13");
    assert_eq!(picked(&machine(), "0-7,13,15", 2, &preference), "13,15");
}

#[test]
fn a_request_beyond_the_node_of_held_cpus_goes_on_in_their_package() {
    let held = cpus("4-7");
    let preference = Preference {
        near: Some(&held),
        ..Preference::default()
    };
    assert_eq!(picked(&machine(), "0-15", 2, &preference), "4-5");
    assert_eq!(picked(&machine(), "0-15", 6, &preference), "0-1,4-7");
}

#[test]
fn cost_decides_only_among_equally_good_groups() {
    let cost = |cpu: CpuId| u64::from(cpu.0 < 6);
    let preference = Preference {
        cost: Some(&cost),
        ..Preference::default()
    };
    assert_eq!(picked(&machine(), "0-15", 2, &preference), "6-7");
    assert_eq!(picked(&machine(), "0-5,7,9,11", 2, &preference), "4-5");
    assert_eq!(picked(&machine(), "0-15", 8, &preference), "8-15");
}

#[test]
fn what_is_kept_is_as_good_as_chosen_afresh() {
    let none = Preference::default();
    assert_eq!(keep(&machine(), &cpus("1-3,8"), 2, &none), cpus("2-3"));
    assert_eq!(keep(&machine(), &cpus("1-3"), 5, &none), cpus("1-3"));
}

/// CPU numbers go round the packages, as firmware of most two-socket machines has them.
fn alternating(description: &str, packages: u32) -> Topology {
    let machine = Topology::synthetic(description).unwrap();
    let width = u32::try_from(machine.cpus.len()).unwrap() / packages;
    let number = |cpu: CpuId| CpuId(cpu.0 % width * packages + cpu.0 / width);
    machine.renumbered(number).unwrap()
}

/// What is left after the counts were taken, in turn.
fn after(machine: &Topology, counts: &[usize]) -> CpuSet {
    counts.iter().fold(machine.all(), |free, count| {
        let taken = allocate(machine, &free, *count, &Preference::default()).unwrap();
        free.difference(&taken)
    })
}

/// How many CPUs of a request are in each node.
fn by_node(machine: &Topology, from: &CpuSet, count: usize) -> Vec<usize> {
    let chosen = allocate(machine, from, count, &Preference::default()).unwrap();
    let nodes = machine.nodes.iter();
    nodes
        .map(|node| node.cpus.intersection(&chosen).len())
        .collect()
}

#[test]
fn small_requests_fill_a_socket_before_they_open_the_next() {
    let machine = alternating("pack:2 core:24 pu:2", 2);
    let free = after(&machine, &[2; 6]);
    let [first, second] = [0, 1].map(|package| machine.packages[package].cpus);
    assert_eq!(free.intersection(&first).len(), 36);
    let whole = allocate(&machine, &free, 48, &Preference::default()).unwrap();
    assert_eq!(whole, second);
    let machine = alternating("pack:2 numa:2 l3:4 core:3 pu:2", 2);
    let free = after(&machine, &[2, 4, 6, 8, 2]);
    assert_eq!(by_node(&machine, &free, 2), [2, 0, 0, 0]);
    assert_eq!(by_node(&machine, &free, 24), [0, 24, 0, 0]);
    assert_eq!(by_node(&machine, &free, 48), [0, 0, 24, 24]);
    assert_eq!(by_node(&machine, &free, 50), [2, 0, 24, 24]);
}

#[test]
fn whole_idle_nodes_come_first_where_a_cache_spans_several() {
    let machine = Topology::synthetic("pack:2 l3:1 numa:2 core:10 pu:2").unwrap();
    let free = machine.all().difference(&cpus("0-1"));
    assert_eq!(by_node(&machine, &free, 22), [2, 20, 0, 0]);
    assert_eq!(by_node(&machine, &free, 20), [0, 20, 0, 0]);
    assert_eq!(by_node(&machine, &free, 18), [18, 0, 0, 0]);
    assert_eq!(by_node(&machine, &free, 40), [0, 0, 20, 20]);
    assert_eq!(by_node(&machine, &free, 42), [2, 0, 20, 20]);
}

#[test]
fn a_cache_that_is_broken_is_finished_before_the_next() {
    let machine = Topology::synthetic("pack:2 l3:4 core:4 pu:2").unwrap();
    let free = after(&machine, &[4]);
    assert_eq!(
        picked(&machine, &free.to_string(), 4, &Preference::default()),
        "4-7"
    );
    assert_eq!(
        picked(&machine, &free.to_string(), 6, &Preference::default()),
        "8-13"
    );
}

/// Six cores of two threads, eight of one.
fn hybrid() -> Topology {
    let mut parts = Topology::synthetic("pack:1 core:20").unwrap().into_parts();
    for cpu in &mut parts.cpus {
        if cpu.id.0 < 12 {
            cpu.core.0 = cpu.id.0 / 2;
            cpu.l2.0 = cpu.id.0 / 2;
        } else {
            cpu.kind = CoreKind::Efficiency;
        }
    }
    Topology::from_parts(parts).unwrap()
}

#[test]
fn cores_of_one_kind_serve_a_request_as_long_as_they_suffice() {
    let machine = hybrid();
    let none = Preference::default();
    assert_eq!(picked(&machine, "2-19", 4, &none), "2-5");
    assert_eq!(picked(&machine, "2-19", 10, &none), "2-11");
    assert_eq!(picked(&machine, "10-19", 4, &none), "12-15");
    assert_eq!(picked(&machine, "2-19", 12, &none), "2-13");
    let held = cpus("12-13");
    let near = Preference {
        near: Some(&held),
        ..Preference::default()
    };
    assert_eq!(picked(&machine, "2-11,14-19", 2, &near), "14-15");
    assert_eq!(keep(&machine, &cpus("2-13"), 2, &none), cpus("2-3"));
}
