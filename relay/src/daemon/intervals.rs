//! What was measured of a container since it was last asked for, for the records of the dump.

use crate::telemetry::{ContainerTelemetry, TelemetrySnapshot, Totals, wait_quantile_ns};
use serde_json::{Value, json};
use std::collections::HashMap;

/// Where each container stood when it was last asked for.
#[derive(Debug, Default)]
pub(super) struct Intervals {
    asked: HashMap<String, Reading>,
}

/// The sums of a container at one moment.
#[derive(Clone, Debug)]
struct Reading {
    at_ns: u64,
    total: Totals,
    outside_ns: u64,
    foreign_ns: u64,
}

impl Reading {
    fn of(container: &ContainerTelemetry, at_ns: u64) -> Self {
        Self {
            at_ns,
            total: container.total.clone(),
            outside_ns: container.outside_ns,
            foreign_ns: container.foreign.iter().map(|foreign| foreign.run_ns).sum(),
        }
    }
}

impl Intervals {
    /// The intervals of these containers that end with this snapshot, in the form that docs/dump.md describes.
    pub(super) fn next(
        &mut self,
        snapshot: &TelemetrySnapshot,
        containers: &[String],
    ) -> Vec<Value> {
        let measured = |id: &str| {
            let place = snapshot
                .containers
                .binary_search_by(|container| (*container.id.0).cmp(id));
            snapshot.containers.get(place.ok()?)
        };
        let ended = containers.iter().filter_map(|id| {
            let now = Reading::of(measured(id)?, snapshot.at_ns);
            let before = self.asked.insert(id.clone(), now.clone());
            // Asked for twice between two samples there is nothing new.
            let is_new = before
                .as_ref()
                .is_none_or(|before| before.at_ns < now.at_ns);
            is_new.then(|| interval(id, before.as_ref(), &now))
        });
        let ended = ended.collect();
        if self.asked.len() > 4 * snapshot.containers.len() + 64 {
            self.asked.retain(|id, _| measured(id).is_some());
        }
        ended
    }
}

fn interval(container: &str, before: Option<&Reading>, now: &Reading) -> Value {
    let none = Totals::default();
    let then = before.map_or(&none, |before| &before.total);
    let gained = |sum: fn(&Totals) -> u64| sum(&now.total).saturating_sub(sum(then));
    let mut waits = [0.0; resmgr_common::BUCKETS];
    let counts = now.total.wait_histogram.iter().zip(then.wait_histogram);
    for (waits, (now, then)) in waits.iter_mut().zip(counts) {
        *waits = now.saturating_sub(then) as f64;
    }
    let [sibling, llc, other_llc, node, package] = std::array::from_fn(|distance| {
        let count = |totals: &Totals| totals.migrations.get(distance).copied().unwrap_or_default();
        count(&now.total).saturating_sub(count(then))
    });
    let mut value = json!({
        "container": container,
        "run_ns": gained(|total| total.run_ns),
        "wait_ns": {
            "wake": gained(|total| total.wait_wake_ns),
            "preempt": gained(|total| total.wait_preempt_ns),
            "throttled": gained(|total| total.wait_throttled_ns),
        },
        "wait_p99_ns": wait_quantile_ns(&waits, 0.99),
        "throttled_ns": gained(|total| total.throttled_ns),
        "switches": {
            "voluntary": gained(|total| total.voluntary),
            "involuntary": gained(|total| total.involuntary),
            "preempted_by_others": gained(|total| total.preempted_by_others),
        },
        "migrations": {
            "sibling": sibling, "llc": llc, "other_llc": other_llc, "node": node, "package": package,
        },
        "outside_ns": now.outside_ns - before.map_or(0, |before| before.outside_ns).min(now.outside_ns),
        "foreign_ns": now.foreign_ns - before.map_or(0, |before| before.foreign_ns).min(now.foreign_ns),
    });
    if let (Some(before), Some(fields)) = (before, value.as_object_mut()) {
        let length = now.at_ns.saturating_sub(before.at_ns);
        fields.insert("interval_ns".to_owned(), length.into());
    }
    value
}

#[cfg(test)]
mod tests {
    use super::*;
    use resmgr_policy::ContainerId;
    use resmgr_topology::CpuSet;
    use std::collections::BTreeMap;

    fn snapshot(at_ns: u64, run_ns: u64) -> TelemetrySnapshot {
        let container = |id: &str, run_ns: u64| {
            let mut total = Totals {
                run_ns,
                wait_wake_ns: run_ns / 2,
                migrations: [0, 0, 0, 0, run_ns / 10],
                ..Totals::default()
            };
            total.wait_histogram[3] = run_ns;
            ContainerTelemetry {
                id: ContainerId(id.into()),
                cpus: CpuSet::default(),
                exclusive: CpuSet::default(),
                total,
                run_ns: BTreeMap::new(),
                outside_ns: 0,
                foreign: Vec::new(),
                interference: BTreeMap::new(),
                resident: BTreeMap::new(),
            }
        };
        TelemetrySnapshot {
            at_ns,
            containers: vec![container("a", run_ns), container("b", 7)],
            ..TelemetrySnapshot::default()
        }
    }

    #[test]
    fn each_container_has_its_own_interval() {
        let mut intervals = Intervals::default();
        let ids = |ids: &[&str]| ids.iter().map(|id| (*id).to_owned()).collect::<Vec<_>>();
        let first = intervals.next(&snapshot(100, 30), &ids(&["a", "unknown"]));
        assert_eq!(first.len(), 1, "{first:?}");
        assert_eq!(first[0]["container"], "a");
        assert_eq!(first[0]["run_ns"], 30, "since it is measured");
        assert_eq!(first[0].get("interval_ns"), None);
        let second = intervals.next(&snapshot(150, 70), &ids(&["b", "a"]));
        assert_eq!(second[0].get("interval_ns"), None, "not asked for before");
        assert_eq!(second[1]["interval_ns"], 50);
        assert_eq!(second[1]["run_ns"], 40);
        assert_eq!(second[1]["wait_ns"]["wake"], 20);
        assert_eq!(second[1]["migrations"]["package"], 4);
        assert_eq!(second[1]["wait_p99_ns"], 8192);
        let third = intervals.next(&snapshot(150, 70), &ids(&["a"]));
        assert!(third.is_empty(), "nothing new: {third:?}");
        let fourth = intervals.next(&snapshot(160, 70), &ids(&["a"]));
        assert_eq!(
            (&fourth[0]["run_ns"], &fourth[0]["interval_ns"]),
            (&json!(0), &json!(10))
        );
        assert_eq!(fourth[0]["wait_p99_ns"], 0);
    }

    #[test]
    fn containers_that_have_gone_are_forgotten() {
        let mut intervals = Intervals::default();
        let ids: Vec<String> = (0..500).map(|number| format!("{number:03}")).collect();
        let mut crowded = snapshot(1, 1);
        let like = crowded.containers[0].clone();
        crowded.containers = ids
            .iter()
            .map(|id| ContainerTelemetry {
                id: ContainerId(id.as_str().into()),
                ..like.clone()
            })
            .collect();
        assert_eq!(intervals.next(&crowded, &ids).len(), 500);
        intervals.next(&snapshot(2, 2), &[]);
        assert!(intervals.asked.is_empty());
    }
}
