//! Other resources for containers that exist, and what the containers of a pod tell of each other.

use super::*;
use bytes::Bytes;
use proptest::prelude::*;

fn whole(cpus: i64) -> v1::LinuxContainerResources {
    v1::LinuxContainerResources {
        cpu_period: 100_000,
        cpu_quota: cpus * 100_000,
        cpu_shares: cpus * 1024,
        memory_limit_in_bytes: 64 << 20,
        ..Default::default()
    }
}

fn request(
    name: &str,
    resources: v1::LinuxContainerResources,
    pod: Option<v1::LinuxContainerResources>,
) -> v1::CreateContainerRequest {
    let mut request = create_request(name, "default", POD, 0);
    let config = request.config.as_mut().unwrap();
    config.linux.as_mut().unwrap().resources = Some(resources);
    let sandbox = request.sandbox_config.as_mut().unwrap();
    sandbox.linux.as_mut().unwrap().resources = pod;
    request
}

impl Running {
    /// Creates a container through the hooks, and starts it.
    async fn creates(&self, node: &Node, id: &'static str, request: &v1::CreateContainerRequest) {
        let before = self.call("CreateContainer", request).await;
        let Before::Forward {
            request: sent,
            after,
        } = before
        else {
            panic!("{before:?}");
        };
        let sent = sent.map(|sent| v1::CreateContainerRequest::decode(sent).unwrap());
        let sent = sent.unwrap_or_else(|| request.clone());
        let sent = sent.config.unwrap().linux.unwrap().resources.unwrap();
        node.runs(id, POD, &sent.cpuset_cpus);
        let reply = v1::CreateContainerResponse {
            container_id: id.into(),
        };
        let reply = CallOutcome::Reply(reply.encode_to_vec().into());
        after.unwrap().after(reply).await;
        self.eventually("it is known by the runtime's id", |now| {
            now.containers.contains(&ContainerId(id.into()))
        })
        .await;
    }

    /// What the runtime is sent of an update, and the rest of the call.
    async fn updates(
        &self,
        id: &str,
        linux: v1::LinuxContainerResources,
    ) -> (
        v1::LinuxContainerResources,
        Box<dyn crate::cri::intercept::After>,
    ) {
        let update = v1::UpdateContainerResourcesRequest {
            container_id: id.into(),
            linux: Some(linux.clone()),
            ..Default::default()
        };
        let before = self.call("UpdateContainerResources", &update).await;
        let Before::Forward { request, after } = before else {
            panic!("{before:?}");
        };
        let sent = request.map(|sent| v1::UpdateContainerResourcesRequest::decode(sent).unwrap());
        let sent = sent.map_or(linux, |sent| sent.linux.unwrap());
        (sent, after.unwrap())
    }

    /// Waits until the manager has handled all it was told.
    async fn handled(&self) {
        let id = ContainerId("no-such-container".into());
        let nothing = self
            .handle
            .call(|reply| ManagerEvent::Starting { id, reply })
            .await;
        assert_eq!(nothing, Ok(None));
    }

    fn entry(&self, id: &str) -> Known {
        let snapshot = self.handle.snapshot();
        let container = snapshot.containers.get(&ContainerId(id.into())).unwrap();
        Known {
            placement: container.placement.cloned(),
            request: Request::clone(container.request),
            basis: container.record.basis.clone(),
            requested: container.record.requested.clone(),
        }
    }
}

/// What the manager knows of a container.
struct Known {
    placement: Option<Placement>,
    request: Request,
    basis: resmgr_policy::Basis,
    requested: CgroupSettings,
}

fn done() -> CallOutcome {
    CallOutcome::Reply(Bytes::new())
}

fn refused() -> CallOutcome {
    CallOutcome::Failed(crate::cri::intercept::Status {
        code: 2,
        message: "no".into(),
    })
}

/// Any fields of an update, each set or not, as a CPU manager or a memory resize sets them.
fn fields() -> impl Strategy<Value = v1::LinuxContainerResources> {
    (0_u8..8, prop::option::of(Just("5-6".to_owned()))).prop_map(|(which, cpus)| {
        v1::LinuxContainerResources {
            // The limits the container has already; a memory limit of its own; or nothing.
            cpu_period: if which & 1 > 0 { 100_000 } else { 0 },
            cpu_quota: if which & 1 > 0 { 200_000 } else { 0 },
            cpu_shares: if which & 2 > 0 { 2048 } else { 0 },
            memory_limit_in_bytes: if which & 4 > 0 { 96 << 20 } else { 0 },
            cpuset_cpus: cpus.unwrap_or_default(),
            ..Default::default()
        }
    })
}

#[test]
fn no_update_takes_a_cpu_away_that_it_does_not_name() {
    let machine = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig {
        cases: 8,
        failure_persistence: None,
        ..ProptestConfig::default()
    });
    let updates = prop::collection::vec((fields(), any::<bool>()), 1..5);
    let outcome = runner.run(&updates, |updates| {
        machine.block_on(async {
            let node = Node::new();
            let relay = node.start().await;
            relay
                .creates(&node, "db", &request("db", whole(2), None))
                .await;
            let placed = relay.entry("db").placement.clone();
            for (fields, works) in updates {
                let memory = relay.entry("db").basis.shown.memory_limit_bytes;
                let (sent, after) = relay.updates("db", fields.clone()).await;
                assert_eq!(sent.cpuset_cpus, "0-1");
                // The rest is the kubelet's own.
                let own = v1::LinuxContainerResources {
                    cpuset_cpus: fields.cpuset_cpus.clone(),
                    ..sent
                };
                assert_eq!(own, fields);
                after.after(if works { done() } else { refused() }).await;
                relay.handled().await;
                let entry = relay.entry("db");
                assert_eq!(entry.placement, placed);
                let requirements = &entry.request.requirements;
                assert_eq!(requirements.cpu_request.0, 2000);
                let wanted = match fields.memory_limit_in_bytes {
                    0 => memory,
                    new if works => new,
                    _ => memory,
                };
                assert_eq!(entry.basis.shown.memory_limit_bytes, wanted);
            }
        });
        Ok(())
    });
    outcome.unwrap();
}

#[tokio::test]
async fn a_resize_that_the_runtime_refuses_changes_nothing() {
    let node = Node::new();
    let relay = node.start().await;
    relay
        .creates(&node, "db", &request("db", whole(2), None))
        .await;
    relay.create(&node, "web", SHARED, 500).await;
    relay
        .eventually("web committed", |now| {
            now.find("web")
                .is_ok_and(|container| container.stage() != Stage::Reserved)
        })
        .await;
    let before = relay.entry("db");
    let (sent, after) = relay.updates("db", whole(4)).await;
    assert_eq!(
        (sent.cpuset_cpus.as_str(), sent.cpu_quota),
        ("0-3", 400_000)
    );
    node.comes_to(SHARED, "web", "4-7").await;
    after.after(refused()).await;
    node.comes_to(SHARED, "web", "2-7").await;
    let now = relay.entry("db");
    assert_eq!(
        (&now.placement, &now.request),
        (&before.placement, &before.request)
    );
    assert_eq!(
        (&now.requested, &now.basis),
        (&before.requested, &before.basis)
    );
    assert_eq!(node.kernel(POD, "db"), "0-1");

    // The same while something else has changed meanwhile.
    let (_sent, after) = relay.updates("db", whole(4)).await;
    relay.create(&node, "late", SHARED, 500).await;
    after.after(refused()).await;
    node.comes_to(SHARED, "late", "2-7").await;
    node.comes_to(SHARED, "web", "2-7").await;
    assert_eq!(relay.entry("db").request, before.request);
}

#[tokio::test]
async fn another_cpu_manager_is_noticed_and_its_end_too() {
    let node = Node::new();
    let relay = node.start().await;
    relay
        .creates(&node, "db", &request("db", whole(2), None))
        .await;
    assert!(!relay.handle.snapshot().other_cpu_manager);
    let names = v1::LinuxContainerResources {
        cpuset_cpus: "6-7".into(),
        ..Default::default()
    };
    for count in 1..=3 {
        let (sent, after) = relay.updates("db", names.clone()).await;
        assert_eq!(sent.cpuset_cpus, "0-1");
        after.after(done()).await;
        let now = relay.handle.snapshot();
        assert!(now.other_cpu_manager);
        assert_eq!(now.counts.overridden_cpusets, count);
    }
    // What it would have without us is what was asked for last.
    assert_eq!(relay.entry("db").requested.cpus, cpus("6-7"));
    relay.create(&node, "web", SHARED, 500).await;
    assert!(!relay.handle.snapshot().other_cpu_manager);
}

#[tokio::test]
async fn containers_that_show_their_whole_pod_hold_none_of_it() {
    let node = Node::new();
    let relay = node.start().await;
    let pod = Some(whole(2));
    relay
        .creates(&node, "a", &request("a", whole(2), pod.clone()))
        .await;
    assert_eq!(node.kernel(POD, "a"), "0-1");
    relay
        .creates(&node, "b", &request("b", whole(2), pod.clone()))
        .await;
    let now = relay.handle.snapshot();
    assert_eq!(now.containers.state().exclusive(), CpuSet::EMPTY);
    for id in ["a", "b"] {
        let requirements = &relay.entry(id).request.requirements;
        assert_eq!(requirements.cpu_request.0, 0, "{id}");
        assert_eq!(requirements.source, resmgr_policy::Source::Pod, "{id}");
    }
}

#[tokio::test]
async fn a_pod_without_requests_runs_also_where_no_cpu_is_free_for_it() {
    let node = Node::new();
    let relay = node.start().await;
    let large = request("other", whole(7), None);
    relay.creates(&node, "other", &large).await;
    let request = |name| {
        let mut request = request(name, whole(2), Some(whole(2)));
        request.pod_sandbox_id = "second".into();
        request
    };
    // It cannot be told from one that asks for its whole pod, until the kubelet tries the next one.
    let before = relay.call("CreateContainer", &request("a")).await;
    assert!(matches!(before, Before::Refuse(_)), "{before:?}");
    for id in ["b", "a"] {
        relay.creates(&node, id, &request(id)).await;
        assert_eq!(
            relay.entry(id).request.requirements.cpu_request.0,
            0,
            "{id}"
        );
    }
}

#[tokio::test]
async fn an_init_container_that_has_ended_does_not_count_against_the_next() {
    let node = Node::new();
    let relay = node.start_looking_every(Duration::from_secs(3600)).await;
    let pod = Some(whole(2));
    relay
        .creates(&node, "init", &request("init", whole(2), pod.clone()))
        .await;
    node.runtime.containers.lock().unwrap().clear();
    relay
        .creates(&node, "main", &request("main", whole(2), pod))
        .await;
    assert_eq!(relay.entry("main").request.requirements.cpu_request.0, 2000);
    assert!(relay.handle.snapshot().find("init").is_err());
}

#[tokio::test]
async fn an_init_container_that_was_refused_at_first_does_not_count_against_the_next() {
    let node = Node::new();
    let relay = node.start_looking_every(Duration::from_secs(3600)).await;
    let large = request("other", whole(7), None);
    relay.creates(&node, "other", &large).await;
    let request = |name| {
        let mut request = request(name, whole(2), Some(whole(2)));
        request.pod_sandbox_id = "second".into();
        request
    };
    let before = relay.call("CreateContainer", &request("init")).await;
    assert!(matches!(before, Before::Refuse(_)), "{before:?}");
    node.runtime.containers.lock().unwrap().clear(); // the other one ends
    relay.creates(&node, "init", &request("init")).await;
    node.runtime.containers.lock().unwrap().clear();
    relay.creates(&node, "main", &request("main")).await;
    let requirements = &relay.entry("main").request.requirements;
    assert_eq!(requirements.cpu_request.0, 2000);
}

#[tokio::test]
async fn a_pod_resized_as_a_whole_has_its_new_size_for_the_next_container() {
    let node = Node::new();
    let relay = node.start().await;
    relay
        .creates(&node, "a", &request("a", whole(1), Some(whole(1))))
        .await;
    let update = crate::cri::newer::UpdatePodSandboxResourcesRequest {
        pod_sandbox_id: "sandbox".into(),
        resources: Some(whole(3)),
        ..Default::default()
    };
    for (outcome, shares) in [
        (refused(), 1024),
        (
            CallOutcome::Failed(crate::cri::intercept::Status {
                code: 12,
                message: "unknown method".into(),
            }),
            3072,
        ),
    ] {
        let before = relay.call("UpdatePodSandboxResources", &update).await;
        let Before::Forward { request, after } = before else {
            panic!("{before:?}");
        };
        assert_eq!(request, None);
        after.unwrap().after(outcome).await;
        relay.handled().await;
        assert_eq!(relay.entry("a").basis.pod.unwrap().cpu_shares, shares);
    }
}

/// What is in a container's `resources.sh`; `None` when there is none.
fn exported(node: &Node, name: &str) -> Option<String> {
    let directory = format!("containers/sandbox-{name}-0/resources.sh");
    std::fs::read_to_string(node.state.path().join(directory)).ok()
}

#[tokio::test]
async fn what_a_refused_creation_told_containers_is_taken_back() {
    let node = Node::new();
    let relay = node.start().await;
    relay.create(&node, "web", SHARED, 500).await;
    let shared = |list: &str| {
        Some(format!(
            "EXCLUSIVE_CPUS=\"\"\nISOLATED_CPUS=\"\"\nSHARED_CPUS=\"{list}\"\n"
        ))
    };
    relay
        .eventually("web committed", |now| {
            now.find("web")
                .is_ok_and(|container| container.stage() != Stage::Reserved)
        })
        .await;
    assert_eq!(exported(&node, "web"), shared("0-7"));
    let before = relay
        .call("CreateContainer", &request("db", whole(2), None))
        .await;
    let Before::Forward { request, after } = before else {
        panic!("{before:?}");
    };
    let sent = v1::CreateContainerRequest::decode(request.unwrap()).unwrap();
    let mounts = sent.config.unwrap().mounts;
    assert_eq!(mounts.len(), 1);
    assert_eq!(exported(&node, "web"), shared("2-7"));
    assert!(
        exported(&node, "db")
            .unwrap()
            .contains("EXCLUSIVE_CPUS=\"0-1\"")
    );
    after.unwrap().after(refused()).await;
    relay
        .eventually("db taken back", |now| now.containers.len() == 1)
        .await;
    assert_eq!(exported(&node, "web"), shared("0-7"));
    let base = node.state.path().join("containers");
    assert_eq!(std::fs::read_dir(base).unwrap().count(), 1);
}

#[tokio::test]
async fn a_file_that_could_not_be_made_is_not_mounted() {
    let node = Node::new();
    std::fs::write(node.state.path().join("containers"), "in the way").unwrap();
    let relay = node.start().await;
    let before = relay
        .call("CreateContainer", &request("db", whole(2), None))
        .await;
    let Before::Forward { request, .. } = before else {
        panic!("{before:?}");
    };
    let sent = v1::CreateContainerRequest::decode(request.unwrap()).unwrap();
    let config = sent.config.unwrap();
    assert_eq!(config.mounts, []);
    assert_eq!(config.linux.unwrap().resources.unwrap().cpuset_cpus, "0-1");
}
