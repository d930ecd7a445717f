//! How often the cgroup of a container is repaired that another program keeps changing.
//!
//! ```text
//! repaired at once ─▶ next after 50 ms ─▶ 100 ms ─▶ … ─▶ 3 s       quiet for 30 s: at once again
//! ```
//!
//! Two programs that answer each other's writes would otherwise take a CPU each, and fill the log.

use resmgr_policy::ContainerId;
use std::{collections::BTreeMap, sync::Arc, time::Duration};
use tokio::time::Instant;

/// Pause after the first repair of a container.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
/// Longest pause between two repairs of a container.
const LONGEST_PAUSE: Duration = Duration::from_secs(3);
/// A container without a repair for this long is repaired at once again.
const QUIET: Duration = Duration::from_secs(30);
/// Repairs of a container within this time share a line of the log.
const LINE_INTERVAL: Duration = Duration::from_secs(30);

/// The pauses between repairs, by container.
#[derive(Debug, Default)]
pub(super) struct RepairBackoff {
    containers: BTreeMap<ContainerId, Pause>,
    contested: Arc<BTreeMap<ContainerId, Arc<str>>>,
}

#[derive(Debug)]
struct Pause {
    /// How long it is.
    length: Duration,
    /// When it ends.
    until: Instant,
    /// Whether the container is to be looked at when it ends.
    noticed: bool,
    /// When the last line was logged.
    logged_at: Instant,
    /// Repairs that no line has told of.
    untold: u64,
}

impl RepairBackoff {
    /// Whether a container may be looked at now. If not, it is among [`RepairBackoff::due`] when its pause
    /// is over.
    pub(super) fn allows(&mut self, id: &ContainerId, now: Instant) -> bool {
        match self.containers.get_mut(id) {
            Some(pause) if now < pause.until => {
                pause.noticed = true;
                false
            }
            _ => true,
        }
    }

    /// Whether a repair now would follow shortly after an earlier one of the same container.
    pub(super) fn repeats(&self, id: &ContainerId, now: Instant) -> bool {
        let pause = self.containers.get(id);
        pause.is_some_and(|pause| now < pause.until + QUIET)
    }

    /// A container was repaired: its pause begins. The number of repairs that a line of the log is to tell
    /// of; `None` where no line is due.
    pub(super) fn repaired(&mut self, id: &ContainerId, now: Instant) -> Option<u64> {
        let known = self.containers.get_mut(id);
        let Some(pause) = known.filter(|pause| now < pause.until + QUIET) else {
            let pause = Pause {
                length: FIRST_PAUSE,
                until: now + FIRST_PAUSE,
                noticed: false,
                logged_at: now,
                untold: 0,
            };
            self.containers.insert(id.clone(), pause);
            self.settle(id);
            return Some(1);
        };
        pause.length = (pause.length * 2).min(LONGEST_PAUSE);
        pause.until = now + pause.length;
        pause.untold += 1;
        if now < pause.logged_at + LINE_INTERVAL {
            return None;
        }
        pause.logged_at = now;
        Some(std::mem::take(&mut pause.untold))
    }

    /// When the first pause ends of a container that is to be looked at.
    pub(super) fn next(&self) -> Option<Instant> {
        let noticed = self.containers.values().filter(|pause| pause.noticed);
        noticed.map(|pause| pause.until).min()
    }

    /// Takes the containers that are to be looked at now.
    pub(super) fn due(&mut self, now: Instant) -> Vec<ContainerId> {
        let due = |pause: &Pause| pause.noticed && pause.until <= now;
        let containers = self.containers.iter_mut();
        containers
            .filter(|(_id, pause)| due(pause))
            .map(|(id, pause)| {
                pause.noticed = false;
                id.clone()
            })
            .collect()
    }

    /// Another program keeps changing the cgroup of a container: one of these candidates.
    pub(super) fn contest(&mut self, id: &ContainerId, candidates: &str) {
        Arc::make_mut(&mut self.contested).insert(id.clone(), candidates.into());
    }

    /// Containers whose cgroup another program keeps changing, and the processes that may be it.
    pub(super) fn contested(&self) -> &Arc<BTreeMap<ContainerId, Arc<str>>> {
        &self.contested
    }

    fn settle(&mut self, id: &ContainerId) {
        if self.contested.contains_key(id) {
            Arc::make_mut(&mut self.contested).remove(id);
        }
    }

    /// A container has ended.
    pub(super) fn forget(&mut self, id: &ContainerId) {
        self.containers.remove(id);
        self.settle(id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id() -> ContainerId {
        ContainerId("c1".into())
    }

    #[test]
    fn a_program_that_writes_without_end_gets_few_repairs_and_fewer_lines() {
        let mut backoff = RepairBackoff::default();
        let begin = Instant::now();
        let (mut repairs, mut lines, mut told) = (0, 0, 0);
        for ms in 0..60_000 {
            let now = begin + Duration::from_millis(ms);
            if backoff.allows(&id(), now) {
                repairs += 1;
                if let Some(count) = backoff.repaired(&id(), now) {
                    lines += 1;
                    told += count;
                }
            }
        }
        assert!((10..30).contains(&repairs), "{repairs}");
        assert_eq!(lines, 2);
        assert!(told > 5 && told <= repairs, "{told} of {repairs}");
    }

    #[test]
    fn a_notice_within_a_pause_is_looked_at_when_it_ends() {
        let mut backoff = RepairBackoff::default();
        let begin = Instant::now();
        assert_eq!(backoff.repaired(&id(), begin), Some(1));
        assert_eq!(backoff.next(), None);
        assert!(!backoff.allows(&id(), begin));
        let end = backoff.next().unwrap();
        assert_eq!(end, begin + FIRST_PAUSE);
        assert_eq!(backoff.due(begin), []);
        assert_eq!(backoff.due(end), [id()]);
        assert_eq!(backoff.due(end), []);
        assert!(backoff.allows(&id(), end));
    }

    #[test]
    fn after_quiet_a_repair_is_at_once_and_has_its_own_line() {
        let mut backoff = RepairBackoff::default();
        let begin = Instant::now();
        assert_eq!(backoff.repaired(&id(), begin), Some(1));
        let soon = begin + FIRST_PAUSE;
        assert_eq!(backoff.repaired(&id(), soon), None);
        backoff.contest(&id(), "systemd (process 1)");
        assert_eq!(backoff.contested().len(), 1);
        let later = soon + LONGEST_PAUSE + QUIET;
        assert!(backoff.allows(&id(), later));
        assert_eq!(backoff.repaired(&id(), later), Some(1));
        assert!(backoff.contested().is_empty());
        backoff.forget(&id());
        assert!(backoff.allows(&id(), later));
    }
}
