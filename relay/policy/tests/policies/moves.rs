//! Each kind of move: when it is made, what it changes, and which containers are left alone.

mod random;

use super::common::*;
use resmgr_policy::{
    COOLDOWN_NS, Confidence, ContainerId, CpuListConfig, Observed, Outcome, PoolConfig,
    PoolsConfig,
    QosClass::{BestEffort, Burstable, Guaranteed},
    StaticConfig, StaticPlusPolicy, StaticPolicy, StaticPools, VERIFY_FROM_NS, VERIFY_NS,
    update_profiles, workload,
};
use resmgr_topology::{CpuId, MilliCpu, Nanos, NodeId, Topology};

const MS: u64 = 1_000_000;
const OUT: &str = "rebalance.cri-resource-manager.intel.com/pod";
const EXCHANGE: &str = "rebalance-exclusive.cri-resource-manager.intel.com/pod";

fn plus(topology: Topology, reserved: &str) -> World {
    let policy = StaticPlusPolicy::new(&topology, reserving(reserved)).unwrap();
    World::new(topology, policy)
}

fn id(name: &str) -> ContainerId {
    ContainerId(name.into())
}

fn see(world: &mut World, name: &str, change: impl FnOnce(&mut Observed)) {
    let observed = world.measured.containers.entry(id(name)).or_default();
    observed.confidence = Confidence(1000);
    change(observed);
}

fn busy(world: &mut World, list: &str, milli: u32) {
    for cpu in cpus(list).iter() {
        world.measured.cpu_busy_milli.insert(cpu, milli);
    }
}

fn later(world: &mut World, ns: u64) {
    world.now = Nanos(world.now.0 + ns);
    world.measured.at = world.now;
}

/// One round; the reason of the move that was made.
fn step(world: &mut World) -> Option<String> {
    let trial = world.state.rebalance.trial().is_some();
    let decision = world.policy.rebalance(world.view())?;
    assert_eq!(
        Some(&decision),
        world.policy.rebalance(world.view()).as_ref()
    );
    world.apply(&decision);
    let moved = world.state.rebalance.trial().filter(|_| !trial);
    moved.map(|moved| moved.reason.clone())
}

fn last(world: &World) -> Outcome {
    world.state.rebalance.history.back().unwrap().outcome
}

/// `victim` waits because `bully` takes its CPUs.
fn hurt(world: &mut World) {
    see(world, "victim", |seen| {
        seen.utilisation_mcpu = 500;
        seen.wait_ns_per_s = 200 * MS;
        seen.preempted_by = [(id("bully"), 300_000)].into();
    });
    see(world, "bully", |seen| seen.utilisation_mcpu = 2000);
}

fn relieved(world: &mut World) {
    see(world, "victim", |seen| {
        seen.wait_ns_per_s = 0;
        seen.preempted_by.clear();
    });
}

#[test]
fn a_pair_that_hurts_each_other_is_parted_and_stays_parted() {
    let mut world = plus(n4c16(), "0");
    world.place(&request("bully", Burstable, 500)).unwrap();
    world.place(&request("victim", Burstable, 500)).unwrap();
    hurt(&mut world);
    assert_eq!(step(&mut world).as_deref(), Some("parting"));
    let (victim, bully) = (cpus(&world.on("victim")), cpus(&world.on("bully")));
    assert!(victim.is_disjoint(&bully), "{victim} {bully}");
    relieved(&mut world);
    later(&mut world, VERIFY_NS);
    assert_eq!(step(&mut world), None);
    assert_eq!(last(&world), Outcome::Kept);
    for _ in 0..100 {
        later(&mut world, COOLDOWN_NS);
        assert_eq!(step(&mut world), None);
    }
}

#[test]
fn a_pair_is_put_back_together_when_parting_did_not_help() {
    let mut world = plus(n4c16(), "0");
    world.place(&request("bully", Burstable, 500)).unwrap();
    world.place(&request("victim", Burstable, 500)).unwrap();
    let before = (world.on("bully"), world.on("victim"));
    hurt(&mut world);
    step(&mut world).unwrap();
    later(&mut world, VERIFY_NS);
    step(&mut world);
    assert_eq!(last(&world), Outcome::Undone);
    assert_eq!((world.on("bully"), world.on("victim")), before);
}

#[test]
fn a_pod_that_opted_out_is_not_parted_from_any_other() {
    for out in ["bully", "victim"] {
        let mut world = plus(n4c16(), "0");
        for name in ["bully", "victim"] {
            let mut container = request(name, Burstable, 500);
            if name == out {
                container = annotated(container, OUT, "false");
            }
            world.place(&container).unwrap();
        }
        hurt(&mut world);
        assert_eq!(step(&mut world), None, "{out}");
    }
}

fn lists(exclusive: bool, pool: &str, lists: &[(u32, &str)]) -> PoolsConfig {
    let cpu_lists = lists.iter().map(|(socket, cpuset)| CpuListConfig {
        socket: *socket,
        cpuset: (*cpuset).into(),
    });
    let config = PoolConfig {
        exclusive,
        cpu_lists: cpu_lists.collect(),
    };
    PoolsConfig {
        pools: [(pool.to_string(), config)].into(),
    }
}

#[test]
fn in_pools_the_victim_goes_to_another_list_or_else_the_bully() {
    for (out, moves) in [("none", "victim"), ("victim", "bully")] {
        let topology = n4c16();
        let config = lists(false, "shared", &[(0, "0-3"), (1, "8-11")]);
        let policy = StaticPools::new(&topology, &config).unwrap();
        let mut world = World::new(topology, policy);
        for name in ["bully", "decoy", "victim"] {
            let mut container = request(name, Burstable, 500);
            if name == out {
                container = annotated(container, OUT, "false");
            }
            world.place(&container).unwrap();
        }
        world.release("decoy");
        assert_eq!(
            (world.on("bully"), world.on("victim")),
            ("0-3".into(), "0-3".into())
        );
        busy(&mut world, "0-3", 600);
        hurt(&mut world);
        assert_eq!(step(&mut world).as_deref(), Some("parting"), "{out}");
        assert_eq!(world.on(moves), "8-11");
        relieved(&mut world);
        later(&mut world, VERIFY_NS);
        step(&mut world);
        assert_eq!(last(&world), Outcome::Kept, "judged by the victim");
    }
}

#[test]
fn a_move_for_the_sake_of_a_container_that_is_gone_is_no_reason_for_another_one() {
    let topology = n4c16();
    let config = lists(false, "shared", &[(0, "0-3"), (1, "8-11")]);
    let policy = StaticPools::new(&topology, &config).unwrap();
    let mut world = World::new(topology, policy);
    for name in ["bully", "decoy", "victim"] {
        let mut container = request(name, Burstable, 500);
        if name == "victim" {
            container = annotated(container, OUT, "false");
        }
        world.place(&container).unwrap();
    }
    world.release("decoy");
    busy(&mut world, "0-3", 600);
    hurt(&mut world);
    assert_eq!(step(&mut world).as_deref(), Some("parting"));
    assert_eq!(world.on("bully"), "8-11");
    world.release("victim");
    // Where it is now it waits, if too little for a move of its own.
    see(&mut world, "bully", |seen| seen.wait_ns_per_s = 40 * MS);
    later(&mut world, VERIFY_NS);
    assert_eq!(step(&mut world), None);
    assert_eq!(last(&world), Outcome::Ended);
    for _ in 0..100 {
        later(&mut world, COOLDOWN_NS);
        assert_eq!(step(&mut world), None);
    }
    assert_eq!(world.on("bully"), "8-11");
}

/// Two containers on the shared pool that starve it, while the reserved CPUs idle.
fn starving() -> World {
    let mut world = plus(n4c16(), "0-3");
    world.place(&request("a", Burstable, 900)).unwrap();
    world
        .place(&annotated(request("out", Burstable, 100), OUT, "false"))
        .unwrap();
    let mut system = request("system", Burstable, 100);
    system.pod.namespace = "kube-system".into();
    world.place(&system).unwrap();
    busy(&mut world, "4-15", 950);
    busy(&mut world, "0-3", 50);
    see(&mut world, "a", |seen| {
        seen.utilisation_mcpu = 11_000;
        seen.wait_ns_per_s = 3000 * MS;
    });
    world
}

#[test]
fn a_starving_pool_borrows_of_an_idle_one_and_gives_it_back() {
    let mut world = starving();
    assert_eq!(step(&mut world).as_deref(), Some("starving"));
    let on = cpus(&world.on("a"));
    assert_eq!(
        on.intersection(&cpus("0-3")).len(),
        2,
        "half of the reserved: {on}"
    );
    assert_eq!(world.on("out"), "4-15", "it opted out of everything");
    assert_eq!(
        world.on("system"),
        "0-3",
        "the lender goes on using its own"
    );
    // A container that comes now runs there too, and exclusive CPUs still come from the shared pool alone.
    world.place(&request("b", BestEffort, 0)).unwrap();
    assert_eq!(cpus(&world.on("b")), on);
    let own = world.place(&request("own", Guaranteed, 2000)).unwrap();
    assert!(own.exclusive.is_disjoint(&cpus("0-3")));
    world.release("own");
    later(&mut world, VERIFY_NS);
    see(&mut world, "a", |seen| seen.wait_ns_per_s = 100 * MS);
    step(&mut world);
    assert_eq!(last(&world), Outcome::Kept);
    // The load is the same: the loan stays.
    for _ in 0..20 {
        later(&mut world, COOLDOWN_NS);
        assert_eq!(step(&mut world), None);
    }
    // The load is gone: it goes back, and that stays.
    busy(&mut world, "0-15", 100);
    see(&mut world, "a", |seen| {
        seen.utilisation_mcpu = 1000;
        seen.wait_ns_per_s = 0;
    });
    assert_eq!(step(&mut world).as_deref(), Some("idle"));
    assert_eq!(world.on("a"), "4-15");
    assert!(world.state.rebalance.loans.is_empty());
    later(&mut world, VERIFY_NS);
    step(&mut world);
    assert_eq!(last(&world), Outcome::Kept);
    for _ in 0..20 {
        later(&mut world, COOLDOWN_NS);
        assert_eq!(step(&mut world), None);
    }
}

#[test]
fn a_loan_that_did_not_help_is_taken_back_and_a_shadow_lends_nothing() {
    let mut world = starving();
    let shadow = world.policy.rebalance(world.view()).unwrap().shadow();
    assert!(shadow.memory.as_ref().unwrap().loans.is_empty());
    assert!(shadow.changes.is_empty());
    assert!(shadow.notes[0].1.summary.starts_with("shadow, not done"));
    step(&mut world).unwrap();
    later(&mut world, VERIFY_NS);
    step(&mut world);
    assert_eq!(
        (last(&world), world.on("a")),
        (Outcome::Undone, "4-15".into())
    );
    assert!(world.state.rebalance.loans.is_empty());
}

/// An exclusive container on two packages that migrates between them, and room on one.
fn scattered(annotation: Option<(&str, &str)>) -> World {
    let mut world = plus(Topology::synthetic("pack:2 core:4").unwrap(), "0");
    world.place(&request("filler", Guaranteed, 3000)).unwrap();
    let mut wide = request("wide", Guaranteed, 2000);
    if let Some((key, value)) = annotation {
        wide = annotated(wide, key, value);
    }
    world.place(&request("other", Guaranteed, 1000)).unwrap();
    world.place(&wide).unwrap();
    // Placed together in truth: as it would be after a hot-unplug.
    let container = world.state.containers.get_mut(&id("wide")).unwrap();
    container.placement.exclusive = cpus("1,5").into();
    container.placement.cpus = cpus("1,5").into();
    let filler = world.state.containers.get_mut(&id("filler")).unwrap();
    filler.placement.exclusive = cpus("2").into();
    filler.placement.cpus = cpus("2").into();
    let neighbour = world.state.containers.get_mut(&id("other")).unwrap();
    neighbour.placement.exclusive = cpus("3").into();
    neighbour.placement.cpus = cpus("3").into();
    see(&mut world, "wide", |seen| {
        seen.utilisation_mcpu = 1500;
        seen.package_migrations_milli_per_s = 2_000_000;
    });
    world
}

#[test]
fn exclusive_cpus_change_only_for_a_pod_that_asked_for_it() {
    for annotation in [None, Some((EXCHANGE, "yes, please")), Some((OUT, "true"))] {
        let mut world = scattered(annotation);
        assert_eq!(step(&mut world), None, "{annotation:?}");
        assert_eq!(world.on("wide"), "1,5");
    }
    let mut world = scattered(Some((EXCHANGE, "true")));
    assert_eq!(step(&mut world).as_deref(), Some("migrations"));
    let on = cpus(&world.on("wide"));
    assert!(on.len() == 2 && on.is_subset(&cpus("4-7")), "{on}");
    assert!(
        cpus(&world.on("filler")).is_subset(&cpus("2")),
        "others keep theirs"
    );
    later(&mut world, VERIFY_NS);
    see(&mut world, "wide", |seen| {
        seen.package_migrations_milli_per_s = 0
    });
    step(&mut world);
    assert_eq!(last(&world), Outcome::Kept);
}

#[test]
fn exclusive_cpus_cannot_go_back_to_where_another_container_is_by_now() {
    let mut world = scattered(Some((EXCHANGE, "true")));
    step(&mut world).unwrap();
    world.place(&request("new", Guaranteed, 1000)).unwrap();
    world.place(&request("new2", Guaranteed, 1000)).unwrap();
    let taken = world.on("wide");
    later(&mut world, VERIFY_NS);
    step(&mut world);
    assert_eq!(last(&world), Outcome::Undone);
    assert_eq!(world.on("wide"), taken, "its old CPUs have another owner");
}

#[test]
fn an_exclusive_list_on_which_others_run_is_exchanged_on_request() {
    let topology = n4c16();
    let config = lists(true, "exclusive", &[(0, "0-1"), (0, "2-3"), (1, "8-9")]);
    let policy = StaticPools::new(&topology, &config).unwrap();
    let mut world = World::new(topology, policy);
    let mut db = annotated(request("db", Guaranteed, 2000), EXCHANGE, "true");
    db.env.push(("STP_POOL".into(), "exclusive".into()));
    db.env.push(("STP_SOCKET_ID".into(), "0".into()));
    let extended = &mut db.requirements.extended;
    extended.insert("cmk.intel.com/exclusive-cores".into(), 1);
    world.place(&db).unwrap();
    assert_eq!(world.on("db"), "0-1");
    see(&mut world, "db", |seen| seen.intruder_ns_per_s = 100 * MS);
    assert_eq!(step(&mut world).as_deref(), Some("foreign"));
    assert_eq!(world.on("db"), "2-3", "on the socket it asked for");
}

#[test]
fn a_confined_container_that_starves_gets_more_room() {
    let mut world = plus(n4c16(), "0");
    world.place(&request("chatty", Burstable, 500)).unwrap();
    see(&mut world, "chatty", |seen| {
        seen.utilisation_mcpu = 1500;
        seen.package_migrations_milli_per_s = 2_000_000;
    });
    step(&mut world).unwrap();
    let narrow = cpus(&world.on("chatty"));
    later(&mut world, VERIFY_NS);
    see(&mut world, "chatty", |seen| {
        seen.package_migrations_milli_per_s = 0
    });
    step(&mut world);
    assert_eq!(last(&world), Outcome::Kept);
    later(&mut world, COOLDOWN_NS);
    busy(&mut world, &narrow.to_string(), 1000);
    see(&mut world, "chatty", |seen| seen.wait_ns_per_s = 600 * MS);
    assert_eq!(step(&mut world).as_deref(), Some("contention"));
    assert_ne!(cpus(&world.on("chatty")), narrow);
}

/// A shared container whose threads cross sockets 400 times a second and that waits a second in each, by two
/// sockets; confined to one of them.
fn crossing() -> World {
    let mut world = plus(Topology::synthetic("pack:2 core:4").unwrap(), "0");
    world.place(&request("chatty", Burstable, 500)).unwrap();
    see(&mut world, "chatty", |seen| {
        seen.utilisation_mcpu = 1500;
        seen.package_migrations_milli_per_s = 400_000;
        seen.wait_ns_per_s = 1000 * MS;
    });
    assert_eq!(step(&mut world).as_deref(), Some("migrations"));
    world
}

/// The threads of `chatty` no longer cross; milliseconds it waits in a second.
fn ended(world: &mut World, wait: u64) {
    see(world, "chatty", |seen| {
        seen.package_migrations_milli_per_s = 1000;
        seen.wait_ns_per_s = wait * MS;
    });
}

/// Rounds of five seconds until the move is judged.
fn judged(world: &mut World) -> Outcome {
    for _ in 0..24 {
        later(world, VERIFY_NS / 24);
        step(world);
        if last(world) != Outcome::Trial {
            return last(world);
        }
    }
    panic!("not judged in time");
}

#[test]
fn the_noise_of_waiting_does_not_take_back_a_move_that_ended_migrations() {
    // It waited a second in each, which varies by half of that, where there is nothing to compare with.
    for wait in [0, 900, 1019] {
        let mut world = crossing();
        ended(&mut world, wait);
        later(&mut world, VERIFY_FROM_NS);
        step(&mut world);
        assert_eq!(last(&world), Outcome::Trial, "a round is no proof");
        assert_eq!(judged(&mut world), Outcome::Kept, "{wait}");
        let moved = world.state.rebalance.history.back().unwrap();
        // 399 crossings of 100 µs.
        assert!(moved.seen_ns_per_s.unwrap() >= 39_900_000, "{moved:?}");
        assert_eq!(moved.evidence, None);
    }
    // More than that may be others' doing: it is watched on, and stays when it ends.
    for (wait, outcome) in [(1000, Outcome::Kept), (1900, Outcome::Undone)] {
        let mut world = crossing();
        ended(&mut world, 1300);
        for _ in 0..3 {
            later(&mut world, VERIFY_FROM_NS);
            assert_eq!((step(&mut world), last(&world)), (None, Outcome::Trial));
        }
        ended(&mut world, wait);
        assert_eq!(judged(&mut world), outcome);
        assert_eq!(world.on("chatty") == "1-7", outcome == Outcome::Undone);
    }
}

#[test]
fn a_stolen_cpu_takes_back_no_move() {
    for (steal, outcome) in [(0, Outcome::Undone), (475, Outcome::Kept)] {
        let mut world = crossing();
        let trial = world.state.rebalance.history.back_mut().unwrap();
        trial.migrations_before.as_mut().unwrap().wait_ns_per_s = 4 * MS;
        // It waits 80 ms/s more, of which 95 % are stolen: half of all time, in which the CPUs are busy.
        ended(&mut world, 80);
        busy(&mut world, "0-7", 500);
        for cpu in cpus("0-7").iter() {
            world.measured.cpu_steal_milli.insert(cpu, steal);
        }
        assert_eq!(judged(&mut world), outcome);
    }
}

#[test]
fn waiting_where_there_was_none_takes_back_a_move_that_ended_migrations() {
    let mut world = crossing();
    let trial = world.state.rebalance.history.back_mut().unwrap();
    trial.migrations_before.as_mut().unwrap().wait_ns_per_s = 4 * MS;
    // More than half of the 39.9 ms/s that were won.
    ended(&mut world, 24);
    later(&mut world, VERIFY_NS);
    step(&mut world);
    assert_eq!(last(&world), Outcome::Undone);
}

#[test]
fn a_move_that_did_not_end_migrations_is_taken_back_however_little_there_is_to_wait() {
    let mut world = crossing();
    see(&mut world, "chatty", |seen| {
        seen.package_migrations_milli_per_s = 300_000;
        seen.wait_ns_per_s = 0;
    });
    later(&mut world, VERIFY_NS);
    step(&mut world);
    assert_eq!(
        (last(&world), world.on("chatty")),
        (Outcome::Undone, "1-7".into())
    );
}

#[test]
fn memory_that_is_near_already_costs_nothing_to_move_to() {
    let near = |node: u32| {
        let mut world = plus(n4c16(), "0");
        world.place(&request("fat", Burstable, 500)).unwrap();
        busy(&mut world, "0-7,12-15", 600);
        see(&mut world, "fat", |seen| {
            seen.utilisation_mcpu = 1000;
            seen.package_migrations_milli_per_s = 400_000;
            seen.resident_bytes = 64 << 30;
            seen.resident_by_node = [(NodeId(node), 64 << 30)].into();
        });
        step(&mut world);
        world.state.containers[&id("fat")]
            .placement
            .confined
            .clone()
    };
    // CPUs 8 to 11 of node 2 are the ones with room.
    assert_eq!(near(2), Some(cpus("8-11").into()));
    assert_eq!(near(0), None);
}

#[test]
fn what_replicas_did_places_those_that_follow() {
    let mut world = plus(n4c16(), "0");
    let named = |id: &str, pod: &str| {
        let mut container = request(id, Burstable, 500);
        container.pod.name = pod.into();
        container.name = "app".into();
        container
    };
    let first = named("1", "web-6d4cf56db6-x2b8z");
    assert_eq!(workload(&first), "web");
    world.place(&first).unwrap();
    see(&mut world, "1", |seen| {
        seen.utilisation_mcpu = 1800;
        seen.package_migrations_milli_per_s = 2_000_000;
    });
    step(&mut world).unwrap();
    let confined = world.on("1");
    // What is on trial is not handed on.
    world.state.rebalance = update_profiles(world.view()).unwrap();
    assert_eq!(
        world
            .place(&named("2", "web-6d4cf56db6-p9xkq"))
            .unwrap()
            .confined,
        None
    );
    later(&mut world, VERIFY_NS);
    see(&mut world, "1", |seen| {
        seen.package_migrations_milli_per_s = 0
    });
    step(&mut world);
    assert_eq!(last(&world), Outcome::Kept);
    let mut looks = 0;
    while let Some(memory) = update_profiles(world.view()) {
        world.state.rebalance = memory;
        looks += 1;
        assert!(looks < 10, "the same measurements are news again and again");
    }
    world.release("1");
    world.measured.containers.clear();
    let next = named("3", "web-7b9cf56db6-zzqlw");
    world.place(&next).unwrap();
    assert_eq!(world.on("3"), confined);
    let out = annotated(named("4", "web-7b9cf56db6-bbqlw"), OUT, "false");
    assert_eq!(world.place(&out).unwrap().confined, None);
    let stranger = named("5", "api-7b9cf56db6-bbqlw");
    assert_eq!(world.place(&stranger).unwrap().confined, None);
}

#[test]
fn what_was_undone_is_not_tried_on_the_successor_either() {
    let mut world = plus(n4c16(), "0");
    let named = |id: &str, pod: &str| {
        let mut container = request(id, Burstable, 500);
        container.pod.name = pod.into();
        container.name = "app".into();
        container
    };
    world.place(&named("1", "db-0")).unwrap();
    let wander = |world: &mut World, name: &str| {
        see(world, name, |seen| {
            seen.utilisation_mcpu = 800;
            seen.package_migrations_milli_per_s = 2_000_000;
        });
    };
    wander(&mut world, "1");
    step(&mut world).unwrap();
    later(&mut world, VERIFY_NS);
    step(&mut world);
    assert_eq!(last(&world), Outcome::Undone);
    world.release("1");
    world.place(&named("2", "db-0")).unwrap();
    wander(&mut world, "2");
    later(&mut world, COOLDOWN_NS);
    assert_eq!(step(&mut world), None);
}
