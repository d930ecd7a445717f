//! What happens on the node, step after step, as the seed decides.

use crate::{
    Failure, POLICIES, Report, Run, check,
    disk::{Image, SimulatedDisk},
    kernel::{SimulatedFiles, Writer},
    kubelet::{Kubelet, Wish, cgroup_parent, idle_containers, resources},
    policy,
    runtime::{self, Mood, SimulatedRuntime},
    tasks::{Lifetime, Task, Tasks},
    topology,
    world::World,
};
use cri_resmgr::{
    config::{FailPolicies, ResourcesFile},
    enforce::Cgroups,
    intercept::Hooks,
    ledger::{Blocking, Disk, StateFile},
    manager::{Book, Manager, ManagerConfig, ManagerHandle},
};
use resmgr_sim::random::Random;
use resmgr_topology::CpuSet;
use std::{path::Path, sync::Arc, time::Duration};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Pods at one time, beyond which they are rather removed than made.
const PODS: usize = 9;

/// How long calls may take to end once nothing fails any more.
const CALLS_END: Duration = Duration::from_secs(500);

/// Within this all agree again, once nothing fails any more and no call is under way.
const COMES_TO_REST: Duration = Duration::from_secs(100);

const LOOK: Duration = Duration::from_secs(2);

struct Node {
    world: World,
    tasks: Tasks,
    daemon: Option<(Kubelet, ManagerHandle)>,
    /// To look into the kernel.
    cgroups: Cgroups,
    shown: ResourcesFile,
    pods: u64,
}

pub(crate) async fn run(run: Run) -> Result<Report, Box<Failure>> {
    let begin = Instant::now();
    let mut random = Random::new(run.seed);
    let policy = policy(random.below(POLICIES - 1));
    let shown = match random.below(2) {
        0 => ResourcesFile::Always,
        _ => ResourcesFile::Asked,
    };
    let world = World::new(random, policy, run.mutation, run.verbose);
    let hierarchy = world.lock().kernel.hierarchy();
    let files = SimulatedFiles {
        world: world.clone(),
        start: 0,
    };
    let mut node = Node {
        cgroups: Cgroups::with_files(hierarchy, Box::new(files)),
        world,
        tasks: Tasks::default(),
        daemon: None,
        shown,
        pods: 0,
    };
    node.start();
    let mut rest_at = 1 + node.below(100);
    for step in 1..=run.steps {
        node.world.lock().step = step;
        if step >= rest_at {
            rest_at = step + 20 + node.below(150);
            node.rest().await;
        }
        node.step().await;
        if node.world.lock().broken.is_some() {
            break;
        }
    }
    node.rest().await;
    let mut world = node.world.lock();
    match world.broken.take() {
        Some(problem) => Err(Box::new(Failure {
            seed: run.seed,
            step: world.step,
            problem,
            mutation: run.mutation,
            events: world.events(),
        })),
        None => Ok(Report {
            digest: world.digest,
            effects: world.effects,
            starts: world.start,
            seconds: begin.elapsed().as_secs(),
        }),
    }
}

impl Node {
    fn below(&self, end: u64) -> u64 {
        self.world.lock().random.below(end)
    }

    fn event(&self, text: std::fmt::Arguments<'_>) {
        self.world.lock().event(text);
    }

    /// Starts the daemon from what the disk holds.
    fn start(&mut self) {
        let (start, policy, hierarchy) = {
            let mut world = self.world.lock();
            world.start += 1;
            world.alive = true;
            world.started_at = Instant::now();
            let start = world.start;
            world.event(format_args!("the daemon starts"));
            (start, Arc::clone(&world.policy), world.kernel.hierarchy())
        };
        let world = self.world.clone();
        let disk = Arc::new(SimulatedDisk {
            world: world.clone(),
            start,
        });
        let files = SimulatedFiles {
            world: world.clone(),
            start,
        };
        let config = ManagerConfig {
            policy,
            topology: Arc::new(topology()),
            cgroups: Arc::new(Cgroups::with_files(hierarchy, Box::new(files))),
            ledger: StateFile::on(disk, Path::new(check::STATE)),
            runtime: Arc::new(SimulatedRuntime { world, start }),
            fail: FailPolicies::default(),
            policy_timeout: Duration::from_secs(10),
            reconcile_interval: Duration::from_secs(1),
            export: Some(Path::new(check::STATE).join("containers")),
            resources_file: self.shown,
            blocking: Blocking::InPlace,
            mailbox: 64,
            reset_policy: false,
        };
        let (manager, handle) = Manager::new(config, CancellationToken::new());
        self.world.lock().snapshots = Some(handle.snapshots());
        let kubelet = Kubelet {
            world: self.world.clone(),
            hooks: Arc::new(Hooks::new(handle.clone())),
        };
        self.daemon = Some((kubelet, handle));
        self.spawn(manager.run());
    }

    /// Runs a task that ends with the daemon.
    fn spawn(&mut self, future: impl Future<Output = ()> + Send + 'static) {
        self.tasks.spawn(Task {
            lifetime: Lifetime::Daemon,
            future: Box::pin(future),
        });
    }

    /// Kills the daemon where it stands.
    fn kill(&mut self) {
        self.event(format_args!("the daemon is killed"));
        let forgotten = {
            let mut world = self.world.lock();
            world.snapshots = None;
            world.alive = false;
            world.dies_in = None;
            world.dead = false;
            world.busy.clear();
            std::mem::take(&mut world.forgotten)
        };
        self.tasks.kill_daemon();
        self.daemon = None;
        drop(forgotten);
    }

    async fn run(&mut self, polls: u64, time: Duration) {
        self.tasks.run(&self.world, polls, time).await;
        if self.world.lock().dead {
            self.kill();
        }
    }

    async fn step(&mut self) {
        self.act();
        let (polls, millis) = match self.below(10) {
            0..5 => (1 + self.below(30), 50),
            5..8 => (u64::MAX, 1 + self.below(50)),
            8 => (u64::MAX, 1 + self.below(500)),
            _ => (u64::MAX, 1 + self.below(5_000)),
        };
        self.run(polls, Duration::from_millis(millis)).await;
    }

    fn act(&mut self) {
        if self.daemon.is_none() && self.below(4) == 0 {
            self.start();
            return;
        }
        match self.below(100) {
            0..22 => self.create(),
            22..30 => self.stop(),
            30..36 => self.resize(),
            36..40 => self.start_created(),
            40..43 => self.stop_pod(),
            43..47 => self.list(),
            47..53 => self.exit(),
            53..60 => self.disturb(),
            60..63 => self.reconfigure(),
            63..67 => self.change_mood(),
            67..69 => {
                self.event(format_args!("the runtime restarts"));
                self.world.lock().runtime.restart();
            }
            69..72 => {
                let mut world = self.world.lock();
                world.disk.full = !world.disk.full;
                let full = world.disk.full;
                world.event(format_args!("the disk is full: {full}"));
            }
            72..74 => self.world.lock().disk.fails_next = true,
            74..76 => self.world.lock().kernel.fails_next = true,
            76..79 => {
                let mut world = self.world.lock();
                let effects = 1 + world.random.below(12);
                world.dies_in = Some(effects);
            }
            79..81 if self.daemon.is_some() => self.kill(),
            81 => self.power_cut(),
            _ => {}
        }
    }

    fn kubelet(&self) -> Option<Kubelet> {
        self.daemon
            .as_ref()
            .map(|(kubelet, _handle)| kubelet.clone())
    }

    fn create(&mut self) {
        let Some(kubelet) = self.kubelet() else {
            return;
        };
        let wish = {
            let mut guard = self.world.lock();
            let world = &mut *guard;
            let paths = world.kernel.cgroups.keys();
            let pods = paths.filter_map(|path| {
                let name = path.file_name()?.to_str()?;
                (name.starts_with("pod") && !world.busy.contains(name)).then(|| name.to_owned())
            });
            let pods: Vec<_> = pods.collect();
            let old = pods.len() >= PODS || world.random.below(3) == 0;
            let old = old
                .then(|| choose(&mut world.random, &pods).cloned())
                .flatten();
            let pod = old.unwrap_or_else(|| {
                self.pods += 1;
                let class = ["g", "g", "b", "e"];
                let class = choose(&mut world.random, &class).copied().unwrap_or("g");
                let system = if world.random.below(8) == 0 { "s" } else { "" };
                format!("pod{class}{}{system}", self.pods)
            });
            if world.busy.contains(&pod) || (pods.len() > PODS && !pods.contains(&pod)) {
                return;
            }
            let parent = cgroup_parent(&pod);
            world
                .kernel
                .create(Path::new(parent.trim_start_matches('/')));
            let milli = [100, 500, 1000, 1000, 1500, 2000, 2000, 3000];
            let milli = choose(&mut world.random, &milli).copied().unwrap_or(100);
            let resources = match pod.as_bytes().get(3) {
                Some(b'g') => resources(milli, true),
                Some(b'b') => resources(milli, false),
                _ => resources(0, false),
            };
            world.busy.insert(pod.clone());
            let name = choose(&mut world.random, &["a", "b", "c"]).copied();
            Wish {
                pod,
                name: name.unwrap_or("a").to_owned(),
                attempt: u32::try_from(world.random.below(3)).unwrap_or_default(),
                resources,
            }
        };
        self.event(format_args!(
            "kubelet creates {}/{}/{} of {} shares",
            wish.pod, wish.name, wish.attempt, wish.resources.cpu_shares
        ));
        self.spawn(kubelet.run(wish));
    }

    /// A container of a pod that nothing happens to, and from now on something does.
    fn take(&self, suits: impl Fn(bool) -> bool) -> Option<(String, String)> {
        let mut world = self.world.lock();
        let mut idle = idle_containers(&world);
        idle.retain(|(_id, _pod, running)| suits(*running));
        let (id, pod, _running) = choose(&mut world.random, &idle)?.clone();
        world.busy.insert(pod.clone());
        Some((id, pod))
    }

    fn stop(&mut self) {
        if let Some(kubelet) = self.kubelet()
            && let Some((id, pod)) = self.take(|_running| true)
        {
            self.spawn(kubelet.stop(id, pod));
        }
    }

    fn resize(&mut self) {
        if let Some(kubelet) = self.kubelet()
            && let Some((id, pod)) = self.take(|_running| true)
        {
            let milli = [100, 1000, 2000, 3000];
            let milli = choose(&mut self.world.lock().random, &milli).copied();
            let guaranteed = pod.starts_with("podg");
            let resources = resources(milli.unwrap_or(100), guaranteed);
            self.spawn(kubelet.update(id, pod, resources));
        }
    }

    fn start_created(&mut self) {
        if let Some(kubelet) = self.kubelet()
            && let Some((id, pod)) = self.take(|running| !running)
        {
            self.spawn(kubelet.start(id, pod));
        }
    }

    fn stop_pod(&mut self) {
        if let Some(kubelet) = self.kubelet()
            && let Some((_id, pod)) = self.take(|_running| true)
        {
            self.spawn(kubelet.stop_pod(pod));
        }
    }

    fn list(&mut self) {
        if let Some(kubelet) = self.kubelet() {
            self.spawn(kubelet.list());
        }
    }

    /// A container ends by itself, or the runtime has lost it.
    fn exit(&self) {
        let mut world = self.world.lock();
        let ids: Vec<_> = world.runtime.containers.keys().cloned().collect();
        if let Some(id) = choose(&mut world.random, &ids) {
            world.event(format_args!("{id} ends by itself"));
            runtime::end(&mut world, id);
        }
    }

    /// Another program writes to a cgroup.
    fn disturb(&self) {
        let mut guard = self.world.lock();
        let world = &mut *guard;
        let cgroups = world.kernel.cgroups.iter();
        let mut paths: Vec<_> = cgroups
            .filter(|(_path, cgroup)| cgroup.tasks)
            .map(|(path, _cgroup)| path.clone())
            .collect();
        if !world.kernel.v2 && world.random.below(5) == 0 {
            paths = paths
                .iter()
                .filter_map(|path| Some(path.parent()?.to_owned()))
                .collect();
        }
        let Some(path) = choose(&mut world.random, &paths) else {
            return;
        };
        if world.random.below(4) == 0 {
            let shares = 2 + world.random.below(2000);
            if let Some(cgroup) = world.kernel.cgroups.get_mut(path) {
                cgroup.shares = shares;
            }
            world.event(format_args!(
                "another program: {} has {shares} shares",
                path.display()
            ));
            return;
        }
        let random = &mut world.random;
        let some = world
            .kernel
            .online
            .iter()
            .filter(|_cpu| random.below(3) != 0);
        let cpus: CpuSet = some.collect();
        let written = world.kernel.set_cpus(path, cpus, Writer::Foreign);
        let how = if written.is_ok() { "" } else { ": refused" };
        world.event(format_args!(
            "another program: {} on {cpus}{how}",
            path.display()
        ));
    }

    fn reconfigure(&mut self) {
        let Some((_kubelet, handle)) = self.daemon.clone() else {
            return;
        };
        if !self.world.lock().busy.insert("policy".to_owned()) {
            return; // one after the other
        }
        let number = self.below(POLICIES);
        let (policy, world) = (policy(number), self.world.clone());
        self.event(format_args!("policy {number} is configured"));
        self.spawn(async move {
            let done = handle.reconfigure(Arc::clone(&policy)).await;
            let mut world = world.lock();
            world.busy.remove("policy");
            if done.is_ok() {
                world.policy = policy;
            }
            let how = if done.is_ok() {
                "taken over"
            } else {
                "refused"
            };
            world.event(format_args!("policy {number} is {how}"));
        });
    }

    fn change_mood(&self) {
        let mut world = self.world.lock();
        let moods = [
            Mood::Well,
            Mood::Well,
            Mood::Slow,
            Mood::Refusing,
            Mood::Losing,
            Mood::Down,
        ];
        let mood = choose(&mut world.random, &moods).copied();
        let mood = mood.unwrap_or(Mood::Well);
        world.runtime.mood = mood;
        world.event(format_args!("the runtime is {mood:?}"));
    }

    /// The machine loses its power: nothing runs any more, and the disk keeps what it must, and perhaps more.
    fn power_cut(&mut self) {
        if self.daemon.is_some() {
            self.kill();
        }
        let mut guard = self.world.lock();
        let world = &mut *guard;
        world.event(format_args!("the power is cut"));
        let load = |disk| {
            let disk: Arc<dyn Disk> = Arc::new(Image(disk));
            StateFile::<Book>::on(disk, Path::new(check::STATE))
                .load()
                .value
        };
        let was_safe = world
            .disk
            .worst()
            .into_iter()
            .all(|disk| load(disk).is_some());
        world.disk.power_cut(&mut world.random);
        if was_safe && load(world.disk.clone()).is_none() {
            world.broken(format_args!("a power cut has taken the ledger"));
        }
        world.kernel.reset();
        world.runtime.containers.clear();
        world.runtime.restart();
    }

    /// Nothing fails any more: all must come to agree.
    async fn rest(&mut self) {
        {
            let mut world = self.world.lock();
            world.event(format_args!("nothing fails from now on"));
            world.runtime.mood = Mood::Well;
            world.disk.full = false;
            world.disk.fails_next = false;
            world.kernel.fails_next = false;
            world.dies_in = None;
        }
        if self.daemon.is_none() {
            self.start();
        }
        let since = Instant::now();
        while !self.world.lock().busy.is_empty() {
            if since.elapsed() > CALLS_END {
                let mut world = self.world.lock();
                let busy = world.busy.clone();
                world.broken(format_args!("calls for {busy:?} have no end"));
            }
            self.run(u64::MAX, LOOK).await;
            if self.world.lock().broken.is_some() {
                return;
            }
        }
        let since = Instant::now();
        loop {
            self.run(u64::MAX, LOOK).await;
            if self.world.lock().broken.is_some() {
                return;
            }
            let shown = self.shown == ResourcesFile::Always;
            match check::at_rest(&self.world, &self.cgroups, shown) {
                Ok(()) => break,
                Err(problem) if since.elapsed() > COMES_TO_REST => {
                    let mut world = self.world.lock();
                    world.broken(format_args!("no agreement is reached: {problem}"));
                    return;
                }
                Err(_not_yet) => {}
            }
        }
        self.event(format_args!("all agree"));
    }
}

fn choose<'a, T>(random: &mut Random, from: &'a [T]) -> Option<&'a T> {
    let index = random.below(from.len() as u64);
    from.get(usize::try_from(index).ok()?)
}
