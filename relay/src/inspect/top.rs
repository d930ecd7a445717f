//! What the scheduler did, as people and scripts see it: who ran where, waited and migrated.

use super::view::table;
use crate::telemetry::{Cost, Quality, Snapshot, Totals};
use resmgr_policy::ContainerId;
use resmgr_topology::{CpuId, CpuSet, Topology};
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeMap,
    fmt::{self, Write as _},
};

/// One container since it was first measured.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TopContainer {
    /// The runtime's id.
    pub id: String,
    /// Pod namespace.
    pub namespace: String,
    /// Pod name.
    pub pod: String,
    /// Container name.
    pub container: String,
    /// CPUs it was given, in the kernel's list format; empty when not pinned.
    pub cpus: String,
    /// Those that are its alone.
    pub exclusive: String,
    /// CPU time in nanoseconds, by CPU.
    pub run_ns: BTreeMap<u32, u64>,
    /// Run-queue wait caused by others, nanoseconds.
    pub contention_ns: u64,
    /// Time throttled by its quota, nanoseconds.
    pub throttled_ns: u64,
    /// Voluntary switches.
    pub voluntary: u64,
    /// Involuntary switches.
    pub involuntary: u64,
    /// Migrations to: SMT sibling, same LLC, other LLC, other NUMA node, other package.
    pub migrations: [u64; 5],
    /// Time on CPUs outside its cpuset, nanoseconds.
    pub outside_ns: u64,
    /// Time of others on its exclusive CPUs, nanoseconds, by who it was.
    pub foreign_ns: BTreeMap<String, u64>,
}

impl TopContainer {
    fn total_run_ns(&self) -> u64 {
        self.run_ns.values().sum()
    }
}

/// The whole picture.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TopView {
    /// `exact`, `polled` or `off`.
    pub quality: String,
    /// Why the numbers are not exact.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// When, `CLOCK_MONOTONIC` nanoseconds.
    pub at_ns: u64,
    /// Packages and their online CPUs.
    pub packages: BTreeMap<u32, Vec<u32>>,
    /// Containers; whoever waited most comes first.
    pub containers: Vec<TopContainer>,
}

/// One look of the telemetry, for whoever shows it.
#[derive(Debug, Default)]
pub struct Look {
    /// What was measured.
    pub snapshot: Snapshot,
    /// Names of the containers in it.
    pub names: BTreeMap<ContainerId, Named>,
    /// What the measuring itself costs.
    pub cost: Option<Cost>,
}

/// A container's names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Named {
    /// Pod namespace.
    pub namespace: String,
    /// Pod name.
    pub pod: String,
    /// Container name.
    pub container: String,
}

fn list(cpus: &CpuSet) -> String {
    cpus.to_string()
}

impl TopView {
    /// The picture of a telemetry snapshot.
    #[must_use]
    pub fn new(
        snapshot: &Snapshot,
        reason: Option<String>,
        topology: &Topology,
        name: impl Fn(&str) -> Named,
    ) -> Self {
        let mut containers: Vec<_> = snapshot
            .containers
            .iter()
            .map(|one| {
                let Named {
                    namespace,
                    pod,
                    container,
                } = name(&one.id.0);
                let Totals {
                    wait_wake_ns,
                    wait_preempt_ns,
                    ..
                } = one.total;
                let mut foreign_ns = BTreeMap::new();
                for foreign in &one.foreign {
                    let who = foreign.who.as_ref().map_or_else(
                        || "(outside containers)".to_owned(),
                        |who| {
                            let Named {
                                namespace,
                                pod,
                                container,
                            } = name(&who.0);
                            format!("{namespace}/{pod}/{container}")
                        },
                    );
                    *foreign_ns.entry(who).or_default() += foreign.run_ns;
                }
                TopContainer {
                    id: one.id.0.to_string(),
                    namespace,
                    pod,
                    container,
                    cpus: list(&one.cpus),
                    exclusive: list(&one.exclusive),
                    run_ns: one.run_ns.iter().map(|(cpu, ns)| (cpu.0, *ns)).collect(),
                    contention_ns: wait_wake_ns + wait_preempt_ns,
                    throttled_ns: one.total.throttled_ns,
                    voluntary: one.total.voluntary,
                    involuntary: one.total.involuntary,
                    migrations: one.total.migrations,
                    outside_ns: one.outside_ns,
                    foreign_ns,
                }
            })
            .collect();
        containers.sort_by(|a, b| {
            b.contention_ns
                .cmp(&a.contention_ns)
                .then_with(|| a.id.cmp(&b.id))
        });
        let packages = topology
            .packages
            .iter()
            .map(|package| {
                let cpus = package.cpus.intersection(&topology.online);
                (package.id.0, cpus.iter().map(|CpuId(cpu)| cpu).collect())
            })
            .collect();
        Self {
            quality: match snapshot.quality {
                Quality::Exact => "exact",
                Quality::Polled => "polled",
                Quality::Off => "off",
            }
            .to_owned(),
            reason,
            at_ns: snapshot.at_ns,
            packages,
            containers,
        }
    }

    /// What happened between an earlier picture and this one; containers that are new count from zero.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        let mut view = self.clone();
        for one in &mut view.containers {
            let Some(before) = earlier.containers.iter().find(|before| before.id == one.id) else {
                continue;
            };
            let less = |now: &mut u64, then: u64| *now = now.saturating_sub(then);
            for (cpu, ns) in &mut one.run_ns {
                less(ns, before.run_ns.get(cpu).copied().unwrap_or_default());
            }
            less(&mut one.contention_ns, before.contention_ns);
            less(&mut one.throttled_ns, before.throttled_ns);
            less(&mut one.voluntary, before.voluntary);
            less(&mut one.involuntary, before.involuntary);
            less(&mut one.outside_ns, before.outside_ns);
            for (now, then) in one.migrations.iter_mut().zip(before.migrations) {
                less(now, then);
            }
            for (who, ns) in &mut one.foreign_ns {
                less(ns, before.foreign_ns.get(who).copied().unwrap_or_default());
            }
        }
        view.containers.sort_by(|a, b| {
            b.contention_ns
                .cmp(&a.contention_ns)
                .then_with(|| a.id.cmp(&b.id))
        });
        view
    }

    /// One character a CPU: how much of the container's time was spent there, blank to full.
    fn strip(&self, one: &TopContainer) -> String {
        const SHADES: [char; 9] = ['·', '▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
        let most = one
            .run_ns
            .values()
            .copied()
            .max()
            .unwrap_or_default()
            .max(1);
        let mut strip = String::new();
        for cpus in self.packages.values() {
            strip.push('[');
            for cpu in cpus {
                let ran = one.run_ns.get(cpu).copied().unwrap_or_default();
                let level = if ran == 0 {
                    0
                } else {
                    1 + ran.saturating_mul(7) / most
                };
                let level = usize::try_from(level).unwrap_or_default();
                strip.push(SHADES.get(level).copied().unwrap_or('█'));
            }
            strip.push(']');
        }
        strip
    }
}

/// Nanoseconds as people read them.
fn span(ns: u64) -> String {
    match ns {
        0 => "0".to_owned(),
        1..1_000 => format!("{ns}ns"),
        1_000..1_000_000 => format!("{}us", ns / 1_000),
        1_000_000..1_000_000_000 => format!("{}ms", ns / 1_000_000),
        _ => format!(
            "{}.{:02}s",
            ns / 1_000_000_000,
            ns % 1_000_000_000 / 10_000_000
        ),
    }
}

impl fmt::Display for TopView {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "telemetry {}", self.quality)?;
        if let Some(reason) = &self.reason {
            write!(f, ": {reason}")?;
        }
        f.write_str("\none character a CPU, one bracket a package: where each container ran\n\n")?;
        let rows: Vec<_> = self
            .containers
            .iter()
            .map(|one| {
                let mut foreign = String::new();
                for (who, ns) in one.foreign_ns.iter().filter(|(_, ns)| **ns > 0) {
                    // Writing to a String cannot fail.
                    write!(foreign, "{} {} ", span(*ns), who).ok();
                }
                let [sibling, llc, other_llc, node, package] = one.migrations;
                vec![
                    format!("{}/{}/{}", one.namespace, one.pod, one.container),
                    if one.cpus.is_empty() {
                        "any".to_owned()
                    } else {
                        one.cpus.clone()
                    },
                    self.strip(one),
                    span(one.total_run_ns()),
                    span(one.contention_ns),
                    span(one.throttled_ns),
                    format!("{}/{}", one.voluntary, one.involuntary),
                    (sibling + llc + other_llc).to_string(),
                    node.to_string(),
                    package.to_string(),
                    span(one.outside_ns),
                    if foreign.is_empty() {
                        "0".to_owned()
                    } else {
                        foreign
                    },
                ]
            })
            .collect();
        let head = [
            "CONTAINER",
            "CPUS",
            "WHERE",
            "RAN",
            "WAITED",
            "THROTTLED",
            "SWITCHES",
            "MIGRATED",
            "X-NODE",
            "X-SOCKET",
            "OUTSIDE",
            "FOREIGN",
        ];
        f.write_str(&table(&head, &rows))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn view(run: &[(u32, u64)], waited: u64) -> TopView {
        TopView {
            quality: "exact".into(),
            packages: BTreeMap::from([(0, vec![0, 1]), (1, vec![2, 3])]),
            containers: vec![TopContainer {
                id: "a".into(),
                namespace: "default".into(),
                pod: "p".into(),
                container: "c".into(),
                cpus: "0-3".into(),
                run_ns: run.iter().copied().collect(),
                contention_ns: waited,
                migrations: [0, 1, 0, 0, 2],
                ..TopContainer::default()
            }],
            ..TopView::default()
        }
    }

    #[test]
    fn the_picture_shows_each_package_and_where_the_time_went() {
        let text = view(&[(0, 1_000_000_000), (2, 10)], 1_500).to_string();
        assert!(text.contains("[█·][▁·]"), "{text}");
        assert!(text.contains("1.00s  1us"), "{text}");
    }

    #[test]
    fn a_difference_counts_from_the_earlier_picture() {
        let later = view(&[(0, 500), (2, 30)], 900);
        let between = later.since(&view(&[(0, 100)], 200));
        assert_eq!(
            between.containers[0].run_ns,
            BTreeMap::from([(0, 400), (2, 30)])
        );
        assert_eq!(between.containers[0].contention_ns, 700);
        assert_eq!(between.containers[0].migrations, [0; 5]);
    }
}
