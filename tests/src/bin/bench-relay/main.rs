//! The measurement that `cargo xtask bench relay` builds and runs: the same calls to one containerd,
//! direct, through a byte copier and through the relay, in interleaved rounds.
#![expect(clippy::print_stdout, reason = "a program for people")]

mod load;
mod table;
mod way;

use anyhow::{Context, Result, bail};
use load::Sample;
use resmgr_tests::{Container, Cri, Runtime, skip};

/// The calls: `ListContainers` is one that policies intercept.
const METHODS: [&str; 2] = [
    "/runtime.v1.RuntimeService/Version",
    "/runtime.v1.RuntimeService/ListContainers",
];
/// Calls at once.
const CONCURRENCY: [usize; 3] = [1, 16, 64];
/// Slow changes of the machine hit every way alike when each gets its turn so often.
const ROUNDS: usize = 8;
/// Containers in the list.
const CONTAINERS: usize = 5;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let calls: usize = arguments
        .next()
        .map_or(Ok(20_000), |text| text.parse())
        .context("the first argument is a number of calls")?;
    let million = arguments.next().is_some_and(|word| word == "million");
    if let Some(why) = skip::no_relay() {
        bail!("nothing can be measured: {why}");
    }
    tokio::select! {
        outcome = measure(calls, million) => outcome,
        _ = tokio::signal::ctrl_c() => {
            println!("\ninterrupted; everything is taken away again");
            Ok(())
        }
    }
}

async fn measure(calls: usize, million: bool) -> Result<()> {
    let runtime = Runtime::start()?;
    let mut cri = Cri::connect(&runtime.socket(), runtime.cgroup_parent()).await?;
    let pod = cri.run_pod("bench", "", &[]).await?;
    for number in 0..CONTAINERS {
        cri.run(&pod, &Container::sleeping(&format!("c{number}")))
            .await?;
    }
    let ways = way::all(&runtime).await?;
    for way in &ways {
        for method in METHODS {
            load::run(&way.wire, method, 16, 400).await?;
        }
    }
    println!(
        "{calls} calls a cell in {ROUNDS} rounds, one client connection, {CONTAINERS} containers"
    );
    for method in METHODS {
        for at_once in CONCURRENCY {
            let mut samples = vec![Sample::default(); ways.len()];
            for _ in 0..ROUNDS {
                for (way, sample) in ways.iter().zip(&mut samples) {
                    sample.add(load::run(&way.wire, method, at_once, calls / ROUNDS).await?);
                }
            }
            table::print(method, at_once, &ways, &mut samples);
        }
    }
    println!("\nMemory of the relays after it (resident, peak, in KiB):");
    for way in &ways {
        if let Some(memory) = way.memory()? {
            println!("  {:<12} {memory}", way.name);
            if way.dropped() > 0 {
                println!("  {:<12} left out {} events of the dump", "", way.dropped());
            }
        }
    }
    if let Some(way) = ways
        .iter()
        .find(|way| way.name == "null")
        .filter(|_| million)
    {
        println!("\nA million further calls through one relay:");
        for tenth in 1..=10_u32 {
            load::run(&way.wire, METHODS[(tenth % 2) as usize], 16, 100_000).await?;
            println!(
                "  {:>7} calls {}",
                tenth * 100_000,
                way.memory()?.unwrap_or_default()
            );
        }
    }
    Ok(())
}
