//! What the daemon measures of real containers, and what it shows of it.
#![expect(clippy::unwrap_used, reason = "a test program: helpers fail the test")]

use resmgr_tests::{
    Container, Cri, Guest, Relay, Runtime, apiserver::free_port, eventually, feedback, kernel, skip,
};
use serde_json::Value;
use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
    path::{Path, PathBuf},
    process::{Child, Command},
    time::Duration,
};

/// `cri-resmgr top --once --json`, as soon as `ready` likes what it says.
async fn top(relay: &Relay, ready: impl Fn(&Value) -> bool) -> Value {
    let mut view = Value::Null;
    let fine = eventually(Duration::from_secs(90), async || {
        // The relay listens before the program is loaded; the views come last.
        let Ok(text) = relay.ask(&["top", "--once", "--json"]) else {
            return false;
        };
        view = serde_json::from_str(&text).unwrap();
        ready(&view)
    })
    .await;
    assert!(fine, "{view:#}\n{}", relay.log());
    view
}

fn container<'a>(view: &'a Value, name: &str) -> Option<&'a Value> {
    view["containers"]
        .as_array()?
        .iter()
        .find(|one| one["container"] == name)
}

fn ran(view: &Value, name: &str) -> u64 {
    let Some(one) = container(view, name) else {
        return 0;
    };
    one["run_ns"]
        .as_object()
        .unwrap()
        .values()
        .filter_map(Value::as_u64)
        .sum()
}

fn metrics_page(address: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    let request = b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    stream.write_all(request).unwrap();
    let mut page = String::new();
    stream.read_to_string(&mut page).unwrap();
    page
}

/// Whether the rest of the test can say anything; says so when not.
fn exact(what: &str, view: &Value) -> bool {
    if view["quality"] != "exact" {
        skip::skip(
            what,
            &format!("telemetry is {}: {}", view["quality"], view["reason"]),
        );
        return false;
    }
    true
}

#[tokio::test(flavor = "multi_thread")]
async fn under_null_what_runs_is_measured_all_the_same() {
    if let Some(why) = skip::no_relay() {
        return skip::skip("telemetry: null", &why);
    }
    let runtime = Runtime::start().unwrap();
    let dump = runtime.folder().join("dump.jsonl");
    let dump = dump.to_str().unwrap();
    let arguments = [
        "--policy",
        "null",
        "--ebpf-telemetry",
        "--logger-debug",
        "telemetry",
        "--dump",
        "reset,full:.*",
        "--dump-file",
        dump,
        "--dump-format",
        "json",
        "--dump-measured-lists",
    ];
    let relay = Relay::start(&runtime, &arguments).unwrap();
    if !exact("telemetry: null", &top(&relay, |_| true).await) {
        return;
    }
    let mut cri = Cri::connect(&relay.socket(), runtime.cgroup_parent())
        .await
        .unwrap();
    let pod = cri.run_pod("spin", "besteffort", &[]).await.unwrap();
    let id = cri
        .run(&pod, &Container::script("spin", "while :; do :; done"))
        .await
        .unwrap();
    let view = top(&relay, |view| ran(view, "spin") > 100_000_000).await;
    assert_eq!(container(&view, "spin").unwrap()["cpus"], "");

    // The dump has what was measured between two calls that name the container or list it.
    let mut intervals = Vec::new();
    let known = eventually(Duration::from_secs(60), async || {
        cri.live().await.unwrap();
        let dumped = std::fs::read_to_string(dump).unwrap();
        let records = dumped.lines().map(serde_json::from_str::<Value>);
        let measured = records.flatten().filter(|line| line["event"] == "measured");
        intervals = measured
            .filter(|line| line["method"] == "ListContainers")
            .flat_map(|line| line["body"].as_array().unwrap().clone())
            .filter(|interval| interval["container"] == *id)
            .collect();
        let ran = |interval: &Value| interval["run_ns"].as_u64() > Some(0);
        intervals.iter().skip(1).filter(|one| ran(one)).count() >= 2
    })
    .await;
    assert!(known, "{intervals:#?}");
    for interval in intervals.iter().skip(1) {
        let (length, ran) = (&interval["interval_ns"], &interval["run_ns"]);
        let (length, ran) = (length.as_u64().unwrap(), ran.as_u64().unwrap());
        // One thread; a sweep reads the CPUs one after the other.
        assert!(ran <= length + length / 10, "{interval:#}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pinned_container_never_ran_outside_its_cpus() {
    if let Some(why) = skip::no_relay() {
        return skip::skip("telemetry: static", &why);
    }
    let runtime = Runtime::start().unwrap();
    let arguments = [
        "--policy",
        "static",
        "--reserved-resources",
        "cpu=1000m",
        "--ebpf-telemetry",
    ];
    let relay = Relay::start(&runtime, &arguments).unwrap();
    if !exact("telemetry: static", &top(&relay, |_| true).await) {
        return;
    }
    let mut cri = Cri::connect(&relay.socket(), runtime.cgroup_parent())
        .await
        .unwrap();
    let spin = "while :; do :; done";
    let pod = cri.run_pod("mine", "", &[]).await.unwrap();
    cri.run(&pod, &Container::script("mine", spin).guaranteed(1))
        .await
        .unwrap();
    let pod = cri.run_pod("theirs", "besteffort", &[]).await.unwrap();
    cri.run(&pod, &Container::script("theirs", spin))
        .await
        .unwrap();
    let both = |view: &Value| ran(view, "mine") > 300_000_000 && ran(view, "theirs") > 100_000_000;
    let view = top(&relay, both).await;
    let mine = container(&view, "mine").unwrap();
    for name in ["mine", "theirs"] {
        let one = container(&view, name).unwrap();
        assert_eq!(one["outside_ns"], 0, "{view:#}\n{}", relay.log());
        assert_eq!(
            one["migrations"],
            serde_json::json!([0, 0, 0, 0, 0]),
            "{view:#}"
        );
    }
    // Whatever else this machine runs may have been there; the other container never was.
    let foreign = mine["foreign_ns"].as_object().unwrap();
    assert!(
        !foreign.keys().any(|who| who.ends_with("/theirs")),
        "{view:#}"
    );
    let explained = relay.ask(&["explain", "mine"]).unwrap();
    assert!(explained.contains("because"), "{explained}");
}

/// A service of the host as systemd would have it: a process in a cgroup two levels deep that keeps a CPU busy.
struct Service {
    folders: [PathBuf; 2],
    process: Child,
}

impl Service {
    fn on_cpu(slice: &str, name: &str, cpu: &str) -> Self {
        let base = Path::new("/sys/fs/cgroup");
        let base = if kernel::unified() {
            base.to_owned()
        } else {
            base.join("cpu")
        };
        let folders = [base.join(slice), base.join(slice).join(name)];
        for folder in &folders {
            std::fs::create_dir(folder).unwrap();
            // Version 1 has no such file.
            std::fs::write(folder.with_file_name("cgroup.subtree_control"), "+cpu").ok();
        }
        let enter = format!(
            "echo $$ >{}/cgroup.procs && while :; do :; done",
            folders[1].display()
        );
        let mut busy = Command::new("taskset");
        let process = busy.args(["-c", cpu, "sh", "-c", &enter]).spawn().unwrap();
        Self { folders, process }
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.process.kill().ok();
        self.process.wait().ok();
        for folder in self.folders.iter().rev() {
            std::fs::remove_dir(folder).ok();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_of_the_host_on_an_exclusive_cpu_is_named() {
    let what = "telemetry: host services";
    if let Some(why) = skip::no_relay() {
        return skip::skip(what, &why);
    }
    let runtime = Runtime::start().unwrap();
    let address = format!("127.0.0.1:{}", free_port().unwrap());
    let arguments = [
        "--policy",
        "static",
        "--reserved-resources",
        "cpu=1000m",
        "--ebpf-telemetry",
        "--metrics-address",
        &address,
    ];
    let relay = Relay::start(&runtime, &arguments).unwrap();
    if !exact(what, &top(&relay, |_| true).await) {
        return;
    }
    let mut cri = Cri::connect(&relay.socket(), runtime.cgroup_parent())
        .await
        .unwrap();
    let pod = cri.run_pod("mine", "", &[]).await.unwrap();
    let spin = Container::script("mine", "while :; do :; done");
    cri.run(&pod, &spin.guaranteed(1)).await.unwrap();
    let view = top(&relay, |view| ran(view, "mine") > 0).await;
    let cpu = container(&view, "mine").unwrap()["exclusive"].clone();
    let slice = format!("resmgr-test-{}.slice", std::process::id());
    // It comes after the daemon, which finds it within ten seconds.
    let _service = Service::on_cpu(&slice, "burner.service", cpu.as_str().unwrap());
    let name = format!("{slice}/burner.service");
    let burnt = |view: &Value| {
        let mine = container(view, "mine");
        mine.map_or(0, |mine| {
            mine["foreign_ns"][&name].as_u64().unwrap_or_default()
        })
    };
    let view = top(&relay, |view| burnt(view) > 500_000_000).await;
    let busy = container(&view, "mine").unwrap()["run_ns"][cpu.as_str().unwrap()].as_u64();
    assert!(busy > Some(burnt(&view) / 10), "{view:#}");
    // On this machine other processes outside containers may have run there longer.
    let mut explained = String::new();
    let named = eventually(Duration::from_secs(90), async || {
        explained = relay.ask(&["explain", "mine"]).unwrap();
        explained.contains("most since it started: ")
    });
    assert!(named.await, "{explained}");
    let page = metrics_page(&address);
    for family in ["foreign", "blamed_wait"] {
        let mut series = page.lines().filter(|line| {
            let family = format!("cri_resmgr_scheduler_{family}_seconds_total{{");
            line.starts_with(&family) && line.contains(&format!("by=\"{name}\""))
        });
        assert!(series.next().is_some(), "{page}");
    }
    // It is judged by the minute.
    let mut page = String::new();
    let violated = eventually(Duration::from_secs(150), async || {
        page = metrics_page(&address);
        let mut lines = page.lines();
        lines.any(|line| {
            line.starts_with("cri_resmgr_exclusivity_violated{") && line.ends_with(" 1")
        })
    });
    assert!(violated.await, "{page}");
    let log = relay.log();
    assert!(
        log.contains("/mine are not its alone: in the last minute"),
        "{log}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn in_a_container_the_hosts_cgroups_are_measured() {
    if let Some(why) = skip::no_relay() {
        return skip::skip("telemetry: host root", &why);
    }
    let runtime = Runtime::start().unwrap();
    let host = runtime.folder().join("host");
    let host_root = format!("--host-root={}", host.display());
    for policy in ["null", "static"] {
        let arguments = [
            "--policy",
            policy,
            "--reserved-resources",
            "cpu=1000m",
            "--ebpf-telemetry",
            &host_root,
        ];
        let relay = Relay::start_below(&runtime, policy, &host, &arguments).unwrap();
        if !exact("telemetry: host root", &top(&relay, |_| true).await) {
            return;
        }
        let mut cri = Cri::connect(&relay.socket(), runtime.cgroup_parent())
            .await
            .unwrap();
        let pod = cri.run_pod(policy, "besteffort", &[]).await.unwrap();
        cri.run(&pod, &Container::script(policy, "while :; do :; done"))
            .await
            .unwrap();
        top(&relay, |view| ran(view, policy) > 100_000_000).await;
    }
}

/// Two sockets, cgroup v2, another kernel: the same object, the same truths.
#[tokio::test(flavor = "multi_thread")]
async fn in_a_guest_of_two_sockets_the_same_holds_and_stp_ends_the_crossing() {
    const NAME: &str = "in_a_guest_of_two_sockets_the_same_holds_and_stp_ends_the_crossing";
    if !Guest::n4c16().runs(NAME, &[]).unwrap() {
        return;
    }
    let crossed = |view: &Value, name: &str| {
        container(view, name).map_or(0, |one| one["migrations"][4].as_u64().unwrap())
    };
    // Pairs that wake each other: the scheduler moves them about.
    let chat = "yes | cat >/dev/null & yes | cat >/dev/null & yes | cat >/dev/null & wait";
    let runtime = Runtime::start().unwrap();
    {
        let relay = feedback::exact(&runtime, "null", &["--policy", "null"]);
        let relay = relay.await.unwrap();
        let mut cri = Cri::connect(&relay.socket(), runtime.cgroup_parent())
            .await
            .unwrap();
        let pod = cri.run_pod("loose", "besteffort", &[]).await.unwrap();
        let id = cri
            .run(&pod, &Container::script("loose", chat))
            .await
            .unwrap();
        top(&relay, |view| crossed(view, "loose") > 0).await;
        cri.stop(&id).await.unwrap();
        cri.remove(&id).await.unwrap();
        cri.remove_pod(&pod).await.unwrap();
    }
    let pools = runtime.folder().join("pools.yaml");
    let text = "pools:\n  exclusive: {exclusive: true, cpuLists: [{Socket: 1, Cpuset: \"8-11\"}]}\n  \
                shared: {cpuLists: [{Socket: 0, Cpuset: \"0-3\"}]}\n";
    std::fs::write(&pools, text).unwrap();
    let pools = pools.display().to_string();
    let arguments = ["--policy", "stp", "--static-pools-conf-file", &pools];
    let relay = feedback::exact(&runtime, "stp", &arguments).await.unwrap();
    let mut cri = Cri::connect(&relay.socket(), runtime.cgroup_parent())
        .await
        .unwrap();
    let wish = (
        "intel.com/resources",
        r#"{"initContainers":{},"containers":{"held":{"requests":{"cmk.intel.com/exclusive-cores":"1"}}}}"#,
    );
    let mut held = Container::script("held", chat);
    held.envs.push(("STP_POOL".into(), "exclusive".into()));
    let pod = cri.run_pod("held", "besteffort", &[wish]).await.unwrap();
    cri.run(&pod, &held).await.unwrap();
    let pod = cri.run_pod("next", "besteffort", &[]).await.unwrap();
    cri.run(&pod, &Container::script("next", chat))
        .await
        .unwrap();
    let both = |view: &Value| ran(view, "held") > 1_000_000_000 && ran(view, "next") > 500_000_000;
    let view = top(&relay, both).await;
    let one = container(&view, "held").unwrap();
    assert_eq!(one["exclusive"], "8-11", "{view:#}");
    assert_eq!(crossed(&view, "held"), 0, "{view:#}");
    for name in ["held", "next"] {
        assert_eq!(container(&view, name).unwrap()["outside_ns"], 0, "{view:#}");
    }
    // The machine's own processes may run there; no other container did for a nanosecond.
    let foreign = one["foreign_ns"].as_object().unwrap();
    assert!(
        !foreign.keys().any(|who| who.ends_with("/next")),
        "{view:#}"
    );
}
