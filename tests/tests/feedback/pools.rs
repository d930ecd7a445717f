//! A stage: two shared lists, those who wait on the first, a neighbour that makes them wait.

use crate::PATIENCE;
use resmgr_tests::{
    Container, Cri, Pod, Relay, Runtime, eventually,
    feedback::{self, HALF_LIFE, Sight},
    kernel,
};
use std::{
    collections::BTreeMap,
    path::PathBuf,
    time::{Duration, Instant},
};

/// The list that comes first, on socket 0: where the neighbour must be.
pub(crate) const NOISY: &str = "0-3";
/// How long who was moved is left alone with these measurements, less what lies between two of them: 300 s
/// with the standard half-life of 10 s.
pub(crate) const RESTS: Duration = Duration::from_secs(30 * HALF_LIFE.as_secs() - 5);
/// The list on socket 1.
pub(crate) const CALM: &str = "8-11";

/// The containers, and the relay in front of them.
pub(crate) struct Pools<'a> {
    pub(crate) runtime: &'a Runtime,
    pub(crate) relay: Relay,
    cri: Cri,
    direct: Cri,
    sandbox: Pod,
    workload: PathBuf,
    ids: BTreeMap<&'static str, String>,
}

/// Why the stage shows nothing, and must be set anew.
#[derive(Debug)]
pub(crate) struct Spoilt(pub(crate) String);

async fn relay(runtime: &Runtime, name: &str) -> Relay {
    let pools = runtime.folder().join("pools.yaml");
    let text = format!(
        "pools:\n  shared:\n    cpuLists:\n      - {{Socket: 0, Cpuset: \"{NOISY}\"}}\n      \
         - {{Socket: 1, Cpuset: \"{CALM}\"}}\n"
    );
    std::fs::write(&pools, text).unwrap();
    let pools = pools.display().to_string();
    let half_life = format!("{}s", HALF_LIFE.as_secs());
    let arguments = [
        "--policy",
        "static-pools",
        "--static-pools-conf-file",
        &pools,
        "--rebalance",
        "on",
        "--telemetry-half-life",
        &half_life,
    ];
    feedback::exact(runtime, name, &arguments).await.unwrap()
}

impl<'a> Pools<'a> {
    /// A relay that has never run, whose files are in folder `name`, and no containers.
    pub(crate) async fn new(runtime: &'a Runtime, name: &str) -> Self {
        let relay = relay(runtime, name).await;
        let parent = runtime.cgroup_parent();
        let cri = Cri::connect(&relay.socket(), parent).await.unwrap();
        let mut direct = Cri::connect(&runtime.socket(), parent).await.unwrap();
        let sandbox = direct.run_pod("pools", "burstable", &[]).await.unwrap();
        Self {
            runtime,
            relay,
            cri,
            direct,
            sandbox,
            workload: resmgr_tests::built("workload").unwrap(),
            ids: BTreeMap::new(),
        }
    }

    /// On the second list somebody who uses a quarter of it and asks for more: whoever comes next belongs on
    /// the first list, by requests and by measurements.
    pub(crate) async fn crowd(&mut self) {
        self.begin("crowd", &["batch", "1"], 3000, Some("1")).await;
        // Three half-lives: by then what started all this is forgotten, and this is known.
        let known = eventually(PATIENCE, async || {
            let view = self.relay.ask(&["top", "--once", "--json"]);
            let view = view.unwrap_or_default();
            let view: serde_json::Value = serde_json::from_str(&view).unwrap_or_default();
            let mut all = view["containers"].as_array().into_iter().flatten();
            let one = all.find(|one| one["container"] == "crowd");
            let ran = one.and_then(|one| one["run_ns"].as_object());
            let ran = ran.into_iter().flat_map(|ran| ran.values());
            ran.filter_map(serde_json::Value::as_u64).sum::<u64>() > 6_000_000_000
        })
        .await;
        assert!(known, "{}", self.told("crowd"));
    }

    /// Two that will wait, on the first list. Nobody of them runs before both have been placed.
    pub(crate) async fn expose(&mut self, victims: [&'static str; 2]) {
        for victim in victims {
            let container = self.program(victim, &["latency", "2"]).burstable(300);
            self.create(victim, container, None).await;
        }
        for victim in victims {
            self.start(victim).await;
            assert_eq!(self.cpus(victim), NOISY, "{}", self.told(victim));
        }
    }

    /// A thread for each CPU of the first list that computes without end, and says that it needs little.
    pub(crate) async fn disturb(&mut self, name: &'static str) {
        self.begin(name, &["batch", "4"], 100, Some("0")).await;
    }

    /// Starts one that works.
    pub(crate) async fn begin(
        &mut self,
        name: &'static str,
        does: &[&str],
        milli: i64,
        socket: Option<&str>,
    ) {
        let container = self.program(name, does).burstable(milli);
        self.create(name, container, socket).await;
        self.start(name).await;
    }

    fn program(&self, name: &str, does: &[&str]) -> Container {
        Container::program(name, &self.workload, does)
    }

    async fn create(&mut self, name: &'static str, mut one: Container, socket: Option<&str>) {
        let wish = socket.map(|socket| ("STP_SOCKET_ID".to_owned(), socket.to_owned()));
        one.envs.extend(wish);
        let pod = feedback::guise(&self.sandbox, name);
        let id = self.cri.create(&pod, &one).await.unwrap();
        self.ids.insert(name, id);
    }

    async fn start(&mut self, name: &str) {
        let id = self.ids.get(name).unwrap();
        self.cri.start(id).await.unwrap();
    }

    /// Ends one.
    pub(crate) async fn end(&mut self, name: &str) {
        let id = self.ids.remove(name).unwrap();
        self.cri.stop(&id).await.unwrap();
        self.cri.remove(&id).await.unwrap();
    }

    /// Ends all.
    pub(crate) async fn clear(mut self) {
        let names: Vec<_> = self.ids.keys().copied().collect();
        for name in names {
            self.end(name).await;
        }
        self.direct.remove_pod(&self.sandbox).await.unwrap();
    }

    /// `cpuset.cpus` of one, by the kernel.
    pub(crate) fn cpus(&self, name: &str) -> String {
        let id = self.ids.get(name).unwrap();
        kernel::cpuset_cpus(self.runtime.cgroup_parent(), id).unwrap()
    }

    /// Waits until the move of `name` was judged: that it is kept.
    ///
    /// # Errors
    /// When it was undone, as [`Pools::undone`].
    pub(crate) async fn is_kept(&self, name: &str) -> Result<(), Spoilt> {
        let kept = eventually(PATIENCE, async || {
            self.explained(name).contains(": move kept (") || self.undone(&[name]).is_err()
        })
        .await;
        assert!(kept, "{}", self.told(name));
        self.undone(&[name])
    }

    /// Whether nobody's move was undone.
    ///
    /// # Errors
    /// When one was, with what is explained of it. Where one thread emulates all CPUs, other work of the host
    /// shows as waiting here, for which a move that was right is undone, rightly as far as the daemon can know.
    pub(crate) fn undone(&self, names: &[&str]) -> Result<(), Spoilt> {
        let told = names.iter().map(|name| self.explained(name));
        let undone = told.into_iter().find(|told| told.contains(": move undone"));
        undone.map_or(Ok(()), |told| {
            Err(Spoilt(format!("a move was undone:\n{told}")))
        })
    }

    /// When one was moved, as explained: seconds since 1970, to the second.
    pub(crate) fn moves(&self, name: &str) -> Vec<Duration> {
        let told = self.explained(name);
        let moved = told
            .lines()
            .filter(|line| line.contains(": moved because of "));
        let times = moved.map(|line| {
            let time: jiff::Timestamp = line.split_whitespace().next().unwrap().parse().unwrap();
            Duration::from_secs(time.as_second().try_into().unwrap())
        });
        times.collect()
    }

    /// How often the kernel changes anybody's CPUs from now on, for so long.
    pub(crate) async fn changes(&self, during: Duration) -> usize {
        let mut sight = Sight::new(self.runtime);
        for id in self.ids.values() {
            sight.follow(id).unwrap();
        }
        let start = Instant::now();
        while start.elapsed() < during {
            tokio::time::sleep(Duration::from_millis(500)).await;
            sight.look().unwrap();
        }
        sight.moves
    }

    /// `cri-resmgr explain`.
    pub(crate) fn explained(&self, name: &str) -> String {
        self.relay.ask(&["explain", name]).unwrap()
    }

    /// For failures: what is explained, and the log.
    pub(crate) fn told(&self, name: &str) -> String {
        format!("{}\n{}", self.explained(name), self.relay.log())
    }
}
