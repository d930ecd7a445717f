use super::*;
use proptest::prelude::*;
use resmgr_policy::Change;

fn id(number: usize) -> ContainerId {
    ContainerId(format!("c{number}").into())
}

fn spec(number: usize) -> ContainerSpec {
    crate::manager::tests::spec(&format!("c{number}"))
}

fn on(cpu: usize) -> Placement {
    let cpus: CpuSet = cpu.to_string().parse().unwrap();
    Placement {
        exclusive: cpus.into(),
        cpus: cpus.into(),
        ..Placement::default()
    }
}

fn explanation(text: &str) -> Explanation {
    Explanation {
        summary: text.to_owned(),
        ..Explanation::default()
    }
}

/// What the manager does to its containers, in any order.
#[derive(Clone, Debug)]
enum Op {
    Insert(usize),
    Place(usize, usize),
    Unplace(usize),
    Remove(usize),
    Rename(usize, usize),
    Running(usize),
    UnplaceAll,
    ReplaceAll(Vec<usize>),
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let number = || 0_usize..6;
    let op = prop_oneof![
        3 => number().prop_map(Op::Insert),
        3 => (number(), 0_usize..4).prop_map(|(id, cpu)| Op::Place(id, cpu)),
        1 => number().prop_map(Op::Unplace),
        2 => number().prop_map(Op::Remove),
        1 => (number(), 6_usize..12).prop_map(|(from, to)| Op::Rename(from, to)),
        1 => number().prop_map(Op::Running),
        1 => Just(Op::UnplaceAll),
        1 => prop::collection::vec(0_usize..12, 0..4).prop_map(Op::ReplaceAll),
    ];
    prop::collection::vec(op, 0..40)
}

fn place(containers: &mut Containers, number: usize, cpu: usize) {
    let Some(container) = containers.get(&id(number)) else {
        return;
    };
    let decision = Decision {
        changes: vec![Change {
            id: id(number),
            request: Some(Arc::clone(container.request)),
            placement: on(cpu),
            explanation: Some(explanation("placed")),
        }],
        ..Decision::default()
    };
    let mut after = State::clone(containers.state());
    after.apply(&decision);
    containers.apply(&decision, Arc::new(after), 0);
}

fn run(containers: &mut Containers, op: Op) {
    match op {
        Op::Insert(number) if containers.contains(&id(number)) => {}
        Op::Insert(number) => containers.insert(&spec(number)),
        Op::Place(number, cpu) => place(containers, number, cpu),
        Op::Unplace(number) => containers.set_unplaced(&id(number), "no room", 0),
        Op::Remove(number) => {
            let gone = id(number);
            if containers.remove(&gone) && containers.is_placed(&gone) {
                let decision = Decision {
                    released: vec![gone],
                    ..Decision::default()
                };
                let mut after = State::clone(containers.state());
                after.apply(&decision);
                containers.apply(&decision, Arc::new(after), 0);
            }
        }
        Op::Rename(_, to) if containers.contains(&id(to)) => {}
        Op::Rename(from, to) => containers.rename(&id(from), &id(to)),
        Op::Running(number) => {
            containers.set_stage(&id(number), Stage::Running);
        }
        Op::UnplaceAll => containers.unplace_all(Some("given back")),
        Op::ReplaceAll(kept) => {
            let mut after = State::clone(containers.state());
            let ids = kept.into_iter().map(id).collect::<Vec<_>>();
            after.containers.retain(|id, _container| ids.contains(id));
            let reasons = containers.state().containers.keys();
            let reasons = reasons.map(|id| (id.clone(), "no room".to_owned()));
            let reasons = reasons.collect();
            containers.replace("a test", Arc::new(after), &reasons, &BTreeMap::new(), 0);
        }
    }
}

proptest! {
    #[test]
    fn every_container_is_kept_once_and_under_its_own_id(ops in ops()) {
        let mut containers = Containers::default();
        for op in ops {
            let before = containers.clone();
            let copy = (State::clone(before.state()), before.records.as_ref().clone());
            let expected = match &op {
                Op::Insert(number) if !before.contains(&id(*number)) => before.len() + 1,
                Op::Remove(number) if before.contains(&id(*number)) => before.len() - 1,
                _ => before.len(),
            };
            run(&mut containers, op);
            prop_assert_eq!(containers.len(), expected);
            // What was handed out before has not changed.
            prop_assert_eq!((State::clone(before.state()), before.records.as_ref().clone()), copy);
            // Every record is seen, and every placement has a record.
            prop_assert_eq!(containers.iter().count(), containers.len());
            for (id, record) in containers.records.iter() {
                prop_assert_eq!(record.unplaced.is_none(), containers.is_placed(id));
            }
            for id in containers.state().containers.keys() {
                prop_assert!(containers.contains(id));
            }
            for container in containers.iter() {
                prop_assert_eq!(container.id, &container.request.id);
                prop_assert!(container.record.history.len() <= MAX_HISTORY);
            }
        }
    }

    #[test]
    fn the_plan_of_a_decision_is_the_plan_of_the_whole_change(
        ops in ops(),
        number in 0_usize..6,
        cpu in 0_usize..4,
    ) {
        let mut containers = Containers::default();
        for op in ops {
            run(&mut containers, op);
        }
        let online: CpuSet = "0-7".parse().unwrap();
        let before = containers.clone();
        place(&mut containers, number, cpu);
        let decision = Decision {
            changes: vec![Change {
                id: id(number),
                request: None,
                placement: on(cpu),
                explanation: None,
            }],
            ..Decision::default()
        };
        prop_assert_eq!(
            containers.plan_for(&decision, &before, &online),
            containers.plan_from(&before, &online)
        );
        // There and back again leaves nothing to write.
        let back = before.plan_from(&containers, &online);
        let steps = |plan: &Plan| plan.before.len() + plan.after.len();
        prop_assert_eq!(steps(&back), steps(&containers.plan_from(&before, &online)));
        prop_assert_eq!(before.plan_from(&before, &online), Plan::default());
    }

    #[test]
    fn what_is_stored_is_what_was_there(ops in ops()) {
        let mut containers = Containers::default();
        for op in ops {
            run(&mut containers, op);
        }
        let mut read = Containers::of(
            State {
            next_arrival: containers.state().next_arrival,
            rebalance: containers.state().rebalance.clone(),
            ..State::default()
        },
            containers.pool_changes().clone(),
        );
        for container in containers.iter() {
            let text = serde_json::to_string(&Stored::from(container)).unwrap();
            read.insert_stored(serde_json::from_str(&text).unwrap());
        }
        prop_assert_eq!(read, containers);
    }
}

#[test]
fn an_unplaced_container_runs_on_what_no_other_holds_and_on_what_it_asked_for_of_that() {
    let mut containers = Containers::default();
    for number in 0..2 {
        containers.insert(&spec(number));
    }
    let asks = ContainerSpec {
        requested: CgroupSettings {
            cpus: "0,5-6".parse().unwrap(),
            ..CgroupSettings::default()
        },
        ..spec(2)
    };
    containers.insert(&asks);
    containers.set_unplaced(&id(1), "no room", 0);
    containers.set_unplaced(&id(2), "no room", 0);
    let online: CpuSet = "0-7".parse().unwrap();
    let cpus = |containers: &Containers, number| {
        let desired = containers.desired(&online).of(&id(number));
        desired.unwrap().cpus.to_string()
    };
    // While no container holds CPUs exclusively, all have what they would have without us.
    assert_eq!(cpus(&containers, 1), "");
    place(&mut containers, 0, 0);
    assert_eq!(cpus(&containers, 0), "0");
    assert_eq!(cpus(&containers, 1), "1-7");
    assert_eq!(cpus(&containers, 2), "5-6");
    let unplaced = containers.get(&id(1)).unwrap();
    assert_eq!(unplaced.unplaced.map(|why| &**why), Some("no room"));
    assert_eq!(unplaced.record.history.len(), 1);
}

#[test]
fn of_many_decisions_the_first_and_the_last_are_kept() {
    let mut containers = Containers::default();
    containers.insert(&spec(0));
    for second in 0..100 {
        containers.note(&id(0), explanation(&second.to_string()), second);
    }
    let history = &containers.get(&id(0)).unwrap().record.history;
    let seconds: Vec<_> = history.iter().map(|note| note.at_unix_s).collect();
    let expected: Vec<_> = [0].into_iter().chain(85..100).collect();
    assert_eq!(seconds, expected);
}
