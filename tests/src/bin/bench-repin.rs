//! The measurement that `cargo xtask bench repin` builds and runs: what it takes to pin many containers
//! anew after a change of the shared CPUs, by writing their cgroups as the relay does (with each write
//! read back) and by asking the runtime for each.
#![expect(clippy::print_stdout, reason = "a program for people")]

use anyhow::{Context, Result, bail};
use cri_resmgr::enforce::{CgroupSettings, Cgroups, Hierarchy, Place};
use k8s_cri::v1;
use resmgr_tests::{Container, Cri, Runtime, kernel, skip};
use std::time::{Duration, Instant};

/// Slow changes of the machine hit both ways alike when each gets its turn so often.
const ROUNDS: usize = 6;

#[tokio::main]
async fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let mut number = |default: usize| {
        let next = arguments.next();
        next.map_or(Ok(default), |text| text.parse())
            .context("expected numbers: of containers, and of those that the runtime is asked for")
    };
    let (containers, sample) = (number(500)?, number(50)?);
    if let Some(why) = skip::no_runtime() {
        bail!("nothing can be measured: {why}");
    }
    if kernel::online()? == "0" {
        bail!("two CPUs are needed to move between");
    }
    tokio::select! {
        outcome = measure(containers, sample.clamp(1, containers)) => outcome,
        _ = tokio::signal::ctrl_c() => {
            println!("\ninterrupted; everything is taken away again");
            Ok(())
        }
    }
}

async fn measure(containers: usize, sample: usize) -> Result<()> {
    let runtime = Runtime::start()?;
    let parent = runtime.cgroup_parent().to_owned();
    let mut cri = Cri::connect(&runtime.socket(), &parent).await?;
    let pod = cri.run_pod("bench", "besteffort", &[]).await?;
    println!("starting {containers} containers");
    let mut ids = Vec::new();
    for number in 0..containers {
        let container = Container::sleeping(&format!("c{number}"));
        ids.push(cri.run(&pod, &container).await?);
    }
    let linux = pod.config.linux.as_ref().context("the pod has no cgroup")?;
    let below = linux.cgroup_parent.as_str();
    let cgroups = Cgroups::new(Hierarchy::detect(None)?);
    let all = kernel::online()?;
    let lists = ["0", all.as_str()];
    let (mut written, mut asked) = (Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        let list = lists[round % 2];
        let wanted = CgroupSettings {
            cpus: list.parse()?,
            ..CgroupSettings::default()
        };
        let begun = Instant::now();
        for id in &ids {
            cgroups.write(&Place { id, parent: below }, &wanted)?;
        }
        written.push(begun.elapsed());
        for id in &ids {
            let is = kernel::allowed(&parent, id)?;
            if is != list {
                bail!("a process of {id} is on {is}, not on {list}");
            }
        }
        let other = lists[(round + 1) % 2];
        let begun = Instant::now();
        for id in ids.iter().take(sample) {
            let resources = v1::LinuxContainerResources {
                cpuset_cpus: other.into(),
                ..v1::LinuxContainerResources::default()
            };
            cri.update(id, resources).await?;
        }
        asked.push(begun.elapsed());
        for id in ids.iter().take(sample) {
            cgroups.write(&Place { id, parent: below }, &wanted)?;
        }
    }
    let each = |times: &mut Vec<Duration>, of: usize| {
        times.sort_unstable();
        let micros = |time: &Duration| time.as_secs_f64() * 1e6 / of as f64;
        let middle = times.get(times.len() / 2).map_or(0.0, micros);
        let (least, most) = (times.first(), times.last());
        (middle, least.map_or(0.0, micros), most.map_or(0.0, micros))
    };
    let (write, write_least, write_most) = each(&mut written, containers);
    let (ask, ask_least, ask_most) = each(&mut asked, sample);
    println!(
        "\n| way | µs a container (least, most of {ROUNDS} rounds) | {containers} containers, ms |"
    );
    println!("| --- | ---: | ---: |");
    let total = |each: f64| each * containers as f64 / 1000.0;
    println!(
        "| cgroup written and read back | {write:.1} ({write_least:.1}, {write_most:.1}) | {:.1} |",
        total(write)
    );
    println!(
        "| UpdateContainerResources | {ask:.0} ({ask_least:.0}, {ask_most:.0}) | {:.0} |",
        total(ask)
    );
    println!(
        "\nratio {:.0}; the runtime was asked for {sample} of the {containers} in each round",
        ask / write
    );
    Ok(())
}
