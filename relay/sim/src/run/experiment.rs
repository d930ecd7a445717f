//! Moves of which it is known whether they are right, on a machine with noise: what becomes of them.
//!
//! Under `static-pools` a container moves away from a crowded list of CPUs. A right move goes to a list with room. A wrong one
//! does so too, but as the container comes, the list gets crowded by threads that the policy does not see. Only one
//! container may be moved. The verdict is written down and not carried out.

mod tally;
mod thresholds;

pub use tally::VerdictCount;

use self::thresholds::Thresholds;
use super::{MS, Simulation};
use crate::{noise::Noise, setup::Setup, workload::request};
use resmgr_policy::{
    ContainerId, CpuListConfig, Outcome, Policy, PolicySettings, PoolConfig, QosClass,
    RebalanceMode, Reserved, by_name,
    trace::{Behaviour, Class},
};
use resmgr_topology::{MilliCpu, Topology};
use std::ops::RangeInclusive;

const INTERVAL_MS: u64 = 500;
/// Four half-lives, of five intervals each.
const WARM_UP_INTERVALS: u64 = 20;
/// Forty-eight half-lives: the policy moves when it finds reason to, and judges in time.
const TRIAL_INTERVALS: u64 = 240;
/// Intervals between two rounds: the daemon waits for half a half-life.
const ROUND_INTERVALS: u64 = 3;
/// Phases of noise last three half-lives on average.
const PHASE_MS: u64 = 3 * 5 * INTERVAL_MS;
/// CPU shares of all threads that crowd a destination.
const CROWD_SHARES: u64 = 2048;

/// One move.
#[derive(Clone, Copy, Debug)]
pub struct Experiment {
    /// Whether there is room at the destination.
    pub right: bool,
    /// Whether the hypervisor steals time and other processes come and go.
    pub noisy: bool,
    /// Equal seeds give equal runs.
    pub seed: u64,
}

/// A verdict, and how long it took, thousandths of a half-life.
type Timed = (Outcome, u64);

/// What became of a move; `None` when there was no verdict in time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Verdicts {
    /// By the policy.
    pub policy: Option<Timed>,
    /// By thresholds for the plain difference.
    pub thresholds: Option<Timed>,
}

impl Experiment {
    /// The verdicts; `None` when no move was made.
    #[must_use]
    pub fn run(&self) -> Option<Verdicts> {
        let machine = Topology::synthetic("pack:4 core:2").ok()?;
        let policy = Self::policy(&machine)?;
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
        Self::start(&mut simulation);
        let mut thresholds = None;
        let mut verdicts = Verdicts::default();
        for interval in 1..=WARM_UP_INTERVALS + TRIAL_INTERVALS {
            simulation.pass(INTERVAL_MS * MS, noise.as_mut());
            if interval < WARM_UP_INTERVALS || !interval.is_multiple_of(ROUND_INTERVALS) {
                continue;
            }
            let decision = policy.rebalance(simulation.view());
            let Some(thresholds) = &thresholds else {
                if let Some(decision) = decision {
                    simulation.apply(&decision);
                    thresholds = Some(Thresholds::of(simulation.view())?);
                    if !self.right {
                        simulation.crowd_destination();
                    }
                }
                continue;
            };
            let half_life_ns = simulation.measured.half_life.0.max(1);
            let since_ns = simulation.now_ns - thresholds.at_ns();
            let after_milli = since_ns * 1000 / half_life_ns;
            let timed = |outcome| (outcome, after_milli);
            if verdicts.thresholds.is_none() {
                verdicts.thresholds = thresholds.verdict(simulation.view()).map(timed);
            }
            if verdicts.policy.is_none()
                && let Some(memory) = decision.and_then(|decision| decision.memory)
            {
                match memory.history.back()?.outcome {
                    Outcome::Trial => simulation.state.rebalance = memory,
                    outcome => verdicts.policy = Some(timed(outcome)),
                }
            }
            if verdicts.policy.is_some() && verdicts.thresholds.is_some() {
                break;
            }
        }
        thresholds.map(|_| verdicts)
    }

    fn policy(machine: &Topology) -> Option<Box<dyn Policy>> {
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
        by_name("static-pools", machine, &settings).ok()
    }

    /// Starts the container that will be moved, and all others, which may not be.
    fn start(simulation: &mut Simulation<'_>) {
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
        let batch = batch_threads(2);
        let bursty = Behaviour {
            work_ns: 8 * MS,
            sleep_ns: 12 * MS,
            ..Behaviour::of(Class::Bursty, 2)
        };
        start("moved", 500, bursty, None);
        for list in 0..4 {
            if list == 1 {
                start("light", 500, Behaviour::of(Class::Latency, 1), Some(1));
                continue;
            }
            start(&format!("batch-{list}"), 500, batch, Some(list));
            if list > 0 {
                start(&format!("bursty-{list}"), 500, bursty, Some(list));
            }
        }
    }
}

impl Simulation<'_> {
    /// Starts threads without a container on the CPUs that the last move went to, half as many again as these.
    fn crowd_destination(&mut self) {
        let Some(moved) = self.state.containers.get(&ContainerId("moved".into())) else {
            return;
        };
        let cpus = *moved.placement.cpus;
        let threads = u32::try_from(cpus.len() * 3 / 2).unwrap_or(u32::MAX);
        self.kernel
            .start(batch_threads(threads), &cpus, CROWD_SHARES, None);
    }

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
fn batch_threads(threads: u32) -> Behaviour {
    Behaviour {
        work_ns: 5 * MS,
        sleep_ns: MS,
        ..Behaviour::of(Class::Batch, threads)
    }
}

/// The moves of these seeds, with and without noise, right and wrong, as the thresholds and the policy judge them.
pub fn table(seeds: RangeInclusive<u64>) -> impl Iterator<Item = VerdictCount> {
    let kinds = [(true, true), (true, false), (false, true), (false, false)];
    kinds.into_iter().flat_map(move |(noisy, right)| {
        let tally = |thresholds| VerdictCount {
            right,
            noisy,
            thresholds,
            ..VerdictCount::default()
        };
        let (mut thresholds, mut policy) = (tally(true), tally(false));
        for seed in seeds.clone() {
            let experiment = Experiment { right, noisy, seed };
            if let Some(verdicts) = experiment.run() {
                thresholds.add(verdicts.thresholds);
                policy.add(verdicts.policy);
            }
        }
        [thresholds, policy]
    })
}
