//! Moving what runs: worth it, checked, undone, never in circles.

use super::common::*;
use proptest::prelude::*;
use resmgr_policy::{
    BUDGET_PER_MINUTE, COOLDOWN_NS, Confidence, ContainerId, CpuListConfig, Explanation, MoveKind,
    Observed, Outcome, PolicySettings, PoolConfig, PoolsConfig,
    QosClass::{Burstable, Guaranteed},
    RebalanceMode, STALE_NS, State, StaticPlusPolicy, StaticPools, VERIFY_NS, by_name,
};
use resmgr_topology::Nanos;

fn plus() -> World {
    let topology = n4c16();
    let policy = StaticPlusPolicy::new(&topology, reserving("0")).unwrap();
    World::new(topology, policy)
}

fn see(world: &mut World, name: &str, wait_ms: u64, package_per_s: u64) {
    let seen = Observed {
        utilisation_mcpu: 1000,
        wait_ns_per_s: wait_ms * 1_000_000,
        package_migrations_milli_per_s: package_per_s * 1000,
        confidence: Confidence(1000),
        ..Observed::default()
    };
    world
        .measured
        .containers
        .insert(ContainerId(name.into()), seen);
}

fn later(world: &mut World, ns: u64) {
    world.now = Nanos(world.now.0 + ns);
    world.measured.at = world.now;
}

fn step(world: &mut World) -> usize {
    let decision = world.policy.rebalance(world.view());
    assert_eq!(decision, world.policy.rebalance(world.view()));
    let decision = decision.unwrap_or_default();
    world.apply(&decision);
    decision.changes.len()
}

fn last(world: &World) -> Outcome {
    world.state.rebalance.history.back().unwrap().outcome
}

#[test]
fn a_wandering_container_is_confined_to_a_node_it_fits_in_and_stays() {
    let mut world = plus();
    world.place(&request("db", Guaranteed, 2000)).unwrap();
    let db = world.on("db");
    world.place(&request("chatty", Burstable, 500)).unwrap();
    later(&mut world, VERIFY_NS);
    see(&mut world, "chatty", 5, 1000);
    see(&mut world, "db", 5, 1000);
    assert_eq!(step(&mut world), 1);
    assert_eq!((world.on("chatty"), world.on("db")), ("4-7".into(), db));
    assert_eq!(step(&mut world), 0, "one mover at a time");
    later(&mut world, VERIFY_NS);
    see(&mut world, "chatty", 5, 0);
    step(&mut world);
    assert_eq!(last(&world), Outcome::Kept);
    let exclusive = world.place(&request("more", Guaranteed, 3000)).unwrap();
    assert!(cpus(&world.on("chatty")).is_disjoint(&exclusive.cpus));
    assert!(
        cpus(&world.on("chatty")).is_subset(&cpus("4-7")) || exclusive.cpus.is_subset(&cpus("4-7"))
    );
}

#[test]
fn what_did_not_help_is_undone_and_not_tried_again_soon() {
    let mut world = plus();
    world.place(&request("chatty", Burstable, 500)).unwrap();
    let before = world.on("chatty");
    see(&mut world, "chatty", 5, 1000);
    assert_eq!(step(&mut world), 1);
    later(&mut world, VERIFY_NS);
    assert_eq!(step(&mut world), 1);
    assert_eq!(
        (world.on("chatty"), last(&world)),
        (before, Outcome::Undone)
    );
    later(&mut world, COOLDOWN_NS);
    assert_eq!(step(&mut world), 0);
}

#[test]
fn what_containers_that_came_may_have_spoilt_is_tried_again_after_a_rest() {
    let mut world = plus();
    world.place(&request("chatty", Burstable, 500)).unwrap();
    let before = world.on("chatty");
    see(&mut world, "chatty", 5, 1000);
    assert_eq!(step(&mut world), 1);
    // All wait more since: whether because of the move cannot be known.
    world.place(&request("late", Burstable, 500)).unwrap();
    see(&mut world, "chatty", 500, 0);
    later(&mut world, VERIFY_NS);
    let undone = world.policy.rebalance(world.view()).unwrap();
    let why = undone.changes[0].explanation.as_ref().unwrap();
    assert!(
        why.reason_lines()[2].starts_with("containers came meanwhile (1)"),
        "{why:?}"
    );
    assert!(step(&mut world) > 0);
    assert_eq!(
        (world.on("chatty"), last(&world)),
        (before.clone(), Outcome::Undone)
    );
    see(&mut world, "chatty", 5, 1000);
    later(&mut world, COOLDOWN_NS / 2);
    assert_eq!(step(&mut world), 0);
    later(&mut world, COOLDOWN_NS / 2);
    assert_eq!(step(&mut world), 1);
    assert_ne!(world.on("chatty"), before);
}

#[test]
fn a_move_that_hurts_those_it_is_put_beside_is_undone() {
    for (hurt_ms, moves, outcome) in [
        (8, "true", Outcome::Kept),
        (200, "true", Outcome::Undone),
        // A container that is not to be moved is not to be hurt either.
        (200, "false", Outcome::Undone),
    ] {
        let mut world = plus();
        world.place(&request("chatty", Burstable, 500)).unwrap();
        let key = "rebalance.cri-resource-manager.intel.com/pod";
        let beside = annotated(request("beside", Burstable, 500), key, moves);
        world.place(&beside).unwrap();
        // The node that the container goes to; the third container has all of the pool, before and after.
        let placed = &mut world
            .state
            .containers
            .get_mut(&ContainerId("beside".into()));
        let placed = &mut placed.as_mut().unwrap().placement;
        placed.confined = Some(cpus("4-7").into());
        placed.cpus = cpus("4-7").into();
        world.place(&request("apart", Burstable, 500)).unwrap();
        see(&mut world, "chatty", 5, 1000);
        see(&mut world, "beside", 5, 0);
        see(&mut world, "apart", 5, 0);
        assert_eq!(step(&mut world), 1);
        assert_eq!(world.on("chatty"), world.on("beside"));
        let compared = &world.state.rebalance.trial().unwrap().comparison;
        assert_eq!(compared[0].id, ContainerId("apart".into()));
        // What it was to end it ended, and it waits no more than before.
        see(&mut world, "chatty", 5, 0);
        see(&mut world, "beside", hurt_ms, 0);
        later(&mut world, VERIFY_NS);
        let decision = world.policy.rebalance(world.view()).unwrap();
        step(&mut world);
        assert_eq!(last(&world), outcome, "{decision:?}");
        let changes = decision.changes.iter();
        let explanations = changes.filter_map(|change| change.explanation.as_ref());
        let mut lines = explanations.flat_map(Explanation::reason_lines);
        let told = lines.any(|line| line.contains("195000 µs/s more lost by those beside"));
        assert_eq!(told, outcome == Outcome::Undone, "{decision:?}");
        // The watched neighbours are not remembered for longer.
        assert!(world.state.rebalance.history[0].neighbours.is_empty());
    }
}

#[test]
fn what_all_lose_more_meanwhile_is_not_the_moves_doing() {
    for (apart_ms, outcome) in [(5, Outcome::Undone), (205, Outcome::Kept)] {
        let mut world = plus();
        world.place(&request("chatty", Burstable, 500)).unwrap();
        world.place(&request("apart", Burstable, 500)).unwrap();
        see(&mut world, "chatty", 5, 1000);
        see(&mut world, "apart", 5, 0);
        assert_eq!(step(&mut world), 1);
        see(&mut world, "chatty", 205, 0);
        see(&mut world, "apart", apart_ms, 0);
        later(&mut world, VERIFY_NS);
        let decision = world.policy.rebalance(world.view()).unwrap();
        step(&mut world);
        assert_eq!(last(&world), outcome, "{decision:?}");
        let changes = decision.changes.iter();
        let mut explanations = changes
            .filter_map(|change| change.explanation.as_ref())
            .chain(decision.notes.iter().map(|(_, why)| why));
        let lines = explanations.next().unwrap().reason_lines();
        let told = "compared with a container that the move did not touch: likelier than not, ";
        assert!(lines[0].contains(told), "{lines:?}");
    }
}

#[test]
fn nothing_moves_on_old_or_thin_numbers_or_against_the_pods_will() {
    let mut world = plus();
    let out = annotated(
        request("out", Burstable, 500),
        "rebalance.cri-resource-manager.intel.com/pod",
        "false",
    );
    world.place(&out).unwrap();
    see(&mut world, "out", 5, 1000);
    assert_eq!(step(&mut world), 0);
    world.place(&request("chatty", Burstable, 500)).unwrap();
    see(&mut world, "chatty", 5, 1000);
    world.now = Nanos(STALE_NS + 1);
    assert_eq!(step(&mut world), 0);
    world.measured.at = world.now;
    world
        .measured
        .containers
        .get_mut(&ContainerId("chatty".into()))
        .unwrap()
        .confidence = Confidence(100);
    assert_eq!(step(&mut world), 0);
}

#[test]
fn moving_much_memory_must_win_much() {
    let mut world = plus();
    world.place(&request("fat", Burstable, 500)).unwrap();
    see(&mut world, "fat", 5, 1000);
    world
        .measured
        .containers
        .get_mut(&ContainerId("fat".into()))
        .unwrap()
        .resident_bytes = 1 << 40;
    assert_eq!(step(&mut world), 0);
}

#[test]
fn whether_anything_moves_is_the_operators_choice() {
    let mut world = plus();
    world.place(&request("chatty", Burstable, 500)).unwrap();
    see(&mut world, "chatty", 5, 1000);
    for (mode, moves) in [
        (RebalanceMode::Off, None),
        (RebalanceMode::Shadow, Some(0)),
        (RebalanceMode::On, Some(1)),
    ] {
        let settings = PolicySettings {
            slices: reserving("0"),
            rebalance: mode,
            ..PolicySettings::default()
        };
        let policy = by_name("static-plus", &world.topology, &settings).unwrap();
        let decision = policy.rebalance(world.view());
        assert_eq!(decision.map(|decision| decision.changes.len()), moves);
    }
}

#[test]
fn a_shadow_only_remembers() {
    let mut world = plus();
    world.place(&request("chatty", Burstable, 500)).unwrap();
    see(&mut world, "chatty", 5, 1000);
    let decision = world.policy.rebalance(world.view()).unwrap().shadow();
    assert!(decision.changes.is_empty());
    world.apply(&decision);
    assert_eq!(last(&world), Outcome::Shadow);
    assert_eq!(step(&mut world), 0, "it rests as if it had been moved");
}

fn two_lists() -> World {
    let list = |socket, cpuset: &str| CpuListConfig {
        socket,
        cpuset: cpuset.into(),
    };
    let cpu_lists = vec![list(0, "0-3"), list(1, "8-11")];
    let shared = PoolConfig {
        exclusive: false,
        cpu_lists,
    };
    let topology = n4c16();
    let config = PoolsConfig {
        pools: [("shared".into(), shared)].into(),
    };
    let policy = StaticPools::new(&topology, &config).unwrap();
    World::new(topology, policy)
}

#[test]
fn the_victim_of_a_noisy_neighbour_moves_to_the_quieter_list_and_new_work_goes_there() {
    let mut world = two_lists();
    assert_eq!(
        world
            .place(&request("victim", Burstable, 500))
            .unwrap()
            .cpus,
        cpus("0-3")
    );
    for cpu in cpus("0-3").iter() {
        world.measured.cpu_busy_milli.insert(cpu, 990);
    }
    see(&mut world, "victim", 300, 0);
    assert_eq!(
        world.place(&request("new", Burstable, 500)).unwrap().cpus,
        cpus("8-11")
    );
    assert_eq!(step(&mut world), 1);
    assert_eq!(world.on("victim"), "8-11");
    world.measured.cpu_busy_milli.clear();
    later(&mut world, VERIFY_NS);
    see(&mut world, "victim", 1, 0);
    step(&mut world);
    assert_eq!(last(&world), Outcome::Kept);
    for _ in 0..100 {
        later(&mut world, VERIFY_NS);
        assert_eq!(
            step(&mut world),
            0,
            "the neighbour gone, nothing moves back"
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 16, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn constant_load_never_makes_containers_swing(
        pools in any::<bool>(),
        seen in prop::collection::vec((0u64..900, 0u64..3000, 0u32..3000), 1..10),
        busy in prop::collection::vec(0u32..1000, 16),
    ) {
        let mut world = if pools { two_lists() } else { plus() };
        for (index, (wait, package, milli)) in seen.iter().enumerate() {
            let name = index.to_string();
            if world.place(&request(&name, Burstable, *milli)).is_ok() {
                see(&mut world, &name, *wait, *package);
            }
        }
        for (cpu, busy) in (0..).map(resmgr_topology::CpuId).zip(busy) {
            world.measured.cpu_busy_milli.insert(cpu, busy);
        }
        let mut changes = 0;
        // Half an hour, asked every five seconds.
        for _ in 0..360 {
            changes += step(&mut world);
            later(&mut world, 5_000_000_000);
        }
        // Every move promises something, nothing changes: each is made once and undone once.
        prop_assert!(changes <= 2 * seen.len(), "{changes} changes");
        prop_assert!(world.state.rebalance.history.len() <= 30 * BUDGET_PER_MINUTE);
    }
}

#[test]
fn what_is_remembered_is_read_and_written_by_the_keys_of_earlier_versions() {
    let written = r#"{
        "containers": {}, "next_arrival": 3,
        "rebalance": {
            "rests_until": {"a": 5}, "pools_rest_until": {"shared": 6}, "lent": {"shared": "0-1"},
            "history": [{
                "id": "a", "at": 1, "reason": "parting",
                "parts": [
                    {"id": "a", "what": "span", "from": null, "to": "0-3"},
                    {"id": "b", "what": {"pool": "shared"}, "from": "0", "to": null}
                ],
                "judged": [{"id": "a", "lost_ns_per_s": 7}],
                "lost_ns_per_s": 7, "promised_ns_per_s": 3, "cost_ns_per_s": 1, "seen_ns_per_s": -2,
                "outcome": "undone", "arrivals": 2,
                "wandered": {"refill_ns_per_s": 4, "wait_ns_per_s": 5}, "neighbours": []
            }],
            "workloads": {"default/web/web": {
                "utilisation_mcpu": 1, "wait_ns_per_s": 2, "far_migrations_milli_per_s": 3,
                "confined": "0-3", "rests_until": 9, "seen": 1
            }}
        }
    }"#;
    let state: State = serde_json::from_str(written).unwrap();
    let memory = &state.rebalance;
    assert_eq!(memory.loans["shared"], cpus("0-1"));
    let moved = &memory.history[0];
    assert_eq!(moved.steps[0].kind, MoveKind::Domain);
    assert_eq!(moved.migrations_before.unwrap().wait_ns_per_s, 5);
    let profile = &memory.workloads["default/web/web"];
    assert_eq!(profile.cooldown_until, Some(Nanos(9)));
    let again: serde_json::Value = serde_json::to_value(&state).unwrap();
    assert_eq!(
        again,
        serde_json::from_str::<serde_json::Value>(written).unwrap()
    );
}
