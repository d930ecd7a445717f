//! The tables of `static` and `static-plus`.

use super::common::*;
use resmgr_policy::{
    Policy as _,
    QosClass::{BestEffort, Burstable, Guaranteed},
    Quota, Reserved, StaticConfig, StaticPlusPolicy, StaticPolicy,
};
use resmgr_topology::{CoreKind, MilliCpu, Topology};

const PREFER: &str = "cri-resource-manager.intel.com/prefer-isolated-cpus";

fn fixed(reserved: &str) -> World {
    let topology = n4c16();
    let policy = StaticPolicy::new(&topology, reserving(reserved)).unwrap();
    World::new(topology, policy)
}

fn plus(reserved: &str, isolated: &str) -> World {
    let topology = n4c16().with_isolated(cpus(isolated)).unwrap();
    let policy = StaticPlusPolicy::new(&topology, reserving(reserved)).unwrap();
    World::new(topology, policy)
}

#[test]
fn no_reservation_is_a_clear_refusal() {
    let problems = StaticPolicy::new(&n4c16(), StaticConfig::default()).unwrap_err();
    assert!(problems[0].to_string().contains("needs reserved CPUs"));
    let problems = StaticPlusPolicy::new(&n4c16(), reserving("0,99")).unwrap_err();
    assert!(problems[0].to_string().contains("CPUs 99 are not among"));
}

#[test]
fn one_reserved_cpu_is_the_first_wherever_others_are_isolated() {
    let topology = n4c16().with_isolated(cpus("8-9")).unwrap();
    let config = |available: Option<&str>| StaticConfig {
        available: available.map(cpus),
        reserved: Some(Reserved::Quantity(MilliCpu(750))),
        ..StaticConfig::default()
    };
    for policy in [None, Some("0-3,10")] {
        let plus = StaticPlusPolicy::new(&topology, config(policy)).unwrap();
        assert_eq!(plus.rules(&topology).reserved, cpus("0"), "{policy:?}");
        let fixed = StaticPolicy::new(&topology, config(policy)).unwrap();
        assert_eq!(fixed.rules(&topology).reserved, cpus("0"), "{policy:?}");
    }
    let elsewhere = StaticPolicy::new(&topology, config(Some("4-7"))).unwrap();
    assert_eq!(elsewhere.rules(&topology).reserved, cpus("4"));
}

#[test]
fn only_guaranteed_whole_cpus_are_exclusive_and_others_leave_them() {
    let mut world = fixed("0");
    assert_eq!(
        world.place(&request("web", Burstable, 2000)).unwrap().cpus,
        cpus("0-15")
    );
    let db = world.place(&request("db", Guaranteed, 2000)).unwrap();
    assert_eq!(db.exclusive.len(), 2);
    assert_eq!((&db.exclusive, db.quota), (&db.cpus, Quota::Unlimited));
    assert!(
        world
            .state
            .containers
            .values()
            .next_back()
            .unwrap()
            .placement
            .cpus
            .is_disjoint(&db.cpus)
    );
    let fraction = world.place(&request("fraction", Guaranteed, 1500)).unwrap();
    assert!(fraction.exclusive.is_empty() && fraction.cpus.is_disjoint(&db.cpus));
    world.release("db");
    assert_eq!(world.on("web"), "0-15");
}

#[test]
fn reserved_cpus_stay_shared_when_all_others_are_gone() {
    let mut world = fixed("0");
    world.place(&request("all", Guaranteed, 15_000)).unwrap();
    assert_eq!(
        world.place(&request("web", BestEffort, 0)).unwrap().cpus,
        cpus("0")
    );
    let refused = world.place(&request("more", Guaranteed, 1000)).unwrap_err();
    assert!(
        refused
            .message
            .contains("1 exclusive CPUs requested, 0 free"),
        "{refused}"
    );
}

#[test]
fn isolated_cpus_are_preferred_by_the_rules_and_opting_out_works() {
    let start = || {
        let topology = n4c16().with_isolated(cpus("8-9")).unwrap();
        let policy = StaticPolicy::new(&topology, reserving("0")).unwrap();
        World::new(topology, policy)
    };
    let single = request("one", Guaranteed, 1000);
    assert!(start().place(&single).unwrap().cpus.is_subset(&cpus("8-9")));
    let out = annotated(single, PREFER, "false");
    assert!(start().place(&out).unwrap().cpus.is_disjoint(&cpus("8-9")));
    let core = start().place(&request("core", Guaranteed, 2000)).unwrap();
    assert_eq!(core.cpus, cpus("8-9"));
    let three = start().place(&request("three", Guaranteed, 3000)).unwrap();
    assert!(three.cpus.is_disjoint(&cpus("8-9")));
}

#[test]
fn a_request_is_split_into_whole_cpus_and_a_shared_part() {
    let mut world = plus("0", "");
    let mixed = world.place(&request("mixed", Burstable, 2500)).unwrap();
    assert_eq!((mixed.exclusive.len(), mixed.shared.0), (2, 500));
    assert_eq!((mixed.cpus.len(), mixed.cpu_shares), (15, Some(512)));
    let pure = world.place(&request("pure", Guaranteed, 3000)).unwrap();
    assert_eq!((&pure.cpus, pure.cpu_shares), (&pure.exclusive, Some(3072)));
    world.place(&request("web", BestEffort, 0)).unwrap();
    assert_eq!(world.on("pure"), pure.exclusive.to_string());
}

#[test]
fn system_containers_stay_on_the_reserved_cpus() {
    let mut world = plus("0-1", "");
    let mut dns = request("dns", Burstable, 2000);
    dns.pod.namespace = "kube-system".into();
    assert_eq!(world.place(&dns).unwrap().cpus, cpus("0-1"));
    world.place(&request("db", Guaranteed, 4000)).unwrap();
    assert_eq!(world.on("dns"), "0-1");
}

#[test]
fn isolated_and_sliced_cpus_are_never_mixed() {
    let mut world = plus("0", "8-9");
    assert_eq!(
        world.place(&request("two", Guaranteed, 2000)).unwrap().cpus,
        cpus("8-9")
    );
    world.release("two");
    let three = world.place(&request("three", Guaranteed, 3000)).unwrap();
    assert!(three.cpus.is_disjoint(&cpus("8-9")));
}

#[test]
fn the_shared_pool_is_never_emptied_and_spills_in_a_fixed_order() {
    let mut world = plus("0", "");
    let refused = world
        .place(&request("all", Guaranteed, 15_000))
        .unwrap_err();
    assert!(refused.message.contains("not enough capacity"), "{refused}");
    world.place(&request("a", Burstable, 900)).unwrap();
    world.place(&request("b", Burstable, 900)).unwrap();
    let most = world.place(&request("most", Guaranteed, 14_000)).unwrap();
    let left = cpus("1-15").difference(&most.cpus);
    assert_eq!(world.on("a"), left.to_string());
    assert_eq!(world.on("b"), left.union(&cpus("0")).to_string());
}

#[test]
fn what_is_legal_stays_when_a_cpu_goes_offline() {
    let mut world = fixed("0");
    let a = world.place(&request("a", Guaranteed, 2000)).unwrap();
    let b = world.place(&request("b", Guaranteed, 2000)).unwrap();
    let lost = resmgr_topology::CpuSet::single(b.cpus.first().unwrap());
    world.topology = n4c16().with_online(cpus("0-15").difference(&lost)).unwrap();
    world.reconcile().unwrap();
    assert_eq!(world.on("a"), a.cpus.to_string());
    let moved = &world.state.containers.values().nth(1).unwrap().placement;
    assert!(b.cpus.difference(&lost).is_subset(&moved.cpus) && moved.cpus.len() == 2);
    assert!(world.reconcile().unwrap().changes.is_empty());
}

#[test]
fn explanations_name_numbers_and_rule() {
    let world = fixed("0");
    let decision = world
        .policy
        .place(world.view(), &request("db", Guaranteed, 2000))
        .unwrap();
    let why = decision.changes[0].explanation.as_ref().unwrap();
    assert!(
        why.summary.starts_with("default/db/db: 2 exclusive CPUs "),
        "{why:?}"
    );
    assert!(
        why.reason_lines()
            .iter()
            .any(|line| line.contains("2000m CPU requested")),
        "{why:?}"
    );
    assert_eq!(why.candidates.len(), 4, "{why:?}");
}

#[test]
fn the_busier_of_equal_choices_is_avoided_unless_the_numbers_are_old() {
    let mut world = fixed("0-3");
    for cpu in cpus("4-11").iter() {
        world.measured.cpu_busy_milli.insert(cpu, 900);
    }
    let quiet = world.place(&request("quiet", Guaranteed, 2000)).unwrap();
    assert!(quiet.cpus.is_subset(&cpus("12-15")), "{}", quiet.cpus);
    world.release("quiet");
    world.now.0 = resmgr_policy::STALE_NS + 1;
    let blind = world.place(&request("blind", Guaranteed, 2000)).unwrap();
    assert_eq!(blind.cpus, cpus("4-5"));
}

#[test]
fn a_machine_of_a_single_cpu_shares_the_reserved_one() {
    let topology = Topology::synthetic("pu:1").unwrap();
    let fixed = StaticPolicy::new(&topology, reserving("0")).unwrap();
    let plus = StaticPlusPolicy::new(&topology, reserving("0")).unwrap();
    let worlds = [
        World::new(topology.clone(), fixed),
        World::new(topology, plus),
    ];
    for mut world in worlds {
        world.place(&request("web", Burstable, 300)).unwrap();
        assert_eq!(world.on("web"), "0", "{world:?}");
        let refused = world.place(&request("db", Guaranteed, 1000)).unwrap_err();
        assert!(refused.message.contains("not enough capacity"), "{refused}");
    }
}

#[test]
fn cores_of_a_kind_are_explained() {
    let mut parts = Topology::synthetic("pack:1 core:8").unwrap().into_parts();
    for cpu in parts.cpus.iter_mut().skip(4) {
        cpu.kind = CoreKind::Efficiency;
    }
    let topology = Topology::from_parts(parts).unwrap();
    let policy = StaticPolicy::new(&topology, reserving("0")).unwrap();
    let mut world = World::new(topology, policy);
    for (name, cpus, text) in [
        (
            "first",
            "1-2",
            "performance cores come first, and enough were free",
        ),
        (
            "second",
            "4-5",
            "efficiency cores, as too few performance cores were free",
        ),
        (
            "third",
            "3,6-7",
            "cores of both kinds, as neither kind had enough free",
        ),
    ] {
        let count = if name == "third" { 3000 } else { 2000 };
        let request = request(name, Guaranteed, count);
        let decision = world.policy.place(world.view(), &request).unwrap();
        let change = decision
            .changes
            .iter()
            .find(|change| change.id == request.id);
        let why = change.unwrap().explanation.as_ref().unwrap().reason_lines();
        assert!(why.iter().any(|line| line.contains(text)), "{why:?}");
        world.place(&request).unwrap();
        assert_eq!(world.on(name), cpus);
    }
}
