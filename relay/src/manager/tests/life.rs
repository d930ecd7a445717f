//! The life of containers under the manager, from the request to the end, and what stands in its way.

use super::*;

#[tokio::test]
async fn others_shrink_before_the_runtime_hears_of_an_exclusive_container() {
    let node = Node::new();
    let relay = node.start().await;
    assert_eq!(relay.create(&node, "web", SHARED, 500).await, "0-7");
    relay
        .eventually("web committed", |now| {
            now.find("web")
                .is_ok_and(|container| container.stage() != Stage::Reserved)
        })
        .await;
    let before = relay
        .call(
            "CreateContainer",
            &create_request("db", "default", POD, 2000),
        )
        .await;
    assert_eq!(node.kernel(SHARED, "web"), "2-7");
    let Before::Forward { after, .. } = before else {
        panic!("{before:?}");
    };
    let status = crate::cri::intercept::Status {
        code: 2,
        message: "no".into(),
    };
    after.unwrap().after(CallOutcome::Failed(status)).await;
    relay
        .eventually("db taken back", |now| {
            now.containers.len() == 1 && now.containers.state().exclusive().is_empty()
        })
        .await;
    assert_eq!(node.kernel(SHARED, "web"), "0-7");
}

#[tokio::test]
async fn what_was_placed_survives_a_kill_and_can_be_given_back() {
    let node = Node::new();
    let relay = node.start().await;
    relay.create(&node, "web", SHARED, 500).await;
    assert_eq!(relay.create(&node, "db", POD, 2000).await, "0-1");
    relay
        .eventually("both committed", |now| {
            now.containers
                .iter()
                .all(|container| container.stage() != Stage::Reserved)
        })
        .await;
    let generation = relay.handle.snapshot().generation;
    relay.handle.durable.wait(generation).await.unwrap();
    relay.kill().await;

    let relay = node.start().await;
    let now = relay.handle.snapshot();
    assert_eq!(now.find("db").unwrap().placement.unwrap().cpus, cpus("0-1"));
    assert_eq!(relay.decisions("db"), 1);
    assert_eq!(node.kernel(SHARED, "web"), "2-7");
    relay.kill().await;

    let pod = node.tree.cgroups.hierarchy().cpuset_root().to_owned();
    for parent in [SHARED, POD] {
        let directory = pod.join(parent.trim_start_matches('/'));
        std::fs::write(directory.join("cpuset.cpus"), "0-7").unwrap();
        std::fs::write(directory.join("cpuset.mems"), "0").unwrap();
    }
    let book = Ledger::open(node.state.path())
        .unwrap()
        .load()
        .value
        .unwrap();
    let report = restore(&book.containers, &node.cgroups);
    assert_eq!(
        (report.restored.len(), report.failed.len()),
        (2, 0),
        "{report:?}"
    );
    assert_eq!(node.kernel(SHARED, "web"), "0-7");
    assert_eq!(node.kernel(POD, "db"), "0-7");
}

#[tokio::test]
async fn a_container_that_ended_while_we_were_down_is_released() {
    let node = Node::new();
    let relay = node.start().await;
    relay.create(&node, "db", POD, 2000).await;
    relay
        .eventually("db committed", |now| {
            now.find("db")
                .is_ok_and(|container| container.stage() != Stage::Reserved)
        })
        .await;
    relay.handle.durable.flushed().await.unwrap();
    relay.kill().await;
    node.runtime.containers.lock().unwrap().clear();
    node.listed("stranger", "stranger");
    let relay = node.start().await;
    let now = relay.handle.snapshot();
    assert!(now.find("db").is_err());
    assert!(now.containers.state().exclusive().is_empty());
    assert_eq!(
        now.find("stranger").unwrap().placement.unwrap().cpus,
        cpus("0-7")
    );
}

#[tokio::test]
async fn a_lost_reply_is_settled_by_asking_the_runtime() {
    let node = Node::new();
    let relay = node.start().await;
    let before = relay
        .call(
            "CreateContainer",
            &create_request("db", "default", POD, 2000),
        )
        .await;
    node.listed("named-by-the-runtime", "db");
    drop(before); // the client went away, the relay too
    relay
        .eventually("db under the runtime's id", |now| {
            now.find("named-by-the-runtime")
                .is_ok_and(|container| container.placement.unwrap().exclusive == cpus("0-1"))
        })
        .await;
    assert_eq!(relay.handle.snapshot().containers.len(), 1);
}

#[tokio::test]
async fn under_each_fail_policy_the_stated_thing_happens() {
    let node = Node::new();
    let relay = node.start().await;
    relay.create(&node, "db", POD, 2000).await;
    for (mood, code, word) in [
        (Mood::Well, 8, "exclusive CPUs asked"),
        (Mood::Slow, 4, "no answer within"),
        (Mood::Dead, 13, "dead by injection"),
    ] {
        let limit = match mood {
            Mood::Slow => Duration::from_millis(800),
            _ => Duration::from_secs(20),
        };
        relay
            .handle
            .set_limits(FailPolicies::default(), limit)
            .await;
        *node.policy.mood.lock().unwrap() = mood;
        let wish = |namespace| create_request("big", namespace, POD, 64_000);
        let refused = relay.call("CreateContainer", &wish("default")).await;
        let Before::Refuse(status) = refused else {
            panic!("{refused:?}");
        };
        assert_eq!(status.code, code, "{status}");
        assert!(status.message.contains(word), "{status}");
        let passed = relay.call("CreateContainer", &wish("kube-system")).await;
        let Before::Forward { request, after } = passed else {
            panic!("{passed:?}");
        };
        let sent = v1::CreateContainerRequest::decode(request.unwrap()).unwrap();
        let resources = sent.config.unwrap().linux.unwrap().resources.unwrap();
        assert_eq!(resources.cpuset_cpus, "2-7", "kept off the exclusive CPUs");
        let status = crate::cri::intercept::Status {
            code: 2,
            message: "no".into(),
        };
        after.unwrap().after(CallOutcome::Failed(status)).await;
    }
    let counts = relay.handle.snapshot().counts.clone();
    assert_eq!((counts.refused, counts.passed_unplaced), (3, 3));
}

#[tokio::test]
async fn a_cgroup_that_gives_no_cpu_up_refuses_the_creation_and_is_named() {
    let node = Node::new();
    let relay = node.start_looking_every(Duration::from_secs(3600)).await;
    relay.create(&node, "web", SHARED, 500).await;
    relay
        .eventually("web committed", |now| {
            now.find("web")
                .is_ok_and(|container| container.stage() != Stage::Reserved)
        })
        .await;
    let root = node.tree.cgroups.hierarchy().cpuset_root().to_owned();
    let stubborn = root.join("kubepods/burstable/pod/web/cpuset.cpus");
    // A file that cannot be written.
    std::fs::remove_file(&stubborn).unwrap();
    std::fs::create_dir(&stubborn).unwrap();
    let wish = create_request("db", "default", POD, 2000);
    let refused = relay.call("CreateContainer", &wish).await;
    let Before::Refuse(status) = refused else {
        panic!("{refused:?}");
    };
    let both = ["other containers could not make room", "container web"];
    assert!(
        status.code == 13 && both.iter().all(|word| status.message.contains(word)),
        "{status}"
    );
    let now = relay.handle.snapshot();
    assert_eq!(now.counts.policy_broken, 0, "the policy is not to blame");
    assert!(now.counts.write_failures > 0);
    assert_eq!(now.containers.len(), 1);
    assert_eq!(now.containers.state().exclusive(), CpuSet::EMPTY);
}

#[tokio::test]
async fn a_write_behind_our_back_is_repaired_and_counted() {
    let node = Node::new();
    let relay = node.start().await;
    relay.create(&node, "db", POD, 2000).await;
    let path = node
        .tree
        .cgroups
        .hierarchy()
        .cpuset_root()
        .join("kubepods/pod/db/cpuset.cpus");
    relay
        .eventually("db committed", |now| {
            now.find("db")
                .is_ok_and(|container| container.stage() != Stage::Reserved)
        })
        .await;
    // As the runtime makes it, before it fills it in: that is no drift.
    std::fs::write(&path, "").unwrap();
    node.comes_to(POD, "db", "0-1").await;
    // At once, as the kernel takes it: the file is never empty in between.
    let mut file = std::fs::File::options().write(true).open(&path).unwrap();
    std::io::Write::write_all(&mut file, b"0-7").unwrap();
    relay.eventually("drift", |now| now.counts.drifts > 0).await;
    assert_eq!(relay.handle.snapshot().counts.drifts, 1);
    node.comes_to(POD, "db", "0-1").await;
}

#[tokio::test]
async fn a_container_without_a_cgroup_is_moved_by_the_runtime_and_told_of() {
    let node = Node::new();
    node.listed("vm", "vm");
    let relay = node.start().await;
    let taken = |now: &Snapshot| {
        let vm = now.unenforced.iter().find(|(id, _answer)| &*id.0 == "vm");
        vm.map(|(_id, answer)| answer.clone())
    };
    relay
        .eventually("the runtime took vm's CPUs", |now| {
            taken(now) == Some(RuntimeAnswer::Took)
        })
        .await;
    let sent = || {
        let updates = node.runtime.updates.lock().unwrap();
        let mut of_vm = updates.iter().filter(|(id, _settings)| id == "vm");
        let last = of_vm
            .next_back()
            .map(|(_id, settings)| settings.cpus.to_string());
        last.unwrap()
    };
    assert_eq!(sent(), "0-7");
    let wish = |namespace| create_request("db", namespace, POD, 2000);
    let forwarded = relay.call("CreateContainer", &wish("default")).await;
    assert!(matches!(forwarded, Before::Forward { .. }), "{forwarded:?}");
    assert_eq!(
        sent(),
        "2-7",
        "it left the CPUs before the other is created"
    );
    drop(forwarded);

    // A runtime that does not take the CPUs: no container is given them, but for those that may run unplaced.
    *node.runtime.refuses_updates.lock().unwrap() = true;
    let refused = relay.call("CreateContainer", &wish("default")).await;
    let Before::Refuse(status) = refused else {
        panic!("{refused:?}");
    };
    for part in [
        "container vm: no cgroup",
        "the runtime did not take its CPUs",
    ] {
        assert!(status.message.contains(part), "{status}");
    }
    let passed = relay.call("CreateContainer", &wish("kube-system")).await;
    assert!(matches!(passed, Before::Forward { .. }), "{passed:?}");
    drop(passed);
    // A cgroup that appears late is found, and the container confined.
    let parent = "kubepods/burstable/pod";
    node.tree.container(parent, "vm", "0-3", "0");
    relay
        .eventually("vm found", |now| now.unenforced.is_empty())
        .await;
}

#[tokio::test]
async fn a_program_that_writes_without_pause_is_answered_less_and_less() {
    let node = Node::new();
    let relay = node.start().await;
    relay.create(&node, "db", POD, 2000).await;
    let root = node.tree.cgroups.hierarchy().cpuset_root().to_owned();
    let path = root.join("kubepods/pod/db/cpuset.cpus");
    node.comes_to(POD, "db", "0-1").await;
    relay
        .eventually("db runs", |now| {
            now.find("db")
                .is_ok_and(|container| container.stage() == Stage::Running)
        })
        .await;
    let mut written = 0_u64;
    while relay.handle.snapshot().counts.repeated_repairs < 3 {
        let mut file = std::fs::File::options().write(true).open(&path).unwrap();
        std::io::Write::write_all(&mut file, b"0-7").unwrap();
        written += 1;
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    // Pauses of 50, 100 and 200 ms lie between four repairs: a write each ms is not answered each time.
    assert!(written > 8, "{written} writes");
    node.comes_to(POD, "db", "0-1").await;
}

#[tokio::test]
async fn a_state_that_cannot_be_written_refuses_the_create_and_takes_the_place_back() {
    let node = Node::new();
    let relay = node.start().await;
    relay.handle.durable.flushed().await.unwrap();
    node.break_ledger();
    let refused = relay
        .call(
            "CreateContainer",
            &create_request("db", "default", POD, 2000),
        )
        .await;
    let Before::Refuse(status) = refused else {
        panic!("{refused:?}");
    };
    assert!(
        status.message.contains("cannot save the placement"),
        "{status}"
    );
    relay
        .eventually("taken back", |now| {
            now.containers.is_empty() && now.containers.state().exclusive().is_empty()
        })
        .await;
}

#[tokio::test]
async fn a_container_of_which_nothing_is_decided_waits_for_no_disk() {
    let node = Node::new();
    let interval = Duration::from_millis(20);
    let none = Arc::new(resmgr_policy::Unplaced::NONE);
    let relay = node.start_with(none, machine("0-7"), interval).await;
    relay.handle.durable.flushed().await.unwrap();
    node.break_ledger();
    let created = relay
        .call(
            "CreateContainer",
            &create_request("db", "default", POD, 2000),
        )
        .await;
    assert!(matches!(created, Before::Forward { .. }), "{created:?}");
    relay.handle.durable.flushed().await.unwrap_err();
}

#[tokio::test]
async fn a_container_moved_between_creation_and_start_starts_where_it_belongs() {
    let node = Node::new();
    let relay = node.start().await;
    // Created, without a cgroup yet.
    let before = relay
        .call(
            "CreateContainer",
            &create_request("web", "default", SHARED, 500),
        )
        .await;
    let Before::Forward { after, .. } = before else {
        panic!("{before:?}");
    };
    node.listed("web", "web");
    let reply = v1::CreateContainerResponse {
        container_id: "web".into(),
    };
    after
        .unwrap()
        .after(CallOutcome::Reply(reply.encode_to_vec().into()))
        .await;
    relay.create(&node, "db", POD, 2000).await;
    let start = v1::StartContainerRequest {
        container_id: "web".into(),
    };
    drop(relay.call("StartContainer", &start).await);
    let updates = node.runtime.updates.lock().unwrap().clone();
    assert_eq!(updates.len(), 1);
    assert_eq!(
        (updates[0].0.as_str(), updates[0].1.cpus),
        ("web", cpus("2-7"))
    );
}

#[tokio::test]
async fn the_kubelets_update_is_merged_with_the_placement_and_forwarded() {
    let node = Node::new();
    let relay = node.start().await;
    relay.create(&node, "db", POD, 2000).await;
    let update = v1::UpdateContainerResourcesRequest {
        container_id: "db".into(),
        linux: Some(v1::LinuxContainerResources {
            cpu_shares: 3072,
            memory_limit_in_bytes: 1 << 30,
            cpuset_cpus: "0-7".into(),
            ..Default::default()
        }),
        ..Default::default()
    };
    let before = relay.call("UpdateContainerResources", &update).await;
    let Before::Forward { request, .. } = before else {
        panic!("{before:?}");
    };
    let sent = v1::UpdateContainerResourcesRequest::decode(request.unwrap()).unwrap();
    let resources = sent.linux.unwrap();
    assert_eq!(resources.cpuset_cpus, "0-2");
    assert_eq!(
        (resources.cpu_shares, resources.memory_limit_in_bytes),
        (3072, 1 << 30)
    );
    assert_eq!(
        relay
            .handle
            .snapshot()
            .find("db")
            .unwrap()
            .record
            .requested
            .cpus,
        cpus("0-7")
    );
}

#[test]
fn a_container_is_found_by_id_before_name_and_by_name_before_the_beginning_of_an_id() {
    let mut snapshot = Snapshot::empty(&(Toy::new("toy") as _), Arc::new(machine("0-7")));
    for (id, name) in [
        ("abc1", "web"),
        ("abc2", "abc"),
        ("web", "other"),
        ("def1", "twin"),
        ("def2", "twin"),
    ] {
        let mut spec = spec(name);
        spec.request.id = ContainerId(id.into());
        snapshot.containers.insert(&spec);
    }
    let find = |text: &str| {
        let found = snapshot.find(text);
        found.map(|container| container.id.to_string())
    };
    assert_eq!(find("web"), Ok("web".to_owned()));
    assert_eq!(find("abc"), Ok("abc2".to_owned()));
    assert_eq!(find("abc1"), Ok("abc1".to_owned()));
    assert_eq!(find("/other"), Ok("web".to_owned()));
    assert_eq!(find("default//other"), Ok("web".to_owned()));
    for (text, first, second) in [("twin", "def1", "def2"), ("ab", "abc1", "abc2")] {
        let ambiguous = FindError::Ambiguous {
            text: text.to_owned(),
            first: ContainerId(first.into()),
            second: ContainerId(second.into()),
        };
        assert_eq!(find(text), Err(ambiguous));
    }
    for text in ["", "nothing"] {
        assert_eq!(find(text), Err(FindError::NotFound(text.to_owned())));
    }
}
