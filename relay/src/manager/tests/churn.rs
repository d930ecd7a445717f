//! The policies through the manager, in any order of events: creates that end well, are refused, lose
//! their reply or their caller; exits that are not told; removals; other configurations; kills and restarts.

use super::*;
use proptest::prelude::*;
use resmgr_policy::{PolicySettings, Reserved as ReservedCpus, StaticConfig, by_name, check};
use std::collections::BTreeSet;

/// How a create ends.
#[derive(Clone, Copy, Debug)]
enum End {
    Reply,
    Refused,
    /// Created, but the reply is lost.
    Lost,
    /// The caller goes away before anything is decided.
    Cancelled,
}

#[derive(Clone, Copy, Debug)]
enum Event {
    Create {
        guaranteed: bool,
        milli: i64,
        end: End,
    },
    Exit(prop::sample::Index),
    Remove(prop::sample::Index),
    Reconfigure(usize),
    Restart,
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let end = prop_oneof![
        4 => Just(End::Reply),
        1 => Just(End::Refused),
        1 => Just(End::Lost),
        1 => Just(End::Cancelled),
    ];
    let milli = prop::sample::select(vec![100, 1000, 1500, 2000, 3000]);
    let create = (any::<bool>(), milli, end).prop_map(|(guaranteed, milli, end)| Event::Create {
        guaranteed,
        milli,
        end,
    });
    let event = prop_oneof![
        6 => create,
        1 => any::<prop::sample::Index>().prop_map(Event::Exit),
        2 => any::<prop::sample::Index>().prop_map(Event::Remove),
        2 => (0..POLICIES.len()).prop_map(Event::Reconfigure),
        1 => Just(Event::Restart),
    ];
    prop::collection::vec(event, 1..24)
}

/// Names, and which CPUs are reserved.
const POLICIES: [(&str, &str); 4] = [
    ("static", "0"),
    ("static", "0-1"),
    ("static-plus", "0-1"),
    ("none", "0"),
];

fn topology() -> Topology {
    Topology::synthetic("pack:1 core:4 pu:2").unwrap()
}

fn policy(index: usize) -> Arc<dyn Policy> {
    let (name, reserved) = POLICIES[index];
    let settings = PolicySettings {
        slices: StaticConfig {
            reserved: Some(ReservedCpus::Set(cpus(reserved))),
            ..StaticConfig::default()
        },
        ..PolicySettings::default()
    };
    by_name(name, &topology(), &settings).unwrap().into()
}

struct World {
    node: Node,
    /// `None` between a kill and the next start.
    relay: Option<Running>,
    policy: usize,
    created: usize,
}

impl World {
    async fn new() -> Self {
        let node = Node::new();
        let root = node.tree.cgroups.hierarchy().cpuset_root().to_owned();
        for parent in [POD, SHARED] {
            let directory = root.join(parent.trim_start_matches('/'));
            std::fs::create_dir_all(&directory).unwrap();
            std::fs::write(directory.join("cpuset.cpus"), "0-7").unwrap();
            std::fs::write(directory.join("cpuset.mems"), "0").unwrap();
        }
        let relay = start(&node, 0).await;
        Self {
            node,
            relay: Some(relay),
            policy: 0,
            created: 0,
        }
    }

    fn relay(&self) -> &Running {
        self.relay.as_ref().unwrap()
    }

    fn listed(&self) -> Vec<Arc<str>> {
        let containers = self.node.runtime.containers.lock().unwrap();
        containers
            .iter()
            .map(|listed| Arc::clone(&listed.id))
            .collect()
    }

    fn forget(&self, id: &str) {
        let mut containers = self.node.runtime.containers.lock().unwrap();
        containers.retain(|listed| *listed.id != *id);
    }

    async fn step(&mut self, event: Event) {
        match event {
            Event::Create {
                guaranteed,
                milli,
                end,
            } => {
                let parent = if guaranteed { POD } else { SHARED };
                self.create(parent, milli, end).await;
            }
            Event::Exit(which) => {
                let ids = self.listed();
                if !ids.is_empty() {
                    self.forget(which.get::<Arc<str>>(&ids));
                }
            }
            Event::Remove(which) => {
                let ids = self.listed();
                if !ids.is_empty() {
                    let id = which.get(&ids);
                    let gone = v1::RemoveContainerRequest {
                        container_id: id.to_string(),
                    };
                    let before = self.relay().call("RemoveContainer", &gone).await;
                    let Before::Forward { after, .. } = before else {
                        panic!("{before:?}");
                    };
                    self.forget(id);
                    let reply = CallOutcome::Reply(bytes::Bytes::new());
                    after.unwrap().after(reply).await;
                }
            }
            Event::Reconfigure(index) => {
                let before = Arc::clone(self.relay().handle.snapshot().containers.state());
                match self.relay().handle.reconfigure(policy(index)).await {
                    Ok(_) => self.policy = index,
                    Err(refused) => {
                        assert!(
                            matches!(refused, ReconfigureError::NoPlace { .. }),
                            "{refused}"
                        );
                        assert_eq!(self.relay().handle.snapshot().containers.state(), &before);
                    }
                }
            }
            Event::Restart => self.restart().await,
        }
    }

    async fn create(&mut self, parent: &str, milli: i64, end: End) {
        let id = format!("c{}", self.created);
        self.created += 1;
        let wish = create_request(&id, "default", parent, milli);
        if matches!(end, End::Cancelled) {
            let mut call = Box::pin(self.relay().call("CreateContainer", &wish));
            if let std::task::Poll::Ready(Before::Forward {
                after: Some(after), ..
            }) = futures::poll!(&mut call)
            {
                // Where nothing is decided no disk is waited for: the answer may come before the caller goes.
                let status = crate::cri::intercept::Status {
                    code: 2,
                    message: "no".into(),
                };
                after.after(CallOutcome::Failed(status)).await;
            }
            return;
        }
        let Before::Forward { request, after } = self.relay().call("CreateContainer", &wish).await
        else {
            return; // no room
        };
        if matches!(end, End::Reply | End::Lost) {
            // Where the policy asks for nothing, the container has what its pod has.
            let list = request.map_or_else(String::new, |request| {
                let sent = v1::CreateContainerRequest::decode(request).unwrap();
                let resources = sent.config.unwrap().linux.unwrap().resources;
                resources.unwrap().cpuset_cpus
            });
            let list = if list.is_empty() { "0-7" } else { &list };
            let parent = parent.trim_start_matches('/');
            self.node.tree.container(parent, &id, list, "0");
            let created = &self.node.runtime.created;
            created.lock().unwrap().insert(id.as_str().into(), wish);
            self.node.listed(&id, &id);
        }
        let after = after.unwrap();
        match end {
            End::Reply => {
                let reply = v1::CreateContainerResponse { container_id: id };
                let reply = CallOutcome::Reply(reply.encode_to_vec().into());
                after.after(reply).await;
            }
            End::Refused => {
                let status = crate::cri::intercept::Status {
                    code: 2,
                    message: "no".into(),
                };
                after.after(CallOutcome::Failed(status)).await;
            }
            End::Lost | End::Cancelled => drop(after),
        }
    }

    async fn restart(&mut self) {
        if let Some(relay) = self.relay.take() {
            relay.kill().await;
        }
        self.relay = Some(start(&self.node, self.policy).await);
    }

    /// The containers that run are known and no others, the state is legal, and the kernel has it.
    async fn settles(&self, when: &str) {
        let listed: BTreeSet<_> = self.listed().into_iter().collect();
        self.relay()
            .eventually(when, |now| {
                let known = now.containers.iter();
                known
                    .map(|container| Arc::clone(&container.id.0))
                    .collect::<BTreeSet<_>>()
                    == listed
            })
            .await;
        let now = self.relay().handle.snapshot();
        let rules = policy(self.policy).rules(&topology());
        assert_eq!(
            check(&topology(), now.containers.state(), &rules),
            [],
            "{when}"
        );
        assert_eq!(now.counts.policy_illegal, 0, "{when}");
        for id in listed {
            let deadline = Instant::now() + Duration::from_secs(20);
            while let Some(wanted) = self.misses(&id) {
                assert!(Instant::now() < deadline, "{when}: {id} is not on {wanted}");
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
    }

    /// The CPUs a container should have by now, when the kernel has others: a call that was cancelled may
    /// still have been on its way.
    fn misses(&self, id: &str) -> Option<CpuSet> {
        let now = self.relay().handle.snapshot();
        let container = now.find(id).ok()?;
        let wanted = *container.placement?.cpus;
        let kernel = cpus(&self.node.kernel(&container.record.cgroup_parent, id));
        let is_there =
            container.stage() == Stage::Reserved || wanted.is_empty() || kernel == wanted;
        (!is_there).then_some(wanted)
    }

    /// What runs has what it would have without us.
    async fn given_back(&self) {
        let containers = self.relay().handle.snapshot().containers.clone();
        let report = self.relay().handle.restore().await.unwrap();
        assert_eq!(report.failed, []);
        for container in containers.iter() {
            let id = container.id;
            if container.stage() != Stage::Reserved {
                let parent = &container.record.cgroup_parent;
                let kernel = self.node.kernel(parent, &id.0);
                assert_eq!(cpus(&kernel), cpus("0-7"), "{id}");
            }
        }
    }
}

async fn start(node: &Node, index: usize) -> Running {
    let every = Duration::from_millis(20);
    node.start_with(policy(index), topology(), every).await
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, max_shrink_iters: 40, ..ProptestConfig::default() })]

    #[test]
    fn whatever_happens_state_and_kernel_are_legal_and_all_is_given_back_at_the_end(events in events()) {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let mut world = World::new().await;
            for (index, event) in events.into_iter().enumerate() {
                world.step(event).await;
                world.settles(&format!("event {index}: {event:?}")).await;
            }
            let before = Arc::clone(world.relay().handle.snapshot().containers.state());
            world.relay().handle.durable.flushed().await.unwrap();
            world.restart().await;
            world.settles("restarted").await;
            let now = world.relay().handle.snapshot();
            for (id, container) in &now.containers.state().containers {
                let was = before.containers.get(id).map(|earlier| *earlier.placement.exclusive);
                assert_eq!(Some(*container.placement.exclusive), was, "{id} stayed");
            }
            world.given_back().await;
        });
    }
}
