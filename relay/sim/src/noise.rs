//! What a machine does to all containers alike: time that the hypervisor steals, and processes outside of every
//! container, both in phases.

use crate::{
    kernel::{Handle, Kernel},
    random::Random,
};
use resmgr_policy::trace::{Behaviour, Class};
use resmgr_topology::CpuSet;

/// Shares of time stolen in a phase, thousandths.
const STEAL_MILLI: [u64; 4] = [0, 100, 250, 450];
/// Threads of other processes for each CPU in a phase, thousandths.
const LOAD_MILLI: [u64; 4] = [0, 0, 500, 1000];
/// CPU shares of the other processes: those of a cgroup without a request of its own.
const SHARES: u64 = 1024;

/// Noise by a seed.
#[derive(Debug)]
pub(crate) struct Noise {
    random: Random,
    /// The mean length of a phase.
    phase_ns: u64,
    until_ns: u64,
    load: Option<Handle>,
}

impl Noise {
    /// Phases of this mean length, nanoseconds, drawn from the seed.
    pub(crate) fn new(seed: u64, phase_ns: u64) -> Self {
        Self {
            random: Random::new(seed ^ 0x6e6f_6973_6500_0000),
            phase_ns,
            until_ns: 0,
            load: None,
        }
    }

    /// When the present phase ends.
    pub(crate) fn until_ns(&self) -> u64 {
        self.until_ns
    }

    /// Begins the next phase.
    pub(crate) fn next_phase(&mut self, kernel: &mut Kernel<'_>, now_ns: u64, cpus: u64) {
        self.until_ns = now_ns + self.random.around(self.phase_ns).max(1);
        kernel.set_steal(self.draw(STEAL_MILLI));
        if let Some(load) = self.load.take() {
            kernel.stop(load);
        }
        let threads = self.draw(LOAD_MILLI) * cpus / 1000;
        if threads > 0 {
            let load = Behaviour {
                work_ns: 4_000_000,
                sleep_ns: 4_000_000,
                ..Behaviour::of(Class::Bursty, u32::try_from(threads).unwrap_or(u32::MAX))
            };
            let shares = SHARES * threads;
            self.load = Some(kernel.start(load, &CpuSet::EMPTY, shares, None));
        }
    }

    fn draw(&mut self, of: [u64; 4]) -> u64 {
        let index = usize::try_from(self.random.below(4)).unwrap_or(0);
        of.get(index).copied().unwrap_or(0)
    }
}
