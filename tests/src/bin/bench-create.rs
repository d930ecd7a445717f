//! The measurement that `cargo xtask bench create` builds and runs: what a policy adds to the creation of a
//! container, direct and through relays before one containerd, in turns.
#![expect(clippy::print_stdout, reason = "a program for people")]

use anyhow::{Context, Result, bail};
use resmgr_tests::{Container, Cri, Relay, Runtime, skip};
use std::time::{Duration, Instant};

/// The relays: their names, and what they are started with.
const RELAYS: [(&str, &[&str]); 3] = [
    ("null", &["--policy", "null"]),
    ("none", &["--policy", "none"]),
    (
        "static",
        &["--policy", "static", "--reserved-resources", "cpu=500m"],
    ),
];

/// Creations before any is measured.
const WARM_UP: usize = 5;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let creations: usize = std::env::args()
        .nth(1)
        .map_or(Ok(200), |text| text.parse())
        .context("expected the number of creations each way")?;
    if let Some(why) = skip::no_relay() {
        bail!("nothing can be measured: {why}");
    }
    tokio::select! {
        outcome = measure(creations) => outcome,
        _ = tokio::signal::ctrl_c() => {
            println!("\ninterrupted; everything is taken away again");
            Ok(())
        }
    }
}

async fn measure(creations: usize) -> Result<()> {
    let runtime = Runtime::start()?;
    let parent = runtime.cgroup_parent().to_owned();
    let mut direct = Cri::connect(&runtime.socket(), &parent).await?;
    let pod = direct.run_pod("bench", "burstable", &[]).await?;
    let mut relays = Vec::new();
    let mut ways = vec![("direct", direct, Vec::new())];
    for (name, arguments) in RELAYS {
        let relay = Relay::start_in(&runtime, name, arguments)?;
        let cri = Cri::connect(&relay.socket(), &parent).await?;
        relays.push(relay);
        ways.push((name, cri, Vec::new()));
    }
    for number in 0..creations + WARM_UP {
        for (name, cri, times) in &mut ways {
            let container = Container::sleeping(&format!("{name}{number}")).burstable(100);
            let begun = Instant::now();
            let id = cri.create(&pod, &container).await?;
            let took = begun.elapsed();
            cri.remove(&id).await?;
            if number >= WARM_UP {
                times.push(took);
            }
        }
    }
    println!("CreateContainer, {creations} each way in turns, one at a time\n");
    println!("| way | p10 | median | p90 | median added to direct |");
    println!("| --- | ---: | ---: | ---: | ---: |");
    let mut base = None;
    for (name, _cri, times) in &mut ways {
        times.sort_unstable();
        let at = |percent: usize| {
            let time = times.get((times.len().saturating_sub(1)) * percent / 100);
            time.copied().unwrap_or_default()
        };
        let millis = |time: Duration| time.as_secs_f64() * 1e3;
        let median = millis(at(50));
        let added = median - *base.get_or_insert(median);
        println!(
            "| {name} | {:.2} ms | {median:.2} ms | {:.2} ms | {added:+.2} ms |",
            millis(at(10)),
            millis(at(90))
        );
    }
    Ok(())
}
