//! Old lists, lost callers, kills at any moment.

use super::*;
use bytes::Bytes;
use std::task::Poll;

#[tokio::test]
async fn a_list_made_before_a_container_ended_does_not_bring_it_back() {
    let node = Node::new();
    let relay = node.start().await;
    let requested_at = Instant::now();
    relay.create(&node, "db", POD, 2000).await;
    let old = node.runtime.list().await.unwrap();
    let unknown = node.runtime.learn(&old.containers[0]).await.unwrap();
    node.runtime.containers.lock().unwrap().clear();
    let stop = v1::RemoveContainerRequest {
        container_id: "db".into(),
    };
    let Before::Forward { after, .. } = relay.call("StopContainer", &stop).await else {
        panic!("refused");
    };
    after.unwrap().after(CallOutcome::Reply(Bytes::new())).await;
    let listing = Listing {
        requested_at,
        ..old
    };
    let unknown = vec![unknown];
    relay
        .handle
        .notify(ManagerEvent::Listed { listing, unknown })
        .await;
    let report = relay.handle.restore().await.unwrap(); // all before it has been handled
    assert_eq!(report, RestoreReport::default());
}

#[tokio::test]
async fn what_has_just_ended_is_no_reason_to_refuse() {
    let node = Node::new();
    let relay = node.start().await;
    for id in ["init-0", "init-1", "init-2", "init-3"] {
        assert_eq!(relay.create(&node, id, POD, 6000).await, "0-5");
        // It exits; the runtime does not say so.
        node.runtime.containers.lock().unwrap().clear();
    }
    relay.create(&node, "db", POD, 6000).await;
    let more = create_request("more", "default", POD, 6000);
    let before = relay.call("CreateContainer", &more).await;
    assert!(matches!(before, Before::Refuse(_)), "{before:?}");
}

#[tokio::test]
async fn a_caller_that_goes_away_before_the_request_went_out_leaves_nothing_behind() {
    let node = Node::new();
    let relay = node.start().await;
    let mut unanswered = 0;
    for _ in 0..50 {
        let wish = create_request("db", "default", POD, 2000);
        let call = relay.call("CreateContainer", &wish);
        // Polled once: the reservation is on its way, and no caller waits for the answer.
        let mut call = Box::pin(call);
        match futures::poll!(&mut call) {
            Poll::Pending => unanswered += 1,
            // This thread was put aside meanwhile; that answer reaches its caller, and is not what this is about.
            Poll::Ready(Before::Forward { after, .. }) => {
                let status = crate::cri::intercept::Status {
                    code: 2,
                    message: "no".into(),
                };
                after.unwrap().after(CallOutcome::Failed(status)).await;
            }
            Poll::Ready(refused) => panic!("{refused:?}"),
        }
        drop(call);
    }
    assert!(unanswered > 0);
    relay
        .eventually("taken back", |now| {
            now.containers.is_empty() && now.containers.state().exclusive().is_empty()
        })
        .await;
    assert_eq!(relay.create(&node, "db", POD, 2000).await, "0-1");
}

#[tokio::test]
async fn killed_at_any_moment_of_a_churn_kernel_and_state_agree_again() {
    let node = Node::new();
    let ids: [&'static str; 6] = ["c0", "c1", "c2", "c3", "c4", "c5"];
    let mut relay = node.start().await;
    for round in 0..30u32 {
        let id = ids[round as usize % ids.len()];
        let parent = if round % 2 == 0 { POD } else { SHARED };
        if node
            .runtime
            .containers
            .lock()
            .unwrap()
            .iter()
            .any(|c| &*c.name == id)
        {
            node.runtime
                .containers
                .lock()
                .unwrap()
                .retain(|c| &*c.name != id);
            let gone = v1::RemoveContainerRequest {
                container_id: id.into(),
            };
            if let Before::Forward { after, .. } = relay.call("RemoveContainer", &gone).await {
                after.unwrap().after(CallOutcome::Reply(Bytes::new())).await;
            }
        } else {
            let wish = create_request(id, "default", parent, 1000);
            let before = relay.call("CreateContainer", &wish).await;
            if let Before::Forward { request, after } = before {
                let sent = v1::CreateContainerRequest::decode(request.unwrap()).unwrap();
                let list = sent
                    .config
                    .unwrap()
                    .linux
                    .unwrap()
                    .resources
                    .unwrap()
                    .cpuset_cpus;
                node.runs(id, parent, &list);
                if round % 3 == 0 {
                    let reply = v1::CreateContainerResponse {
                        container_id: id.into(),
                    };
                    after
                        .unwrap()
                        .after(CallOutcome::Reply(reply.encode_to_vec().into()))
                        .await;
                }
            }
        }
        relay.kill().await;
        relay = node.start().await;
        relay
            .eventually("all that runs is known", |now| {
                node.runtime.containers.lock().unwrap().len() == now.containers.len()
            })
            .await;
        let now = relay.handle.snapshot();
        let mut taken = CpuSet::EMPTY;
        for container in now.containers.iter() {
            let (id, placement) = (container.id, container.placement.unwrap());
            assert!(
                placement.exclusive.is_disjoint(&taken),
                "round {round}: {now:?}"
            );
            taken = taken.union(&placement.exclusive);
            let path = [POD, SHARED]
                .map(|parent| {
                    node.tree
                        .cgroups
                        .hierarchy()
                        .cpuset_root()
                        .join(parent.trim_start_matches('/'))
                        .join(&*id.0)
                })
                .into_iter()
                .find(|path| {
                    path.ends_with(
                        Path::new(container.record.cgroup_parent.trim_start_matches('/'))
                            .join(&*id.0),
                    )
                })
                .unwrap();
            let deadline = Instant::now() + Duration::from_secs(10);
            while cpus(&std::fs::read_to_string(path.join("cpuset.cpus")).unwrap())
                != *placement.cpus
            {
                assert!(
                    Instant::now() < deadline,
                    "round {round}: {id} is not on {}",
                    placement.cpus
                );
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
    }
}
