//! Configuration pushed into a running cri-resmgr, as the node agent pushes it.
#![expect(clippy::unwrap_used, reason = "a test program: helpers fail the test")]

use hyper_util::rt::TokioIo;
use resmgr_proto::v1::{SetConfigReply, SetConfigRequest, config_client::ConfigClient};
use resmgr_tests::{Container, Cri, Relay, Runtime, eventually, kernel, skip};
use std::{
    os::unix::{fs::PermissionsExt as _, process::CommandExt as _},
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};
use tonic::transport::{Channel, Endpoint};

const SOON: Duration = Duration::from_secs(60);
const STATIC: [&str; 4] = ["--policy", "static", "--reserved-resources", "cpu=1000m"];

fn client(socket: &Path) -> ConfigClient<Channel> {
    let socket = socket.to_owned();
    let channel: Channel = Endpoint::from_static("http://localhost").connect_with_connector_lazy(
        tower::service_fn(move |_uri| {
            let socket = socket.clone();
            async move {
                tokio::net::UnixStream::connect(socket)
                    .await
                    .map(TokioIo::new)
            }
        }),
    );
    ConfigClient::new(channel)
}

async fn push(socket: PathBuf, key: &str, text: &str) -> SetConfigReply {
    let request = SetConfigRequest {
        node_name: "node".into(),
        config: [(key.to_owned(), text.to_owned())].into(),
        ..SetConfigRequest::default()
    };
    let mut client = client(&socket);
    // The relay listens before the configuration socket is served.
    let mut reply = None;
    let answered = eventually(SOON, async || {
        reply = client.set_config(request.clone()).await.ok();
        reply.is_some()
    })
    .await;
    assert!(answered);
    reply.unwrap().into_inner()
}

/// A runtime, cri-resmgr with the policy static, and a kubelet.
struct Node {
    relay: Relay,
    cri: Cri,
    runtime: Runtime,
    count: usize,
}

impl Node {
    async fn start(what: &str) -> Option<Self> {
        Self::start_with(what, &STATIC).await
    }

    async fn start_with(what: &str, options: &[&str]) -> Option<Self> {
        let why = skip::no_relay()
            .or_else(|| (kernel::online().unwrap() == "0").then(|| "needs two CPUs".to_owned()));
        if let Some(why) = why {
            skip::skip(what, &why);
            return None;
        }
        let runtime = Runtime::start().unwrap();
        let relay = Relay::start(&runtime, options).unwrap();
        let cri = Cri::connect(&relay.socket(), runtime.cgroup_parent())
            .await
            .unwrap();
        Some(Self {
            relay,
            cri,
            runtime,
            count: 0,
        })
    }

    fn socket(&self) -> PathBuf {
        self.relay.folder().join("config.sock")
    }

    /// Pushes what must be taken over.
    async fn takes(&self, key: &str, text: &str) -> Vec<String> {
        let reply = push(self.socket(), key, text).await;
        assert_eq!(reply.error, "", "{key}: {text}");
        reply.notes
    }

    async fn run(&mut self, class: &str, container: Container) -> anyhow::Result<String> {
        self.count += 1;
        let pod = self
            .cri
            .run_pod(&format!("pod{}", self.count), class, &[])
            .await?;
        self.cri.run(&pod, &container).await
    }

    async fn shared(&mut self) -> String {
        Box::pin(self.run("besteffort", Container::sleeping("shared")))
            .await
            .unwrap()
    }

    /// A container that wants a CPU of its own.
    async fn guaranteed(&mut self) -> anyhow::Result<String> {
        Box::pin(self.run("", Container::sleeping("mine").guaranteed(1))).await
    }

    async fn gone(&mut self, id: &str) {
        self.cri.stop(id).await.unwrap();
        self.cri.remove(id).await.unwrap();
    }

    async fn runs_on(&self, id: &str, cpus: &str) -> bool {
        let parent = self.runtime.cgroup_parent();
        let there = async || kernel::allowed(parent, id).is_ok_and(|found| found == cpus);
        eventually(SOON, there).await
    }

    fn state(&self) -> serde_json::Value {
        serde_json::from_str(&self.relay.ask(&["state", "--json"]).unwrap()).unwrap()
    }

    /// A field of a container's view.
    fn field(&self, id: &str, field: &str) -> String {
        let state = self.state();
        let mut all = state["containers"].as_array().unwrap().iter();
        let own = all.find(|one| one["id"] == id).unwrap();
        own[field].as_str().unwrap_or_default().to_owned()
    }

    /// `check-config` of a document, while cri-resmgr runs or not: its exit code, and what it says.
    fn check(&self, text: &str) -> (Option<i32>, String) {
        let file = self.relay.folder().join("document.yaml");
        std::fs::write(&file, text).unwrap();
        let output = Command::new(resmgr_tests::built("cri-resmgr").unwrap())
            .args(STATIC)
            .arg("--config-socket")
            .arg(self.socket())
            .arg("--relay-dir")
            .arg(self.relay.state())
            .arg("check-config")
            .arg(file)
            .output()
            .unwrap();
        let said = [output.stdout, output.stderr].concat();
        (
            output.status.code(),
            String::from_utf8_lossy(&said).into_owned(),
        )
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_good_document_moves_what_runs_and_a_bad_one_changes_nothing() {
    let Some(mut node) = Node::start("configure").await else {
        return;
    };
    let online = kernel::online().unwrap();
    let shared = node.shared().await;
    let mine = node.guaranteed().await.unwrap();
    let mine_on = kernel::allowed(node.runtime.cgroup_parent(), &mine).unwrap();
    let rest = || kernel::allowed(node.runtime.cgroup_parent(), &shared).unwrap();
    assert!(
        eventually(SOON, async || rest() != online).await,
        "an exclusive CPU was given away"
    );

    let refused = push(node.socket(), "policy", "Activ: none").await;
    assert!(
        refused.error.contains("Active"),
        "the nearest right key is named: {refused:?}"
    );
    assert_ne!(rest(), online);
    let state = node.state();
    assert_eq!(state["policy"], "static");
    assert_eq!(state["pushed"]["refused"]["outstanding"], true);
    let told = node.relay.ask(&["state"]).unwrap();
    assert!(told.contains("configuration REFUSED at "), "{told}");

    let notes = node.takes("policy", "Active: none").await;
    assert!(
        notes
            .iter()
            .any(|note| note.contains("pod1/shared: from CPUs")),
        "{notes:?}"
    );
    let state = node.state();
    assert_eq!(state["policy"], "none");
    assert_eq!(state["pushed"]["generation"], 1);
    assert_eq!(state["pushed"]["refused"]["outstanding"], false);
    assert!(node.runs_on(&shared, &online).await, "{}", node.relay.log());
    assert!(
        node.runs_on(&mine, &online).await || mine_on == online,
        "{}",
        node.relay.log()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn every_key_takes_effect_while_all_runs() {
    let Some(mut node) = Node::start("keys at run time").await else {
        return;
    };
    let shared = node.shared().await;
    let on = |cpu: u32| {
        format!(
            "AvailableResources: {{CPU: \"cpuset:{cpu}\"}}\nReservedResources: {{CPU: \"cpuset:{cpu}\"}}"
        )
    };

    // AvailableResources: the CPU in use is taken away, and comes back.
    for cpu in [0, 1] {
        node.takes("policy", &on(cpu)).await;
        assert!(
            node.runs_on(&shared, &cpu.to_string()).await,
            "{}",
            node.relay.log()
        );
    }
    // ReservedResources: never given to one container alone.
    for (reserved, mine) in [(0, "1"), (1, "0")] {
        let text = format!("ReservedResources: {{CPU: \"cpuset:{reserved}\"}}");
        node.takes("policy", &text).await;
        let id = node.guaranteed().await.unwrap();
        assert!(node.runs_on(&id, mine).await, "{}", node.relay.log());
        assert!(
            node.runs_on(&shared, &reserved.to_string()).await,
            "{}",
            node.relay.log()
        );
        node.gone(&id).await;
    }
    // PinMemory.
    for (pin, mems) in [("false", ""), ("true", "0")] {
        node.takes("policy", &format!("PinMemory: {pin}")).await;
        let id = node.guaranteed().await.unwrap();
        assert_eq!(node.field(&id, "mems"), mems);
        node.gone(&id).await;
    }
    // FailPolicy: two CPUs, one reserved, so that the second container finds none.
    let first = node.guaranteed().await.unwrap();
    node.takes("policy", "FailPolicy: refuse").await;
    let refused = match node.guaranteed().await {
        Err(refused) => refused,
        Ok(id) => panic!("{id} has a place: {:#}", node.state()),
    };
    assert!(
        format!("{refused:#}").contains("was not placed by policy static"),
        "{refused:#}"
    );
    node.takes("policy", "FailPolicy: pass").await;
    let second = node.guaranteed().await.unwrap();
    node.gone(&second).await;
    node.gone(&first).await;
    // Active, and BurstableExclusive of static-plus.
    node.takes("policy", "Active: static-plus").await;
    assert_eq!(node.state()["policy"], "static-plus");
    for (exclusive, alone) in [("true", true), ("false", false)] {
        let text = format!(
            "policy: 'Active: static-plus'\npolicy.static-plus: 'BurstableExclusive: {exclusive}'"
        );
        let (code, said) = node.check(&text);
        assert_eq!(code, Some(0), "{said}");
        let keys = [
            ("policy", "Active: static-plus".to_owned()),
            (
                "policy.static-plus",
                format!("BurstableExclusive: {exclusive}"),
            ),
        ];
        let request = SetConfigRequest {
            node_name: "node".into(),
            config: keys.map(|(key, text)| (key.to_owned(), text)).into(),
            ..SetConfigRequest::default()
        };
        let reply = client(&node.socket()).set_config(request).await.unwrap();
        assert_eq!(reply.into_inner().error, "");
        let mut container = Container::sleeping("burstable");
        container.resources.cpu_shares = 1024;
        match Box::pin(node.run("burstable", container)).await {
            Ok(id) => {
                assert_eq!(
                    !node.field(&id, "exclusive").is_empty(),
                    alone,
                    "{exclusive}"
                );
                node.gone(&id).await;
            }
            // A small machine has none to give.
            Err(refused) => {
                let why = format!("{refused:#}");
                assert!(alone && why.contains("exclusive CPUs requested"), "{why}");
            }
        }
    }

    // What is logged and what is dumped.
    node.takes("dump", "Config: 'reset,full:Version'").await;
    let mark = node.relay.log().len();
    let since = |mark: usize| node.relay.log().split_off(mark);
    let version = k8s_cri::v1::VersionRequest::default();
    node.cri
        .client
        .clone()
        .version(version.clone())
        .await
        .unwrap();
    let dumped = async || since(mark).contains("REPLY Version");
    assert!(eventually(SOON, dumped).await, "{}", since(mark));
    node.takes("dump", "Disabled: true").await;
    let mark = node.relay.log().len();
    node.cri
        .client
        .clone()
        .version(version.clone())
        .await
        .unwrap();
    node.takes("logger", "Debug: '*'").await;
    node.cri.client.clone().version(version).await.unwrap();
    let debug = async || since(mark).lines().any(|line| line.starts_with("D:"));
    assert!(eventually(SOON, debug).await, "{}", since(mark));
    assert!(!since(mark).contains("Version"), "{}", since(mark));
    for quiet in ["Level: error", "LogSource: none"] {
        node.takes("logger", quiet).await;
        let mark = node.relay.log().len();
        node.takes("rebalance", "shadow").await; // back to what the options say of the log
        node.takes("logger", quiet).await;
        assert!(!since(mark).contains("configuration 0"), "{}", since(mark));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_document_would_do_is_told_before_it_is_done() {
    let Some(mut node) = Node::start("check-config").await else {
        return;
    };
    let online = kernel::online().unwrap();
    let shared = node.shared().await;
    let mine = node.guaranteed().await.unwrap();
    assert!(node.runs_on(&mine, "1").await || node.runs_on(&mine, "0").await);
    let before = node.state();

    let moving = "policy: 'Active: none'";
    let full = "policy: |\n  AvailableResources: {CPU: \"cpuset:0\"}\n  ReservedResources: {CPU: \"cpuset:0\"}\n";
    for running in [true, false] {
        if !running {
            node.relay.kill().unwrap();
        }
        let (code, said) = node.check(moving);
        assert_eq!(code, Some(0), "{said}");
        for word in [
            "with policy none",
            "2 of 2 containers move",
            "default/pod1/shared: from CPUs",
            "default/pod2/mine: from CPUs",
        ] {
            assert!(said.contains(word), "{running}: {said}");
        }
        assert_eq!(said.contains("no cri-resmgr runs"), !running, "{said}");
        // Who has no place is named.
        let (code, said) = node.check(full);
        assert_eq!(code, Some(2), "{said}");
        assert!(said.contains("default/pod2/mine"), "{running}: {said}");
        let (code, said) = node.check("polcy: 'Active: none'");
        assert!(code == Some(2) && said.contains("policy"), "{said}");
        if running {
            assert_eq!(node.state(), before, "nothing has changed");
        }
    }
    assert!(!node.runs_on_now(&shared, &online));
}

impl Node {
    fn runs_on_now(&self, id: &str, cpus: &str) -> bool {
        kernel::allowed(self.runtime.cgroup_parent(), id).unwrap() == cpus
    }
}

/// Set for the child that is another user, with the socket to push to.
const CHILD: &str = "RESMGR_TEST_PUSH_TO";

#[tokio::test(flavor = "multi_thread")]
async fn another_user_cannot_push_even_past_the_files_mode() {
    if let Some(socket) = std::env::var_os(CHILD) {
        return push_as_a_child(Path::new(&socket)).await;
    }
    let Some(node) = Node::start("a push by another user").await else {
        return;
    };
    let socket = node.socket();
    // It is made, and then given its mode.
    let closed = async || {
        let about = std::fs::metadata(&socket);
        about.is_ok_and(|about| about.permissions().mode() & 0o777 == 0o600)
    };
    assert!(eventually(SOON, closed).await, "{}", node.relay.log());
    // Open to all, so that only who connects counts.
    let open = |path: &Path, mode| {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    };
    open(&socket, 0o666);
    for folder in [node.relay.folder(), node.runtime.folder()] {
        open(folder, 0o755);
    }
    let program = node.runtime.folder().join("child");
    // By another process: what this one has open for writing no child of its other threads may hold.
    let mut copy = Command::new("cp");
    copy.arg(std::env::current_exe().unwrap()).arg(&program);
    assert!(copy.status().unwrap().success());
    open(&program, 0o755);
    let push_as = |uid: u32| {
        let mut command = Command::new(&program);
        command
            .args([
                "--exact",
                "another_user_cannot_push_even_past_the_files_mode",
                "--nocapture",
            ])
            .env(CHILD, &socket)
            .current_dir("/")
            .uid(uid)
            .gid(uid);
        let output = command.output().unwrap();
        (
            output.status.success(),
            String::from_utf8_lossy(&output.stdout).into_owned(),
        )
    };
    let (taken, said) = push_as(65534);
    assert!(!taken && said.contains("1 failed"), "{said}");
    assert_eq!(node.state()["policy"], "static");
    let heard = async || node.relay.log().contains("from user 65534");
    assert!(eventually(SOON, heard).await, "{}", node.relay.log());
    // The same child as root is heard: the tester can push.
    let (taken, said) = push_as(0);
    assert!(taken, "{said}");
    assert_eq!(node.state()["policy"], "none");
}

async fn push_as_a_child(socket: &Path) {
    let request = SetConfigRequest {
        config: [("policy".to_owned(), "Active: none".to_owned())].into(),
        ..SetConfigRequest::default()
    };
    let reply = client(socket).set_config(request).await.unwrap();
    assert_eq!(reply.into_inner().error, "");
}

/// As an operator types it on a fresh node, where the pools come from a ConfigMap: the agent that pushes it is a pod, which
/// the relay must let start.
#[tokio::test]
async fn policy_stp_without_pools_waits_for_those_that_the_agent_pushes() {
    let what = "policy_stp_without_pools_waits_for_those_that_the_agent_pushes";
    let Some(mut node) = Node::start_with(what, &["--policy", "stp"]).await else {
        return;
    };
    let log = node.relay.log();
    for part in ["has no pools yet", "make-pools --exclusive 1"] {
        assert!(log.contains(part), "{part}: {log}");
    }
    let early = node.shared().await;
    assert_eq!(node.state()["policy"], "none");
    assert!(node.runs_on(&early, &kernel::online().unwrap()).await);

    // A configuration without pools changes nothing.
    let refused = push(node.socket(), "policy", "{}").await.error;
    assert!(refused.contains("cannot read the pools"), "{refused}");
    assert_eq!(node.state()["policy"], "none");

    let pools = "pools: {shared: {cpuLists: [{Socket: 0, Cpuset: '0'}]}}";
    node.takes("policy.stp", pools).await;
    assert_eq!(node.state()["policy"], "static-pools");
    assert!(
        node.runs_on(&early, "0").await,
        "what ran is placed when pools come"
    );
    let late = node.shared().await;
    assert!(node.runs_on(&late, "0").await);
}

/// What an operator asks at night: which pod took the CPUs that this one shared, and why is that pod not there.
#[tokio::test]
async fn explain_names_the_container_that_shrank_a_pool_and_the_one_that_was_refused() {
    let what = "explain_names_the_container_that_shrank_a_pool_and_the_one_that_was_refused";
    let Some(mut node) = Node::start(what).await else {
        return;
    };
    let shared = node.shared().await;
    let exclusive = node.guaranteed().await.unwrap();
    let explained = node.relay.ask(&["explain", &shared]).unwrap();
    let cpus = node.field(&exclusive, "exclusive");
    for part in [
        "pool shared went from CPUs".to_owned(),
        format!("pod2/mine came and has CPUs {cpus} alone"),
    ] {
        assert!(explained.contains(&part), "{part}: {explained}");
    }
    let greedy = Container::sleeping("greedy").guaranteed(1000);
    Box::pin(node.run("", greedy)).await.unwrap_err();
    let explained = node.relay.ask(&["explain", "pod3/greedy"]).unwrap();
    for part in [
        "does not exist: its creation was refused",
        "1000 exclusive CPUs requested",
    ] {
        assert!(explained.contains(part), "{part}: {explained}");
    }
    node.gone(&exclusive).await;
    let told = async || {
        let explained = node.relay.ask(&["explain", &shared]).unwrap();
        explained.contains(&format!("pod2/mine is gone, which had CPUs {cpus} alone"))
    };
    assert!(eventually(SOON, told).await);
}
