//! What a list of the runtime can tell of a container. Pure.
//!
//! A list that was asked for before a container was created does not have it, and one that was asked for
//! before it was removed still has it: neither is news.

use resmgr_policy::ContainerId;
use std::{collections::BTreeMap, time::Duration};
use tokio::time::Instant;

/// How long a removed container is remembered: a list takes less than this from request to reply.
const TOMBSTONE_TTL: Duration = Duration::from_secs(120);

/// When containers were created and removed, as far as lists on their way may be older.
#[derive(Debug, Default)]
pub(super) struct ListFreshness {
    created_at: BTreeMap<ContainerId, Instant>,
    removed_at: BTreeMap<ContainerId, Instant>,
}

impl ListFreshness {
    /// A container exists from now on.
    pub(super) fn created(&mut self, id: ContainerId, now: Instant) {
        self.created_at.insert(id, now);
    }

    /// A container exists no longer.
    pub(super) fn removed(&mut self, id: ContainerId, now: Instant) {
        self.removed_at
            .retain(|_id, at| now.saturating_duration_since(*at) < TOMBSTONE_TTL);
        self.created_at.remove(&id);
        self.removed_at.insert(id, now);
    }

    /// Whether a list asked for at `requested_at` that lacks a known container says that it is gone.
    pub(super) fn absence_is_news(&self, id: &ContainerId, requested_at: Instant) -> bool {
        let created = self.created_at.get(id);
        created.is_none_or(|at| *at < requested_at)
    }

    /// Whether a list asked for at `requested_at` that has an unknown container says that it exists.
    pub(super) fn presence_is_news(&self, id: &ContainerId, requested_at: Instant) -> bool {
        let removed = self.removed_at.get(id);
        removed.is_none_or(|at| *at < requested_at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// A container comes and goes; a list is right about it at the moment it is asked for. Believing a
        /// list exactly when it is news never ends in a container that exists being taken for gone, nor the
        /// reverse.
        #[test]
        fn lists_that_arrive_late_never_undo_what_happened_since(
            changes in prop::collection::vec(1_u64..20, 0..8),
            lists in prop::collection::vec((0_u64..150, 0_u64..150), 1..12),
        ) {
            let start = Instant::now();
            let id = ContainerId("c".into());
            let changes: Vec<u64> = changes
                .iter()
                .scan(0, |at, step| {
                    *at += step;
                    Some(*at)
                })
                .collect();
            // Created by the first change, removed by the second, and so on.
            let exists_at = |at: u64| changes.iter().filter(|change| **change <= at).count() % 2 == 1;
            let mut lists: Vec<_> = lists.iter().map(|(asked, took)| (asked + took, *asked)).collect();
            lists.sort_unstable();
            let mut freshness = ListFreshness::default();
            let mut known = false;
            let mut pending = changes.iter().copied().peekable();
            for (arrives, asked) in lists {
                while let Some(change) = pending.next_if(|change| *change <= arrives) {
                    let at = start + Duration::from_secs(change);
                    known = exists_at(change);
                    if known {
                        freshness.created(id.clone(), at);
                    } else {
                        freshness.removed(id.clone(), at);
                    }
                }
                let requested_at = start + Duration::from_secs(asked);
                if known && !exists_at(asked) && freshness.absence_is_news(&id, requested_at) {
                    known = false;
                } else if !known && exists_at(asked) && freshness.presence_is_news(&id, requested_at) {
                    known = true;
                }
                prop_assert_eq!(known, exists_at(arrives), "list of {} at {}", asked, arrives);
            }
        }
    }

    #[test]
    fn removed_containers_are_forgotten_when_no_list_can_have_them() {
        let start = Instant::now();
        let mut freshness = ListFreshness::default();
        for number in 0..1000_u64 {
            let id = ContainerId(number.to_string().into());
            freshness.created(id.clone(), start);
            freshness.removed(id, start + Duration::from_secs(number));
        }
        assert_eq!(freshness.created_at.len(), 0);
        assert!(
            freshness.removed_at.len() <= 121,
            "{}",
            freshness.removed_at.len()
        );
    }
}
