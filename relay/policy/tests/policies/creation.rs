//! Measurements at creation: the least contention wins, and the explanation lists every choice.

use super::common::*;
use resmgr_policy::{
    Confidence, ContainerId, CpuListConfig, MeasurementQuality, Observed, PoolConfig, PoolsConfig,
    QosClass::{Burstable, Guaranteed},
    Request, STALE_NS, StaticPlusPolicy, StaticPools, update_profiles,
};
use resmgr_topology::{Nanos, Topology};

fn see(world: &mut World, name: &str, mcpu: u32, wait_ms: u64) {
    let seen = Observed {
        utilisation_mcpu: mcpu,
        wait_ns_per_s: wait_ms * 1_000_000,
        confidence: Confidence(1000),
        ..Observed::default()
    };
    let containers = &mut world.measured.containers;
    containers.insert(ContainerId(name.into()), seen);
}

fn busy(world: &mut World, list: &str, milli: u32) {
    for cpu in cpus(list).iter() {
        world.measured.cpu_busy_milli.insert(cpu, milli);
    }
}

/// What `explain` would print of a placement.
fn why(world: &World, request: &Request) -> String {
    let decision = world.policy.place(world.view(), request).unwrap();
    let mut changes = decision.changes.into_iter();
    let change = changes.find(|change| change.id == request.id).unwrap();
    let why = change.explanation.unwrap();
    let mut text = format!("{}\n", why.summary);
    for line in why.reasons {
        text += &format!("because {line}\n");
    }
    for line in why.candidates {
        text += &format!("choice {line}\n");
    }
    text
}

fn pools(topology: Topology, exclusive: bool, lists: &[(u32, &str)]) -> World {
    let cpu_lists = lists.iter().map(|(socket, cpuset)| CpuListConfig {
        socket: *socket,
        cpuset: (*cpuset).into(),
    });
    let pool = PoolConfig {
        exclusive,
        cpu_lists: cpu_lists.collect(),
    };
    let name = if exclusive { "exclusive" } else { "shared" };
    let config = PoolsConfig {
        pools: [(name.to_string(), pool)].into(),
    };
    let policy = StaticPools::new(&topology, &config).unwrap();
    World::new(topology, policy)
}

#[test]
fn the_shared_list_whose_containers_wait_least_is_taken_and_every_list_is_told_of() {
    let mut world = pools(n4c16(), false, &[(0, "0-3"), (0, "4-7"), (1, "8-11")]);
    for name in ["a", "b", "c"] {
        world.place(&request(name, Burstable, 400)).unwrap();
    }
    busy(&mut world, "0-3", 300);
    busy(&mut world, "4-7", 200);
    busy(&mut world, "8-11", 950);
    see(&mut world, "a", 1200, 0);
    see(&mut world, "b", 800, 150);
    see(&mut world, "c", 3800, 0);
    assert_eq!(
        why(&world, &request("new", Burstable, 400)),
        "\
default/new/new: CPUs 0-3 of pool \"shared\"
because pool \"shared\" is shared: the least used list
because rule: lists that would be over 900 of 1000 busy with it last; then by busy time with it in quarters, measured wait of those on them, busy time with it, busy time around it, requests, configuration
choice list 0-3 (socket 0): 1 containers, 100m requested per CPU, 300 of 1000 busy, 400 with it, 200 around it, 0 ms/s waited
choice list 4-7 (socket 0): 1 containers, 100m requested per CPU, 200 of 1000 busy, 300 with it, 300 around it, 150 ms/s waited
choice list 8-11 (socket 1): 1 containers, 100m requested per CPU, 900 of 1000 busy, 1000 with it, 0 around it, 0 ms/s waited
"
    );
}

#[test]
fn a_list_with_clearly_less_demand_is_taken_though_its_containers_wait_and_stolen_waits_count_for_nothing()
 {
    let lists = [(0, "0-3"), (1, "8-11")];
    let taken = |calm_busy, steal| {
        let mut world = pools(n4c16(), false, &lists);
        world.place(&request("noisy", Burstable, 400)).unwrap();
        world.place(&request("calm", Burstable, 400)).unwrap();
        busy(&mut world, "0-3", 700);
        busy(&mut world, "8-11", calm_busy);
        see(&mut world, "noisy", 2800, 20);
        // The machine has other work, or its CPUs are stolen.
        see(&mut world, "calm", 400, 150);
        for cpu in cpus("8-11").iter() {
            world.measured.cpu_steal_milli.insert(cpu, steal);
        }
        world.place(&request("new", Burstable, 100)).unwrap();
        world.on("new")
    };
    assert_eq!(taken(300, 0), "8-11");
    assert_eq!(taken(700, 0), "0-3", "as busy: those that wait less");
    assert_eq!(taken(700, 690), "8-11", "what is left of the wait is less");
}

#[test]
fn the_exclusive_list_with_the_quietest_neighbours_is_taken() {
    let topology = Topology::synthetic("pack:2 l3:1 core:4 pu:1").unwrap();
    let mut world = pools(topology, true, &[(0, "0"), (0, "1"), (1, "4"), (1, "5")]);
    busy(&mut world, "2-3", 900);
    busy(&mut world, "6-7", 100);
    let mut db = request("db", Guaranteed, 1000);
    db.env.push(("STP_POOL".into(), "exclusive".into()));
    let extended = &mut db.requirements.extended;
    extended.insert("cmk.intel.com/exclusive-cores".into(), 1);
    let text = why(&world, &db);
    assert!(text.starts_with("default/db/db: CPUs 4 of pool"), "{text}");
    for line in [
        "choice list 4 (socket 1): 0 containers, 0m requested per CPU, 0 of 1000 busy, 1000 with it, 0 around it, 0 ms/s waited\n",
        "choice list 0 (socket 0): 0 containers, 0m requested per CPU, 0 of 1000 busy, 1000 with it, 600 around it, 0 ms/s waited\n",
    ] {
        assert!(text.contains(line), "{line}{text}");
    }
    assert_eq!(text.matches("choice list").count(), 4, "{text}");
}

#[test]
fn slices_come_from_the_quietest_of_equal_caches_and_every_cache_is_told_of() {
    let topology = Topology::synthetic("pack:1 numa:1 l3:4 core:2 pu:2").unwrap();
    let policy = StaticPlusPolicy::new(&topology, reserving("0-3")).unwrap();
    let mut world = World::new(topology, policy);
    busy(&mut world, "0-7", 800);
    busy(&mut world, "8-11", 100);
    busy(&mut world, "12-15", 400);
    assert_eq!(
        why(&world, &request("db", Guaranteed, 4000)),
        "\
default/db/db: 4 exclusive CPUs 8-11
because Guaranteed pod, 4000m CPU requested (from CPU shares and quota): 4 exclusive, 0m shared
because sliced off the shared pool: whole cores close together first
because shared pool now 4-7,12-15, reserved 0-3
because quota removed: its CPUs are its own
because rule: what fits the topology best; among equals the least busy cores and caches, and those whose containers wait least
choice cache 2: 4 CPUs free (0 isolated) of 4, 100 of 1000 busy, 0 of 1000 around it, 0 ms/s waited there; gives 8-11
choice cache 3: 4 CPUs free (0 isolated) of 4, 400 of 1000 busy, 0 of 1000 around it, 0 ms/s waited there; gives none
choice cache 1: 4 CPUs free (0 isolated) of 4, 800 of 1000 busy, 0 of 1000 around it, 0 ms/s waited there; gives none
"
    );
    // As quiet, but a container is confined there and waits already.
    busy(&mut world, "4-15", 100);
    world.place(&request("waits", Burstable, 500)).unwrap();
    let waits = ContainerId("waits".into());
    let placement = &mut world.state.containers.get_mut(&waits).unwrap().placement;
    placement.confined = Some(cpus("8-11").into());
    placement.cpus = cpus("8-11").into();
    see(&mut world, "waits", 500, 2000);
    let placed = world.place(&request("db", Guaranteed, 4000)).unwrap();
    assert_ne!(placed.exclusive, cpus("8-11"));
}

#[test]
fn a_list_that_its_predecessors_would_fill_is_not_taken() {
    let mut world = pools(n4c16(), false, &[(0, "0-1"), (1, "8-15")]);
    busy(&mut world, "8-15", 300);
    busy(&mut world, "0-1", 200);
    let named = |id: &str, pod: &str| {
        let mut container = request(id, Burstable, 100);
        container.pod.name = pod.into();
        container.name = "app".into();
        container
    };
    assert_eq!(world.place(&named("1", "web-0")).unwrap().cpus, cpus("0-1"));
    see(&mut world, "1", 1700, 0);
    world.state.rebalance = update_profiles(world.view()).unwrap();
    world.release("1");
    world.measured.containers.clear();
    let next = named("2", "web-1");
    let text = why(&world, &next);
    assert!(
        text.contains("because its predecessors used 1700m, waited 0 ms/s"),
        "{text}"
    );
    assert!(text.contains("list 0-1 (socket 0): 0 containers, 0m requested per CPU, 200 of 1000 busy, 1000 with it"), "{text}");
    assert_eq!(world.place(&next).unwrap().cpus, cpus("8-15"));
}

#[test]
fn of_many_lists_the_best_are_told_and_the_rest_counted() {
    let lists: Vec<_> = (0..64).map(|cpu| (0, cpu.to_string())).collect();
    let lists: Vec<_> = lists
        .iter()
        .map(|(socket, cpu)| (*socket, cpu.as_str()))
        .collect();
    let machine = Topology::synthetic("pack:1 core:64 pu:1").unwrap();
    let world = pools(machine, true, &lists);
    let mut two = request("two", Guaranteed, 1000);
    two.env = vec![("STP_POOL".into(), "exclusive".into())];
    let cores = resmgr_policy::EXCLUSIVE_CORES.into();
    two.requirements.extended.insert(cores, 2);
    let told = why(&world, &two);
    let choices: Vec<_> = told
        .lines()
        .filter(|line| line.starts_with("choice "))
        .collect();
    // Both that are given, and the next sixteen.
    assert_eq!(choices.len(), 19, "{told}");
    assert!(choices[17].contains("list 17"), "{told}");
    assert_eq!(choices[18], "choice and 46 more");
}

#[test]
fn without_usable_measurements_the_explanation_says_why_and_the_order_is_static() {
    let mut world = pools(n4c16(), false, &[(0, "0-3"), (0, "4-7")]);
    busy(&mut world, "0-3", 900);
    let new = request("new", Burstable, 400);
    let moved = |world: &World| why(world, &new).contains("CPUs 4-7 of pool");
    assert!(moved(&world));
    for (expected, spoil) in [
        ("measurements are 6 s old and not used", 0),
        ("measurements are only polled, too coarse to act on", 1),
        ("nothing is measured", 2),
    ] {
        let (measured, now) = (world.measured.clone(), world.now);
        match spoil {
            0 => world.now = Nanos(STALE_NS + 1_000_000_000),
            1 => world.measured.quality = MeasurementQuality::Polled,
            _ => world.measured.cpu_busy_milli.clear(),
        }
        let text = why(&world, &new);
        let line = format!("because {expected}: decided as without telemetry\n");
        assert!(text.contains(&line), "{line}{text}");
        assert!(!moved(&world), "{text}");
        (world.measured, world.now) = (measured, now);
    }
}
