//! `cri-resmgr gather` on a node with containers: what a developer needs is in the archive, and no secret is.
#![expect(clippy::unwrap_used, reason = "a test program: helpers fail the test")]

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use resmgr_policy::{PolicySettings, RebalanceMode, Reserved, by_name, trace};
use resmgr_sim::{Setup, replay};
use resmgr_tests::{Container, Cri, Relay, Runtime, built, kernel, skip};
use resmgr_topology::{CpuSet, MilliCpu, Topology};
use serde_json::Value;
use std::{
    collections::BTreeMap,
    fs,
    net::TcpListener,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Command, Output},
};

/// What must be nowhere.
const SECRET: &str = "hunter2hunter2";

/// A node with two containers, and where their archives go.
struct Node {
    runtime: Runtime,
    relay: Relay,
    ids: [String; 2],
}

impl Node {
    async fn start() -> Self {
        let runtime = Runtime::start().unwrap();
        let trace = runtime.folder().join("trace").display().to_string();
        let free = TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap()
            .to_string();
        let relay = Relay::start(
            &runtime,
            &[
                "--policy",
                "static",
                "--reserved-resources",
                "cpu=1000m",
                "--record",
                &trace,
                "--metrics-address",
                &free,
            ],
        )
        .unwrap();
        let mut cri = Cri::connect(&relay.socket(), runtime.cgroup_parent())
            .await
            .unwrap();
        let secrets = [("example.com/token", SECRET)];
        let pod = cri
            .run_pod_in("bank", "ledger-0", "", &secrets)
            .await
            .unwrap();
        let secret = |mut container: Container| {
            container.envs.push(("TOKEN".into(), SECRET.into()));
            container.args.push(SECRET.into());
            container
        };
        let sleep = || Container::script("", "sleep 1000000");
        let named = |name: &str| Container {
            name: name.into(),
            ..sleep()
        };
        let ids = [
            cri.run(&pod, &secret(named("database").guaranteed(1)))
                .await
                .unwrap(),
            cri.run(&pod, &secret(named("sidecar").burstable(100)))
                .await
                .unwrap(),
        ];
        Self {
            runtime,
            relay,
            ids,
        }
    }

    /// Runs `gather` with the daemon's socket and these words.
    fn gather(&self, archive: &Path, words: &[&str]) -> Output {
        Command::new(built("cri-resmgr").unwrap())
            .arg("--relay-socket")
            .arg(self.relay.socket())
            .args(words)
            .args(["gather", "--output"])
            .arg(archive)
            .output()
            .unwrap()
    }

    /// The files of a new archive by their names. No file has the secret.
    fn gathered(&self, name: &str, words: &[&str]) -> BTreeMap<String, String> {
        let archive = self.runtime.folder().join(format!("{name}.tar.gz"));
        let output = self.gather(&archive, words);
        let printed = String::from_utf8_lossy(&output.stdout);
        let failed = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{failed}\n{}", self.relay.log());
        assert!(
            printed.starts_with(&archive.display().to_string()),
            "{printed}"
        );
        assert!(printed.contains("before you send it"), "{printed}");
        let mode = fs::metadata(&archive).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let files = unpacked(&archive, &self.runtime.folder().join(name));
        for (file, text) in &files {
            assert!(!text.contains(SECRET), "{file}: {text}");
        }
        files
    }
}

fn unpacked(archive: &Path, into: &Path) -> BTreeMap<String, String> {
    fs::create_dir_all(into).unwrap();
    let unpack = Command::new("tar")
        .arg("-xzf")
        .arg(archive)
        .arg("-C")
        .arg(into)
        .status();
    assert!(unpack.unwrap().success());
    let root = fs::read_dir(into).unwrap().next().unwrap().unwrap().path();
    let mut files = BTreeMap::new();
    let mut folders = vec![root.clone()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path: PathBuf = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let name = path.strip_prefix(&root).unwrap().display().to_string();
            files.insert(name, fs::read_to_string(path).unwrap());
        }
    }
    files
}

fn json(files: &BTreeMap<String, String>, name: &str) -> Value {
    let text = files.get(name);
    assert!(text.is_some(), "no {name}\n{}", files["index.txt"]);
    serde_json::from_str(text.unwrap()).unwrap()
}

/// The simulator takes machine and trace, and places every container again.
fn replayed(files: &BTreeMap<String, String>) -> usize {
    let topology: Topology = serde_json::from_str(&files["topology.json"]).unwrap();
    let topology = Topology::from_parts(topology.into_parts()).unwrap();
    let lines = trace::parse(&files["trace.jsonl"]).unwrap();
    assert_eq!(trace::topology(&lines).unwrap().cpus, topology.cpus);
    let mut settings = PolicySettings::default();
    settings.slices.reserved = Some(Reserved::Quantity(MilliCpu(1000)));
    let policy = by_name("static", &topology, &settings).unwrap();
    let report = replay(&Setup {
        topology: &topology,
        policy: &*policy,
        trace: &lines,
        seed: 1,
        duration_ms: lines.iter().map(|line| line.at_ms).max().unwrap() + 1,
        interval_ms: 1_000,
        feedback: RebalanceMode::Off,
    });
    assert_eq!(report.violations, Vec::<String>::new());
    report.placements.len()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_explains_the_placements_is_gathered_with_no_secret_and_also_without_a_daemon() {
    if let Some(why) = skip::no_relay() {
        return skip::skip("gather", &why);
    }
    if kernel::online().unwrap().parse::<CpuSet>().unwrap().len() < 2 {
        return skip::skip("gather", "needs two CPUs");
    }
    let mut node = Box::pin(Node::start()).await;
    let files = node.gathered("running", &[]);
    let state = json(&files, "state.json");
    let containers = state["containers"].as_array().unwrap();
    assert_eq!(containers.len(), 2);
    for (id, name) in node.ids.iter().zip(["database", "sidecar"]) {
        let explained = json(&files, &format!("explain/{name}-{id}.json"));
        assert_eq!(explained["container"]["id"], **id);
        let cpus = kernel::cpuset_cpus(node.runtime.cgroup_parent(), id).unwrap();
        let line = format!("/{id}/cpuset.cpus: {}\n", cpus.trim());
        assert!(
            files["cpusets.txt"].contains(&line),
            "{line}{}",
            files["cpusets.txt"]
        );
    }
    let options = json(&files, "config.json")["options"].to_string();
    assert!(
        options.contains("--record") || options.contains("record"),
        "{options}"
    );
    assert!(
        files["metrics.txt"].contains("cri_resmgr_"),
        "{}",
        files["index.txt"]
    );
    assert!(
        files["runtime.txt"].contains("containerd"),
        "{}",
        files["index.txt"]
    );
    assert!(files["versions.txt"].contains("osrelease"));
    assert!(files["sysfs.txt"].contains("topology/core_id: "));
    assert!(files["state-dir/ledger.json"].contains(&node.ids[0]));
    assert!(
        files["index.txt"].contains("top.json"),
        "{}",
        files["index.txt"]
    );
    assert_eq!(replayed(&files), 2);
    let topology = node.runtime.folder().join("topology.json");
    fs::write(&topology, &files["topology.json"]).unwrap();
    let loaded = Command::new(built("cri-resmgr").unwrap())
        .arg("--topology")
        .arg(&topology)
        .arg("--print-config")
        .output()
        .unwrap();
    assert!(
        loaded.status.success(),
        "{}",
        String::from_utf8_lossy(&loaded.stderr)
    );

    // What is there already stays as it is.
    let taken = node.runtime.folder().join("running.tar.gz");
    let before = fs::read(&taken).unwrap();
    let refused = node.gather(&taken, &[]);
    assert_eq!(refused.status.code(), Some(2));
    assert_eq!(fs::read(&taken).unwrap(), before);

    let anonymous = anonymous(&node);
    assert_eq!(replayed(&anonymous), 2);
    for machine in ["sysfs.txt", "versions.txt", "topology.json"] {
        assert_eq!(anonymous[machine], files[machine]);
    }

    let daemon = Pid::from_raw(i32::try_from(node.relay.pid()).unwrap());
    kill(daemon, Signal::SIGSTOP).unwrap();
    let files = node.gathered("hung", &[]);
    kill(daemon, Signal::SIGCONT).unwrap();
    let index = &files["index.txt"];
    assert!(index.contains("MISSING: no answer within"), "{index}");
    assert!(files.contains_key("topology.json"), "{index}");

    node.relay.stop().unwrap();
    let (state_dir, socket) = (node.relay.state(), node.runtime.socket());
    let (state_dir, socket) = (
        state_dir.display().to_string(),
        socket.display().to_string(),
    );
    let words = ["--relay-dir", &state_dir, "--runtime-socket", &socket];
    let files = node.gathered("stopped", &words);
    assert!(!files.contains_key("state.json"));
    let index = &files["index.txt"];
    assert!(
        index.contains("MISSING: cannot reach a running cri-resmgr"),
        "{index}"
    );
    let ledger = json(&files, "state-dir/ledger.json").to_string();
    for id in &node.ids {
        assert!(ledger.contains(id.as_str()), "{ledger}");
        assert!(files["cpusets.txt"].contains(&format!("/{id}/cpuset.cpus: ")));
    }
    for file in [
        "topology.json",
        "runtime.txt",
        "versions.txt",
        "options.yaml",
    ] {
        assert!(files.contains_key(file), "{file}\n{index}");
    }
}

/// An archive without names.
fn anonymous(node: &Node) -> BTreeMap<String, String> {
    let archive = node.runtime.folder().join("anonymous.tar.gz");
    let output = Command::new(built("cri-resmgr").unwrap())
        .arg("--relay-socket")
        .arg(node.relay.socket())
        .args(["gather", "--anonymous", "--output"])
        .arg(&archive)
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let files = unpacked(&archive, &node.runtime.folder().join("anonymous"));
    for (file, text) in &files {
        // The cgroup of a pod has a name of these tests' making, after the pod.
        let text = text.replace("/podledger-0-", "/pod");
        for name in ["bank", "ledger-0", "database", "sidecar", SECRET] {
            assert!(
                !file.contains(name) && !text.contains(name),
                "{name} in {file}: {text}"
            );
        }
    }
    let state = json(&files, "state.json");
    let first = &state["containers"][0];
    let by_name = format!(
        "{}/{}/{}",
        first["namespace"].as_str().unwrap(),
        first["pod"].as_str().unwrap(),
        first["container"].as_str().unwrap()
    );
    assert!(
        files["index.txt"].contains(&by_name),
        "{by_name}\n{}",
        files["index.txt"]
    );
    files
}
