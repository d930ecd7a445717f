//! Creations and updates that the runtime has not answered yet. Pure.

use super::containers::Containers;
use crate::enforce::CgroupSettings;
use resmgr_policy::ContainerId;
use std::{collections::BTreeMap, time::Duration};
use tokio::time::Instant;

/// How long a reservation of unknown end is kept while the runtime does not show its container.
const UNKNOWN_PATIENCE: Duration = Duration::from_secs(30);

/// What containers are to have once a creation or update is over, and have until then.
pub(super) type Growing = BTreeMap<ContainerId, CgroupSettings>;

/// One creation or update under way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Reservation {
    /// All containers as they were before it.
    pub(super) before: Containers,
    /// The generation it made: while it is the latest, `before` is what an abort leads back to.
    pub(super) generation: u64,
    /// Containers that grow when it is over, and what they have until then.
    pub(super) growing: Growing,
    /// Since when its end is unknown.
    unknown_since: Option<Instant>,
}

/// All that is under way, by the id of the container: a provisional one for a creation.
#[derive(Debug, Default)]
pub(super) struct Reservations {
    open: BTreeMap<ContainerId, Reservation>,
    /// The cpusets that the runtime was sent for containers whose cgroup may not exist yet.
    sent: BTreeMap<ContainerId, CgroupSettings>,
}

impl Reservations {
    /// A creation or update begins. A second one of the same container takes over what the first has left
    /// to grow.
    pub(super) fn begin(
        &mut self,
        id: &ContainerId,
        before: Containers,
        generation: u64,
        mut growing: Growing,
        cpuset: CgroupSettings,
    ) {
        if let Some(earlier) = self.open.remove(id) {
            for (id, settings) in earlier.growing {
                growing.insert(id, settings);
            }
        }
        let reservation = Reservation {
            before,
            generation,
            growing,
            unknown_since: None,
        };
        self.open.insert(id.clone(), reservation);
        self.sent.insert(id.clone(), cpuset);
    }

    /// A reservation that an earlier process has left behind: it neither knows what was before, nor how it
    /// ended.
    pub(super) fn inherit(&mut self, id: ContainerId, now: Instant) {
        let reservation = Reservation {
            before: Containers::default(),
            generation: u64::MAX,
            growing: Growing::new(),
            unknown_since: Some(now),
        };
        self.open.insert(id, reservation);
    }

    /// It is over.
    pub(super) fn end(&mut self, id: &ContainerId) -> Option<Reservation> {
        self.open.remove(id)
    }

    /// All containers as they were before a reservation, if nothing else has changed since.
    pub(super) fn before(&self, id: &ContainerId, generation: u64) -> Option<&Containers> {
        let reservation = self.open.get(id)?;
        (reservation.generation == generation).then_some(&reservation.before)
    }

    /// The runtime's answer is lost. Whether there was such a reservation.
    pub(super) fn unknown(&mut self, id: &ContainerId, now: Instant) -> bool {
        let reservation = self.open.get_mut(id);
        reservation
            .map(|reservation| reservation.unknown_since = Some(now))
            .is_some()
    }

    /// Whether a reservation is open and its answer not lost: it is still to come.
    pub(super) fn awaits_answer(&self, id: &ContainerId) -> bool {
        let reservation = self.open.get(id);
        reservation.is_some_and(|reservation| reservation.unknown_since.is_none())
    }

    /// Reservations whose answer is lost.
    pub(super) fn of_unknown_end(&self) -> impl Iterator<Item = &ContainerId> {
        let open = self.open.iter();
        open.filter(|(_id, reservation)| reservation.unknown_since.is_some())
            .map(|(id, _reservation)| id)
    }

    /// Reservations whose answer has been lost for so long that the runtime has not carried them out.
    pub(super) fn expired(&self, now: Instant) -> Vec<ContainerId> {
        let open = self.open.iter();
        open.filter(|(_id, reservation)| {
            reservation
                .unknown_since
                .is_some_and(|since| now.saturating_duration_since(since) > UNKNOWN_PATIENCE)
        })
        .map(|(id, _reservation)| id.clone())
        .collect()
    }

    /// All that is open.
    pub(super) fn ids(&self) -> Vec<ContainerId> {
        self.open.keys().cloned().collect()
    }

    /// Whether nothing is under way.
    pub(super) fn is_empty(&self) -> bool {
        self.open.is_empty()
    }

    /// Whether a container is to grow when some reservation ends: until then it has less on purpose.
    pub(super) fn holds_back(&self, id: &ContainerId) -> bool {
        let mut open = self.open.values();
        open.any(|reservation| reservation.growing.contains_key(id))
    }

    /// The cpuset to send to the runtime before it starts a container: `None` when it has it already.
    pub(super) fn news(
        &mut self,
        id: &ContainerId,
        cpuset: CgroupSettings,
    ) -> Option<CgroupSettings> {
        let sent = self.sent.get_mut(id)?;
        if *sent == cpuset {
            return None;
        }
        sent.clone_from(&cpuset);
        Some(cpuset)
    }

    /// The runtime has named a container.
    pub(super) fn rename(&mut self, provisional: &ContainerId, id: &ContainerId) {
        if let Some(cpuset) = self.sent.remove(provisional) {
            self.sent.insert(id.clone(), cpuset);
        }
    }

    /// A container has a cgroup now, or exists no longer: what the runtime was sent counts no more.
    pub(super) fn forget_sent(&mut self, id: &ContainerId) {
        self.sent.remove(id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn id(number: usize) -> ContainerId {
        ContainerId(format!("c{number}").into())
    }

    fn settings(cpus: &str) -> CgroupSettings {
        CgroupSettings {
            cpus: cpus.parse().unwrap(),
            ..CgroupSettings::default()
        }
    }

    #[derive(Clone, Debug)]
    enum Op {
        Begin(usize, Vec<usize>),
        End(usize),
        Unknown(usize),
    }

    fn ops() -> impl Strategy<Value = Vec<Op>> {
        let op = prop_oneof![
            3 => (0_usize..4, prop::collection::vec(4_usize..8, 0..3))
                .prop_map(|(id, growing)| Op::Begin(id, growing)),
            2 => (0_usize..4).prop_map(Op::End),
            1 => (0_usize..4).prop_map(Op::Unknown),
        ];
        prop::collection::vec(op, 0..40)
    }

    proptest! {
        #[test]
        fn a_container_is_held_back_exactly_until_all_that_it_waits_for_are_over(ops in ops()) {
            let mut reservations = Reservations::default();
            let mut model: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
            for op in ops {
                match op {
                    Op::Begin(container, growing) => {
                        let held = growing.iter().map(|sibling| (id(*sibling), settings("0")));
                        let before = Containers::default();
                        reservations.begin(&id(container), before, 1, held.collect(), settings("1"));
                        model.entry(container).or_default().extend(growing);
                    }
                    Op::End(container) => {
                        let ended = reservations.end(&id(container));
                        let expected = model.remove(&container);
                        prop_assert_eq!(ended.is_some(), expected.is_some());
                        let grown = ended.map(|ended| ended.growing.len());
                        let expected = expected.map(|mut growing| {
                            growing.sort_unstable();
                            growing.dedup();
                            growing.len()
                        });
                        prop_assert_eq!(grown, expected);
                    }
                    Op::Unknown(container) => {
                        let open = reservations.unknown(&id(container), Instant::now());
                        prop_assert_eq!(open, model.contains_key(&container));
                    }
                }
                for container in 4..8 {
                    let waits = model.values().any(|growing| growing.contains(&container));
                    prop_assert_eq!(reservations.holds_back(&id(container)), waits);
                }
                prop_assert_eq!(reservations.is_empty(), model.is_empty());
            }
        }

        #[test]
        fn only_a_lost_answer_expires_and_only_after_its_patience(
            ops in prop::collection::vec((0_usize..4, any::<bool>(), 0_u64..100), 1..20),
            now in 0_u64..200,
        ) {
            let start = Instant::now();
            let at = |seconds| start + Duration::from_secs(seconds);
            let mut reservations = Reservations::default();
            let mut lost: BTreeMap<usize, Option<u64>> = BTreeMap::new();
            for (container, loses, when) in ops {
                if loses {
                    if reservations.unknown(&id(container), at(when)) {
                        lost.insert(container, Some(when));
                    }
                } else {
                    let before = Containers::default();
                    reservations.begin(&id(container), before, 1, Growing::new(), settings("1"));
                    lost.insert(container, None);
                }
            }
            let expected: Vec<_> = lost
                .iter()
                .filter(|(_container, since)| since.is_some_and(|since| now > since + 30))
                .map(|(container, _since)| id(*container))
                .collect();
            prop_assert_eq!(reservations.expired(at(now)), expected);
            for (container, since) in &lost {
                prop_assert_eq!(reservations.awaits_answer(&id(*container)), since.is_none());
            }
        }

        #[test]
        fn the_runtime_is_sent_a_cpuset_once_until_it_changes(lists in prop::collection::vec(0_u32..3, 1..12)) {
            let mut reservations = Reservations::default();
            prop_assert_eq!(reservations.news(&id(0), settings("0")), None);
            let provisional = ContainerId("creating/0".into());
            let before = Containers::default();
            reservations.begin(&provisional, before, 1, Growing::new(), settings("0"));
            reservations.rename(&provisional, &id(0));
            let mut last = 0;
            for list in lists {
                let cpuset = settings(&list.to_string());
                let sent = reservations.news(&id(0), cpuset.clone());
                prop_assert_eq!(sent, (list != last).then_some(cpuset));
                last = list;
            }
            reservations.forget_sent(&id(0));
            prop_assert_eq!(reservations.news(&id(0), settings("3")), None);
        }
    }

    #[test]
    fn the_way_back_is_open_while_nothing_else_has_changed() {
        let mut reservations = Reservations::default();
        let before = Containers::default();
        reservations.begin(&id(0), before.clone(), 7, Growing::new(), settings("0"));
        assert_eq!(reservations.before(&id(0), 7), Some(&before));
        assert_eq!(reservations.before(&id(0), 8), None);
        assert_eq!(reservations.before(&id(1), 7), None);
        reservations.inherit(id(1), Instant::now());
        assert_eq!(reservations.before(&id(1), 7), None);
        assert_eq!(reservations.of_unknown_end().collect::<Vec<_>>(), [&id(1)]);
    }
}
