//! Cgroups of our own and loads with known behaviour to put in them.

use cri_resmgr::telemetry::{OffReason, Quality, Telemetry, TelemetrySetup};
use resmgr_topology::{CpuSet, Topology};
use std::{
    fs,
    io::{Read as _, Write as _},
    path::{Path, PathBuf},
    process::{self, Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    sync::{Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

/// One load at a time: the loads measure each other otherwise.
static ALONE: Mutex<()> = Mutex::new(());
static NUMBER: AtomicU32 = AtomicU32::new(0);

/// Telemetry that runs alone on this machine.
#[derive(Debug)]
pub(crate) struct Alone {
    telemetry: Telemetry,
    _alone: MutexGuard<'static, ()>,
}

impl std::ops::Deref for Alone {
    type Target = Telemetry;
    fn deref(&self) -> &Telemetry {
        &self.telemetry
    }
}

/// Exact telemetry with room for eight containers, or `None` and the reason on standard output.
pub(crate) fn telemetry() -> Option<(Alone, Topology)> {
    let alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let online = fs::read_to_string("/sys/devices/system/cpu/online").unwrap();
    let online: CpuSet = online.trim().parse().unwrap();
    let mut topology =
        Topology::synthetic(&format!("pack:1 numa:1 core:{} pu:1", online.len())).unwrap();
    topology.online = online;
    let options = TelemetrySetup {
        enabled: true,
        max_containers: 8,
        ..TelemetrySetup::default()
    };
    let checked = |telemetry: &Telemetry| {
        let reason = &telemetry.status().reason;
        !matches!(reason, Some(OffReason::SelfCheck { .. }))
    };
    // Where the host takes a CPU away in the wrong moment, a check may fail; wrong numbers fail it always.
    let mut telemetry = Telemetry::start(&topology, &options);
    for _ in 0..2 {
        if !checked(&telemetry) {
            println!("once more: {:?}", telemetry.status().reason);
            telemetry = Telemetry::start(&topology, &options);
        }
    }
    match &telemetry.status().reason {
        None => assert_eq!(telemetry.status().quality, Quality::Exact),
        // A program the verifier refuses, or numbers that are wrong, are what this is to find.
        Some(reason @ OffReason::Refused { why, .. }) if !why.contains("not permitted") => {
            panic!("{reason}")
        }
        Some(reason @ (OffReason::SelfCheck { .. } | OffReason::MissingField { .. })) => {
            panic!("{reason}")
        }
        Some(reason) => {
            skip("exact telemetry", &reason.to_string());
            return None;
        }
    }
    Some((
        Alone {
            telemetry,
            _alone: alone,
        },
        topology,
    ))
}

/// Says that something could not be tested here; the test command repeats it at the end.
pub(crate) fn skip(subject: &str, why: &str) {
    println!("skipped: {subject}: {why}");
    if let Some(file) = std::env::var_os("RESMGR_SKIPPED") {
        let file = fs::OpenOptions::new().append(true).create(true).open(file);
        writeln!(file.unwrap(), "{subject}: {why}").unwrap();
    }
}

/// Waits for what comes sooner or later, and on a busy machine later.
pub(crate) fn until(state: &str, is: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(120);
    while !is() {
        assert!(Instant::now() < deadline, "never: {state}");
        thread::sleep(Duration::from_millis(1));
    }
}

/// What the hypervisor has taken from the CPUs since the machine started, nanoseconds.
pub(crate) fn stolen_ns() -> u64 {
    let stat = fs::read_to_string("/proc/stat").unwrap();
    let ticks = stat.split_whitespace().nth(8).unwrap();
    ticks.parse::<u64>().unwrap() * 10_000_000
}

/// A cgroup of ours, removed when dropped.
#[derive(Debug)]
pub(crate) struct Cgroup {
    /// Within the hierarchy.
    pub(crate) path: String,
    folders: Vec<PathBuf>,
}

impl Cgroup {
    pub(crate) fn new(name: &str) -> Self {
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        Self::at(format!("/resmgr-test-{}-{name}-{number}", process::id()))
    }

    pub(crate) fn child(&self, name: &str) -> Self {
        // Version 2 gives a cgroup a place of its own in the CPU controller only so; version 1 has no such file.
        fs::write(self.folders[0].join("cgroup.subtree_control"), "+cpu").ok();
        Self::at(format!("{}/{name}", self.path))
    }

    fn at(path: String) -> Self {
        let base = Path::new("/sys/fs/cgroup");
        let roots = if base.join("cgroup.controllers").exists() {
            fs::write(base.join("cgroup.subtree_control"), "+cpu").ok();
            vec![base.to_path_buf()]
        } else {
            let mut roots = vec![base.join("cpu"), base.join("cpuacct")];
            roots.retain(|root| root.exists());
            // `cpu` and `cpuacct` may be one mount under two names.
            roots.dedup_by_key(|root| fs::canonicalize(root).unwrap());
            roots
        };
        let folders: Vec<_> = roots.iter().map(|root| root.join(&path[1..])).collect();
        for folder in &folders {
            fs::create_dir(folder).unwrap();
        }
        Self { path, folders }
    }

    /// So many empty cgroups below, each with an id of its own in the CPU controller. They take some 25 kB each.
    pub(crate) fn crowd(&self, cgroups: u32) -> Crowd {
        let folder = self.folders[0].clone();
        let control = folder.join("cgroup.subtree_control");
        if control.exists() {
            fs::write(control, "+cpu").unwrap();
        }
        let mut crowd = Crowd { folder, cgroups: 0 };
        for number in 0..cgroups {
            fs::create_dir(crowd.folder.join(number.to_string())).unwrap();
            crowd.cgroups += 1;
        }
        crowd
    }

    fn read(&self, file: &str) -> Option<String> {
        self.folders
            .iter()
            .find_map(|folder| fs::read_to_string(folder.join(file)).ok())
    }

    fn stat(&self, field: &str) -> Option<u64> {
        let stat = self.read("cpu.stat")?;
        stat.lines()
            .find_map(|line| line.strip_prefix(field)?.trim().parse().ok())
    }

    /// CPU time as the kernel has it.
    pub(crate) fn run_ns(&self) -> u64 {
        match self.read("cpuacct.usage") {
            Some(usage) => usage.trim().parse().unwrap(),
            None => self.stat("usage_usec ").unwrap() * 1000,
        }
    }

    pub(crate) fn throttled_ns(&self) -> u64 {
        self.stat("throttled_time ")
            .unwrap_or_else(|| self.stat("throttled_usec ").unwrap() * 1000)
    }

    pub(crate) fn quota(&self, quota_us: i64, period_us: u64) {
        let folder = &self.folders[0];
        if folder.join("cpu.max").exists() {
            let quota = if quota_us < 0 {
                "max".to_owned()
            } else {
                quota_us.to_string()
            };
            fs::write(folder.join("cpu.max"), format!("{quota} {period_us}")).unwrap();
        } else {
            fs::write(folder.join("cpu.cfs_period_us"), period_us.to_string()).unwrap();
            fs::write(folder.join("cpu.cfs_quota_us"), quota_us.to_string()).unwrap();
        }
    }

    fn tasks(&self) -> Vec<u32> {
        let tasks = self
            .read("cgroup.threads")
            .or_else(|| self.read("tasks"))
            .unwrap();
        tasks
            .split_whitespace()
            .map(|tid| tid.parse().unwrap())
            .collect()
    }

    /// Voluntary and involuntary switches of the threads that live now.
    pub(crate) fn switches(&self) -> (u64, u64) {
        let of = |tid: u32, field: &str| -> u64 {
            let status = fs::read_to_string(format!("/proc/{tid}/status")).unwrap();
            let line = status
                .lines()
                .find_map(|line| line.strip_prefix(field))
                .unwrap();
            line.trim().parse().unwrap()
        };
        self.tasks()
            .into_iter()
            .fold((0, 0), |(voluntary, involuntary), tid| {
                (
                    voluntary + of(tid, "voluntary_ctxt_switches:"),
                    involuntary + of(tid, "nonvoluntary_ctxt_switches:"),
                )
            })
    }

    /// Run-queue wait of the threads that live now.
    pub(crate) fn wait_ns(&self) -> u64 {
        let of = |tid: u32| -> u64 {
            let line = fs::read_to_string(format!("/proc/{tid}/schedstat")).unwrap();
            line.split_whitespace().nth(1).unwrap().parse().unwrap()
        };
        self.tasks().into_iter().map(of).sum()
    }
}

/// Empty cgroups, removed when dropped.
#[derive(Debug)]
pub(crate) struct Crowd {
    folder: PathBuf,
    cgroups: u32,
}

impl Drop for Crowd {
    fn drop(&mut self) {
        for number in 0..self.cgroups {
            fs::remove_dir(self.folder.join(number.to_string())).ok();
        }
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        let deadline = Instant::now() + Duration::from_secs(5);
        for folder in &self.folders {
            // A process that was just killed leaves its cgroup a little later.
            while fs::remove_dir(folder).is_err() && Instant::now() < deadline {
                thread::yield_now();
            }
        }
    }
}

/// What a child does. Plain shell tools: the interpreter is what every Debian has.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Load {
    /// Never sleeps.
    Spin,
    /// Two processes that pass a byte to and fro.
    PingPong,
    /// Moves this many times to the next CPU, beginning with the CPU it is on, then ends.
    Hops(u32),
    /// Runs for 50 ms of CPU time, then ends.
    Burst,
}

/// A running load, killed with all its children when dropped.
#[derive(Debug)]
pub(crate) struct Child {
    process: process::Child,
}

impl Child {
    /// Starts `load` inside `cgroup`: it enters before it becomes the load.
    pub(crate) fn start(cgroup: &Cgroup, load: Load, cpu: Option<u32>) -> Self {
        let code = match load {
            Load::Spin => "while True: pass".to_owned(),
            Load::PingPong => "
a, b = os.pipe(), os.pipe()
if os.fork():
    while True:
        os.write(a[1], b'x'); os.read(b[0], 1)
else:
    while True:
        os.read(a[0], 1); os.write(b[1], b'x')"
                .to_owned(),
            Load::Hops(hops) => format!(
                "
for hop in range({hops}):
    os.sched_setaffinity(0, {{cpus[hop % len(cpus)]}})
"
            ),
            Load::Burst => "
until = time.process_time() + 0.05
while time.process_time() < until: pass"
                .to_owned(),
        };
        let enter: String = cgroup
            .folders
            .iter()
            .map(|folder| {
                format!(
                    "open('{}/cgroup.procs', 'w').write(str(os.getpid()))\n",
                    folder.display()
                )
            })
            .collect();
        let pin = cpu.map_or(String::new(), |cpu| {
            format!("os.sched_setaffinity(0, {{{cpu}}})\n")
        });
        // What runs now is booked to the cgroup it was in when it was switched in: hence the nap.
        // Pinned first: what runs in the cgroup has been where it belongs from the beginning.
        let program = format!(
            "import os, time\ncpus = sorted(os.sched_getaffinity(0))\n{pin}{enter}time.sleep(0.01)\nprint('in', flush=True)\n{code}\n"
        );
        let mut process = Command::new("python3")
            .args(["-c", &program])
            .stdout(Stdio::piped())
            .process_group_of_its_own()
            .spawn()
            .unwrap();
        let mut ready = [0; 3];
        process
            .stdout
            .as_mut()
            .unwrap()
            .read_exact(&mut ready)
            .unwrap();
        Self { process }
    }

    fn signal(&self, signal: &str) {
        let group = format!("-{}", self.process.id());
        Command::new("kill")
            .args([signal, "--", &group])
            .status()
            .unwrap();
    }

    /// Threads of its processes, by their places in `/proc`.
    fn threads(&self) -> Vec<PathBuf> {
        let group = self.process.id().to_string();
        let all = fs::read_dir("/proc").unwrap().flatten();
        let ours = all.filter(|process| {
            let stat = fs::read_to_string(process.path().join("stat")).unwrap_or_default();
            let after_name = stat.rsplit(") ").next().unwrap_or_default();
            after_name.split(' ').nth(2) == Some(&group)
        });
        ours.filter_map(|process| fs::read_dir(process.path().join("task")).ok())
            .flat_map(|threads| threads.flatten().map(|thread| thread.path()))
            .collect()
    }

    /// Stops it without ending it: the kernel's counters for it stay readable and stand still.
    pub(crate) fn freeze(&self) {
        self.signal("-STOP");
        until("the load stops", || {
            self.threads().iter().all(|thread| is_off(thread, 'T'))
        });
    }

    /// Lets it go on.
    pub(crate) fn thaw(&self) {
        self.signal("-CONT");
    }

    /// Waits until it has ended by itself and is counted completely.
    pub(crate) fn wait(mut self) {
        self.leaves();
        assert!(self.process.wait().unwrap().success());
    }

    /// Waits until the kernel has switched it out for the last time, which is after its end is reported.
    fn leaves(&self) {
        let leader = format!("/proc/{}", self.process.id());
        until("the load ends", || is_off(Path::new(&leader), 'Z'));
    }

    /// Ends it; it is counted completely then.
    pub(crate) fn stop(self) {
        self.signal("-KILL");
        self.leaves();
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        if self.process.try_wait().is_ok_and(|ended| ended.is_none()) {
            self.signal("-KILL");
        }
        self.process.wait().ok();
    }
}

/// Whether a thread is in this state and neither on a CPU nor waiting for a CPU: it may be about to leave.
fn is_off(thread: &Path, state: char) -> bool {
    let stat = fs::read_to_string(thread.join("stat")).unwrap_or_default();
    let call = fs::read_to_string(thread.join("syscall"));
    let after_name = stat.rsplit(") ").next();
    after_name.is_some_and(|rest| rest.starts_with(state))
        && !call.is_ok_and(|call| call.starts_with("running"))
}

trait OwnGroup {
    fn process_group_of_its_own(&mut self) -> &mut Self;
}

impl OwnGroup for Command {
    fn process_group_of_its_own(&mut self) -> &mut Self {
        std::os::unix::process::CommandExt::process_group(self, 0)
    }
}

/// Memory that can be had, mebibytes.
pub(crate) fn available_mib() -> u64 {
    let memory = fs::read_to_string("/proc/meminfo").unwrap();
    let mut lines = memory.lines();
    let kib = lines.find_map(|line| line.strip_prefix("MemAvailable:")?.strip_suffix("kB"));
    kib.unwrap().trim().parse::<u64>().unwrap() / 1024
}
