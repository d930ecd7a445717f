//! The demonstration that `cargo xtask demo` builds and runs: the same pods under `null` and under a
//! policy, in front of a private containerd, with the dump shown as it flows.
#![expect(
    clippy::print_stdout,
    clippy::large_futures,
    reason = "a program for people, with one future"
)]

mod books;
mod show;

use anyhow::{Context, Result, bail};
use books::Books;
use resmgr_tests::{Container, Cri, Relay, Runtime, built, kernel, skip};
use std::{path::Path, time::Duration};

/// What one container did in one phase.
struct Row {
    name: &'static str,
    cpus: String,
    books: Books,
}

/// What one phase showed.
struct Phase {
    rows: Vec<Row>,
    /// `cri-resmgr state`.
    state: String,
    /// `cri-resmgr top --once`.
    top: String,
}

/// A pool for one container of its own and one for the rest, of the machine's first two CPUs.
const POOLS: &str = "pools:
  exclusive: {exclusive: true, cpuLists: [{Socket: 0, Cpuset: \"1\"}]}
  shared: {cpuLists: [{Socket: 0, Cpuset: \"0\"}]}
";

/// What makes a pod ask for a list of the exclusive pool: the webhook's annotation, and the pool's name.
const EXCLUSIVE: (&str, &str) = (
    "intel.com/resources",
    r#"{"initContainers":{},"containers":{"latency":{"requests":{"cmk.intel.com/exclusive-cores":"1"},"limits":{"cmk.intel.com/exclusive-cores":"1"}}}}"#,
);

/// The mix: who, its QoS class's folder, its program and its CPU resources. All but the batch work by the
/// clock, so that the machine can go on with other things.
fn mix(workload: &Path) -> Vec<(&'static str, &'static str, Container)> {
    let does = |name: &str, threads: &str| Container::program(name, workload, &[name, threads]);
    vec![
        ("latency", "", does("latency", "1").guaranteed(1)),
        ("chatty", "burstable", does("chatty", "4").burstable(200)),
        ("batch", "besteffort", does("batch", "2")),
    ]
}

#[tokio::main]
async fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let policy = arguments.next().unwrap_or_else(|| "static".into());
    let seconds: u64 = arguments
        .next()
        .map_or(Ok(5), |text| text.parse())
        .context("the second argument is a number of seconds")?;
    let cpus = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let needed = if policy == "static-plus" { 3 } else { 2 };
    if cpus < needed {
        bail!("--policy {policy} needs {needed} CPUs to show anything; this machine has {cpus}");
    }
    if let Some(why) = skip::no_relay() {
        bail!("the demo cannot run: {why}");
    }
    tokio::select! {
        outcome = demo(&policy, Duration::from_secs(seconds)) => outcome,
        _ = tokio::signal::ctrl_c() => {
            println!("\ninterrupted; everything is taken away again");
            Ok(())
        }
    }
}

async fn demo(policy: &str, length: Duration) -> Result<()> {
    show::step("starting a private containerd, with an image made from this machine's busybox");
    let runtime = Runtime::start()?;
    let before = phase(&runtime, "null", length).await?;
    let after = phase(&runtime, policy, length).await?;
    show::step("taking everything away again");
    drop(runtime);
    show::table(policy, &before.rows, &after.rows);
    show::picture("null", &before);
    show::picture(policy, &after);
    Ok(())
}

/// Runs the mix under one policy.
async fn phase(runtime: &Runtime, policy: &str, length: Duration) -> Result<Phase> {
    show::step(&format!("cri-resmgr --policy {policy}, in front of it"));
    let dump = runtime.folder().join(format!("dump-{policy}"));
    let file = dump.display().to_string();
    let mut arguments = vec![
        "--policy",
        policy,
        "--dump",
        "reset,full:.*",
        "--dump-file",
        &file,
    ];
    arguments.push("--ebpf-telemetry");
    let pools = runtime.folder().join("pools.yaml");
    let pools_file = pools.display().to_string();
    let stp = policy == "stp";
    if stp {
        std::fs::write(&pools, POOLS)?;
        arguments.extend(["--static-pools-conf-file", &pools_file]);
    } else if policy.starts_with("static") {
        arguments.extend(["--reserved-resources", "cpu=1000m"]);
    }
    let mut relay = Relay::start(runtime, &arguments)?;
    let _tail = show::Tail::follow(&dump);
    let parent = runtime.cgroup_parent();
    let mut cri = Cri::connect(&relay.socket(), parent).await?;

    let workload = built("workload").context("the workload program is not built")?;
    let mut running = Vec::new();
    for (name, class, mut container) in mix(&workload) {
        let asks = stp && name == "latency";
        if asks {
            container.envs.push(("STP_POOL".into(), "exclusive".into()));
        }
        let annotations: &[_] = if asks { &[EXCLUSIVE] } else { &[] };
        let pod = cri.run_pod(name, class, annotations).await?;
        let id = cri.run(&pod, &container).await?;
        running.push((name, pod, id));
    }
    show::note(&format!("{} pods run for {length:?}", running.len()));
    tokio::time::sleep(length).await;

    let mut rows = Vec::new();
    for (name, _, id) in &running {
        rows.push(Row {
            name,
            cpus: kernel::allowed(parent, id)?,
            books: Books::of(parent, id)?,
        });
    }
    let state = relay.ask(&["state"])?;
    let top = relay.ask(&["top", "--once"])?;
    for (_, pod, id) in &running {
        cri.stop(id).await?;
        cri.remove(id).await?;
        cri.remove_pod(pod).await?;
    }
    if !relay.stop()?.success() {
        bail!("cri-resmgr did not end well:\n{}", relay.log());
    }
    Ok(Phase { rows, state, top })
}
