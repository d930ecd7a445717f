//! All that a simulated node consists of beside the daemon, and what has happened on it.

use crate::{
    Mutation,
    disk::DiskState,
    kernel::KernelState,
    runtime::RuntimeState,
    tasks::{Lifetime, Task},
};
use cri_resmgr::{cri::intercept::After, manager::Snapshot};
use resmgr_policy::Policy;
use resmgr_sim::random::Random;
use std::{
    collections::{BTreeSet, VecDeque},
    fmt, io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};
use tokio::{sync::watch, time::Instant};

/// Events that a failure shows.
const SHOWN: usize = 80;

/// The node, shared by all tasks.
#[derive(Clone)]
pub(crate) struct World(Arc<Mutex<WorldState>>);

impl fmt::Debug for World {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("World").finish_non_exhaustive()
    }
}

pub(crate) struct WorldState {
    pub(crate) random: Random,
    pub(crate) mutation: Option<Mutation>,
    pub(crate) disk: DiskState,
    pub(crate) kernel: KernelState,
    pub(crate) runtime: RuntimeState,
    /// Tasks that start with the next poll.
    pub(crate) spawned: Vec<Task>,
    /// What the running daemon publishes; `None`: none runs.
    pub(crate) snapshots: Option<watch::Receiver<Arc<Snapshot>>>,
    /// Decides in the daemon that runs now, or is started next.
    pub(crate) policy: Arc<dyn Policy>,
    /// When the daemon was started last.
    pub(crate) started_at: Instant,
    /// Pods with a call of the kubelet under way: it makes the calls of a pod one after the other.
    pub(crate) busy: BTreeSet<String>,
    /// Ends of calls that the daemon is never told of, under [`Mutation::ForgetAbort`].
    pub(crate) forgotten: Vec<Box<dyn After>>,
    /// Counts starts of the daemon.
    pub(crate) start: u64,
    /// The daemon dies at its effect of this number from now.
    pub(crate) dies_in: Option<u64>,
    /// A daemon runs.
    pub(crate) alive: bool,
    /// The daemon has died amid an effect, and its tasks are to be ended.
    pub(crate) dead: bool,
    /// The first promise that was broken.
    pub(crate) broken: Option<String>,
    /// Cgroup writes, disk writes and calls of the runtime so far.
    pub(crate) effects: u64,
    /// A digest of all events: equal runs have equal ones.
    pub(crate) digest: u64,
    pub(crate) step: u64,
    pub(crate) verbose: bool,
    epoch: Instant,
    events: VecDeque<String>,
}

impl World {
    pub(crate) fn new(
        mut random: Random,
        policy: Arc<dyn Policy>,
        mutation: Option<Mutation>,
        verbose: bool,
    ) -> Self {
        let kernel = KernelState::new(&mut random);
        let runtime = RuntimeState::new(&mut random);
        Self(Arc::new(Mutex::new(WorldState {
            random,
            mutation,
            disk: DiskState::default(),
            kernel,
            runtime,
            spawned: Vec::new(),
            snapshots: None,
            policy,
            started_at: Instant::now(),
            busy: BTreeSet::new(),
            forgotten: Vec::new(),
            start: 0,
            dies_in: None,
            alive: false,
            dead: false,
            broken: None,
            effects: 0,
            digest: 0xcbf2_9ce4_8422_2325,
            step: 0,
            verbose,
            epoch: Instant::now(),
            events: VecDeque::new(),
        })))
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, WorldState> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs a task of the machine: no death of the daemon ends it.
    pub(crate) fn spawn(&self, future: impl Future<Output = ()> + Send + 'static) {
        self.lock().spawned.push(Task {
            lifetime: Lifetime::Machine,
            future: Box::pin(future),
        });
    }
}

impl WorldState {
    /// Whether what runs must stop here.
    pub(crate) fn is_interrupted(&self) -> bool {
        self.dead || self.broken.is_some()
    }

    /// Notes what has happened.
    #[expect(clippy::print_stdout, reason = "the events of a run that is looked at")]
    pub(crate) fn event(&mut self, text: fmt::Arguments<'_>) {
        let at = self.epoch.elapsed();
        let line = format!("{:>4} {:>10.3}s {text}", self.step, at.as_secs_f64());
        for byte in line.bytes() {
            self.digest = (self.digest ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
        if self.verbose {
            println!("{line}");
        }
        if self.events.len() == SHOWN {
            self.events.pop_front();
        }
        self.events.push_back(line);
    }

    /// An effect of the daemon that was started as number `start`.
    ///
    /// # Errors
    /// When that daemon is dead: nothing happens then.
    pub(crate) fn effect(&mut self, start: u64) -> io::Result<()> {
        if self.dead || start != self.start || !self.alive {
            return Err(io::Error::other("the process is dead"));
        }
        self.effects += 1;
        self.dies_in = self.dies_in.map(|left| left.saturating_sub(1));
        if self.dies_in == Some(0) {
            self.dies_in = None;
            self.dead = true;
            self.event(format_args!("the daemon dies amid an effect"));
            return Err(io::Error::other("the process is dead"));
        }
        Ok(())
    }

    /// A promise is broken; only the first counts.
    pub(crate) fn broken(&mut self, text: fmt::Arguments<'_>) {
        if self.broken.is_none() {
            self.event(format_args!("BROKEN: {text}"));
            self.broken = Some(text.to_string());
        }
    }

    /// What the daemon has published last.
    pub(crate) fn snapshot(&self) -> Option<Arc<Snapshot>> {
        self.snapshots
            .as_ref()
            .map(|snapshots| snapshots.borrow().clone())
    }

    /// The last events, for people.
    pub(crate) fn events(&self) -> Vec<String> {
        self.events.iter().cloned().collect()
    }

    pub(crate) fn chance(&mut self, percent: u64) -> bool {
        self.random.below(100) < percent
    }
}
