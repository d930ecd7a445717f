//! Every kind of move at once, on random machines under random loads.

use super::*;
use proptest::prelude::*;

fn machines() -> impl Strategy<Value = Topology> {
    (1u32..4, 1u32..3, 1u32..3, 1u32..4, 1u32..3).prop_map(|(pack, numa, l3, core, pu)| {
        let text = format!("pack:{pack} numa:{numa} l3:{l3} core:{core} pu:{pu}");
        Topology::synthetic(&text).unwrap()
    })
}

#[derive(Clone, Debug)]
struct Life {
    milli: u32,
    qos: u8,
    system: bool,
    annotation: u8,
    mcpu: u32,
    wait_ms: u64,
    package: u64,
    node: u64,
    llc: u64,
    foreign_ms: u64,
    hurt_by: Option<usize>,
    bytes: u64,
}

fn lives() -> impl Strategy<Value = Vec<Life>> {
    let fields = (
        (0u32..3500, 0u8..3, any::<bool>(), 0u8..4),
        (0u32..4000, 0u64..2000, 0u64..3000, 0u64..3000, 0u64..3000),
        (0u64..300, prop::option::of(0usize..12), 0u64..1 << 33),
    );
    let life = fields.prop_map(
        |((milli, qos, system, annotation), (mcpu, wait_ms, package, node, llc), rest)| Life {
            milli,
            qos,
            system,
            annotation,
            mcpu,
            wait_ms,
            package,
            node,
            llc,
            foreign_ms: rest.0,
            hurt_by: rest.1,
            bytes: rest.2,
        },
    );
    prop::collection::vec(life, 1..12)
}

/// A world of `static-plus`, `static` or pools with these containers, measured so.
fn world(topology: Topology, policy: u8, lives: &[Life], loads: &[u32]) -> World {
    let reserved = (topology.online.len() / 4).max(1);
    let config = StaticConfig {
        reserved: Some(resmgr_policy::Reserved::Quantity(MilliCpu(
            u32::try_from(reserved * 1000).unwrap(),
        ))),
        ..StaticConfig::default()
    };
    let all: Vec<CpuId> = topology.online.iter().collect();
    let per_list: Vec<(u32, String)> = all
        .iter()
        .map(|cpu| (topology.cpu(*cpu).unwrap().package.0, cpu.to_string()))
        .collect();
    let mut world = match (policy % 3, all.len()) {
        (0, 2..) => {
            let policy = StaticPolicy::new(&topology, config).unwrap();
            World::new(topology, policy)
        }
        (1, 2..) => {
            let policy = StaticPlusPolicy::new(&topology, config).unwrap();
            World::new(topology, policy)
        }
        _ => {
            let half = per_list.len() / 2;
            let pool = |exclusive, part: &[(u32, String)]| {
                let part = part.iter().map(|(socket, list)| CpuListConfig {
                    socket: *socket,
                    cpuset: list.clone(),
                });
                PoolConfig {
                    exclusive,
                    cpu_lists: part.collect(),
                }
            };
            let pools = [
                ("exclusive".to_string(), pool(true, &per_list[..half])),
                ("shared".to_string(), pool(false, &per_list[half..])),
            ];
            let config = PoolsConfig {
                pools: pools.into(),
            };
            let policy = StaticPools::new(&topology, &config).unwrap();
            World::new(topology, policy)
        }
    };
    for (cpu, load) in all.iter().zip(loads.iter().cycle()) {
        world.measured.cpu_busy_milli.insert(*cpu, *load);
    }
    for (index, life) in lives.iter().enumerate() {
        let qos = [Guaranteed, Burstable, BestEffort][usize::from(life.qos)];
        let milli = if life.qos == 2 { 0 } else { life.milli };
        let mut container = request(&index.to_string(), qos, milli);
        if life.system {
            container.pod.namespace = "kube-system".into();
        }
        match life.annotation {
            1 => container = annotated(container, OUT, "false"),
            2 => container = annotated(container, EXCHANGE, "true"),
            _ => {}
        }
        if policy % 3 == 2 && life.qos == 0 {
            container.env.push(("STP_POOL".into(), "exclusive".into()));
            let extended = &mut container.requirements.extended;
            extended.insert("cmk.intel.com/exclusive-cores".into(), 1);
        }
        if world.place(&container).is_err() {
            continue;
        }
        let by = life.hurt_by.map(|by| id(&by.to_string()));
        see(&mut world, &index.to_string(), |seen| {
            *seen = Observed {
                utilisation_mcpu: life.mcpu,
                wait_ns_per_s: life.wait_ms * MS,
                package_migrations_milli_per_s: life.package * 1000,
                node_migrations_milli_per_s: life.node * 1000,
                llc_migrations_milli_per_s: life.llc * 1000,
                intruder_ns_per_s: life.foreign_ms * MS,
                preempted_by: by.map(|by| (by, 200_000)).into_iter().collect(),
                resident_bytes: life.bytes,
                confidence: Confidence(1000),
                ..Observed::default()
            };
        });
    }
    world
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever is measured on whatever machine: `check` holds after every step (`World::apply`), a container
    /// that opted out keeps the CPUs it has but for what others are given exclusively, exclusive CPUs stay where
    /// the pod did not ask, and under a load that no move changes all ends where it began, each thing tried once.
    #[test]
    fn no_kind_of_move_breaks_a_promise_or_goes_on_for_ever(
        topology in machines(),
        policy in 0u8..3,
        lives in lives(),
        loads in prop::collection::vec(0u32..1001, 1..20),
    ) {
        let mut world = world(topology, policy, &lives, &loads);
        let start = world.state.containers.clone();
        let mut made = 0;
        for _ in 0..720 {
            made += usize::from(step(&mut world).is_some());
            later(&mut world, 5_000 * MS);
            for (id, container) in &world.state.containers {
                let was = &start[id].placement;
                let key = container.request.annotations.keys().next().map(String::as_str);
                if key != Some(EXCHANGE) {
                    prop_assert_eq!(&was.exclusive, &container.placement.exclusive);
                }
                if key == Some(OUT) && container.placement.exclusive.is_empty() {
                    prop_assert_eq!(&was.confined, &container.placement.confined);
                    prop_assert_eq!(&was.lists, &container.placement.lists);
                }
            }
        }
        // An hour: no container's rest after an undone move is over twice.
        prop_assert!(made <= 2 * lives.len() + 4, "{made} moves of {} containers", lives.len());
        let history = &world.state.rebalance.history;
        prop_assert!(history.iter().all(|past| past.outcome != Outcome::Trial || Some(past) == history.back()));
        // Nothing helped: what was tried and judged is undone. Loans that are not needed go back and stay so.
        let stay = |past: &&resmgr_policy::RebalanceMove| past.outcome == Outcome::Kept && past.promised_ns_per_s > 0;
        prop_assert_eq!(history.iter().find(stay), None);
    }

    /// Moves that do what they promise: the load of the moved containers is cured. It ends after few moves,
    /// and no container is moved back.
    #[test]
    fn moves_that_help_are_kept_and_end(
        topology in machines(),
        policy in 0u8..3,
        lives in lives(),
        loads in prop::collection::vec(0u32..1001, 1..20),
    ) {
        let mut world = world(topology, policy, &lives, &loads);
        let mut moves = 0;
        let mut quiet = 0;
        while quiet < 200 {
            if step(&mut world).is_some() {
                moves += 1;
                quiet = 0;
                let moved = world.state.rebalance.trial().cloned().unwrap();
                for baseline in &moved.baselines {
                    see(&mut world, &baseline.id.0, |seen| *seen = Observed {
                        utilisation_mcpu: seen.utilisation_mcpu,
                        resident_bytes: seen.resident_bytes,
                        ..Observed::default()
                    });
                    see(&mut world, &baseline.id.0, |_| {});
                }
            }
            quiet += 1;
            later(&mut world, 5_000 * MS);
        }
        let history = &world.state.rebalance.history;
        prop_assert!(history.iter().all(|past| past.outcome == Outcome::Kept), "{history:?}");
        prop_assert!(moves <= lives.len() + 4, "{moves} moves of {} containers", lives.len());
    }
}
