//! Moves of which it is known whether they are right, on a machine with noise: what becomes of them.
//!
//! The policy is told that the destination is idle. Where that is true the move is right. It is wrong where a list is as
//! crowded as the one that was left, and where a package gets crowded when the container comes. Only one container may be moved. The verdict is
//! written down and not carried out.

use super::{MS, Simulation};
use crate::{noise::Noise, setup::Setup, workload::request};
use resmgr_policy::{
    CpuListConfig, Measured, Outcome, Policy, PolicySettings, PoolConfig, QosClass, RebalanceMode,
    Reserved, by_name,
    trace::{Behaviour, Class},
};
use resmgr_topology::{CpuSet, MilliCpu, Topology};

const INTERVAL_MS: u64 = 500;
/// Four half-lives, of five intervals each.
const WARM_UP_INTERVALS: u64 = 20;
/// Sixteen half-lives: longer than any trial lasts.
const TRIAL_INTERVALS: u64 = 80;
/// Intervals between two rounds: the daemon waits for half a half-life.
const ROUND_INTERVALS: u64 = 3;
/// Phases of noise last three half-lives on average.
const PHASE_MS: u64 = 3 * 5 * INTERVAL_MS;
/// The destination, under either policy, as CPUs of the machine.
const LIST: &str = "2-3";
const PACKAGE: &str = "4-7";

/// A kind of move.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MoveScenario {
    /// Under `static-pools`: from a crowded list to another one, against waiting.
    List,
    /// Under `static-plus`: from the whole pool to a package, against migrations between packages.
    Package,
}

/// One move.
#[derive(Clone, Copy, Debug)]
pub struct Experiment {
    /// What is moved where.
    pub scenario: MoveScenario,
    /// Whether the destination is idle.
    pub right: bool,
    /// Whether the hypervisor steals time and other processes come and go.
    pub noisy: bool,
    /// Equal seeds give equal runs.
    pub seed: u64,
}

/// What became of a move.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// Kept or undone; `Trial` when there was no verdict in time.
    pub outcome: Outcome,
    /// How long that took, thousandths of a half-life.
    pub after_milli: u64,
}

impl Experiment {
    /// The verdict; `None` when no move was made.
    #[must_use]
    pub fn run(&self) -> Option<Verdict> {
        let machine = Topology::synthetic(match self.scenario {
            MoveScenario::List => "pack:4 core:2",
            MoveScenario::Package => "pack:2 core:4",
        })
        .ok()?;
        let policy = self.policy(&machine)?;
        let mut simulation = Simulation::new(Setup {
            topology: &machine,
            policy: &*policy,
            trace: &[],
            seed: self.seed,
            duration_ms: 0,
            interval_ms: INTERVAL_MS,
            feedback: RebalanceMode::On,
        });
        let mut noise = self
            .noisy
            .then(|| Noise::new(self.seed, PHASE_MS.saturating_mul(MS)));
        self.start(&mut simulation);
        let mut moved_ns = None;
        for interval in 1..=WARM_UP_INTERVALS + TRIAL_INTERVALS {
            simulation.pass(INTERVAL_MS * MS, noise.as_mut());
            if interval < WARM_UP_INTERVALS || !interval.is_multiple_of(ROUND_INTERVALS) {
                continue;
            }
            let Some(at_ns) = moved_ns else {
                self.deceive(&mut simulation.measured);
                let decision = policy.rebalance(simulation.view())?;
                moved_ns = Some(simulation.now_ns);
                simulation.apply(&decision);
                if !self.right && self.scenario == MoveScenario::Package {
                    // The package is crowded by threads that the policy knows nothing of.
                    let kernel = &mut simulation.kernel;
                    kernel.start(batch(6), &cpus(PACKAGE), 2048, None);
                }
                continue;
            };
            let Some(decision) = policy.rebalance(simulation.view()) else {
                continue;
            };
            let memory = decision.memory?;
            let outcome = memory.history.back()?.outcome;
            if outcome != Outcome::Trial {
                let half_life_ns = simulation.measured.half_life.0.max(1);
                let after_milli = (simulation.now_ns - at_ns) * 1000 / half_life_ns;
                return Some(Verdict {
                    outcome,
                    after_milli,
                });
            }
            simulation.state.rebalance = memory;
        }
        let after_milli = TRIAL_INTERVALS * 200;
        moved_ns.map(|_| Verdict {
            outcome: Outcome::Trial,
            after_milli,
        })
    }

    fn policy(&self, machine: &Topology) -> Option<Box<dyn Policy>> {
        let mut settings = PolicySettings {
            rebalance: RebalanceMode::On,
            ..PolicySettings::default()
        };
        settings.slices.reserved = Some(Reserved::Quantity(MilliCpu(1000)));
        // A socket for each list, so that each container can ask for its own.
        let lists = (0..4u32).map(|socket| CpuListConfig {
            socket,
            cpuset: format!("{}-{}", socket * 2, socket * 2 + 1),
        });
        let pool = PoolConfig {
            exclusive: false,
            cpu_lists: lists.collect(),
        };
        settings.pools.pools = [("shared".to_owned(), pool)].into();
        let name = match self.scenario {
            MoveScenario::List => "static-pools",
            MoveScenario::Package => "static-plus",
        };
        by_name(name, machine, &settings).ok()
    }

    /// Starts the container that will be moved, and all others, which may not be.
    fn start(&self, simulation: &mut Simulation<'_>) {
        let mut start = |name: &str, milli, behaviour, list: Option<u32>| {
            let mut asked = request(name, QosClass::Burstable, MilliCpu(milli), None);
            if name != "moved" {
                let key = "rebalance.cri-resource-manager.intel.com/pod";
                asked.annotations.insert(key.into(), "false".into());
            }
            if let Some(list) = list {
                asked.env.push(("STP_SOCKET_ID".into(), list.to_string()));
            }
            simulation.create(&asked, Some(behaviour));
        };
        let batch = batch(2);
        let bursty = Behaviour {
            work_ns: 8 * MS,
            sleep_ns: 12 * MS,
            ..Behaviour::of(Class::Bursty, 2)
        };
        match self.scenario {
            MoveScenario::List => {
                start("moved", 500, bursty, None);
                for list in 0..4 {
                    let target = list == 1;
                    if target && self.right {
                        start("light", 500, Behaviour::of(Class::Latency, 1), Some(1));
                        continue;
                    }
                    start(&format!("batch-{list}"), 500, batch, Some(list));
                    if list > 0 {
                        start(&format!("bursty-{list}"), 500, bursty, Some(list));
                    }
                }
            }
            MoveScenario::Package => {
                let called = Behaviour {
                    sleep_ns: 3 * MS,
                    callers: 2,
                    ..Behaviour::of(Class::Chatty, 5)
                };
                start("moved", 300, called, None);
                start("latency", 500, Behaviour::of(Class::Latency, 3), None);
                start("bursty", 900, bursty, None);
            }
        }
    }

    /// Has the policy believe that the destination is idle and everything else is full.
    fn deceive(&self, measured: &mut Measured) {
        let idle = cpus(match self.scenario {
            MoveScenario::List => LIST,
            MoveScenario::Package => PACKAGE,
        });
        for (cpu, milli) in &mut measured.cpu_busy_milli {
            *milli = if idle.contains(*cpu) { 0 } else { 1000 };
        }
    }
}

impl Simulation<'_> {
    /// Lets time pass, with noise, and measures.
    fn pass(&mut self, interval_ns: u64, noise: Option<&mut Noise>) {
        let end_ns = self.now_ns + interval_ns;
        if let Some(noise) = noise {
            while noise.until_ns() < end_ns {
                self.kernel.run_until(noise.until_ns());
                let (at_ns, cpus) = (noise.until_ns(), self.setup.topology.online.len());
                noise.next_phase(&mut self.kernel, at_ns, u64::try_from(cpus).unwrap_or(0));
            }
        }
        self.kernel.run_until(end_ns);
        self.now_ns = end_ns;
        self.report.timeline.add(self.kernel.take_stretches());
        self.measure(interval_ns);
    }
}

/// Threads that are busy for five sixths of the time.
fn batch(threads: u32) -> Behaviour {
    Behaviour {
        work_ns: 5 * MS,
        sleep_ns: MS,
        ..Behaviour::of(Class::Batch, threads)
    }
}

fn cpus(list: &str) -> CpuSet {
    list.parse().expect("a list written here")
}
