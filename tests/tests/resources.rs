//! Requested resources, as clients change them and read them back: an update changes what it names and
//! nothing else, the runtime keeps what the kubelet asked for, the kernel has what the policy wants. On this
//! machine, and in a guest of two sockets with cgroup v2.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::large_futures,
    reason = "a test program: helpers fail the test"
)]

use hyper_util::rt::TokioIo;
use k8s_cri::{v1, v1alpha2};
use resmgr_tests::{Container, Cri, Guest, Pod, Relay, Runtime, eventually, kernel, skip};
use std::{
    path::{Path, PathBuf},
    time::Duration,
};
use tokio::net::UnixStream;
use tonic::transport::Endpoint;

const PATIENCE: Duration = Duration::from_secs(60);

/// A runtime, the relay in front of it, and clients of both.
struct Node {
    cri: Cri,
    direct: Cri,
    relay: Relay,
    runtime: Runtime,
}

/// CPU shares (cgroup v1) or weight (v2), and quota.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Cpu {
    shares: u64,
    /// -1: none.
    quota: i64,
}

impl Cpu {
    /// Whether the kernel's numbers stand for these. Runtimes convert shares to weights in two ways.
    fn stands_for(self, wanted: Self) -> bool {
        let shares = match kernel::unified() {
            true => cri_resmgr::enforce::weight::stands_for(self.shares, wanted.shares),
            false => self.shares == wanted.shares,
        };
        shares && self.quota == wanted.quota
    }
}

impl Node {
    async fn start(arguments: &[&str]) -> Self {
        let runtime = Runtime::start().unwrap();
        let relay = Relay::start(&runtime, arguments).unwrap();
        let parent = runtime.cgroup_parent();
        let cri = Cri::connect(&relay.socket(), parent).await.unwrap();
        let direct = Cri::connect(&runtime.socket(), parent).await.unwrap();
        Self {
            cri,
            direct,
            relay,
            runtime,
        }
    }

    async fn pod(&mut self, name: &str, annotations: &[(&str, &str)]) -> Pod {
        self.cri.run_pod(name, "", annotations).await.unwrap()
    }

    async fn run(&mut self, pod: &Pod, container: &Container) -> String {
        let id = self.cri.run(pod, container).await;
        id.unwrap_or_else(|error| panic!("{error:#}\n{}", self.relay.log()))
    }

    /// What the kernel has.
    fn cpu(&self, id: &str) -> Cpu {
        let cpuset = kernel::cgroup(self.runtime.cgroup_parent(), id).unwrap();
        if kernel::unified() {
            let max = text(&cpuset.join("cpu.max"));
            let quota = max.split(' ').next().unwrap();
            return Cpu {
                shares: text(&cpuset.join("cpu.weight")).parse().unwrap(),
                quota: quota.parse().unwrap_or(-1),
            };
        }
        let below = cpuset.strip_prefix("/sys/fs/cgroup/cpuset").unwrap();
        let folder = Path::new("/sys/fs/cgroup/cpu").join(below);
        Cpu {
            shares: text(&folder.join("cpu.shares")).parse().unwrap(),
            quota: text(&folder.join("cpu.cfs_quota_us")).parse().unwrap(),
        }
    }

    fn cpuset(&self, id: &str) -> String {
        kernel::cpuset_cpus(self.runtime.cgroup_parent(), id).unwrap()
    }

    /// Waits until the kernel has this.
    async fn settles(&self, id: &str, cpuset: &str, cpu: Cpu) {
        let settled = eventually(PATIENCE, async || {
            self.cpuset(id) == cpuset && self.cpu(id).stands_for(cpu)
        });
        assert!(
            settled.await,
            "{id}: cpuset {}, {:?}; wanted {cpuset}, {cpu:?}\n{}",
            self.cpuset(id),
            self.cpu(id),
            self.relay.log()
        );
    }

    /// What the runtime has been asked for, in its own words: the resources of the container's OCI spec.
    async fn recorded(&mut self, id: &str) -> serde_json::Value {
        let request = v1::ContainerStatusRequest {
            container_id: id.to_owned(),
            verbose: true,
        };
        let reply = self.direct.client.container_status(request).await.unwrap();
        let info: serde_json::Value =
            serde_json::from_str(&reply.into_inner().info["info"]).unwrap();
        info["runtimeSpec"]["linux"]["resources"].clone()
    }

    fn log_lines(&self, with: &str) -> usize {
        let log = self.relay.log();
        log.lines().filter(|line| line.contains(with)).count()
    }

    /// The value of a metric without labels.
    async fn metric(&self, port: u16, name: &str) -> f64 {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        let mut stream = tokio::net::TcpStream::connect(("127.0.0.1", port))
            .await
            .unwrap();
        let request = b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
        stream.write_all(request).await.unwrap();
        let mut page = String::new();
        stream.read_to_string(&mut page).await.unwrap();
        let line = page.lines().find(|line| {
            line.strip_prefix(name)
                .is_some_and(|rest| rest.starts_with(' '))
        });
        let line = line.unwrap_or_else(|| panic!("no {name} in\n{page}"));
        line.rsplit(' ').next().unwrap().parse().unwrap()
    }
}

fn text(path: &Path) -> String {
    let text = std::fs::read_to_string(path);
    let text = text.unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    text.trim().to_owned()
}

fn free_port() -> u16 {
    let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    socket.local_addr().unwrap().port()
}

/// Each kind of update that clients send: a resize of memory; what a CPU manager sends; CPU time; nothing.
fn updates(cpus: &str, quota: i64) -> Vec<v1::LinuxContainerResources> {
    let nothing = v1::LinuxContainerResources::default;
    vec![
        nothing(),
        v1::LinuxContainerResources {
            memory_limit_in_bytes: 96 << 20,
            ..nothing()
        },
        v1::LinuxContainerResources {
            cpuset_cpus: cpus.to_owned(),
            ..nothing()
        },
        v1::LinuxContainerResources {
            cpu_quota: quota,
            cpu_period: 100_000,
            ..nothing()
        },
        v1::LinuxContainerResources {
            oom_score_adj: -997,
            ..nothing()
        },
        v1::LinuxContainerResources {
            cpuset_cpus: cpus.to_owned(),
            ..nothing()
        },
    ]
}

/// The same in the words of the version before.
async fn update_v1alpha2(socket: PathBuf, id: &str, linux: &v1::LinuxContainerResources) {
    let connector = tower::service_fn(move |_| {
        let socket = socket.clone();
        async move { UnixStream::connect(socket).await.map(TokioIo::new) }
    });
    let endpoint = Endpoint::from_static("http://localhost");
    let channel = endpoint.connect_with_connector(connector).await.unwrap();
    let mut client = v1alpha2::runtime_service_client::RuntimeServiceClient::new(channel);
    let linux = v1alpha2::LinuxContainerResources {
        cpu_period: linux.cpu_period,
        cpu_quota: linux.cpu_quota,
        cpu_shares: linux.cpu_shares,
        memory_limit_in_bytes: linux.memory_limit_in_bytes,
        oom_score_adj: linux.oom_score_adj,
        cpuset_cpus: linux.cpuset_cpus.clone(),
        ..v1alpha2::LinuxContainerResources::default()
    };
    let request = v1alpha2::UpdateContainerResourcesRequest {
        container_id: id.to_owned(),
        linux: Some(linux),
        ..v1alpha2::UpdateContainerResourcesRequest::default()
    };
    client.update_container_resources(request).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_update_changes_what_it_names_and_no_other_cpu_manager_moves_a_container() {
    let what = "resources: updates on this machine";
    if let Some(why) = skip::no_relay() {
        return skip::skip(what, &why);
    }
    if kernel::online().unwrap() == "0" {
        return skip::skip(what, "needs two CPUs");
    }
    let port = free_port();
    let address = format!("127.0.0.1:{port}");
    let arguments = [
        "--policy",
        "static",
        "--reserved-resources",
        "cpu=1000m",
        "--metrics-address",
        &address,
    ];
    let mut node = Node::start(&arguments).await;
    let pod = node.pod("db", &[]).await;
    let id = node
        .run(&pod, &Container::sleeping("db").guaranteed(1))
        .await;
    let own = node.cpuset(&id);
    assert!(
        !own.is_empty() && !own.contains(['-', ',']),
        "exclusive: {own}"
    );
    let unlimited = Cpu {
        shares: 1024,
        quota: -1,
    };
    node.settles(&id, &own, unlimited).await;
    // A CPU manager of its own mind: the CPU that is not this container's.
    let other = if own == "0" { "1" } else { "0" };
    let mut named = 0_u32;
    for version in ["v1", "v1alpha2"] {
        for update in updates(other, 100_000) {
            named += u32::from(!update.cpuset_cpus.is_empty());
            if version == "v1" {
                node.cri.update(&id, update.clone()).await.unwrap();
            } else {
                update_v1alpha2(node.relay.socket(), &id, &update).await;
            }
            node.settles(&id, &own, unlimited).await;
            // What the kubelet reads back is what it asked for.
            let recorded = node.recorded(&id).await;
            assert_eq!(recorded["cpu"]["shares"], 1024, "{version} {update:?}");
            assert_eq!(recorded["cpu"]["quota"], 100_000, "{version} {update:?}");
            assert_eq!(recorded["cpu"]["cpus"], own, "{version} {update:?}");
            let state = node.relay.ask(&["state"]).unwrap();
            let line = state.lines().find(|line| line.contains(" db ")).unwrap();
            assert!(line.contains(" 1000m "), "{state}");
        }
    }
    assert_eq!(
        node.log_lines("another CPU manager is at work"),
        1,
        "{}",
        node.relay.log()
    );
    let overridden = "cri_resmgr_manager_overridden_cpusets_total";
    assert_eq!(node.metric(port, overridden).await, f64::from(named));
    assert_eq!(
        node.metric(port, "cri_resmgr_manager_other_cpu_manager")
            .await,
        1.0
    );
    // The runtime wrote the kubelet's quota each time, as it should: that is no drift.
    assert_eq!(
        node.metric(port, "cri_resmgr_enforce_drifts_total").await,
        0.0
    );
    assert!(node.recorded(&id).await["memory"]["limit"] == 96 << 20);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_started_container_has_the_quota_that_its_policy_wants() {
    if let Some(why) = skip::no_relay() {
        return skip::skip("resources: at the first instruction", &why);
    }
    begins_with_its_quota("static").await;
}

/// What a container has when the runtime's reply to its start comes, what its program finds when it begins,
/// and what the runtime was asked for.
async fn begins_with_its_quota(policy: &str) {
    let arguments = ["--policy", policy, "--reserved-resources", "cpu=1000m"];
    let mut node = Node::start(&arguments).await;
    let folder = node.runtime.folder().join("first");
    std::fs::create_dir(&folder).unwrap();
    let file = if kernel::unified() {
        "/sys/fs/cgroup/cpu.max"
    } else {
        "/sys/fs/cgroup/cpu/cpu.cfs_quota_us"
    };
    let mut at_first = Vec::new();
    for round in 0..5 {
        let name = format!("c{round}");
        let script = format!("cat {file} >/first/{name}; echo >>/first/{name}; exec sleep 1000000");
        let mut container = Container::script(&name, &script).guaranteed(1);
        container.mounts = vec![(folder.display().to_string(), "/first".into())];
        let pod = node.pod(&name, &[]).await;
        let id = node.run(&pod, &container).await;
        assert_eq!(node.cpu(&id).quota, -1, "round {round}");
        let said = folder.join(&name);
        let written = eventually(PATIENCE, async || {
            std::fs::read_to_string(&said).is_ok_and(|text| text.ends_with("\n\n"))
        });
        assert!(written.await, "{}", node.runtime.log());
        at_first.push(text(&said));
        assert_eq!(node.recorded(&id).await["cpu"]["quota"], 100_000);
        node.cri.stop(&id).await.unwrap();
        node.cri.remove_pod(&pod).await.unwrap();
    }
    // The runtime makes the cgroup and starts the program in one call. What the policy wants is written in
    // between, but where all CPUs are busy that may come too late for the first instructions.
    let unlimited = |said: &&String| said.starts_with("-1") || said.starts_with("max");
    let in_time = at_first.iter().filter(unlimited).count();
    assert!(
        in_time > 0,
        "each program began with another quota: {at_first:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn containers_without_a_request_of_their_own_hold_nothing_of_their_pod() {
    let what = "resources: pod-level resources";
    if let Some(why) = skip::no_relay() {
        return skip::skip(what, &why);
    }
    let online = kernel::online().unwrap();
    if online == "0" {
        return skip::skip(what, "needs two CPUs");
    }
    let arguments = ["--policy", "static", "--reserved-resources", "cpu=1000m"];
    let mut node = Node::start(&arguments).await;
    // As the kubelet since 1.34 for a pod of one CPU whose containers ask for nothing.
    let mut pod = node.pod("level", &[]).await;
    let whole = Container::sleeping("x").guaranteed(1).resources;
    pod.config.linux.as_mut().unwrap().resources = Some(whole);
    let first = node
        .run(&pod, &Container::sleeping("a").guaranteed(1))
        .await;
    let second = node
        .run(&pod, &Container::sleeping("b").guaranteed(1))
        .await;
    let limited = Cpu {
        shares: 1024,
        quota: 100_000,
    };
    node.settles(&first, &online, limited).await;
    node.settles(&second, &online, limited).await;
    // By pod and name: a short name may begin some container's id.
    for name in ["level/a", "level/b"] {
        let why = node.relay.ask(&["explain", name]).unwrap();
        assert!(why.contains("none of its own"), "{why}");
    }
    // The pod's CPU is still there for one that asks for it.
    let other = node.pod("db", &[]).await;
    let id = node
        .run(&other, &Container::sleeping("db").guaranteed(1))
        .await;
    assert_ne!(node.cpuset(&id), online);

    // The webhook tells from the start.
    let annotation = r#"{"initContainers":{},"containers":{"c":{}},"pod":{"limits":{"cpu":"1"}}}"#;
    let mut annotated = node
        .pod("told", &[("intel.com/resources", annotation)])
        .await;
    let whole = Container::sleeping("x").guaranteed(1).resources;
    annotated.config.linux.as_mut().unwrap().resources = Some(whole);
    node.cri.stop(&id).await.unwrap();
    let third = node
        .run(&annotated, &Container::sleeping("c").guaranteed(1))
        .await;
    node.settles(&third, &online, limited).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_that_runs_again_after_a_resize_is_placed_by_its_new_size() {
    let what = "resources: restart after a resize";
    if let Some(why) = skip::no_relay() {
        return skip::skip(what, &why);
    }
    let online = kernel::online().unwrap();
    if online == "0" {
        return skip::skip(what, "needs two CPUs");
    }
    let arguments = ["--policy", "static", "--reserved-resources", "cpu=1000m"];
    let mut node = Node::start(&arguments).await;
    // The annotation was written at admission and cannot follow pods/resize.
    let annotation = r#"{"initContainers":{},"containers":{"db":{"requests":{"cpu":"500m"},"limits":{"cpu":"500m"}}}}"#;
    let pod = node.pod("db", &[("intel.com/resources", annotation)]).await;
    let mut half = Container::sleeping("db").guaranteed(1);
    half.resources.cpu_shares = 512;
    half.resources.cpu_quota = 50_000;
    let id = node.run(&pod, &half).await;
    assert_eq!(node.cpuset(&id), online);
    let why = node.relay.ask(&["explain", "db/db"]).unwrap();
    assert!(
        why.contains("request 500m: from the pod annotation"),
        "{why}"
    );

    let resized = Container::sleeping("db").guaranteed(1);
    let update = v1::LinuxContainerResources {
        cpu_shares: 1024,
        cpu_quota: 100_000,
        cpu_period: 100_000,
        ..v1::LinuxContainerResources::default()
    };
    node.cri.update(&id, update).await.unwrap();
    let newer = "request 1000m: from CPU shares and quota, which are newer than the 500m";
    let unlimited = Cpu {
        shares: 1024,
        quota: -1,
    };
    let own = node.cpuset(&id);
    assert_ne!(own, online);
    node.settles(&id, &own, unlimited).await;
    // Who waits until the status says what the spec says does not wait for ever.
    assert_eq!(node.recorded(&id).await["cpu"]["quota"], 100_000);
    assert!(
        node.relay
            .ask(&["explain", "db/db"])
            .unwrap()
            .contains(newer)
    );

    node.cri.stop(&id).await.unwrap();
    node.cri.remove(&id).await.unwrap();
    let id = node.run(&pod, &resized).await;
    node.settles(&id, &own, unlimited).await;
    let why = node.relay.ask(&["explain", "db/db"]).unwrap();
    assert!(why.contains(newer), "{why}");
}

/// Where a container finds a mount of ours; empty when there is none.
fn mounts(node: &Node, id: &str) -> Vec<String> {
    let parent = node.runtime.cgroup_parent();
    let tables = kernel::texts(parent, id, "mountinfo").unwrap();
    let lines = tables.iter().flat_map(|table| table.lines());
    let ours = lines.filter(|line| line.contains("cri-resmgr"));
    ours.map(str::to_owned).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn only_containers_that_ask_for_it_are_shown_where_they_run() {
    if let Some(why) = skip::no_relay() {
        return skip::skip("resources: /.cri-resmgr", &why);
    }
    let asks = (
        "resources-file.cri-resource-manager.intel.com/container.b",
        "true",
    );
    for (option, expected) in [
        (None, [false, true]),
        (Some("asked"), [false, true]),
        (Some("never"), [false, false]),
        (Some("always"), [true, true]),
    ] {
        let mut arguments = vec!["--policy", "static", "--reserved-resources", "cpu=1000m"];
        arguments.extend(
            option
                .into_iter()
                .flat_map(|value| ["--container-resources-file", value]),
        );
        let mut node = Node::start(&arguments).await;
        let pod = node.pod("p", &[asks]).await;
        for (name, shown) in ["a", "b"].into_iter().zip(expected) {
            let id = node.run(&pod, &Container::sleeping(name)).await;
            let mounts = mounts(&node, &id);
            assert_eq!(!mounts.is_empty(), shown, "{option:?} {name}: {mounts:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_cannot_be_made_keeps_no_container_from_starting() {
    if let Some(why) = skip::no_relay() {
        return skip::skip("resources: a state directory in the way", &why);
    }
    let arguments = [
        "--policy",
        "static",
        "--reserved-resources",
        "cpu=1000m",
        "--container-resources-file",
        "always",
    ];
    let mut node = Node::start(&arguments).await;
    // As on a full disk, and for root too: the directory cannot be made.
    std::fs::write(node.relay.state().join("containers"), "in the way").unwrap();
    let pod = node.pod("p", &[]).await;
    let id = node.run(&pod, &Container::sleeping("a")).await;
    assert!(mounts(&node, &id).is_empty());
}

#[test]
fn in_the_guest_updates_change_what_they_name_under_cgroup_v2() {
    let name = "in_the_guest_updates_change_what_they_name_under_cgroup_v2";
    if Guest::n4c16().runs(name, &[]).unwrap() {
        let work = async {
            begins_with_its_quota("static").await;
            exclusive_and_shared_cpus_stay().await;
        };
        tokio::runtime::Runtime::new().unwrap().block_on(work);
    }
}

/// `static-plus`, with a request of two and a half CPUs: shares and quota are the policy's and the kubelet's.
async fn exclusive_and_shared_cpus_stay() {
    let arguments = [
        "--policy",
        "static-plus",
        "--reserved-resources",
        "cpu=1000m",
    ];
    let mut node = Node::start(&arguments).await;
    let pod = node.pod("db", &[]).await;
    let mut container = Container::sleeping("db").guaranteed(1);
    container.resources.cpu_shares = 2560;
    container.resources.cpu_quota = 250_000;
    let id = node.run(&pod, &container).await;
    let own = node.cpuset(&id);
    // Half a CPU of the shared ones.
    let cpu = Cpu {
        shares: 512,
        quota: 250_000,
    };
    node.settles(&id, &own, cpu).await;
    for update in updates("0-1", 250_000) {
        node.cri.update(&id, update.clone()).await.unwrap();
        node.settles(&id, &own, cpu).await;
        let recorded = node.recorded(&id).await;
        assert_eq!(recorded["cpu"]["shares"], 2560, "{update:?}");
        assert_eq!(recorded["cpu"]["quota"], 250_000, "{update:?}");
    }
    assert_eq!(node.log_lines("drift repaired"), 0, "{}", node.relay.log());
}
