//! How long a look at everything takes.

use anyhow::{Context as _, Result};
use cri_resmgr::telemetry::{Telemetry, TelemetrySetup};
use resmgr_policy::ContainerId;
use resmgr_topology::{CpuId, CpuSet, Topology};
use std::{
    fs,
    path::{Path, PathBuf},
    process,
    time::Instant,
};

const CONTAINERS: u32 = 1000;
const LOOKS: usize = 30;

/// Measures and prints.
pub(crate) fn print() -> Result<()> {
    let topology = Topology::synthetic("pack:2 numa:1 core:64 pu:2")?;
    let options = TelemetrySetup {
        max_containers: CONTAINERS,
        ..TelemetrySetup::default()
    };
    let telemetry = Telemetry::start(&topology, &options);
    let folders = Folders::new(telemetry.status().reason.is_none())?;
    for (number, path) in folders.paths().enumerate() {
        // Each has eight CPUs of its own, or shares the first two with a few others.
        let first = u32::try_from(number)? * 8 % 256;
        let cpus: CpuSet = (first..first + 8).map(CpuId).collect();
        telemetry.register(
            ContainerId(format!("c{number}").as_str().into()),
            &path,
            cpus,
            CpuSet::EMPTY,
        )?;
    }
    let mut looks = Vec::new();
    for _ in 0..LOOKS {
        let started = Instant::now();
        let snapshot = telemetry.sample();
        looks.push((
            started.elapsed().as_secs_f64() * 1e6,
            snapshot.sweep_ns as f64 / 1e3,
        ));
        pause();
    }
    let whole = super::median(looks.iter().map(|look| look.0));
    let sweep = super::median(looks.iter().map(|look| look.1));
    let mut sweeps: Vec<f64> = looks.iter().map(|look| look.1).collect();
    sweeps.sort_by(f64::total_cmp);
    let at = |share: usize| sweeps.get(sweeps.len().saturating_sub(1) * share / 100);
    let [often, most] = [at(90), at(100)].map(|one| one.copied().unwrap_or(0.0));
    println!(
        "\nsweep of {CONTAINERS} containers × 256 CPUs, few active: median {sweep:.0} µs, nine in ten \
         within {often:.0} µs, most {most:.0} µs (a look with snapshot and averages: {whole:.0} µs)"
    );
    let bytes = telemetry.status().map_bytes;
    println!(
        "kernel memory of the maps: {:.1} MiB, {:.1} KiB per container",
        bytes as f64 / f64::from(1 << 20),
        bytes as f64 / 1024.0 / f64::from(CONTAINERS)
    );
    Ok(())
}

/// Empty cgroups of ours, removed when dropped.
struct Folders {
    root: PathBuf,
    name: String,
}

impl Folders {
    fn new(exact: bool) -> Result<Self> {
        anyhow::ensure!(exact, "the telemetry is not exact here; its log says why");
        let base = Path::new("/sys/fs/cgroup");
        let root = if base.join("cgroup.controllers").exists() {
            base.to_path_buf()
        } else {
            base.join("cpu")
        };
        let folders = Self {
            root,
            name: format!("resmgr-bench-{}", process::id()),
        };
        for path in std::iter::once(format!("/{}", folders.name)).chain(folders.paths()) {
            let folder = folders.root.join(&path[1..]);
            fs::create_dir(&folder)
                .with_context(|| format!("cannot create {}", folder.display()))?;
        }
        Ok(folders)
    }

    fn paths(&self) -> impl Iterator<Item = String> {
        let name = self.name.clone();
        (0..CONTAINERS).map(move |number| format!("/{name}/{number}"))
    }
}

impl Drop for Folders {
    fn drop(&mut self) {
        let own = std::iter::once(format!("/{}", self.name));
        for path in self.paths().chain(own) {
            // What was never created cannot be removed.
            let _gone = fs::remove_dir(self.root.join(&path[1..]));
        }
    }
}

fn pause() {
    std::thread::sleep(std::time::Duration::from_millis(100));
}
