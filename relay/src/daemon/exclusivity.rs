//! Notices that others run on exclusive CPUs, which the daemon cannot prevent: services of the host may run anywhere.
//!
//! The time of others is compared with that of the CPUs over a minute at a time: a service that wakes up for a moment
//! is no violation.

use crate::{
    control::agent_client::PodEventReason,
    telemetry::{ContainerTelemetry, InterferenceSource, TelemetrySnapshot},
};
use resmgr_policy::ContainerId;
use resmgr_topology::{CpuId, CpuSet};
use std::{
    collections::{BTreeMap, BTreeSet},
    mem,
};

/// Over this long is judged.
const WINDOW_NS: u64 = 60_000_000_000;
/// Share of the time of its exclusive CPUs that others may have, thousandths.
const TOLERATED_MILLI: u64 = 10;
/// How long a violation that lasts is not warned of again.
const AGAIN_NS: u64 = 600_000_000_000;

/// Compares, minute by minute, what others ran on the exclusive CPUs of each container.
#[derive(Debug, Default)]
pub(super) struct ExclusivityWatch {
    containers: BTreeMap<ContainerId, Window>,
    switches: u64,
}

/// What others have run on the exclusive CPUs of a container, nanoseconds.
type Intrusions = BTreeMap<(InterferenceSource, CpuId), u64>;

/// The minute of a container that is judged when it is over.
#[derive(Debug)]
struct Window {
    exclusive: CpuSet,
    since_ns: u64,
    ran_before: Intrusions,
    /// When the violation that lasts was last warned of; `None` while there is none.
    warned_ns: Option<u64>,
}

/// What others ran on the exclusive CPUs of a container in a minute.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Intrusion {
    /// CPUs on which others ran.
    cpus: CpuSet,
    /// Share of the time of all its exclusive CPUs, thousandths.
    share_milli: u64,
    /// What ran most, and for how long, nanoseconds.
    worst: Option<(InterferenceSource, u64)>,
}

/// What the log is to say of a container.
#[derive(Clone, Debug, PartialEq, Eq)]
enum IntrusionEvent {
    Lasts(Box<Intrusion>),
    Over,
}

impl ExclusivityWatch {
    /// Takes in a sample, and logs violations and their ends, which are also told to `tell`; `name` is what people call a
    /// container. Gives the containers whose exclusive CPUs were not theirs alone in the last minute that was judged.
    pub(super) fn observe(
        &mut self,
        snapshot: &TelemetrySnapshot,
        name: impl Fn(&ContainerId) -> Option<String>,
        tell: impl Fn(&ContainerId, PodEventReason, &str),
    ) -> BTreeSet<ContainerId> {
        for (id, change) in self.changes(snapshot) {
            let container = name(&id).unwrap_or_else(|| id.to_string());
            match change {
                IntrusionEvent::Lasts(intrusion) => {
                    let described = intrusion.described(&name);
                    tracing::warn!(
                        target: "telemetry",
                        "the exclusive CPUs of {container} are not its alone: {described}. Keep services of the host \
                         away (--fence-host on, or CPUAffinity= of systemd), or isolate the CPUs"
                    );
                    let text = format!("its exclusive CPUs are not its alone: {described}");
                    tell(&id, PodEventReason::ExclusivityViolated, &text);
                }
                IntrusionEvent::Over => {
                    tracing::info!(
                        target: "telemetry",
                        "others no longer run on exclusive CPUs of {container}"
                    );
                    let text = "others no longer run on its exclusive CPUs";
                    tell(&id, PodEventReason::ExclusivityRestored, text);
                }
            }
        }
        let violated = self.containers.iter();
        violated
            .filter(|(_, window)| window.warned_ns.is_some())
            .map(|(id, _)| id.clone())
            .collect()
    }

    fn changes(&mut self, snapshot: &TelemetrySnapshot) -> Vec<(ContainerId, IntrusionEvent)> {
        // Where the program was cut off, what ran last seems to run for ever.
        if mem::replace(&mut self.switches, snapshot.switches) == snapshot.switches {
            return Vec::new();
        }
        let mut changes = Vec::new();
        let mut before = mem::take(&mut self.containers);
        for container in &snapshot.containers {
            if container.exclusive.is_empty() {
                continue;
            }
            let mut window = before
                .remove(&container.id)
                .unwrap_or_else(|| Window::new(container, snapshot.at_ns));
            let change = window.advance(container, snapshot.at_ns);
            changes.extend(change.map(|change| (container.id.clone(), change)));
            self.containers.insert(container.id.clone(), window);
        }
        // A container that ended or gave up its exclusive CPUs has none that others could run on.
        let ended = before.into_iter();
        let violated = ended.filter(|(_, window)| window.warned_ns.is_some());
        changes.extend(violated.map(|(id, _)| (id, IntrusionEvent::Over)));
        changes
    }
}

fn intrusions(container: &ContainerTelemetry) -> Intrusions {
    let runs = container.foreign.iter();
    runs.map(|run| ((run.source.clone(), run.cpu), run.run_ns))
        .collect()
}

impl Window {
    fn new(container: &ContainerTelemetry, now_ns: u64) -> Self {
        Self {
            exclusive: container.exclusive,
            since_ns: now_ns,
            ran_before: intrusions(container),
            warned_ns: None,
        }
    }

    /// Judges the window if it is over, and begins the next.
    fn advance(&mut self, container: &ContainerTelemetry, now_ns: u64) -> Option<IntrusionEvent> {
        let elapsed_ns = now_ns.saturating_sub(self.since_ns);
        let is_moved = self.exclusive != container.exclusive;
        if elapsed_ns < WINDOW_NS && !is_moved {
            return None;
        }
        let warned_ns = self.warned_ns;
        let before = mem::replace(self, Self::new(container, now_ns));
        self.warned_ns = warned_ns;
        if is_moved {
            return None;
        }
        let intrusion = Intrusion::between(&before, self, elapsed_ns);
        if intrusion.share_milli <= TOLERATED_MILLI {
            return self.warned_ns.take().map(|_| IntrusionEvent::Over);
        }
        if warned_ns.is_some_and(|warned_ns| now_ns.saturating_sub(warned_ns) < AGAIN_NS) {
            return None;
        }
        self.warned_ns = Some(now_ns);
        Some(IntrusionEvent::Lasts(Box::new(intrusion)))
    }
}

impl Intrusion {
    fn between(before: &Window, after: &Window, elapsed_ns: u64) -> Self {
        let mut by_source = BTreeMap::<_, u64>::new();
        let mut cpus = CpuSet::EMPTY;
        for (key, run_ns) in &after.ran_before {
            let ran_before = before.ran_before.get(key).copied().unwrap_or_default();
            let gained = run_ns.saturating_sub(ran_before);
            if gained != 0 {
                cpus.insert(key.1);
                *by_source.entry(&key.0).or_default() += gained;
            }
        }
        let ran_ns: u64 = by_source.values().sum();
        let whole_ns = elapsed_ns.saturating_mul(after.exclusive.len() as u64);
        let share = u128::from(ran_ns) * 1000 / u128::from(whole_ns.max(1));
        let worst = by_source.into_iter().max_by_key(|(_, ran_ns)| *ran_ns);
        Self {
            cpus,
            share_milli: u64::try_from(share).unwrap_or(u64::MAX),
            worst: worst.map(|(source, ran_ns)| (source.clone(), ran_ns)),
        }
    }

    fn described(&self, name: impl Fn(&ContainerId) -> Option<String>) -> String {
        let (percent, tenths) = (self.share_milli / 10, self.share_milli % 10);
        let cpus = self.cpus;
        let mut text = format!(
            "in the last minute others had {percent}.{tenths} % of their time, on CPUs {cpus}"
        );
        if let Some((source, ran_ns)) = &self.worst {
            let source = source.label(name);
            text += &format!(", most of it {source}: {} ms", ran_ns / 1_000_000);
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::{ForeignRun, Totals};

    const SECOND: u64 = 1_000_000_000;

    fn chronyd() -> InterferenceSource {
        InterferenceSource::HostCgroup("system.slice/chronyd.service".into())
    }

    /// A container of two exclusive CPUs, on one of which others have run for so many milliseconds.
    fn at(second: u64, exclusive: &str, chronyd_ms: u64, other_ms: u64) -> TelemetrySnapshot {
        let run = |cpu, source, ms: u64| ForeignRun {
            cpu: CpuId(cpu),
            source,
            run_ns: ms * 1_000_000,
        };
        let container = ContainerTelemetry {
            id: ContainerId("db".into()),
            cpus: CpuSet::EMPTY,
            exclusive: exclusive.parse().unwrap(),
            total: Totals::default(),
            run_ns: BTreeMap::new(),
            outside_ns: 0,
            foreign: vec![
                run(3, chronyd(), chronyd_ms),
                run(2, InterferenceSource::Rest, other_ms),
            ],
            interference: BTreeMap::new(),
            resident: BTreeMap::new(),
        };
        TelemetrySnapshot {
            at_ns: second * SECOND,
            switches: second + 1,
            containers: vec![container],
            ..TelemetrySnapshot::default()
        }
    }

    /// What is said at which second, of samples once a second in which chronyd has run so long.
    fn said(seconds: u64, chronyd_ms: impl Fn(u64) -> u64) -> Vec<(u64, Option<u64>)> {
        let mut watch = ExclusivityWatch::default();
        let samples = (0..=seconds).flat_map(|second| {
            let changes = watch.changes(&at(second, "2-3", chronyd_ms(second), 0));
            changes.into_iter().map(move |(_, change)| match change {
                IntrusionEvent::Lasts(intrusion) => (second, Some(intrusion.share_milli)),
                IntrusionEvent::Over => (second, None),
            })
        });
        samples.collect()
    }

    #[test]
    fn a_violation_is_warned_of_once_in_ten_minutes_and_its_end_is_told() {
        // 4 % of two CPUs for a quarter of an hour.
        let ran = |second: u64| second.min(900) * 80;
        assert_eq!(
            said(1200, ran),
            [(60, Some(40)), (660, Some(40)), (960, None)]
        );
    }

    #[test]
    fn less_than_a_hundredth_is_no_violation_however_long_nor_much_for_a_moment() {
        assert_eq!(said(600, |second| second * 20), []);
        assert_eq!(said(600, |second| if second < 100 { 0 } else { 1000 }), []);
    }

    #[test]
    fn the_warning_names_cpus_share_and_the_worst() {
        let mut watch = ExclusivityWatch::default();
        watch.changes(&at(0, "2-3", 500, 0));
        let changes = watch.changes(&at(60, "2-3", 4_500, 1_000));
        let [(_, IntrusionEvent::Lasts(intrusion))] = changes.as_slice() else {
            panic!("{changes:?}");
        };
        assert_eq!(
            intrusion.described(|_| None),
            "in the last minute others had 4.1 % of their time, on CPUs 2-3, most of it \
             system.slice/chronyd.service: 4000 ms"
        );
        assert!(
            !watch
                .observe(&at(61, "2-3", 4_500, 1_000), |_| None, |_, _, _| ())
                .is_empty()
        );
    }

    #[test]
    fn a_violation_and_its_end_are_told_to_the_pod() {
        let mut watch = ExclusivityWatch::default();
        let told = std::cell::RefCell::new(Vec::new());
        for second in 0..=240 {
            let ran_ms = second.min(60) * 80;
            watch.observe(
                &at(second, "2-3", ran_ms, 0),
                |_| None,
                |id, reason, text| {
                    let told_of = (id.to_string(), reason, text.to_owned());
                    told.borrow_mut().push(told_of);
                },
            );
        }
        let violated = "its exclusive CPUs are not its alone: in the last minute others had 4.0 % of their time, on \
                        CPUs 3, most of it system.slice/chronyd.service: 4800 ms";
        let restored = "others no longer run on its exclusive CPUs";
        let expected = [
            (PodEventReason::ExclusivityViolated, violated),
            (PodEventReason::ExclusivityRestored, restored),
        ];
        let expected = expected.map(|(reason, text)| ("db".to_owned(), reason, text.to_owned()));
        assert_eq!(told.into_inner(), expected);
    }

    #[test]
    fn other_cpus_are_judged_from_then_on_and_without_exclusive_cpus_all_is_over() {
        let mut watch = ExclusivityWatch::default();
        watch.changes(&at(0, "2-3", 0, 0));
        assert_eq!(watch.changes(&at(59, "3-4", 50_000, 0)), []);
        assert_eq!(watch.changes(&at(118, "3-4", 50_000, 0)), []);
        assert_eq!(watch.changes(&at(119, "3-4", 60_000, 0)).len(), 1);
        let over = [(ContainerId("db".into()), IntrusionEvent::Over)];
        assert_eq!(watch.changes(&at(120, "", 60_000, 0)), over);
        assert_eq!(watch.changes(&at(121, "", 60_000, 0)), []);
    }

    #[test]
    fn a_program_that_was_cut_off_accuses_nothing() {
        let mut watch = ExclusivityWatch::default();
        watch.changes(&at(0, "2-3", 0, 0));
        for second in 1..200 {
            let frozen = TelemetrySnapshot {
                switches: 1,
                ..at(second, "2-3", second * 1000, 0)
            };
            assert_eq!(watch.changes(&frozen), []);
        }
    }
}
