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
use resmgr_tests::{Container, Cri, Relay, Runtime, kernel, skip};
use std::time::Duration;

/// What one container did in one phase.
struct Row {
    name: &'static str,
    cpus: String,
    books: Books,
}

/// The mix: who, its QoS class's folder, its script, its CPU resources.
fn mix() -> Vec<(&'static str, &'static str, Container)> {
    let spin = "while :; do :; done";
    // Two pairs that wake each other all the time.
    let chat = "yes | cat >/dev/null & yes | cat >/dev/null & wait";
    vec![
        (
            "latency",
            "",
            Container::script("latency", spin).guaranteed(1),
        ),
        (
            "chatty",
            "burstable",
            Container::script("chatty", chat).burstable(200),
        ),
        ("batch", "besteffort", Container::script("batch", spin)),
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
    show::table(policy, &before, &after);
    Ok(())
}

/// Runs the mix under one policy.
async fn phase(runtime: &Runtime, policy: &str, length: Duration) -> Result<Vec<Row>> {
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
    if policy.starts_with("static") && policy != "static-pools" {
        arguments.extend(["--reserved-resources", "cpu=1000m"]);
    }
    let mut relay = Relay::start(runtime, &arguments)?;
    let _tail = show::Tail::follow(&dump);
    let parent = runtime.cgroup_parent();
    let mut cri = Cri::connect(&relay.socket(), parent).await?;

    let mut running = Vec::new();
    for (name, class, container) in mix() {
        let pod = cri.run_pod(name, class, &[]).await?;
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
    for (_, pod, id) in &running {
        cri.stop(id).await?;
        cri.remove(id).await?;
        cri.remove_pod(pod).await?;
    }
    if !relay.stop()?.success() {
        bail!("cri-resmgr did not end well:\n{}", relay.log());
    }
    Ok(rows)
}
