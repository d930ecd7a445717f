//! The kernel's own books on a container's threads.

use anyhow::Result;
use resmgr_tests::kernel;
use std::{fs, path::Path};

/// Sums over all threads of a container that live.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Books {
    /// Nanoseconds on a CPU.
    pub(crate) run_ns: u64,
    /// Nanoseconds runnable and not on a CPU.
    pub(crate) wait_ns: u64,
    /// Moves from one CPU to another.
    pub(crate) migrations: u64,
    /// Switches that the thread did not ask for.
    pub(crate) preempted: u64,
}

impl Books {
    /// Reads `schedstat`, `sched` and `status` of every thread of container `id` below `parent`.
    pub(crate) fn of(parent: &str, id: &str) -> Result<Self> {
        let procs = fs::read_to_string(kernel::cgroup(parent, id)?.join("cgroup.procs"))?;
        let mut sum = Self::default();
        for pid in procs.lines() {
            for task in fs::read_dir(format!("/proc/{pid}/task"))
                .into_iter()
                .flatten()
                .flatten()
            {
                sum.add(&task.path());
            }
        }
        Ok(sum)
    }

    /// A thread that has just ended counts for nothing.
    fn add(&mut self, task: &Path) {
        let read = |name| fs::read_to_string(task.join(name)).unwrap_or_default();
        let schedstat = read("schedstat");
        let mut words = schedstat
            .split_whitespace()
            .map(|word| word.parse().unwrap_or(0));
        self.run_ns += words.next().unwrap_or(0);
        self.wait_ns += words.next().unwrap_or(0);
        self.migrations += field(&read("sched"), "se.nr_migrations");
        self.preempted += field(&read("status"), "nonvoluntary_ctxt_switches");
    }
}

fn field(text: &str, name: &str) -> u64 {
    text.lines()
        .find_map(|line| {
            line.strip_prefix(name)?
                .split(':')
                .nth(1)?
                .trim()
                .parse()
                .ok()
        })
        .unwrap_or(0)
}
