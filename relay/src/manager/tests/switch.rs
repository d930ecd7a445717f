//! Another policy, another configuration, other CPUs: all at once, or nothing.

use super::*;

/// What the kernel says of every container, and what we think of them.
fn seen(node: &Node, relay: &Running) -> (Vec<String>, Arc<State>) {
    let kernel = [(SHARED, "web"), (POD, "db"), (POD, "big")]
        .map(|(parent, id)| node.kernel(parent, id))
        .to_vec();
    (
        kernel,
        Arc::clone(relay.handle.snapshot().containers.state()),
    )
}

async fn three() -> (Node, Running) {
    let node = Node::new();
    let relay = node.start().await;
    relay.create(&node, "web", SHARED, 500).await;
    relay.create(&node, "db", POD, 1000).await;
    relay.create(&node, "big", POD, 3000).await;
    relay
        .eventually("all committed", |now| {
            now.containers.len() == 3
                && now
                    .containers
                    .iter()
                    .all(|container| container.stage() != Stage::Reserved)
        })
        .await;
    (node, relay)
}

#[tokio::test]
async fn a_policy_without_a_place_for_one_container_is_refused_whole() {
    let (node, relay) = three().await;
    let before = seen(&node, &relay);
    assert_eq!(before.0, ["4-7", "0", "1-3"]);
    // Another policy, and another configuration of the same.
    for name in ["other", "toy"] {
        let refused = relay.handle.reconfigure(Toy::up_to(name, 2)).await;
        let Err(ReconfigureError::NoPlace { policy, containers }) = refused else {
            panic!("{refused:?}");
        };
        assert_eq!(policy, name);
        let [(container, why)] = containers.as_slice() else {
            panic!("{containers:?}");
        };
        assert_eq!(container, "default//big");
        assert!(why.contains("3 exclusive CPUs asked"), "{why}");
        assert_eq!(seen(&node, &relay), before, "{name}");
        assert_eq!(relay.handle.snapshot().policy, "toy");
    }
    // None is any good: the message names them all.
    let refused = relay.handle.reconfigure(Toy::up_to("other", 0)).await;
    let text = refused.unwrap_err().to_string();
    assert!(text.starts_with("policy other has no place for 2 of the containers"));
    assert!(text.contains("default//db: ") && text.contains("default//big: "));
    assert_eq!(relay.create(&node, "late", POD, 1000).await, "4");
}

#[tokio::test]
async fn a_policy_with_a_place_for_all_containers_places_the_largest_guarantee_first() {
    let (node, relay) = three().await;
    relay.handle.reconfigure(Toy::new("other")).await.unwrap();
    assert_eq!(seen(&node, &relay).0, ["4-7", "3", "0-2"]);
    let now = relay.handle.snapshot();
    assert_eq!(now.policy, "other");
    let arrivals: Vec<_> = ["web", "db", "big"]
        .map(|name| now.find(name).unwrap().arrival)
        .to_vec();
    assert_eq!(arrivals, [0, 1, 2], "they did not come now");
    assert_eq!(relay.decisions("db"), 2);
}

#[tokio::test]
async fn a_container_that_runs_unplaced_already_does_not_stand_in_the_way_and_is_tried_again() {
    let node = Node::new();
    let relay = node.start().await;
    relay
        .handle
        .reconfigure(Toy::up_to("toy", 1))
        .await
        .unwrap();
    relay.create(&node, "db", POD, 1000).await;
    // kube-system is passed through.
    let wish = create_request("big", "kube-system", POD, 3000);
    let Before::Forward { after, .. } = relay.call("CreateContainer", &wish).await else {
        panic!("refused");
    };
    node.runs("big", POD, "0-7");
    let reply = v1::CreateContainerResponse {
        container_id: "big".into(),
    };
    let reply = CallOutcome::Reply(reply.encode_to_vec().into());
    after.unwrap().after(reply).await;
    relay
        .eventually("big runs unplaced", |now| {
            now.find("big").is_ok_and(|container| {
                container.unplaced.is_some() && container.stage() != Stage::Reserved
            })
        })
        .await;
    relay
        .handle
        .reconfigure(Toy::up_to("toy", 2))
        .await
        .unwrap();
    assert!(
        relay
            .handle
            .snapshot()
            .find("big")
            .unwrap()
            .unplaced
            .is_some()
    );
    relay
        .handle
        .reconfigure(Toy::up_to("toy", 3))
        .await
        .unwrap();
    let now = relay.handle.snapshot();
    assert_eq!(now.find("big").unwrap().unplaced, None);
    assert_eq!(
        (node.kernel(POD, "db"), node.kernel(POD, "big")),
        ("0".into(), "1-3".into())
    );
}

#[tokio::test]
async fn a_cgroup_that_cannot_be_written_takes_the_whole_switch_back() {
    let (node, relay) = three().await;
    let before = seen(&node, &relay);
    let root = node.tree.cgroups.hierarchy().cpuset_root().to_owned();
    let stubborn = root.join("kubepods/pod/big/cpuset.cpus");
    // A file that reads as it should and cannot be written.
    std::fs::remove_file(&stubborn).unwrap();
    std::fs::create_dir(&stubborn).unwrap();
    let refused = relay.handle.reconfigure(Toy::new("other")).await;
    assert!(
        matches!(refused, Err(ReconfigureError::Kernel(_))),
        "{refused:?}"
    );
    std::fs::remove_dir(&stubborn).unwrap();
    std::fs::write(&stubborn, "1-3").unwrap();
    assert_eq!(seen(&node, &relay), before);
    assert_eq!(relay.handle.snapshot().policy, "toy");
}

#[tokio::test]
async fn an_illegal_decision_is_counted_named_and_never_carried_out() {
    let (node, relay) = three().await;
    let before = seen(&node, &relay);
    let wrong = Toy::new("other");
    *wrong.mood.lock().unwrap() = Mood::Wrong;
    let refused = relay.handle.reconfigure(wrong).await.unwrap_err();
    let text = refused.to_string();
    assert!(
        text.contains("belongs to") && text.contains("alone"),
        "{text}"
    );
    assert_eq!(seen(&node, &relay), before);
    // A create, too.
    *node.policy.mood.lock().unwrap() = Mood::Wrong;
    let wish = create_request("late", "default", SHARED, 500);
    let refused = relay.call("CreateContainer", &wish).await;
    let Before::Refuse(status) = refused else {
        panic!("{refused:?}");
    };
    let both = ["CPU 0 belongs to ", " alone, but ", "creating/", "db"];
    assert!(
        both.iter().all(|word| status.message.contains(word)),
        "{status}"
    );
    assert_eq!(seen(&node, &relay), before);
    assert!(relay.handle.snapshot().counts.policy_illegal >= 2);
}

#[tokio::test]
async fn when_cpus_go_the_largest_guarantee_is_served_first_and_the_rest_runs_unplaced() {
    let (node, relay) = three().await;
    // big keeps no CPU of its own: 1-3 are gone.
    let told = relay.handle.set_topology(Arc::new(machine("0,4-5")));
    let problem = told.await.unwrap_err();
    assert!(problem.contains("default//big"), "{problem}");
    let now = relay.handle.snapshot();
    assert!(now.find("big").unwrap().unplaced.is_some());
    assert_eq!(now.containers.state().exclusive(), cpus("0"));
    assert_eq!(node.kernel(POD, "big"), "4-5", "kept off the exclusive CPU");
    assert_eq!(node.kernel(SHARED, "web"), "4-5");
    // They come back: so does its guarantee.
    relay
        .handle
        .set_topology(Arc::new(machine("0-7")))
        .await
        .unwrap();
    assert_eq!(seen(&node, &relay).0, ["4-7", "0", "1-3"]);
}

#[tokio::test]
async fn the_time_a_policy_may_take_can_change_while_it_runs() {
    let node = Node::new();
    let relay = node.start().await;
    let limit = Duration::from_millis(1);
    relay
        .handle
        .set_limits(FailPolicies::default(), limit)
        .await;
    *node.policy.mood.lock().unwrap() = Mood::Slow;
    let wish = create_request("db", "default", POD, 2000);
    let late = relay.call("CreateContainer", &wish).await;
    *node.policy.mood.lock().unwrap() = Mood::Well;
    let Before::Refuse(status) = late else {
        panic!("{late:?}");
    };
    assert!(status.message.contains("within 1ms"), "{status}");
}
