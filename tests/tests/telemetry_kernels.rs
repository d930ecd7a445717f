//! One object for several kernels: in guests of two sockets and two kernels, each with cgroup v2, the same
//! program loads, passes its self-check, and has the kernel's own numbers.
//!
//! Everything is compared between two looks at containers that stand still (`SIGSTOP`), so that nothing is
//! in flight and no time of the emulated machine matters: both sides book the same clock.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::large_futures,
    reason = "a test program: helpers fail the test and say what was found"
)]

use nix::{
    errno::Errno,
    sched::{CpuSet as Mask, sched_setaffinity},
    sys::signal::{Signal, kill, killpg},
    unistd::Pid,
};
use resmgr_tests::{Container, Cri, Guest, Relay, Runtime, eventually, feedback, kernel};
use serde_json::Value;
use std::{
    collections::BTreeSet,
    fs,
    os::unix::process::CommandExt as _,
    path::PathBuf,
    process::{Child, Command},
    time::Duration,
};

const LIMIT: Duration = Duration::from_secs(120);
/// Spinners that share one CPU.
const SPINNERS: usize = 3;
const THEIR_CPU: usize = 5;

/// Two sockets of two NUMA nodes: hops to the sibling, the core, the node and the socket next door.
#[tokio::test(flavor = "multi_thread")]
async fn on_kernel_6_1_the_numbers_are_the_kernels_and_each_hop_counts_once() {
    let guest = Guest {
        kernel: "6.1",
        ..Guest::n4c16()
    };
    let name = "on_kernel_6_1_the_numbers_are_the_kernels_and_each_hop_counts_once";
    if guest.runs(name, &[]).unwrap() {
        agrees("6.1.", [true, true, false, true, true]).await;
    }
}

/// Two sockets of two dies, each socket one NUMA node: the last-level cache next door is near memory.
#[tokio::test(flavor = "multi_thread")]
async fn on_kernel_6_12_the_numbers_are_the_kernels_and_each_hop_counts_once() {
    let guest = Guest {
        nodes: 1,
        cores: 4,
        dies: 2,
        ..Guest::n4c16()
    };
    let name = "on_kernel_6_12_the_numbers_are_the_kernels_and_each_hop_counts_once";
    if guest.runs(name, &[]).unwrap() {
        agrees("6.12.", [true, true, true, false, true]).await;
    }
}

/// The whole comparison; `classes` of migration are possible on this machine.
async fn agrees(release: &str, classes: [bool; 5]) {
    let running = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    assert!(running.starts_with(release), "{running}");
    assert!(kernel::unified(), "not cgroup v2");
    // One container for all loads, which enter its cgroup: to start one takes an emulated CPU long.
    let bench = Bench::new().await;
    cpu_time_and_waits_of_spinners_that_share_a_cpu(&bench).await;
    switches_of_a_pair_that_talks(&bench).await;
    time_throttled_by_a_quota(&bench).await;
    every_hop(&bench, classes).await;
    // The machine goes off, and all with it: nothing needs to be stopped one by one.
    Box::leak(Box::new(bench));
}

async fn cpu_time_and_waits_of_spinners_that_share_a_cpu(bench: &Bench) {
    let loads: Vec<_> = (0..SPINNERS)
        .map(|_| bench.start("while :; do :; done"))
        .collect();
    loads.iter().for_each(|load| pin(load.pid(), THEIR_CPU));
    let (ours, books) = bench.at_rest().await;
    bench.signal(Signal::SIGCONT);
    bench
        .until(|now| now.run_ns - ours.run_ns > 1_000_000_000)
        .await;
    // Looking takes time: ours must lie between two of the kernel's.
    let earlier = bench.books().run_ns - books.run_ns;
    let in_flight = bench.look().await.run_ns - ours.run_ns;
    // What runs is in the kernel's as of its last tick, which an emulated CPU may be late with: as of the next.
    let mut later = bench.books().run_ns;
    let told = eventually(LIMIT, async || {
        let before = std::mem::replace(&mut later, bench.books().run_ns);
        later != before
    })
    .await;
    assert!(told, "the kernel books nothing: {later}");
    let later = later - books.run_ns;
    let (least, most) = (ratio(in_flight, earlier), ratio(in_flight, later));
    assert!(
        least >= 0.99 && most <= 1.01,
        "in flight: {earlier} {in_flight} {later}"
    );
    let (ours, books) = bench.gained(ours, books).await;
    println!("spinners: {ours:?}\n  kernel: {books:?}");
    near("CPU time", ours.run_ns, books.run_ns, 0.01);
    near("wait", ours.wait_ns, books.wait_ns, 0.005);
    near("involuntary", ours.involuntary, books.involuntary, 0.001);
    assert!(books.wait_ns > books.run_ns, "they did not share a CPU");
    assert!(books.involuntary > 50, "{books:?}");
}

async fn switches_of_a_pair_that_talks(bench: &Bench) {
    let _load = bench.start("yes | cat >/dev/null");
    let (ours, books) = bench.at_rest().await;
    bench.signal(Signal::SIGCONT);
    bench
        .until(|now| now.voluntary - ours.voluntary > 500)
        .await;
    let (ours, books) = bench.gained(ours, books).await;
    println!("pair: {ours:?}\n  kernel: {books:?}");
    assert!(books.voluntary > 500, "{books:?}");
    near("voluntary", ours.voluntary, books.voluntary, 0.001);
    let switches = |voluntary, involuntary| voluntary + involuntary;
    near(
        "switches",
        switches(ours.voluntary, ours.involuntary),
        switches(books.voluntary, books.involuntary),
        0.001,
    );
    near("CPU time", ours.run_ns, books.run_ns, 0.01);
}

async fn time_throttled_by_a_quota(bench: &Bench) {
    let load = bench.start("while :; do :; done");
    arrive(load.pid(), THEIR_CPU + 2).await;
    let (ours, books) = bench.at_rest().await;
    // The kernel counts a queue that its last thread has left as throttled until the period ends: none leaves
    // while there is a quota.
    bench.quota("30000 100000");
    bench.signal(Signal::SIGCONT);
    bench
        .until(|now| now.throttled_ns - ours.throttled_ns > 1_000_000_000)
        .await;
    bench.quota("max 100000");
    let (ours, books) = bench.gained(ours, books).await;
    println!("quota: {ours:?}\n  kernel: {books:?}");
    near("throttled", ours.throttled_ns, books.throttled_ns, 0.02);
    // To the kernel the throttling was a wait, of each thread that was kept waiting; here it is told apart.
    near(
        "wait, throttled or not",
        ours.wait_ns + ours.throttled_wait_ns,
        books.wait_ns,
        0.005,
    );
}

/// A spinner is sent from every CPU to every other.
async fn every_hop(bench: &Bench, classes: [bool; 5]) {
    let seats = Seat::all();
    let count = seats.len();
    let mut route = (0..count)
        .flat_map(|from| (from + 1..count).flat_map(move |to| [from, to]))
        .chain([0]);
    let load = bench.start("while :; do :; done");
    let mut at = route.next().unwrap();
    arrive(load.pid(), at).await;
    let (ours, _) = bench.at_rest().await;
    // Who else is in the container wakes up somewhere else.
    kill(Pid::from_raw(load.pid()), Signal::SIGCONT).unwrap();
    let mut expected = [0; 5];
    let mut made = BTreeSet::new();
    for to in route {
        arrive(load.pid(), to).await;
        expected[seats[at].class(&seats[to])] += 1;
        assert!(made.insert((at, to)), "{at} to {to} twice");
        at = to;
    }
    assert_eq!(made.len(), count * (count - 1));
    let (seen, _) = bench.at_rest().await;
    let mut gained = seen.migrations;
    for (now, then) in gained.iter_mut().zip(ours.migrations) {
        *now -= then;
    }
    println!("hops: {gained:?}, expected {expected:?}");
    assert_eq!(gained, expected);
    assert_eq!(gained.map(|hops| hops > 0), classes);
}

/// A runtime, the relay that measures, and a container.
struct Bench {
    relay: Relay,
    folder: PathBuf,
    _runtime: Runtime,
}

/// What the relay says of the container.
#[derive(Clone, Copy, Debug)]
struct Seen {
    run_ns: u64,
    wait_ns: u64,
    throttled_ns: u64,
    throttled_wait_ns: u64,
    voluntary: u64,
    involuntary: u64,
    migrations: [u64; 5],
}

/// What the kernel says of it: of its cgroup, and of the processes that live.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Books {
    run_ns: u64,
    wait_ns: u64,
    throttled_ns: u64,
    voluntary: u64,
    involuntary: u64,
}

impl Bench {
    async fn new() -> Self {
        let runtime = Runtime::start().unwrap();
        // A program that the verifier refuses, or that fails every self-check, is what this is to find.
        let relay = feedback::exact(&runtime, "relay", &["--policy", "null"]);
        let relay = relay.await.unwrap();
        let mut cri = Cri::connect(&relay.socket(), runtime.cgroup_parent())
            .await
            .unwrap();
        let pod = cri.run_pod("pod", "besteffort", &[]).await.unwrap();
        let id = cri.run(&pod, &Container::sleeping("one")).await.unwrap();
        let bench = Self {
            relay,
            folder: kernel::cgroup(runtime.cgroup_parent(), &id).unwrap(),
            _runtime: runtime,
        };
        // What is followed shows up with the first sweep.
        let followed = |view: &Value| view["containers"][0]["run_ns"].is_object();
        let shown = eventually(LIMIT, async || followed(&bench.top().await)).await;
        assert!(shown, "{:#}\n{}", bench.top().await, bench.relay.log());
        bench
    }

    async fn top(&self) -> Value {
        let mut view = Value::Null;
        // The relay listens before the program is loaded; the views come last.
        let told = eventually(LIMIT, async || {
            let text = self.relay.ask(&["top", "--once", "--json"]);
            view = text.map_or(Value::Null, |text| serde_json::from_str(&text).unwrap());
            !view.is_null()
        })
        .await;
        assert!(told, "no view:\n{}", self.relay.log());
        view
    }

    async fn look(&self) -> Seen {
        let view = self.top().await;
        let shown = &view["containers"][0];
        let number = |field: &str| match shown[field].as_u64() {
            Some(number) => number,
            None => panic!("no {field}: {view:#}\n{}", self.relay.log()),
        };
        let run_ns = shown["run_ns"].as_object().unwrap().values();
        Seen {
            run_ns: run_ns.filter_map(Value::as_u64).sum(),
            wait_ns: number("contention_ns"),
            throttled_ns: number("throttled_ns"),
            throttled_wait_ns: number("throttled_wait_ns"),
            voluntary: number("voluntary"),
            involuntary: number("involuntary"),
            migrations: serde_json::from_value(shown["migrations"].clone()).unwrap(),
        }
    }

    async fn until(&self, enough: impl Fn(&Seen) -> bool) {
        let mut seen = None;
        let done = eventually(LIMIT, async || {
            let now = self.look().await;
            seen = Some(now);
            enough(&now)
        })
        .await;
        assert!(done, "{seen:?}");
    }

    /// Starts a shell script in the container's cgroup.
    fn start(&self, script: &str) -> Load {
        let procs = self.folder.join("cgroup.procs");
        let script = format!("echo $$ >{}; {script}", procs.display());
        let mut shell = Command::new("/bin/sh");
        shell.args(["-c", &script]).process_group(0);
        let load = Load(shell.spawn().unwrap());
        let inside = format!("{}\n", load.pid());
        while !fs::read_to_string(&procs).unwrap().contains(&inside) {
            std::thread::yield_now();
        }
        load
    }

    fn quota(&self, quota: &str) {
        fs::write(self.folder.join("cpu.max"), quota).unwrap();
    }

    fn processes(&self) -> Vec<i32> {
        let list = fs::read_to_string(self.folder.join("cgroup.procs")).unwrap();
        list.lines().map(|pid| pid.parse().unwrap()).collect()
    }

    fn signal(&self, signal: Signal) {
        for pid in self.processes() {
            // Who was killed before may only be gone now.
            if let Err(error) = kill(Pid::from_raw(pid), signal) {
                assert_eq!(error, Errno::ESRCH);
            }
        }
    }

    /// Stops everything, and looks once all of it stands still.
    async fn at_rest(&self) -> (Seen, Books) {
        let rests = |pid: &i32| stat(*pid, 0).is_none_or(|state| state == "T");
        let stopped = eventually(LIMIT, async || {
            self.signal(Signal::SIGSTOP);
            self.processes().iter().all(rests)
        })
        .await;
        assert!(stopped, "{:?} do not stop", self.processes());
        // What is called stopped may be on its CPU for a moment yet; then its books still change.
        let mut books = self.books();
        let done = eventually(LIMIT, async || {
            std::mem::replace(&mut books, self.books()) == books
        })
        .await;
        assert!(done, "{books:?} still changes");
        (self.look().await, books)
    }

    /// What both sides booked since an earlier rest.
    async fn gained(&self, ours: Seen, books: Books) -> (Seen, Books) {
        let (seen, told) = self.at_rest().await;
        let seen = Seen {
            run_ns: seen.run_ns - ours.run_ns,
            wait_ns: seen.wait_ns - ours.wait_ns,
            throttled_ns: seen.throttled_ns - ours.throttled_ns,
            throttled_wait_ns: seen.throttled_wait_ns - ours.throttled_wait_ns,
            voluntary: seen.voluntary - ours.voluntary,
            involuntary: seen.involuntary - ours.involuntary,
            ..seen
        };
        let told = Books {
            run_ns: told.run_ns - books.run_ns,
            wait_ns: told.wait_ns - books.wait_ns,
            throttled_ns: told.throttled_ns - books.throttled_ns,
            voluntary: told.voluntary - books.voluntary,
            involuntary: told.involuntary - books.involuntary,
        };
        (seen, told)
    }

    fn books(&self) -> Books {
        let of_cgroup = fs::read_to_string(self.folder.join("cpu.stat")).unwrap();
        let mut books = Books {
            run_ns: field(&of_cgroup, "usage_usec ") * 1000,
            wait_ns: 0,
            throttled_ns: field(&of_cgroup, "throttled_usec ") * 1000,
            voluntary: 0,
            involuntary: 0,
        };
        for pid in self.processes() {
            let Ok(status) = fs::read_to_string(format!("/proc/{pid}/status")) else {
                continue;
            };
            books.voluntary += field(&status, "voluntary_ctxt_switches:");
            books.involuntary += field(&status, "nonvoluntary_ctxt_switches:");
            books.wait_ns += schedstat(pid)[1];
        }
        books
    }
}

/// A script and all that it started; killed when dropped.
struct Load(Child);

impl Load {
    fn pid(&self) -> i32 {
        i32::try_from(self.0.id()).unwrap()
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        // It may have ended, which the test has found out then.
        killpg(Pid::from_raw(self.pid()), Signal::SIGKILL).ok();
        self.0.wait().ok();
    }
}

/// Where a CPU sits, as the kernel says: package, NUMA node, last-level cache, core.
#[derive(Debug, PartialEq, Eq)]
struct Seat([String; 4]);

impl Seat {
    fn all() -> Vec<Self> {
        let of = |cpu: usize| {
            let base = PathBuf::from(format!("/sys/devices/system/cpu/cpu{cpu}"));
            let read = |file: &str| fs::read_to_string(base.join(file)).ok();
            let node = (0..64).find(|node| base.join(format!("node{node}")).exists());
            let cache = (0..8)
                .rev()
                .find_map(|index| read(&format!("cache/index{index}/shared_cpu_list")));
            Some(Self([
                read("topology/package_cpus_list")?,
                node.unwrap_or(0).to_string(),
                cache?,
                read("topology/core_cpus_list")?,
            ]))
        };
        let all: Vec<_> = (0..).map_while(of).collect();
        assert_eq!(all.len(), 16, "{all:?}");
        all
    }

    /// The class of a move: package, node, cache, core or thread, whichever is the widest that differs.
    fn class(&self, other: &Self) -> usize {
        let levels = self.0.iter().zip(&other.0);
        4 - levels.take_while(|(here, there)| here == there).count()
    }
}

/// Sends a spinner to a CPU and waits until it has run there.
async fn arrive(pid: i32, cpu: usize) {
    pin(pid, cpu);
    // It is off its old CPU by now, so it can only have run more where it belongs.
    let ran = schedstat(pid)[0];
    let there = eventually(LIMIT, async || {
        stat(pid, 36) == Some(cpu.to_string()) && schedstat(pid)[0] > ran
    })
    .await;
    assert!(there, "{pid} does not run on {cpu}");
}

fn pin(pid: i32, cpu: usize) {
    let mut mask = Mask::new();
    mask.set(cpu).unwrap();
    sched_setaffinity(Pid::from_raw(pid), &mask).unwrap();
}

/// A field of `/proc/PID/stat`, counted from the state; none of a process that is gone.
fn stat(pid: i32, field: usize) -> Option<String> {
    let line = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let fields = line.rsplit(')').next()?;
    fields.split_whitespace().nth(field).map(str::to_owned)
}

/// The number in the line of `text` that begins so.
fn field(text: &str, name: &str) -> u64 {
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    line.unwrap().trim().parse().unwrap()
}

/// CPU time and wait, nanoseconds.
fn schedstat(pid: i32) -> [u64; 2] {
    let line = fs::read_to_string(format!("/proc/{pid}/schedstat")).unwrap();
    let mut numbers = line.split_whitespace().map(|text| text.parse().unwrap());
    [numbers.next().unwrap(), numbers.next().unwrap()]
}

fn ratio(ours: u64, kernel: u64) -> f64 {
    ours as f64 / kernel.max(1) as f64
}

fn near(what: &str, ours: u64, kernel: u64, within: f64) {
    let share = ratio(ours, kernel);
    println!("{what}: {share:.6} of the kernel's");
    assert!(
        (share - 1.0).abs() <= within,
        "{what} is {ours}, the kernel says {kernel}"
    );
}
