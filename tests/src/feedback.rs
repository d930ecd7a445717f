//! The same mix of containers under one policy after the other, measured by the daemon's own telemetry:
//! what the feedback of measurements into placement is worth.

mod model;
mod table;

pub use model::{Modelled, behaviour, model, trace};
pub use table::table;

use crate::{Container, Cri, Pod, Relay, Runtime, kernel};
use anyhow::{Context as _, Result, bail};
use serde_json::Value;
use std::{
    collections::BTreeMap,
    fmt::Write as _,
    path::Path,
    sync::atomic::{AtomicUsize, Ordering},
    time::{Duration, Instant},
};

/// Half-life of the measurements: short, so that moves are judged while one waits.
pub const HALF_LIFE: Duration = Duration::from_secs(2);
/// What a run is given before it is measured: all it may decide is decided by then.
const SETTLE: Duration = Duration::from_secs(20);
/// A run in which containers move is given longer, until none has moved, or awaited its verdict, for so long.
const QUIET: Duration = Duration::from_secs(14);
/// A run that never settles is measured all the same.
const SETTLE_MOST: Duration = Duration::from_secs(150);

/// How often a relay is started until its self-check passes: on a busy host four of five fail.
const ATTEMPTS: usize = 12;

/// One container of the mix.
#[derive(Clone, Copy, Debug)]
pub struct Part {
    /// Its name, and its pod's.
    pub name: &'static str,
    /// What it does: an argument of the `workload` program.
    pub class: &'static str,
    /// Its threads.
    pub threads: u32,
    /// CPU request, thousandths. Below a whole one: no policy gives it CPUs of its own.
    pub milli: i64,
}

/// Chatty, latency-bound, batch and bursty ones together; some seven CPUs of work.
pub const MIX: [Part; 5] = [
    part("serve", "latency", 2, 400),
    part("crunch", "batch", 1, 900),
    part("burst", "bursty", 2, 700),
    part("chat-a", "chatty", 6, 900),
    part("chat-b", "chatty", 6, 800),
];

const fn part(name: &'static str, class: &'static str, threads: u32, milli: i64) -> Part {
    Part {
        name,
        class,
        threads,
        milli,
    }
}

/// A policy and whether it may move what runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Way {
    /// Name of the policy.
    pub policy: &'static str,
    /// `off`, `shadow` or `on`.
    pub feedback: &'static str,
}

impl Way {
    /// Every one that says something: `null` moves nothing whatever it is told.
    pub const ALL: [Self; 7] = [
        way("null", "off"),
        way("static-plus", "off"),
        way("static-plus", "shadow"),
        way("static-plus", "on"),
        way("static-pools", "off"),
        way("static-pools", "shadow"),
        way("static-pools", "on"),
    ];

    /// Whether the chatty ones of the mix go on crossing sockets: nothing confines them. In the guest and on
    /// the model, those that cross do so at least ten times as often as those that do not.
    #[must_use]
    pub fn crosses(self) -> bool {
        match self.policy {
            "null" => true,
            "static-plus" => self.feedback != "on",
            _ => false,
        }
    }
}

/// A way to run the mix.
#[must_use]
pub const fn way(policy: &'static str, feedback: &'static str) -> Way {
    Way { policy, feedback }
}

/// What one class of containers went through while it was measured.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// Migrations between packages.
    pub crossed: u64,
    /// Migrations of every kind.
    pub migrated: u64,
    /// Run-queue wait caused by others, nanoseconds.
    pub waited_ns: u64,
    /// CPU time, nanoseconds.
    pub ran_ns: u64,
}

impl Seen {
    /// Run-queue wait in each second, milliseconds: of all threads together. What each way is asked to do
    /// is the same, so that this compares them.
    #[must_use]
    pub fn wait_ms_per_s(&self, during: Duration) -> u64 {
        self.waited_ns / 1_000 / u64::try_from(during.as_millis()).unwrap_or(u64::MAX).max(1)
    }

    /// Of the time in which its threads wanted to run, that which they waited, percent. Where the clock of
    /// the machine that emulates shows through, it does so in both.
    #[must_use]
    pub fn waiting_percent(&self) -> u64 {
        let wanted = self.waited_ns.saturating_add(self.ran_ns).max(1);
        self.waited_ns.saturating_mul(100) / wanted
    }
}

/// By how many percent of the time in which a class wanted to run [`Seen::waiting_percent`] may be worse before
/// it counts. It is much because the host's other work is in it: without any the chatty ones wait for 11 to 26
/// percent, under whatever policy, and for up to 50 while it is busiest.
pub const NOISE_PERCENT: u64 = 30;

/// What came of one way.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Which.
    pub way: Way,
    /// By class of container.
    pub classes: BTreeMap<&'static str, Seen>,
    /// Changes of `cpuset.cpus` of running containers, by the kernel.
    pub moves: usize,
    /// Moves the daemon says it made or would have made, and of those the ones taken back.
    pub decided: usize,
    /// Of those the ones taken back.
    pub undone: usize,
    /// What each promised and what was seen of it, as explained.
    pub judged: Vec<String>,
    /// How long it was measured.
    pub during: Duration,
}

impl Outcome {
    /// Migrations between packages, of all.
    #[must_use]
    pub fn crossed(&self) -> u64 {
        self.classes.values().map(|seen| seen.crossed).sum()
    }
}

/// Runs the mix one way and measures it for `during`, once it has settled.
///
/// # Errors
/// When the runtime or the relay fails, or the telemetry is not exact.
pub async fn run(runtime: &Runtime, way: Way, during: Duration) -> Result<Outcome> {
    let pools = runtime.folder().join("feedback-pools.yaml");
    std::fs::write(&pools, pools_of_nodes()?)?;
    let half_life = format!("{}s", HALF_LIFE.as_secs());
    let pools = pools.display().to_string();
    let mut arguments = vec!["--policy", way.policy, "--rebalance", way.feedback];
    arguments.extend(["--telemetry-half-life", &half_life]);
    match way.policy {
        "static-plus" => arguments.extend(["--reserved-resources", "cpu=1000m"]),
        "static-pools" => arguments.extend(["--static-pools-conf-file", &pools]),
        _ => {}
    }
    // Nobody remembers what became of an earlier one.
    static COUNT: AtomicUsize = AtomicUsize::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    let name = format!("{}-{}-{count}", way.policy, way.feedback);
    let relay = exact(runtime, &name, &arguments).await?;
    let mut cri = Cri::connect(&relay.socket(), runtime.cgroup_parent()).await?;
    let ran = Box::pin(measured(runtime, &relay, &mut cri, way, during)).await;
    ran.with_context(|| format!("{way:?}\n{}", relay.log()))
}

async fn measured(
    runtime: &Runtime,
    relay: &Relay,
    cri: &mut Cri,
    way: Way,
    during: Duration,
) -> Result<Outcome> {
    let workload = crate::built("workload").context("the workload program is not built")?;
    let mut direct = Cri::connect(&runtime.socket(), runtime.cgroup_parent()).await?;
    let sandbox = direct.run_pod(way.policy, "burstable", &[]).await?;
    let mut running = Vec::new();
    for part in MIX {
        let threads = part.threads.to_string();
        let container = Container::program(part.name, &workload, &[part.class, &threads]);
        let pod = guise(&sandbox, part.name);
        running.push(cri.create(&pod, &container.burstable(part.milli)).await?);
    }
    // At once, as far as that is possible: a move that is watched while others arrive is judged by them.
    let mut sight = Sight::new(runtime);
    for id in &running {
        cri.start(id).await?;
    }
    for id in &running {
        sight.follow(id)?;
    }
    sight.settle(relay, way).await?;
    let before = top(relay).await?;
    let start = Instant::now();
    while start.elapsed() < during {
        tokio::time::sleep(Duration::from_secs(1)).await;
        sight.look()?;
    }
    let during = start.elapsed();
    let after = top(relay).await?;
    let classes = gained(&before, &after)?;
    let (mut decided, mut undone, mut judged) = (0, 0, Vec::new());
    for part in MIX.iter().filter(|_| way.policy != "null") {
        let told = relay.ask(&["explain", part.name])?;
        decided += told.matches(": moved because of ").count();
        undone += told.matches(": move undone").count();
        let lines = told
            .lines()
            .filter(|line| line.contains("because promised "));
        judged.extend(lines.map(|line| format!("{}: {}", part.name, line.trim())));
    }
    for id in &running {
        cri.stop(id).await?;
        cri.remove(id).await?;
    }
    direct.remove_pod(&sandbox).await?;
    Ok(Outcome {
        way,
        classes,
        moves: sight.moves,
        decided,
        undone,
        judged,
        during,
    })
}

/// Starts a relay whose telemetry is exact. Where one thread emulates all CPUs, the self-check may find
/// that what it compares was not read in one instant: then, and only then, it is started again.
///
/// # Errors
/// When the telemetry is not exact at the last attempt either or for another reason, or the relay does not
/// start.
pub async fn exact(runtime: &Runtime, name: &str, arguments: &[&str]) -> Result<Relay> {
    let arguments = [arguments, &["--ebpf-telemetry", "--dump", "reset"]].concat();
    let mut view = Value::Null;
    for _ in 0..ATTEMPTS {
        let relay = Relay::start_in(runtime, name, &arguments)?;
        crate::eventually(Duration::from_secs(120), async || {
            // The relay listens before the program is loaded; the views come last.
            let text = relay.ask(&["top", "--once", "--json"]).unwrap_or_default();
            view = serde_json::from_str(&text).unwrap_or_default();
            view["quality"].is_string()
        })
        .await;
        if view["quality"] == "exact" {
            return Ok(relay);
        }
        let reason = view["reason"].as_str().unwrap_or_default();
        if !reason.starts_with("self-check failed") {
            break;
        }
    }
    let log = std::fs::read_to_string(runtime.folder().join(name).join("log"));
    let log = log.unwrap_or_default();
    bail!("the telemetry is not exact: {view:#}\n{log}")
}

/// A sandbox as if it were another pod, in the same cgroup: CRI sends the pod's configuration with every
/// container, and where everything is emulated sandboxes take long to make.
#[must_use]
pub fn guise(sandbox: &Pod, name: &str) -> Pod {
    let mut pod = sandbox.clone();
    if let Some(metadata) = &mut pod.config.metadata {
        metadata.name = name.to_owned();
    }
    pod
}

/// What the kernel's cpusets say, look by look.
#[derive(Debug)]
pub struct Sight<'a> {
    runtime: &'a Runtime,
    cpus: BTreeMap<String, String>,
    /// Changes seen since the first look.
    pub moves: usize,
    last_change: Instant,
}

impl<'a> Sight<'a> {
    /// Looks at nobody yet.
    #[must_use]
    pub fn new(runtime: &'a Runtime) -> Self {
        Self {
            runtime,
            cpus: BTreeMap::new(),
            moves: 0,
            last_change: Instant::now(),
        }
    }

    /// Looks at this container too from now on, and at all once.
    ///
    /// # Errors
    /// When a container's cgroup is not there.
    pub fn follow(&mut self, id: &str) -> Result<()> {
        let now = kernel::cpuset_cpus(self.runtime.cgroup_parent(), id)?;
        self.cpus.insert(id.to_owned(), now);
        self.look()
    }

    /// Looks once.
    ///
    /// # Errors
    /// When a container's cgroup is not there.
    pub fn look(&mut self) -> Result<()> {
        for (id, known) in &mut self.cpus {
            let now = kernel::cpuset_cpus(self.runtime.cgroup_parent(), id)?;
            if *known == now {
                continue;
            }
            self.moves += 1;
            self.last_change = Instant::now();
            *known = now;
        }
        Ok(())
    }

    async fn settle(&mut self, relay: &Relay, way: Way) -> Result<()> {
        let start = Instant::now();
        self.look()?;
        loop {
            tokio::time::sleep(Duration::from_secs(1)).await;
            self.look()?;
            let mut quiet = way.feedback != "on" || self.last_change.elapsed() >= QUIET;
            if quiet && way.feedback == "on" && is_watched(relay)? {
                // The next move comes after its verdict.
                self.last_change = Instant::now();
                quiet = false;
            }
            if (start.elapsed() >= SETTLE && quiet) || start.elapsed() >= SETTLE_MOST {
                return Ok(());
            }
        }
    }
}

/// Whether a move awaits its verdict.
fn is_watched(relay: &Relay) -> Result<bool> {
    for part in MIX {
        let told = relay.ask(&["explain", part.name])?;
        let count = |text| told.matches(text).count();
        if count(": moved because of ") > count(": move kept") + count(": move undone") {
            return Ok(true);
        }
    }
    Ok(false)
}

/// What `top` says; exact, and of every container of the mix.
async fn top(relay: &Relay) -> Result<Value> {
    let mut view = Value::Null;
    let all = crate::eventually(Duration::from_secs(60), async || {
        let Ok(text) = relay.ask(&["top", "--once", "--json"]) else {
            return false;
        };
        view = serde_json::from_str(&text).unwrap_or_default();
        MIX.iter().all(|part| of(&view, part.name).is_some())
    })
    .await;
    if !all || view["quality"] != "exact" {
        bail!("the telemetry does not follow the whole mix exactly: {view:#}");
    }
    Ok(view)
}

fn of<'a>(view: &'a Value, name: &str) -> Option<&'a Value> {
    let mut all = view["containers"].as_array()?.iter();
    all.find(|one| one["container"] == name)
}

fn gained(before: &Value, after: &Value) -> Result<BTreeMap<&'static str, Seen>> {
    let mut classes: BTreeMap<&'static str, Seen> = BTreeMap::new();
    for part in MIX {
        let both = of(before, part.name).zip(of(after, part.name));
        let (first, last) = both.context("a container is gone")?;
        let gain = |read: &dyn Fn(&Value) -> u64| read(last).saturating_sub(read(first));
        let number = |value: &Value| value.as_u64().unwrap_or(0);
        let sum = |value: &Value| match value {
            Value::Array(all) => all.iter().map(number).sum(),
            Value::Object(all) => all.values().map(number).sum(),
            _ => 0,
        };
        let seen = classes.entry(part.class).or_default();
        seen.crossed += gain(&|one| number(&one["migrations"][4]));
        seen.migrated += gain(&|one| sum(&one["migrations"]));
        seen.waited_ns += gain(&|one| number(&one["contention_ns"]));
        seen.ran_ns += gain(&|one| sum(&one["run_ns"]));
    }
    Ok(classes)
}

/// A pool with a shared list for each NUMA node of this machine.
///
/// # Errors
/// When sysfs does not say which there are.
pub fn pools_of_nodes() -> Result<String> {
    let mut text = String::from("pools:\n  shared:\n    cpuLists:\n");
    let nodes = Path::new("/sys/devices/system/node");
    let mut found: Vec<_> = std::fs::read_dir(nodes)?
        .flatten()
        .filter_map(|entry| {
            let name = entry.file_name().to_string_lossy().into_owned();
            name.strip_prefix("node")?.parse::<u32>().ok()
        })
        .collect();
    found.sort_unstable();
    for node in found {
        let list = std::fs::read_to_string(nodes.join(format!("node{node}/cpulist")))?;
        let list = list.trim();
        let Some(first) = list.split(['-', ',']).next().filter(|one| !one.is_empty()) else {
            continue; // memory alone
        };
        let package = std::fs::read_to_string(format!(
            "/sys/devices/system/cpu/cpu{first}/topology/physical_package_id"
        ))?;
        writeln!(
            text,
            "      - {{Socket: {}, Cpuset: \"{list}\"}}",
            package.trim()
        )?;
    }
    Ok(text)
}
