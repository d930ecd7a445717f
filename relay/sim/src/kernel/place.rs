//! Where tasks go: at fork, at wake-up, and by load balancing.

use super::{Kernel, TaskPhase};
use resmgr_topology::CpuSet;

const CORE: usize = 0;
const LLC: usize = 1;
const MACHINE: usize = 4;

impl Kernel<'_> {
    fn load(&self, span: &[usize]) -> usize {
        span.iter().map(|cpu| self.queues[*cpu].load()).sum()
    }

    fn is_idle(&self, cpu: usize) -> bool {
        self.queues[cpu].load() == 0
    }

    /// Fork balancing: down the domains, each time into the least loaded part. Never empty-handed: the
    /// allowed set is a non-empty part of the online CPUs.
    pub(super) fn idlest(&self, allowed: &CpuSet) -> usize {
        let candidates = (0..self.ids.len()).filter(|cpu| allowed.contains(self.ids[*cpu]));
        let best = candidates.min_by_key(|cpu| {
            let spans = &self.spans[*cpu];
            let share = |level: usize| self.load(&spans[level]) * 1024 / spans[level].len().max(1);
            (
                share(3),
                share(2),
                share(LLC),
                share(CORE),
                self.queues[*cpu].load(),
                *cpu,
            )
        });
        best.unwrap_or(0)
    }

    /// Its last CPU if it may still run there, else the least loaded allowed one.
    pub(super) fn allowed_near(&self, task: usize) -> usize {
        let allowed = self.allowed(task);
        let last = self.tasks[task].cpu;
        if allowed.contains(self.ids[last]) {
            last
        } else {
            self.idlest(&allowed)
        }
    }

    /// Wake placement: drawn to the waker or back to the last CPU, then an idle core, then an idle CPU, of
    /// that cache (`select_task_rq_fair`, `select_idle_sibling`).
    pub(super) fn select(&mut self, task: usize, waker: Option<usize>) -> usize {
        let last = self.allowed_near(task);
        let allowed = self.allowed(task);
        let mut target = last;
        if let Some(waker) = waker.filter(|waker| allowed.contains(self.ids[*waker])) {
            // The waker is about to sleep, so that its CPU is as good as idle (a synchronous wake-up). One
            // that wakes many is not followed every time.
            let alone = self.queues[waker].load() <= 1;
            if alone && self.random.below(4) == 0 {
                let near = self.spans[waker][LLC].contains(&last);
                target = if near && self.is_idle(last) {
                    last
                } else {
                    waker
                };
            }
        }
        if self.is_idle(target) {
            return target;
        }
        let span = self.spans[target][LLC].clone();
        let may = |cpu: &&usize| allowed.contains(self.ids[**cpu]) && self.is_idle(**cpu);
        let core_idle = |cpu: &&usize| self.load(&self.spans[**cpu][CORE]) == 0;
        let whole = span.iter().filter(may).find(core_idle);
        whole
            .or_else(|| span.iter().find(may))
            .copied()
            .unwrap_or(target)
    }

    /// A CPU that falls idle takes waiting work: of its cache always, from further away less and less
    /// often, as the kernel does by comparing the cost of the search with the time it stays idle.
    pub(super) fn pull_when_idle(&mut self, cpu: usize) {
        for level in CORE..=MACHINE {
            let odds = [1, 1, 2, 3, 4][level];
            if self.random.below(odds) == 0 && self.pull(cpu, level, 1) {
                return;
            }
        }
    }

    /// Periodic balancing, rarer the wider the domain.
    pub(super) fn balance(&mut self, cpu: usize, round: u64) {
        for level in CORE..=MACHINE {
            let every = [1, 1, 2, 4, 8][level];
            if round.is_multiple_of(every) && self.pull(cpu, level, 2) {
                return;
            }
        }
    }

    /// Pulls one waiting task from the busiest CPU of the domain that is `margin` busier than this one.
    fn pull(&mut self, cpu: usize, level: usize, margin: usize) -> bool {
        let own = self.queues[cpu].load();
        let busiest = self.spans[cpu][level]
            .iter()
            .copied()
            .filter(|peer| *peer != cpu && !self.queues[*peer].queue.is_empty())
            .filter(|peer| self.queues[*peer].load() >= own + margin)
            .max_by_key(|peer| (self.queues[*peer].load(), usize::MAX - *peer));
        let Some(busiest) = busiest else {
            return false;
        };
        let here = self.ids[cpu];
        let waiting = self.queues[busiest].queue.iter().rev();
        let movable = waiting
            .copied()
            .find(|(_, task)| self.allowed(*task).contains(here));
        let Some((key, task)) = movable else {
            return false;
        };
        self.queues[busiest].queue.remove(&(key, task));
        let since = match self.tasks[task].phase {
            TaskPhase::Queued { since } => since,
            _ => self.now_ns,
        };
        self.enqueue_since(task, cpu, false, since);
        true
    }
}
