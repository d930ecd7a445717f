//! Containers that run, and of which no cgroup is found on this host: their placement is wanted, not enforced.
//!
//! Virtual machines as containers and unusual layouts are the usual reasons. The runtime is asked to keep their CPUs
//! (`UpdateContainerResources`); what it makes of that is not seen from here. A container whose cgroup was found
//! once and is gone has ended; the runtime's list says so soon.

use resmgr_policy::ContainerId;
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::Arc,
    time::Duration,
};
use tokio::time::Instant;

/// A runtime makes the cgroup before it says that the container runs; a slow host gets this long.
const PATIENCE: Duration = Duration::from_secs(1);

/// How the runtime took the CPUs of a container that has no cgroup here.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum RuntimeAnswer {
    /// It was not asked yet.
    #[default]
    Unasked,
    /// It took them.
    Took,
    /// It did not, for this reason.
    Refused(Arc<str>),
}

impl fmt::Display for RuntimeAnswer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("no cgroup of the container is found on this host; ")?;
        match self {
            Self::Unasked => f.write_str("the runtime was not asked yet"),
            Self::Took => f.write_str(
                "the runtime took its CPUs, and whether it keeps to them is not seen here",
            ),
            Self::Refused(why) => write!(f, "the runtime did not take its CPUs: {why}"),
        }
    }
}

/// Which containers have a cgroup.
#[derive(Debug, Default)]
pub(super) struct CgroupPresence {
    found: BTreeSet<ContainerId>,
    missing_since: BTreeMap<ContainerId, Instant>,
    unenforced: Arc<BTreeMap<ContainerId, RuntimeAnswer>>,
}

impl CgroupPresence {
    /// The cgroup of a container was found. Whether the container had been given up.
    pub(super) fn found(&mut self, id: &ContainerId) -> bool {
        self.missing_since.remove(id);
        if !self.found.contains(id) {
            self.found.insert(id.clone());
        }
        self.forget_unenforced(id)
    }

    fn forget_unenforced(&mut self, id: &ContainerId) -> bool {
        let unenforced = self.unenforced.contains_key(id);
        unenforced && Arc::make_mut(&mut self.unenforced).remove(id).is_some()
    }

    /// No cgroup was found of a container that runs. Whether it is given up now.
    pub(super) fn missing(&mut self, id: &ContainerId, now: Instant) -> bool {
        if self.found.contains(id) || self.unenforced.contains_key(id) {
            return false;
        }
        let since = *self.missing_since.entry(id.clone()).or_insert(now);
        let given_up = now >= since + PATIENCE;
        if given_up {
            let unenforced = Arc::make_mut(&mut self.unenforced);
            unenforced.insert(id.clone(), RuntimeAnswer::Unasked);
        }
        given_up
    }

    /// Whether a container has no cgroup, and the runtime has not taken its CPUs either.
    pub(super) fn is_unanswered(&self, id: &ContainerId) -> bool {
        let answer = self.unenforced.get(id);
        answer.is_some_and(|answer| *answer != RuntimeAnswer::Took)
    }

    /// How the runtime took the CPUs of a container without a cgroup.
    pub(super) fn answered(&mut self, id: &ContainerId, answer: RuntimeAnswer) {
        if let Some(known) = Arc::make_mut(&mut self.unenforced).get_mut(id) {
            *known = answer;
        }
    }

    /// Containers whose placement is not enforced here.
    pub(super) fn unenforced(&self) -> &Arc<BTreeMap<ContainerId, RuntimeAnswer>> {
        &self.unenforced
    }

    /// A container has ended.
    pub(super) fn forget(&mut self, id: &ContainerId) {
        self.found.remove(id);
        self.missing_since.remove(id);
        self.forget_unenforced(id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_container_is_given_up_once_and_taken_back_when_its_cgroup_is_found() {
        let mut presence = CgroupPresence::default();
        let id = ContainerId("vm".into());
        let begin = Instant::now();
        assert!(!presence.missing(&id, begin));
        assert!(presence.missing(&id, begin + PATIENCE));
        assert!(!presence.missing(&id, begin + PATIENCE), "told once");
        assert!(presence.unenforced().contains_key(&id));
        assert!(presence.found(&id));
        assert!(presence.unenforced().is_empty());
    }

    #[test]
    fn a_container_whose_cgroup_was_found_and_is_gone_has_ended() {
        let mut presence = CgroupPresence::default();
        let id = ContainerId("c1".into());
        assert!(!presence.found(&id));
        for seconds in 0..10 {
            let now = Instant::now() + Duration::from_secs(seconds);
            assert!(!presence.missing(&id, now));
        }
        presence.forget(&id);
        assert!(presence.unenforced().is_empty());
    }
}
