use super::*;
use crate::ids::CpuId;
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
    assert_eq!(pick("4-10", 3), "4-6");
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
    assert_eq!(picked(&machine(), "0-5,7,9,11", 2, &preference), "0-1");
    assert_eq!(picked(&machine(), "0-15", 8, &preference), "8-15");
}

#[test]
fn what_is_kept_is_as_good_as_chosen_afresh() {
    let none = Preference::default();
    assert_eq!(keep(&machine(), &cpus("1-3,8"), 2, &none), cpus("2-3"));
    assert_eq!(keep(&machine(), &cpus("1-3"), 5, &none), cpus("1-3"));
}
