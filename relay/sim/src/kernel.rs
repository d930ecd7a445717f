//! The scheduler model: one fair run queue per CPU, wake placement, load balancing over the domains of the
//! topology (core, last-level cache, NUMA node, package, machine), CPU sets and quota.
//!
//! What it keeps of the kernel's `kernel/sched/fair.c`: virtual run time by weight; a woken task goes to its
//! last CPU, an idle core, or an idle CPU of that cache, is drawn towards its waker, and preempts a task that has run
//! much more; a CPU that falls idle pulls, from near CPUs always and from far ones sometimes; periodic
//! balancing is rarer the wider the domain. What it leaves out: tracked load averages (queue lengths stand
//! in), frequencies, real-time classes, NUMA balancing of memory.

mod place;
mod spans;

use crate::random::Random;
use resmgr_policy::trace::Behaviour;
use resmgr_topology::{CpuId, CpuSet, DistanceClass, Topology};
use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, BinaryHeap},
};

/// What a call costs the caller.
const CALL_NS: u64 = 20_000;
const SLICE_NS: u64 = 3_000_000;
const WAKE_GRANULARITY_NS: u64 = 1_000_000;
const BALANCE_NS: u64 = 4_000_000;
/// The hypervisor takes a CPU away once in this time, while it takes any.
const STEAL_EVERY_NS: u64 = 10_000_000;
/// The period of the CFS quota, `cpu.cfs_period_us` as Kubernetes sets it.
pub const PERIOD_NS: u64 = 100_000_000;
/// Speed of a thread whose sibling is busy, thousandths.
const SIBLING_BUSY_SPEED: u64 = 620;

/// What one container experienced since it was last asked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// CPU time, nanoseconds.
    pub run_ns: u64,
    /// Each stint on a run queue before running, nanoseconds; throttling excluded.
    pub waits_ns: Vec<u64>,
    /// Time its threads were ready and throttled by the quota, nanoseconds.
    pub throttled_ns: u64,
    /// Moves of threads from CPU to CPU by how far.
    pub migrations: BTreeMap<DistanceClass, u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum TaskPhase {
    Asleep,
    Queued { since: u64 },
    Running,
    Throttled { since: u64 },
    Dead,
}

#[derive(Debug)]
struct Task {
    container: usize,
    phase: TaskPhase,
    /// Position of the CPU it runs, waits or last ran on.
    cpu: usize,
    virtual_ns: u64,
    weight: u64,
    work_left_ns: u64,
    /// Timers set before this count changed are void.
    timer: u64,
    role: Role,
}

/// What a thread is to the others of its container.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    /// One of many alike.
    Equal,
    /// Bound to the first of its CPUs, or to the last, and wakes others.
    Caller { last: bool },
    /// Sleeps until it is woken.
    Called,
}

impl Role {
    fn of(behaviour: &Behaviour, thread: u32) -> Self {
        match behaviour.callers {
            0 => Self::Equal,
            callers if thread < callers => Self::Caller {
                last: thread % 2 == 1,
            },
            _ => Self::Called,
        }
    }
}

#[derive(Debug)]
struct ModelContainer {
    behaviour: Behaviour,
    allowed: CpuSet,
    tasks: Vec<usize>,
    /// Quota per period, and what is left of it; `None` without a quota.
    quota_ns: Option<u64>,
    left_ns: i128,
    counters: Counters,
    alive: bool,
}

#[derive(Debug, Default)]
struct RunQueue {
    current: Option<usize>,
    since: u64,
    speed: u64,
    queue: BTreeSet<(u64, usize)>,
    floor_ns: u64,
    /// Slice ends set before this count changed are void.
    slice: u64,
    /// The hypervisor runs something else in place of this CPU: its task neither gets on nor is replaced.
    stolen: bool,
    stolen_ns: u64,
}

impl RunQueue {
    fn load(&self) -> usize {
        self.queue.len() + usize::from(self.current.is_some())
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum KernelEvent {
    Timer { task: usize, timer: u64 },
    SliceEnd { cpu: usize, slice: u64 },
    Balance { cpu: usize, round: u64 },
    Refill { container: usize },
    Steal { cpu: usize },
    StealEnd { cpu: usize },
}

/// A handle of a container in the model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Handle(usize);

/// A stretch of CPU time of one container on one CPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stretch {
    /// Where.
    pub cpu: CpuId,
    /// Its container.
    pub container: Handle,
    /// Up to when, nanoseconds.
    pub until_ns: u64,
    /// For how long, nanoseconds.
    pub ran_ns: u64,
}

/// The model.
#[derive(Debug)]
pub struct Kernel<'t> {
    topology: &'t Topology,
    /// Online CPUs, by position.
    ids: Vec<CpuId>,
    /// For each CPU the positions of its core, cache, node, package and the machine.
    spans: Vec<[std::rc::Rc<[usize]>; 5]>,
    queues: Vec<RunQueue>,
    tasks: Vec<Task>,
    containers: Vec<ModelContainer>,
    events: BinaryHeap<Reverse<(u64, u64, KernelEvent)>>,
    sequence: u64,
    now_ns: u64,
    random: Random,
    stretches: Vec<Stretch>,
    /// The share of time that the hypervisor takes of each busy CPU, thousandths; `None`: never any.
    steal_milli: Option<u64>,
}

impl<'t> Kernel<'t> {
    /// An idle machine.
    #[must_use]
    pub fn new(topology: &'t Topology, seed: u64) -> Self {
        let ids: Vec<CpuId> = topology.online.iter().collect();
        let spans = spans::spans(topology, &ids);
        let mut kernel = Self {
            topology,
            queues: ids.iter().map(|_| RunQueue::default()).collect(),
            spans,
            ids,
            tasks: Vec::new(),
            containers: Vec::new(),
            events: BinaryHeap::new(),
            sequence: 0,
            now_ns: 0,
            random: Random::new(seed),
            stretches: Vec::new(),
            steal_milli: None,
        };
        for cpu in 0..kernel.queues.len() {
            let stagger = kernel.random.below(BALANCE_NS);
            kernel.at(stagger, KernelEvent::Balance { cpu, round: 0 });
        }
        kernel
    }

    /// Starts a container: its threads are forked onto the least loaded of its CPUs. `cpus` empty means all.
    pub fn start(
        &mut self,
        behaviour: Behaviour,
        cpus: &CpuSet,
        shares: u64,
        quota_ns: Option<u64>,
    ) -> Handle {
        let container = self.containers.len();
        let allowed = self.usable(cpus);
        let weight = (shares / u64::from(behaviour.threads.max(1))).max(2);
        self.containers.push(ModelContainer {
            behaviour,
            allowed,
            tasks: Vec::new(),
            quota_ns,
            left_ns: quota_ns.unwrap_or(0).into(),
            counters: Counters::default(),
            alive: true,
        });
        if quota_ns.is_some() {
            self.at(self.now_ns + PERIOD_NS, KernelEvent::Refill { container });
        }
        for thread in 0..behaviour.threads {
            let task = self.tasks.len();
            let role = Role::of(&behaviour, thread);
            let cpu = self.idlest(&bound(allowed, role));
            self.tasks.push(Task {
                container,
                phase: TaskPhase::Asleep,
                cpu,
                virtual_ns: self.queues[cpu].floor_ns,
                weight,
                work_left_ns: 0,
                timer: 0,
                role,
            });
            self.containers[container].tasks.push(task);
            self.wake_on(task, cpu);
        }
        Handle(container)
    }

    /// Ends a container.
    pub fn stop(&mut self, handle: Handle) {
        self.containers[handle.0].alive = false;
        for task in self.containers[handle.0].tasks.clone() {
            let cpu = self.take_off(task);
            self.tasks[task].phase = TaskPhase::Dead;
            self.tasks[task].timer += 1;
            if let Some(cpu) = cpu {
                self.start_next(cpu);
            }
        }
    }

    /// Gives a container other CPUs, as a write to `cpuset.cpus` does: threads elsewhere move at once.
    pub fn pin(&mut self, handle: Handle, cpus: &CpuSet) {
        let allowed = self.usable(cpus);
        if self.containers[handle.0].allowed == allowed {
            return;
        }
        self.containers[handle.0].allowed = allowed;
        for task in self.containers[handle.0].tasks.clone() {
            let allowed = bound(allowed, self.tasks[task].role);
            if allowed.contains(self.ids[self.tasks[task].cpu]) {
                continue;
            }
            let phase = self.tasks[task].phase;
            if let TaskPhase::Running | TaskPhase::Queued { .. } = phase {
                let left = self.take_off(task);
                let to = self.idlest(&allowed);
                self.enqueue(task, to, false);
                if let Some(cpu) = left {
                    self.start_next(cpu);
                }
            }
        }
    }

    /// Lets time pass.
    pub fn run_until(&mut self, until_ns: u64) {
        while let Some(Reverse((time, ..))) = self.events.peek() {
            if *time > until_ns {
                break;
            }
            let Some(Reverse((time, _, event))) = self.events.pop() else {
                break;
            };
            self.now_ns = time;
            self.handle(event);
        }
        self.now_ns = until_ns;
        for cpu in 0..self.queues.len() {
            self.charge(cpu);
        }
    }

    /// From now on the hypervisor takes this share of time from each CPU that is busy, thousandths.
    pub fn set_steal(&mut self, milli: u64) {
        if self.steal_milli.replace(milli).is_none() {
            for cpu in 0..self.queues.len() {
                let stagger = self.random.below(STEAL_EVERY_NS);
                self.at(self.now_ns + stagger, KernelEvent::Steal { cpu });
            }
        }
    }

    /// Time that the hypervisor took from each CPU since the last call, nanoseconds.
    pub fn take_stolen(&mut self) -> BTreeMap<CpuId, u64> {
        let queues = self.ids.iter().zip(&mut self.queues);
        let stolen = queues.map(|(id, queue)| (*id, std::mem::take(&mut queue.stolen_ns)));
        stolen.collect()
    }

    /// What the container experienced since the last call.
    pub fn take_counters(&mut self, handle: Handle) -> Counters {
        std::mem::take(&mut self.containers[handle.0].counters)
    }

    /// Which container ran where since the last call.
    pub fn take_stretches(&mut self) -> Vec<Stretch> {
        std::mem::take(&mut self.stretches)
    }

    fn usable(&self, cpus: &CpuSet) -> CpuSet {
        let usable = cpus.intersection(&self.topology.online);
        if usable.is_empty() {
            self.topology.online
        } else {
            usable
        }
    }

    /// The CPUs that a task may run on.
    fn allowed(&self, task: usize) -> CpuSet {
        let task = &self.tasks[task];
        bound(self.containers[task.container].allowed, task.role)
    }

    fn at(&mut self, time: u64, event: KernelEvent) {
        self.sequence += 1;
        self.events.push(Reverse((time, self.sequence, event)));
    }

    fn handle(&mut self, event: KernelEvent) {
        match event {
            KernelEvent::Timer { task, timer } if self.tasks[task].timer == timer => {
                self.wake(task, None);
            }
            KernelEvent::SliceEnd { cpu, slice } if self.queues[cpu].slice == slice => {
                self.slice_end(cpu);
            }
            KernelEvent::Balance { cpu, round } => {
                self.balance(cpu, round);
                let again = KernelEvent::Balance {
                    cpu,
                    round: round + 1,
                };
                self.at(self.now_ns + BALANCE_NS, again);
            }
            KernelEvent::Refill { container } => self.refill(container),
            KernelEvent::Steal { cpu } => self.steal(cpu),
            KernelEvent::StealEnd { cpu } => self.steal_end(cpu),
            KernelEvent::Timer { .. } | KernelEvent::SliceEnd { .. } => {}
        }
    }

    fn steal(&mut self, cpu: usize) {
        self.at(self.now_ns + STEAL_EVERY_NS, KernelEvent::Steal { cpu });
        let length_ns = STEAL_EVERY_NS / 1000 * self.steal_milli.unwrap_or(0);
        if length_ns == 0 || self.queues[cpu].current.is_none() {
            return;
        }
        self.charge(cpu);
        let queue = &mut self.queues[cpu];
        queue.stolen = true;
        queue.stolen_ns += length_ns;
        queue.speed = 0;
        // Its slice does not end meanwhile.
        queue.slice += 1;
        self.at(self.now_ns + length_ns, KernelEvent::StealEnd { cpu });
    }

    fn steal_end(&mut self, cpu: usize) {
        self.charge(cpu);
        self.queues[cpu].stolen = false;
        match self.queues[cpu].current {
            Some(_) => {
                self.set_speed(cpu);
                self.arm(cpu);
            }
            None => self.start_next(cpu),
        }
    }

    /// Accounts the time since the last look to the task that runs on the CPU.
    fn charge(&mut self, cpu: usize) {
        let queue = &mut self.queues[cpu];
        let ran = self.now_ns - queue.since;
        queue.since = self.now_ns;
        let Some(current) = queue.current.filter(|_| ran > 0) else {
            return;
        };
        let task = &mut self.tasks[current];
        task.virtual_ns += ran * 1024 / task.weight;
        task.work_left_ns = task.work_left_ns.saturating_sub(ran * queue.speed / 1000);
        let waiting = queue.queue.first().map_or(task.virtual_ns, |first| first.0);
        queue.floor_ns = queue.floor_ns.max(waiting.min(task.virtual_ns));
        let container = &mut self.containers[task.container];
        container.counters.run_ns += ran;
        container.left_ns -= i128::from(ran);
        self.stretches.push(Stretch {
            cpu: self.ids[cpu],
            container: Handle(task.container),
            until_ns: self.now_ns,
            ran_ns: ran,
        });
    }

    fn is_throttled(&self, container: usize) -> bool {
        let container = &self.containers[container];
        container.quota_ns.is_some() && container.left_ns <= 0
    }

    /// The running task has done its work, used its slice or its quota.
    fn slice_end(&mut self, cpu: usize) {
        self.charge(cpu);
        let Some(task) = self.queues[cpu].current else {
            return;
        };
        let container = self.tasks[task].container;
        if self.tasks[task].work_left_ns == 0 {
            self.finish_piece(task, cpu);
        } else if self.is_throttled(container) {
            self.queues[cpu].current = None;
            self.tasks[task].phase = TaskPhase::Throttled { since: self.now_ns };
            self.start_next(cpu);
        } else {
            let own = self.tasks[task].virtual_ns;
            let waiting = self.queues[cpu].queue.first();
            if waiting.is_some_and(|(virtual_ns, _)| *virtual_ns < own) {
                self.queues[cpu].current = None;
                self.tasks[task].phase = TaskPhase::Queued { since: self.now_ns };
                self.queues[cpu].queue.insert((own, task));
                self.start_next(cpu);
            } else {
                self.arm(cpu);
            }
        }
    }

    fn finish_piece(&mut self, task: usize, cpu: usize) {
        let behaviour = self.containers[self.tasks[task].container].behaviour;
        if behaviour.sleep_ns == 0 {
            self.tasks[task].work_left_ns = self.random.around(behaviour.work_ns).max(1);
            self.slice_end(cpu);
            return;
        }
        self.tasks[task].phase = TaskPhase::Asleep;
        self.tasks[task].timer += 1;
        let timer = self.tasks[task].timer;
        let role = self.tasks[task].role;
        if role != Role::Called {
            let wake_ns = self.now_ns + self.random.around(behaviour.sleep_ns).max(1);
            self.at(wake_ns, KernelEvent::Timer { task, timer });
        }
        if behaviour.talks && role != Role::Called {
            let callees = &self.containers[self.tasks[task].container].tasks;
            // Callers are the first of the threads, and call none of themselves.
            let callers = usize::try_from(behaviour.callers).unwrap_or(0);
            let callees = callees.get(callers..).unwrap_or_default();
            let count = callees.len();
            let choice = self.random.below(u64::try_from(count).unwrap_or(1).max(1));
            let choice = usize::try_from(choice).unwrap_or(0);
            if let Some(callee) = callees
                .get(choice)
                .copied()
                .filter(|callee| *callee != task)
            {
                self.wake(callee, Some(cpu));
            }
        }
        self.queues[cpu].current = None;
        self.start_next(cpu);
    }

    fn refill(&mut self, container: usize) {
        if !self.containers[container].alive {
            return;
        }
        let quota = i128::from(self.containers[container].quota_ns.unwrap_or(0));
        let left = self.containers[container].left_ns;
        // What slices overran is owed; what was left over is lost.
        self.containers[container].left_ns = quota.min(left + quota);
        if self.is_throttled(container) {
            self.at(self.now_ns + PERIOD_NS, KernelEvent::Refill { container });
            return;
        }
        for task in self.containers[container].tasks.clone() {
            if let TaskPhase::Throttled { since } = self.tasks[task].phase {
                self.containers[container].counters.throttled_ns += self.now_ns - since;
                self.tasks[task].phase = TaskPhase::Asleep;
                let cpu = self.allowed_near(task);
                self.enqueue(task, cpu, true);
            }
        }
        self.at(self.now_ns + PERIOD_NS, KernelEvent::Refill { container });
    }

    fn wake(&mut self, task: usize, waker: Option<usize>) {
        if self.tasks[task].phase != TaskPhase::Asleep {
            return;
        }
        self.tasks[task].timer += 1;
        let cpu = self.select(task, waker);
        self.wake_on(task, cpu);
    }

    fn wake_on(&mut self, task: usize, cpu: usize) {
        let container = self.tasks[task].container;
        let work_ns = match self.tasks[task].role {
            Role::Caller { .. } => CALL_NS,
            Role::Equal | Role::Called => self.containers[container].behaviour.work_ns,
        };
        self.tasks[task].work_left_ns = self.random.around(work_ns).max(1);
        if self.is_throttled(container) {
            self.tasks[task].phase = TaskPhase::Throttled { since: self.now_ns };
        } else {
            self.enqueue(task, cpu, true);
        }
    }

    /// Puts a task on a run queue, counts how far it moved, and lets it run if it may now.
    fn enqueue(&mut self, task: usize, cpu: usize, woken: bool) {
        self.enqueue_since(task, cpu, woken, self.now_ns);
    }

    /// The same for a task that has waited elsewhere since then: its stint goes on.
    fn enqueue_since(&mut self, task: usize, cpu: usize, woken: bool, since: u64) {
        self.charge(cpu);
        let from = self.tasks[task].cpu;
        let container = self.tasks[task].container;
        if from != cpu {
            let class = self.topology.class(self.ids[from], self.ids[cpu]);
            let counters = &mut self.containers[container].counters;
            *counters.migrations.entry(class).or_default() += 1;
            self.tasks[task].work_left_ns += warm_up_ns(class);
        }
        let floor_ns = self.queues[cpu].floor_ns;
        let entry = &mut self.tasks[task];
        entry.cpu = cpu;
        // A sleeper gets at most half a slice of credit; a migrant keeps its lead or lag in bounds.
        entry.virtual_ns = entry
            .virtual_ns
            .clamp(floor_ns.saturating_sub(SLICE_NS / 2), floor_ns + SLICE_NS);
        entry.phase = TaskPhase::Queued { since };
        let own = entry.virtual_ns;
        self.queues[cpu].queue.insert((own, task));
        match self.queues[cpu].current {
            None => self.start_next(cpu),
            Some(current) => {
                let running = self.tasks[current].virtual_ns;
                if woken
                    && !self.queues[cpu].stolen
                    && running > own + WAKE_GRANULARITY_NS
                    && self.tasks[current].work_left_ns > 0
                {
                    self.queues[cpu].current = None;
                    self.tasks[current].phase = TaskPhase::Queued { since: self.now_ns };
                    self.queues[cpu].queue.insert((running, current));
                    self.start_next(cpu);
                }
            }
        }
    }

    /// Takes a task off its CPU or queue; the CPU that must choose another, if it was running.
    fn take_off(&mut self, task: usize) -> Option<usize> {
        let cpu = self.tasks[task].cpu;
        match self.tasks[task].phase {
            TaskPhase::Running => {
                self.charge(cpu);
                self.queues[cpu].current = None;
                self.queues[cpu].slice += 1;
                Some(cpu)
            }
            TaskPhase::Queued { .. } => {
                let key = (self.tasks[task].virtual_ns, task);
                self.queues[cpu].queue.remove(&key);
                None
            }
            _ => None,
        }
    }

    /// Lets the first of the queue run; an empty queue looks for work elsewhere.
    fn start_next(&mut self, cpu: usize) {
        self.queues[cpu].slice += 1;
        self.queues[cpu].since = self.now_ns;
        if self.queues[cpu].stolen {
            return;
        }
        loop {
            let Some((_, task)) = self.queues[cpu].queue.pop_first() else {
                self.pull_when_idle(cpu);
                return;
            };
            let container = self.tasks[task].container;
            if let TaskPhase::Queued { since } = self.tasks[task].phase {
                let waited = self.now_ns - since;
                self.containers[container].counters.waits_ns.push(waited);
            }
            if self.is_throttled(container) {
                self.tasks[task].phase = TaskPhase::Throttled { since: self.now_ns };
                continue;
            }
            self.tasks[task].phase = TaskPhase::Running;
            self.queues[cpu].current = Some(task);
            self.set_speed(cpu);
            self.arm(cpu);
            return;
        }
    }

    fn set_speed(&mut self, cpu: usize) {
        let busy = |sibling: &usize| *sibling != cpu && self.queues[*sibling].current.is_some();
        self.queues[cpu].speed = if self.spans[cpu][0].iter().any(busy) {
            SIBLING_BUSY_SPEED
        } else {
            1000
        };
    }

    /// Sets the end of the running task's slice: its work, its quota, or its share of time.
    fn arm(&mut self, cpu: usize) {
        let Some(task) = self.queues[cpu]
            .current
            .filter(|_| !self.queues[cpu].stolen)
        else {
            return;
        };
        let container = &self.containers[self.tasks[task].container];
        let work = (self.tasks[task].work_left_ns * 1000).div_ceil(self.queues[cpu].speed.max(1));
        let mut slice_ns = work.min(SLICE_NS);
        if container.quota_ns.is_some() {
            slice_ns = slice_ns.min(u64::try_from(container.left_ns).unwrap_or(0));
        }
        self.queues[cpu].slice += 1;
        let slice = self.queues[cpu].slice;
        self.at(
            self.now_ns + slice_ns.max(1),
            KernelEvent::SliceEnd { cpu, slice },
        );
    }
}

/// Of a container's CPUs those that a thread of it may run on.
fn bound(allowed: CpuSet, role: Role) -> CpuSet {
    let Role::Caller { last } = role else {
        return allowed;
    };
    let mut cpus = allowed.iter();
    let cpu = if last { cpus.last() } else { cpus.next() };
    cpu.into_iter().collect()
}

/// Extra work after a move, for caches to be warmed again: orders of magnitude, not measurements.
fn warm_up_ns(class: DistanceClass) -> u64 {
    match class {
        DistanceClass::SameCpu | DistanceClass::SameCore => 0,
        DistanceClass::SameLlc => 3_000,
        DistanceClass::SameNode => 15_000,
        DistanceClass::SamePackage => 40_000,
        DistanceClass::OtherPackage => 80_000,
    }
}
