//! Where containers run under each policy, as the kernel says: on this machine, and in a guest of two
//! sockets with cgroup v2, where the same test program runs as the guest's work.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::large_futures,
    reason = "a test program: helpers fail the test"
)]

use resmgr_tests::{Container, Cri, Guest, Pod, Relay, Runtime, eventually, kernel, skip};
use std::{collections::BTreeSet, time::Duration};

/// A runtime, the relay in front of it, and a kubelet's view of them.
struct Node {
    cri: Cri,
    relay: Relay,
    runtime: Runtime,
}

impl Node {
    async fn start(arguments: &[&str]) -> Self {
        let runtime = Runtime::start().unwrap();
        let relay = Relay::start(&runtime, arguments).unwrap();
        let cri = Cri::connect(&relay.socket(), runtime.cgroup_parent())
            .await
            .unwrap();
        Self {
            cri,
            relay,
            runtime,
        }
    }

    /// A pod of one container.
    async fn run(&mut self, class: &str, container: &Container) -> (Pod, String) {
        let pod = self.cri.run_pod(&container.name, class, &[]).await;
        let pod = pod.unwrap_or_else(|error| panic!("{error:#}\n{}", self.relay.log()));
        let id = self.cri.run(&pod, container).await;
        let id = id.unwrap_or_else(|error| panic!("{error:#}\n{}", self.relay.log()));
        (pod, id)
    }

    async fn end(&mut self, pod: &Pod, id: &str) {
        self.cri.stop(id).await.unwrap();
        self.cri.remove(id).await.unwrap();
        self.cri.remove_pod(pod).await.unwrap();
    }

    fn allowed(&self, id: &str) -> BTreeSet<u32> {
        cpus(&kernel::allowed(self.runtime.cgroup_parent(), id).unwrap())
    }

    /// Waits until the processes of `id` are on exactly `wanted`.
    async fn settles(&self, id: &str, wanted: &BTreeSet<u32>) {
        let parent = self.runtime.cgroup_parent();
        let settled = eventually(Duration::from_secs(20), async || {
            kernel::allowed(parent, id).is_ok_and(|list| cpus(&list) == *wanted)
        })
        .await;
        assert!(
            settled,
            "{id} is on {:?}, not on {wanted:?}\n{}",
            self.allowed(id),
            self.relay.log()
        );
    }
}

/// The kernel's list format.
fn cpus(list: &str) -> BTreeSet<u32> {
    list.split(',')
        .filter(|part| !part.is_empty())
        .flat_map(|part| {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            first.parse::<u32>().unwrap()..=last.parse::<u32>().unwrap()
        })
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn null_leaves_every_container_on_all_cpus() {
    if let Some(why) = skip::no_relay() {
        return skip::skip("placement: null", &why);
    }
    let mut node = Node::start(&["--policy", "null"]).await;
    let (_, id) = node.run("", &Container::sleeping("g").guaranteed(1)).await;
    node.settles(&id, &cpus(&kernel::online().unwrap())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn static_gives_a_cpu_away_and_takes_it_back() {
    if let Some(why) = skip::no_relay() {
        return skip::skip("placement: static on this machine", &why);
    }
    exclusive_then_shared("static").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn cpus_that_the_cgroup_of_all_pods_lacks_are_given_to_no_container() {
    let what = "placement: CPUs withheld from pods";
    if let Some(why) = skip::no_relay() {
        return skip::skip(what, &why);
    }
    let online = kernel::online().unwrap();
    let all = cpus(&online);
    if all.len() < 2 {
        return skip::skip(what, "needs two CPUs");
    }
    withheld_cpus_are_given_to_no_container(&online).await;
}

/// An operator gives the cgroup of all pods the last CPU alone, and then all of `online`.
async fn withheld_cpus_are_given_to_no_container(online: &str) {
    let all = cpus(online);
    let last = *all.last().unwrap();
    let arguments = ["--policy", "static", "--reserved-resources", "cpu=1000m"];
    let mut node = Node::start(&arguments).await;
    let parent = node.runtime.cgroup_parent().to_owned();
    kernel::give_pods(&parent, &last.to_string()).unwrap();
    let pod = node.cri.run_pod("late", "besteffort", &[]).await.unwrap();
    // Pods elsewhere than in /kubepods are known by their first container: the kubelet tries again.
    let (mut id, mut attempts, mut refusal) = (String::new(), 0, None);
    let created = eventually(Duration::from_secs(60), async || {
        attempts += 1;
        let late = Container::sleeping(&format!("late-{attempts}"));
        match node.cri.run(&pod, &late).await {
            Ok(created) => id = created,
            Err(error) => refusal = Some(error),
        }
        !id.is_empty()
    })
    .await;
    assert!(created, "{refusal:?}\n{}", node.relay.log());
    node.settles(&id, &BTreeSet::from([last])).await;
    let withheld = eventually(Duration::from_secs(20), async || {
        let state = node.relay.ask(&["state"]).unwrap();
        state.contains(" withheld by the cgroup of all pods")
    })
    .await;
    assert!(withheld, "{}", node.relay.log());
    let advice = format!("--available-resources cpu={parent}/kubepods");
    assert!(node.relay.log().contains(&advice), "{}", node.relay.log());

    kernel::give_pods(&parent, online).unwrap();
    node.settles(&id, &all).await;
    let given_back = eventually(Duration::from_secs(20), async || {
        !node.relay.ask(&["state"]).unwrap().contains("withheld")
    })
    .await;
    assert!(given_back, "{}", node.relay.log());
}

/// The invariants that hold on any machine: an exclusive CPU is one, nobody else is on it, and it
/// comes back.
async fn exclusive_then_shared(policy: &str) {
    let all = cpus(&kernel::online().unwrap());
    if all.len() < 2 {
        return skip::skip(&format!("placement: {policy}"), "needs two CPUs");
    }
    let mut node = Node::start(&["--policy", policy, "--reserved-resources", "cpu=1000m"]).await;
    let (_, early) = node.run("besteffort", &Container::sleeping("early")).await;
    let at_first = node.allowed(&early);
    let (pod, mine) = node
        .run("", &Container::sleeping("mine").guaranteed(1))
        .await;
    let own = node.allowed(&mine);
    assert_eq!(own.len(), 1, "exclusive: {own:?}");
    let rest: BTreeSet<u32> = at_first.difference(&own).copied().collect();
    node.settles(&early, &rest).await;
    let (_, late) = node
        .run("burstable", &Container::sleeping("late").burstable(100))
        .await;
    assert!(node.allowed(&late).is_disjoint(&own), "late is on {own:?}");
    node.end(&pod, &mine).await;
    node.settles(&early, &at_first).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_relay_finds_every_container_where_it_left_it() {
    if let Some(why) = skip::no_relay() {
        return skip::skip("placement: kill -9 of the relay", &why);
    }
    let arguments = ["--policy", "static", "--reserved-resources", "cpu=1000m"];
    let mut node = Node::start(&arguments).await;
    let (_, other) = node.run("besteffort", &Container::sleeping("other")).await;
    let (_, mine) = node
        .run("", &Container::sleeping("mine").guaranteed(1))
        .await;
    let (own, rest) = (node.allowed(&mine), node.allowed(&other));
    node.relay.kill().unwrap();
    node.relay = Relay::start(&node.runtime, &arguments).unwrap();
    node.cri = Cri::connect(&node.relay.socket(), node.runtime.cgroup_parent())
        .await
        .unwrap();
    node.settles(&mine, &own).await;
    node.settles(&other, &rest).await;
    let (_, third) = node.run("besteffort", &Container::sleeping("third")).await;
    assert!(node.allowed(&third).is_disjoint(&own));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cpuset_written_behind_our_back_is_repaired() {
    if let Some(why) = skip::no_relay() {
        return skip::skip("placement: repair", &why);
    }
    let mut node = Node::start(&["--policy", "static", "--reserved-resources", "cpu=1000m"]).await;
    let (_, mine) = node
        .run("", &Container::sleeping("mine").guaranteed(1))
        .await;
    let own = node.allowed(&mine);
    let all = kernel::online().unwrap();
    let cgroup = kernel::cgroup(node.runtime.cgroup_parent(), &mine).unwrap();
    std::fs::write(cgroup.join("cpuset.cpus"), all).unwrap();
    node.settles(&mine, &own).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_without_a_cgroup_on_this_host_is_moved_by_the_runtime_and_marked() {
    let what = "placement: no cgroup of a container";
    if let Some(why) = skip::no_relay() {
        return skip::skip(what, &why);
    }
    let online = kernel::online().unwrap();
    let all = cpus(&online);
    if all.len() < 2 {
        return skip::skip(what, "needs two CPUs");
    }
    let runtime = Runtime::start().unwrap();
    let parent = runtime.cgroup_parent().to_owned();
    kernel::give_pods(&parent, &online).unwrap();
    // As on a node whose containers are virtual machines: the relay sees a hierarchy, and none of the containers in it.
    let root = if kernel::unified() { "" } else { "cpuset" };
    let root = std::path::Path::new("/sys/fs/cgroup").join(root);
    let outer = root.join(parent.trim_start_matches('/'));
    let elsewhere = outer.join("elsewhere");
    std::fs::create_dir(&elsewhere).unwrap();
    if !kernel::unified() {
        for file in ["cpuset.cpus", "cpuset.mems"] {
            std::fs::copy(outer.join(file), elsewhere.join(file)).unwrap();
        }
    }
    let arguments = ["--policy", "static", "--reserved-resources", "cpu=1000m"];
    let relay = Relay::start_under(&runtime, "relay", &elsewhere, &arguments).unwrap();
    let cri = Cri::connect(&relay.socket(), &parent).await.unwrap();
    let mut node = Node {
        cri,
        relay,
        runtime,
    };
    let (_, web) = node.run("besteffort", &Container::sleeping("web")).await;
    let shown = async |name: &str, mark: &str| {
        let shown = eventually(Duration::from_secs(60), async || {
            let state = node.relay.ask(&["state"]).unwrap();
            let mut lines = state.lines();
            lines.any(|line| line.contains(name) && line.contains(mark))
        });
        assert!(shown.await, "{}", node.relay.ask(&["state"]).unwrap());
    };
    shown("web", "(not enforced)").await;
    let why = node.relay.ask(&["explain", "web/web"]).unwrap();
    for part in ["NOT enforced: no cgroup", "the runtime took its CPUs"] {
        assert!(why.contains(part), "{why}");
    }
    let (pod, mine) = node
        .run("", &Container::sleeping("mine").guaranteed(1))
        .await;
    let own = node.allowed(&mine);
    assert_eq!(own.len(), 1, "exclusive: {own:?}");
    assert!(
        node.allowed(&web).is_disjoint(&own),
        "web was moved before mine was created"
    );
    node.end(&pod, &mine).await;
    node.settles(&web, &all).await;
    let warned = node
        .relay
        .log()
        .matches("no cgroup on this host: its placement is NOT enforced")
        .count();
    assert!((1..=2).contains(&warned), "{}", node.relay.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_that_insists_on_a_cpuset_is_answered_seldom_and_logged_once() {
    if let Some(why) = skip::no_relay() {
        return skip::skip("placement: insistent writer", &why);
    }
    let mut node = Node::start(&["--policy", "static", "--reserved-resources", "cpu=1000m"]).await;
    let (_, mine) = node
        .run("", &Container::sleeping("mine").guaranteed(1))
        .await;
    let own = node.allowed(&mine);
    let all = kernel::online().unwrap();
    let cgroup = kernel::cgroup(node.runtime.cgroup_parent(), &mine).unwrap();
    let file = cgroup.join("cpuset.cpus");
    let (mut written, mut repaired) = (0, 0);
    while repaired < 5 {
        std::fs::write(&file, &all).unwrap();
        written += 1;
        tokio::time::sleep(Duration::from_millis(2)).await;
        let is = std::fs::read_to_string(&file).unwrap();
        repaired += u32::from(cpus(is.trim()) == own);
    }
    assert!(
        written > 3 * repaired,
        "{written} writes, {repaired} repairs"
    );
    let log = node.relay.log();
    let lines = log.lines().filter(|line| line.contains("drift repaired"));
    assert!(lines.count() <= 2, "{log}");
    node.settles(&mine, &own).await;
}

#[test]
fn in_the_guest_static_gives_whole_cores_of_one_node() {
    let name = "in_the_guest_static_gives_whole_cores_of_one_node";
    if Guest::n4c16().runs(name, &[]).unwrap() {
        block_on(async {
            let mut node =
                Node::start(&["--policy", "static", "--reserved-resources", "cpu=1000m"]).await;
            let (_, shared) = node.run("besteffort", &Container::sleeping("shared")).await;
            let (_, two) = node
                .run("", &Container::sleeping("two").guaranteed(2))
                .await;
            let (_, four) = node
                .run("", &Container::sleeping("four").guaranteed(4))
                .await;
            let (two, four) = (node.allowed(&two), node.allowed(&four));
            let first = *two.first().unwrap();
            assert_eq!(first % 2, 0, "not a core: {two:?}");
            assert_eq!(two, BTreeSet::from([first, first + 1]));
            let nodes: BTreeSet<u32> = four.iter().map(|cpu| cpu / 4).collect();
            assert_eq!((four.len(), nodes.len()), (4, 1), "not a node: {four:?}");
            let rest = (0..16)
                .filter(|cpu| !two.contains(cpu) && !four.contains(cpu))
                .collect();
            node.settles(&shared, &rest).await;
            drop(node);
            withheld_cpus_are_given_to_no_container("0-15").await;
        });
    }
}

fn block_on(future: impl Future<Output = ()>) {
    tokio::runtime::Runtime::new().unwrap().block_on(future);
}
