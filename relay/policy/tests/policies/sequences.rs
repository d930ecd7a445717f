//! Random machines, random lives: no step breaks a rule, and nothing leaks.

use super::common::*;
use proptest::prelude::*;
use resmgr_policy::*;
use resmgr_topology::{CpuId, CpuSet, Topology};

#[derive(Clone, Debug)]
enum Step {
    Place(u8, QosClass, u32),
    Release(u8),
    Restart,
    Toggle(u32),
}

fn step() -> impl Strategy<Value = Step> {
    let qos = prop_oneof![
        Just(QosClass::Guaranteed),
        Just(QosClass::Burstable),
        Just(QosClass::BestEffort)
    ];
    let milli = prop_oneof![Just(0), (1u32..6).prop_map(|n| n * 1000), 0u32..6000];
    prop_oneof![
        4 => (0u8..12, qos, milli).prop_map(|(n, qos, milli)| Step::Place(n, qos, milli)),
        2 => (0u8..12).prop_map(Step::Release),
        1 => Just(Step::Restart),
        1 => (1u32..32).prop_map(Step::Toggle),
    ]
}

fn machine() -> impl Strategy<Value = Topology> {
    (1u32..3, 1u32..3, 1u32..4, 1u32..3, any::<bool>()).prop_map(
        |(packages, nodes, cores, threads, isolate)| {
            let text = format!("pack:{packages} numa:{nodes} core:{cores} pu:{threads}");
            let topology = Topology::synthetic(&text).unwrap();
            let last = topology.cpus.last().unwrap().id;
            let isolated = if isolate && last.0 > 3 {
                last.to_string()
            } else {
                String::new()
            };
            topology.with_isolated(cpus(&isolated)).unwrap()
        },
    )
}

fn run(topology: &Topology, policy: Box<dyn Policy>, steps: Vec<Step>) {
    let mut world = World::new(topology.clone(), Unplaced::NONE);
    world.policy = policy;
    for step in steps {
        let before = world.state.clone();
        match step {
            Step::Place(n, qos, milli) => {
                let mut request = request(&n.to_string(), qos, milli);
                if milli == 1000 || milli == 2000 {
                    request
                        .requirements
                        .extended
                        .insert(EXCLUSIVE_CORES.into(), i64::from(milli / 1000));
                    request.env.push(("STP_POOL".into(), "exclusive".into()));
                }
                if world.place(&request).is_err() {
                    assert_eq!(world.state, before);
                }
            }
            Step::Release(n) => world.release(&n.to_string()),
            Step::Restart => {
                let text = serde_json::to_string(&world.state).unwrap();
                world.state = serde_json::from_str(&text).unwrap();
                assert_eq!(world.reconcile().unwrap(), Decision::default());
            }
            Step::Toggle(cpu) => {
                let mut online = world.topology.online;
                let cpu = CpuId(cpu);
                if world.topology.cpu(cpu).is_none() {
                    continue;
                }
                if !online.remove(cpu) {
                    online.insert(cpu);
                }
                let old = world.topology.clone();
                world.topology = old.clone().with_online(online).unwrap();
                if world.reconcile().is_err() {
                    world.topology = old;
                }
            }
        }
    }
    if let [free] = world
        .policy
        .pools(world.view())
        .first()
        .map_or(&[][..], |pool| &pool.free)
        && world.policy.name() != "static-pools"
    {
        // What is told to be free is all that can be had.
        let more = u32::try_from(free.len()).unwrap() + 1;
        let topology = world.topology.clone().with_isolated(CpuSet::EMPTY).unwrap();
        if topology == world.topology {
            let asks = |cpus: u32| request("all", QosClass::Guaranteed, cpus * 1000);
            assert!(world.policy.place(world.view(), &asks(more)).is_err());
            assert!(world.policy.place(world.view(), &asks(more - 1)).is_ok());
        }
    }
    let names: Vec<ContainerId> = world.state.containers.keys().cloned().collect();
    for name in names {
        world.release(&name.0);
    }
    assert!(world.state.containers.is_empty());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn static_never_breaks_a_rule(topology in machine(), steps in prop::collection::vec(step(), 0..40)) {
        if let Ok(policy) = StaticPolicy::new(&topology, reserving("0")) {
            run(&topology, Box::new(policy), steps);
        }
    }

    #[test]
    fn static_plus_never_breaks_a_rule(topology in machine(), steps in prop::collection::vec(step(), 0..40)) {
        if let Ok(policy) = StaticPlusPolicy::new(&topology, reserving("0")) {
            run(&topology, Box::new(policy), steps);
        }
    }

    #[test]
    fn static_pools_never_breaks_a_rule(steps in prop::collection::vec(step(), 0..40)) {
        let topology = n4c16();
        let policy = StaticPools::new(&topology, &super::stp::pools()).unwrap();
        run(&topology, Box::new(policy), steps);
    }
}
