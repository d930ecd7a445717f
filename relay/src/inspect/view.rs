//! The placement as people and scripts see it: one type, printed as a table or as JSON.

mod fenced;

pub use fenced::FencedView;

use resmgr_policy::{Candidate, ContainerId, Observed, Reason};
use resmgr_topology::{CpuSet, Topology};
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeMap,
    fmt::{self, Write as _},
    sync::Arc,
};

/// A container and where it sits.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerView {
    /// The runtime's id.
    pub id: String,
    /// Pod namespace.
    pub namespace: String,
    /// Pod name.
    pub pod: String,
    /// Container name.
    pub container: String,
    /// QoS class.
    pub qos: String,
    /// CPU request in thousandths of a CPU.
    pub request_mcpu: u32,
    /// Where the request was learnt from.
    #[serde(default)]
    pub request_source: String,
    /// CPUs it alone may use, in the kernel's list format; empty when it has none.
    pub exclusive: String,
    /// The pool its shared part runs in; empty when purely exclusive or unplaced.
    pub pool: String,
    /// Wanted `cpuset.cpus`; empty when it is not pinned.
    pub cpus: String,
    /// Wanted `cpuset.mems`; empty when the policy leaves it alone.
    pub mems: String,
    /// Whether it runs without a decision of the policy, and why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unplaced: Option<String>,
    /// Why the kernel does not have the wanted CPUs; `None` where its cgroup has them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unenforced: Option<String>,
}

/// A set of CPUs with a name: a pool, the reserved or the exclusive CPUs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PoolView {
    /// Its name.
    pub name: String,
    /// Its CPUs, in the kernel's list format.
    pub cpus: String,
    /// How many containers run in it.
    pub containers: usize,
    /// What a container that asks for exclusive CPUs may still be given of it; of a pool of CPU lists those without a
    /// container. Lists in the kernel's format.
    #[serde(default)]
    pub free: Vec<String>,
}

/// The whole placement.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StateView {
    /// The active policy.
    pub policy: String,
    /// Whether the runtime has said what runs: until then containers are missing, and under policy null it is not asked.
    #[serde(default)]
    pub synced: bool,
    /// Online CPUs that containers can have, in the kernel's list format.
    pub online: String,
    /// Online CPUs that the cgroup of all pods lacks; empty when there are none.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub withheld: String,
    /// Pools and other named CPU sets.
    pub pools: Vec<PoolView>,
    /// Containers, sorted by namespace, pod and name.
    pub containers: Vec<ContainerView>,
    /// What became of configurations that were pushed.
    #[serde(default)]
    pub pushed: PushedView,
    /// What services of the host are kept off; `None` where no cgroup is confined.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fenced: Option<FencedView>,
}

/// The configuration in force, and where each part of it comes from.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ConfigView {
    /// The active policy.
    pub policy: String,
    /// Options that are not as by default, then the keys of the pushed configuration, which are laid over them.
    pub options: Vec<OptionView>,
    /// What became of configurations that were pushed.
    pub pushed: PushedView,
}

/// An option, or a key of a pushed configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct OptionView {
    /// Its name.
    pub name: String,
    /// Its text, or the first 2 KiB of it.
    pub value: String,
    /// Where it was written.
    pub origin: String,
}

/// What became of configurations that were pushed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PushedView {
    /// How many were applied since the start, with the one that was in force then.
    pub generation: u64,
    /// The one in force; `None` where the options alone are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub applied: Option<AppliedConfigView>,
    /// The one that was refused last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refused: Option<RefusedConfigView>,
}

/// A pushed configuration that is in force.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AppliedConfigView {
    /// Where it came from.
    pub source: String,
    /// The node it was pushed for.
    pub node: String,
    /// When it came, RFC 3339.
    pub at: String,
}

/// A pushed configuration that was refused.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RefusedConfigView {
    /// Where it came from.
    pub source: String,
    /// When it came, RFC 3339.
    pub at: String,
    /// Why, a line for each problem.
    pub why: String,
    /// Whether no other was accepted since.
    pub outstanding: bool,
}

/// The machine, and which of its CPUs are out of use or kept back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct TopologyView {
    /// The machine as policies see it.
    #[serde(flatten)]
    pub topology: Arc<Topology>,
    /// CPUs that exist and are not online.
    pub offline: CpuSet,
    /// CPUs that the policy never gives out exclusively.
    pub reserved: CpuSet,
}

impl TopologyView {
    /// A machine on which the policy keeps `reserved` back.
    #[must_use]
    pub fn new(topology: Arc<Topology>, reserved: CpuSet) -> Self {
        let exists: CpuSet = topology.cpus.iter().map(|cpu| cpu.id).collect();
        Self {
            offline: exists
                .difference(&topology.online)
                .difference(&topology.withheld),
            topology,
            reserved,
        }
    }
}

/// Why a container sits where it sits.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExplainView {
    /// Where it sits now.
    pub container: ContainerView,
    /// Whether decisions follow measurements now, and why not.
    #[serde(default)]
    pub measurements: String,
    /// What the scheduler did to it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub measured: Option<MeasuredView>,
    /// Of a container that does not exist: its creation was refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refused: Option<RefusedView>,
    /// The decisions that concerned it and the changes of its pool, oldest first.
    pub decisions: Vec<DecisionView>,
}

/// What was measured of a container, as decisions see it: averages in which the last half-life weighs half.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MeasuredView {
    /// The half-life of the averages, nanoseconds.
    pub half_life_ns: u64,
    /// The averages.
    pub averages: Observed,
    /// The same in words, the most important first.
    pub lines: Vec<String>,
}

/// A creation that was refused.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RefusedView {
    /// When it was refused last, RFC 3339.
    pub at: String,
    /// Why.
    pub why: String,
    /// How often in all.
    pub times: u64,
}

/// A decision about a container.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DecisionView {
    /// When, RFC 3339.
    pub at: String,
    /// What was decided, in a line.
    pub summary: String,
    /// The rule that decided and its numbers.
    pub reasons: Vec<String>,
    /// The choices considered, best first.
    #[serde(default)]
    pub candidates: Vec<String>,
    /// The same reasons and candidates as values, for programs.
    #[serde(default)]
    pub values: DecisionValues,
}

/// What a decision was made by: what the lines of a [`DecisionView`] are made of, in the same order.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DecisionValues {
    /// The rules, with the numbers they saw.
    pub reasons: Vec<Reason>,
    /// The choices, with their numbers.
    pub candidates: Vec<Candidate>,
}

/// Rows of text under a heading, columns aligned.
pub fn table(head: &[&str], rows: &[Vec<String>]) -> String {
    let mut widths: Vec<usize> = head.iter().map(|cell| cell.chars().count()).collect();
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut text = String::new();
    let mut line = |cells: &mut dyn Iterator<Item = &str>| {
        let mut row = String::new();
        for (cell, width) in cells.zip(&widths) {
            row.push_str(cell);
            row.extend(std::iter::repeat_n(
                ' ',
                width.saturating_sub(cell.chars().count()) + 2,
            ));
        }
        text.push_str(row.trim_end());
        text.push('\n');
    };
    line(&mut head.iter().copied());
    for row in rows {
        line(&mut row.iter().map(String::as_str));
    }
    text
}

fn or_dash(text: &str) -> String {
    if text.is_empty() {
        "-".to_owned()
    } else {
        text.to_owned()
    }
}

impl fmt::Display for StateView {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "policy {}, online CPUs {}", self.policy, self.online)?;
        if !self.withheld.is_empty() {
            write!(f, "; {} withheld by the cgroup of all pods", self.withheld)?;
        }
        writeln!(f)?;
        if let Some(fenced) = &self.fenced {
            writeln!(f, "{fenced}")?;
        }
        write!(f, "{}", self.pushed)?;
        if !self.pools.is_empty() {
            let rows: Vec<_> = self
                .pools
                .iter()
                .map(|pool| {
                    vec![
                        pool.name.clone(),
                        or_dash(&pool.cpus),
                        pool.containers.to_string(),
                        or_dash(&pool.free.join(" ")),
                    ]
                })
                .collect();
            let head = ["POOL", "CPUS", "CONTAINERS", "FREE"];
            write!(f, "\n{}", table(&head, &rows))?;
        }
        let rows: Vec<_> = self
            .containers
            .iter()
            .map(|container| {
                vec![
                    container.namespace.clone(),
                    container.pod.clone(),
                    container.container.clone(),
                    container.qos.clone(),
                    format!("{}m", container.request_mcpu),
                    or_dash(&container.exclusive),
                    or_dash(&container.pool),
                    container.cpus_text(),
                    or_dash(&container.mems),
                    container.id.chars().take(12).collect(),
                ]
            })
            .collect();
        let head = [
            "NAMESPACE",
            "POD",
            "CONTAINER",
            "QOS",
            "REQUEST",
            "EXCLUSIVE",
            "POOL",
            "CPUS",
            "MEMS",
            "ID",
        ];
        write!(f, "\n{}", table(&head, &rows))
    }
}

impl fmt::Display for PushedView {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(AppliedConfigView { source, at, .. }) = &self.applied {
            let generation = self.generation;
            writeln!(
                f,
                "configuration {generation} in force ({source}), pushed at {at}"
            )?;
        }
        if let Some(refused) = &self.refused {
            let RefusedConfigView {
                source, at, why, ..
            } = refused;
            let (first, rest) = why.split_once('\n').unwrap_or((why, ""));
            let more = match rest.lines().count() {
                0 => String::new(),
                lines => format!(" (and {lines} more lines)"),
            };
            let when = if refused.outstanding {
                "configuration REFUSED"
            } else {
                "configuration refused before that"
            };
            writeln!(f, "{when} at {at} ({source}): {first}{more}")?;
        }
        Ok(())
    }
}

impl ContainerView {
    fn cpus_text(&self) -> String {
        match (&self.unplaced, &self.unenforced) {
            (Some(why), _) => format!("unplaced: {why}"),
            (None, Some(_why)) => format!("{} (not enforced)", or_dash(&self.cpus)),
            (None, None) => or_dash(&self.cpus),
        }
    }
}

impl fmt::Display for ExplainView {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let container = &self.container;
        write!(
            f,
            "{}/{}/{} ({}, {}m) ",
            container.namespace,
            container.pod,
            container.container,
            container.qos,
            container.request_mcpu,
        )?;
        match &self.refused {
            None => {
                let verb = match container.unenforced {
                    None => "runs",
                    Some(_) => "is wanted",
                };
                writeln!(f, "{verb} on CPUs {}", or_dash(&container.cpus))?;
            }
            Some(refused) => {
                let times = match refused.times {
                    1 => String::new(),
                    times => format!(" {times} times, last"),
                };
                writeln!(
                    f,
                    "does not exist: its creation was refused{times} at {}: {}",
                    refused.at, refused.why
                )?;
            }
        }
        if let Some(why) = &container.unenforced {
            writeln!(f, "NOT enforced: {why}")?;
        }
        if !container.request_source.is_empty() {
            writeln!(
                f,
                "request {}m: {}",
                container.request_mcpu, container.request_source
            )?;
        }
        if !self.measurements.is_empty() {
            writeln!(f, "now {}", self.measurements)?;
        }
        if let Some(measured) = &self.measured {
            writeln!(f, "{}", measured.lines.join("\n  "))?;
        }
        for decision in &self.decisions {
            let mut text = String::new();
            writeln!(text, "\n{}  {}", decision.at, decision.summary)?;
            for reason in &decision.reasons {
                writeln!(text, "  because {reason}")?;
            }
            for candidate in &decision.candidates {
                writeln!(text, "  choice  {candidate}")?;
            }
            f.write_str(&text)?;
        }
        Ok(())
    }
}

/// How many of those that preempted a container are named.
const PREEMPTORS: usize = 3;

impl MeasuredView {
    /// Averages of this half-life (nanoseconds); `names` of the containers that preempted it, by id; what has run most
    /// on its exclusive CPUs.
    #[must_use]
    pub fn new(
        half_life_ns: u64,
        averages: Observed,
        names: &BTreeMap<ContainerId, String>,
        worst_intruder: Option<&str>,
    ) -> Self {
        let Observed {
            utilisation_mcpu,
            wait_ns_per_s,
            wait_p99_ns,
            throttled_ns_per_s,
            node_migrations_milli_per_s,
            package_migrations_milli_per_s,
            intruder_ns_per_s,
            preempted_by,
            confidence,
            ..
        } = &averages;
        let mut first = format!(
            "measured, averages of {} s: runs {utilisation_mcpu}m, waits {} a second for a CPU",
            half_life_ns / 1_000_000_000,
            milliseconds(*wait_ns_per_s),
        );
        if *wait_p99_ns > 0 {
            let longest = milliseconds(*wait_p99_ns);
            first += &format!(", 99 of 100 waits end within {longest}");
        }
        let mut lines = vec![first];
        if *throttled_ns_per_s > 0 {
            let throttled = milliseconds(*throttled_ns_per_s);
            lines.push(format!("throttled by its own quota {throttled} a second"));
        }
        for (rate, crossed) in [
            (package_migrations_milli_per_s, "packages"),
            (node_migrations_milli_per_s, "NUMA nodes"),
        ] {
            if *rate > 0 {
                let rate = thousandths(*rate);
                lines.push(format!("moves between {crossed} {rate} times a second"));
            }
        }
        if *intruder_ns_per_s > 0 {
            let ran = milliseconds(*intruder_ns_per_s);
            let worst = worst_intruder
                .map(|name| format!("; most since it started: {name}"))
                .unwrap_or_default();
            lines.push(format!(
                "others ran {ran} a second on its exclusive CPUs{worst}"
            ));
        }
        let mut preemptors: Vec<_> = preempted_by
            .iter()
            .filter(|(_id, rate)| **rate > 0)
            .collect();
        preemptors.sort_by(|(a, a_rate), (b, b_rate)| b_rate.cmp(a_rate).then(a.cmp(b)));
        for (id, rate) in preemptors.into_iter().take(PREEMPTORS) {
            let name = names.get(id).map_or(&*id.0, String::as_str);
            let rate = thousandths(*rate);
            lines.push(format!("preempted by {name} {rate} times a second"));
        }
        if confidence.0 < 1000 {
            let sure = confidence.0;
            lines.push(format!("seen for a short while only: {sure} of 1000 sure"));
        }
        Self {
            half_life_ns,
            averages,
            lines,
        }
    }
}

/// Nanoseconds as milliseconds, to the microsecond.
fn milliseconds(ns: u64) -> String {
    let us = ns / 1000;
    format!("{}.{:03} ms", us / 1000, us % 1000)
}

/// A rate in thousandths, to the tenth.
fn thousandths(rate: u64) -> String {
    format!("{}.{}", rate / 1000, rate % 1000 / 100)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_state_is_a_table_with_aligned_columns() {
        let state = StateView {
            policy: "static".into(),
            synced: true,
            online: "0-3".into(),
            withheld: "4".into(),
            pools: vec![PoolView {
                name: "shared".into(),
                cpus: "0-1".into(),
                containers: 1,
                free: vec!["1".into()],
            }],
            containers: vec![ContainerView {
                id: "0123456789abcdef".into(),
                namespace: "default".into(),
                pod: "db-0".into(),
                container: "db".into(),
                qos: "Guaranteed".into(),
                request_mcpu: 2000,
                exclusive: "2-3".into(),
                cpus: "2-3".into(),
                ..ContainerView::default()
            }],
            ..StateView::default()
        };
        assert_eq!(
            state.to_string(),
            "policy static, online CPUs 0-3; 4 withheld by the cgroup of all pods\n\
             \n\
             POOL    CPUS  CONTAINERS  FREE\n\
             shared  0-1   1           1\n\
             \n\
             NAMESPACE  POD   CONTAINER  QOS         REQUEST  EXCLUSIVE  POOL  CPUS  MEMS  ID\n\
             default    db-0  db         Guaranteed  2000m    2-3        -     2-3   -     0123456789ab\n"
        );
    }

    #[test]
    fn what_was_pushed_and_refused_is_said_in_a_line_each() {
        let mut pushed = PushedView {
            generation: 3,
            applied: Some(AppliedConfigView {
                source: "ConfigMap kube-system/x".into(),
                node: "n1".into(),
                at: "2026-01-01T00:00:00Z".into(),
            }),
            refused: Some(RefusedConfigView {
                source: "ConfigMap kube-system/y".into(),
                at: "2026-01-01T00:00:05Z".into(),
                why: "policy.Active: no such policy\nrebalance: maybe".into(),
                outstanding: true,
            }),
        };
        let first =
            "configuration 3 in force (ConfigMap kube-system/x), pushed at 2026-01-01T00:00:00Z\n";
        let refused = "at 2026-01-01T00:00:05Z (ConfigMap kube-system/y): policy.Active: no such policy (and 1 more lines)\n";
        assert_eq!(
            pushed.to_string(),
            format!("{first}configuration REFUSED {refused}")
        );
        pushed.refused.as_mut().unwrap().outstanding = false;
        assert_eq!(
            pushed.to_string(),
            format!("{first}configuration refused before that {refused}")
        );
        assert_eq!(PushedView::default().to_string(), "");
    }

    #[test]
    fn cpus_that_are_wanted_and_not_enforced_are_marked() {
        let mut view = ExplainView {
            container: ContainerView {
                cpus: "2-3".into(),
                ..ContainerView::default()
            },
            ..ExplainView::default()
        };
        assert!(!view.to_string().contains("enforced"));
        view.container.unenforced = Some("no cgroup".into());
        assert_eq!(view.container.cpus_text(), "2-3 (not enforced)");
        assert!(
            view.to_string().contains("\nNOT enforced: no cgroup\n"),
            "{view}"
        );
    }

    #[test]
    fn a_decision_is_text_and_beside_it_values() {
        let list = Candidate::List {
            cpus: "0-3".parse::<CpuSet>().unwrap().into(),
            socket: 0,
            containers: 1,
            requested_milli_per_cpu: 100,
            busy_milli: 300,
            busy_with_it_milli: 400,
            busy_around_milli: 200,
            waited_ms_per_s: 0,
        };
        let decision = DecisionView {
            candidates: vec![list.to_string()],
            values: DecisionValues {
                candidates: vec![list],
                ..DecisionValues::default()
            },
            ..DecisionView::default()
        };
        let json = serde_json::to_value(&decision).unwrap();
        assert_eq!(json["values"]["candidates"][0]["kind"], "list");
        assert_eq!(json["values"]["candidates"][0]["busy_milli"], 300);
        assert!(
            json["candidates"][0]
                .as_str()
                .unwrap()
                .contains("300 of 1000 busy")
        );
        // A daemon of an earlier version sends text alone.
        let earlier = r#"{"at":"","summary":"","reasons":["kept what it held"]}"#;
        let read: DecisionView = serde_json::from_str(earlier).unwrap();
        assert_eq!(read.values, DecisionValues::default());
    }

    #[test]
    fn what_was_measured_and_refused_is_said_in_words() {
        let noisy = ContainerId("0123".into());
        let averages = Observed {
            utilisation_mcpu: 490,
            wait_ns_per_s: 509_679_000,
            wait_p99_ns: 8_388_000,
            intruder_ns_per_s: 12_500_000,
            preempted_by: [(noisy.clone(), 109_100), (ContainerId("4567".into()), 200)].into(),
            confidence: resmgr_policy::Confidence(1000),
            ..Observed::default()
        };
        let names = BTreeMap::from([(noisy, "default/noisy-0/noisy".to_owned())]);
        let measured = MeasuredView::new(
            10_000_000_000,
            averages,
            &names,
            Some("system.slice/cron.service"),
        );
        assert_eq!(
            measured.lines,
            [
                "measured, averages of 10 s: runs 490m, waits 509.679 ms a second for a CPU, 99 of 100 waits end within \
                 8.388 ms",
                "others ran 12.500 ms a second on its exclusive CPUs; most since it started: system.slice/cron.service",
                "preempted by default/noisy-0/noisy 109.1 times a second",
                "preempted by 4567 0.2 times a second",
            ]
        );
        let refused = |times| ExplainView {
            refused: Some(RefusedView {
                at: "2026-01-01T00:00:00Z".into(),
                why: "no room".into(),
                times,
            }),
            ..ExplainView::default()
        };
        let at = "at 2026-01-01T00:00:00Z: no room\n";
        let once = format!("does not exist: its creation was refused {at}");
        assert!(refused(1).to_string().contains(&once), "{}", refused(1));
        let often = format!("does not exist: its creation was refused 2 times, last {at}");
        assert!(refused(2).to_string().contains(&often), "{}", refused(2));
    }
}
