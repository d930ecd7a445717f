//! The views of the running daemon: the answers to `state`, `explain`, `top` and `topology`.

use super::{fence::FenceStatus, measure::Measure};
use crate::{
    config::print::ChangedOption,
    control::{ConfigStatus, beginning},
    inspect::{
        history::{History, HistoryView, PastView},
        server::Views,
        top::TopView,
        view::{
            AppliedConfigView, ConfigView, ContainerView, DecisionValues, DecisionView,
            ExplainView, FencedView, OptionView, PoolView, PushedView, RefusedConfigView,
            RefusedView, StateView, TopologyView,
        },
    },
    manager::{ContainerRef, FindError, ManagerHandle, RefusedCreation, RuntimeAnswer, Snapshot},
};
use resmgr_policy::{ContainerId, Reason, Request};
use resmgr_topology::{CpuSet, Topology};
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{SystemTime, UNIX_EPOCH},
};
use tokio::sync::watch;

/// Answers from the manager's last snapshot; without a manager there is nothing placed to show.
#[derive(Debug)]
pub struct LiveViews {
    /// Knows the placement.
    pub manager: Option<ManagerHandle>,
    /// The machine, for when there is no manager.
    pub topology: Arc<Topology>,
    /// Knows what was measured.
    pub measure: Arc<Measure>,
    /// What services of the host are kept off.
    pub fenced: watch::Receiver<FenceStatus>,
    /// The options of the start.
    pub options: Vec<ChangedOption>,
    /// What became of what was pushed.
    pub pushed: watch::Receiver<ConfigStatus>,
    /// What was, as [`LiveViews::observe`] was called.
    pub history: Mutex<History>,
}

impl LiveViews {
    /// Keeps what is placed and measured now.
    pub fn observe(&self) {
        let at = SystemTime::now().duration_since(UNIX_EPOCH);
        let at_unix_s = at.unwrap_or_default().as_secs();
        let (state, sample) = (self.state(), self.measure.sample());
        self.lock_history().observe(at_unix_s, state, sample);
    }

    fn lock_history(&self) -> MutexGuard<'_, History> {
        self.history.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn container(
    unenforced: &BTreeMap<ContainerId, RuntimeAnswer>,
    container: ContainerRef<'_>,
) -> ContainerView {
    let placement = container.placement.cloned().unwrap_or_default();
    let mems: Vec<String> = placement
        .mems
        .iter()
        .flat_map(|mems| mems.iter())
        .map(ToString::to_string)
        .collect();
    let request = container.request;
    let why = container.unplaced.map(|why| why.to_string());
    ContainerView {
        id: container.id.to_string(),
        exclusive: placement.exclusive.to_string(),
        pool: placement.pool.as_deref().unwrap_or_default().to_owned(),
        cpus: placement.cpus.to_string(),
        mems: mems.join(","),
        unplaced: container
            .placement
            .is_none()
            .then(|| why.unwrap_or_else(|| "the policy did not place it".to_owned())),
        unenforced: unenforced.get(container.id).map(ToString::to_string),
        ..container_of(request)
    }
}

/// What is known of a container by its request.
fn container_of(request: &Request) -> ContainerView {
    ContainerView {
        namespace: request.pod.namespace.to_string(),
        pod: request.pod.name.to_string(),
        container: request.name.to_string(),
        qos: format!("{:?}", request.qos),
        request_mcpu: request.requirements.cpu_request.0,
        request_source: request.requirements.source.to_string(),
        ..ContainerView::default()
    }
}

fn state(snapshot: &Snapshot, pushed: PushedView, fenced: FenceStatus) -> StateView {
    let mut containers: Vec<_> = snapshot
        .containers
        .iter()
        .map(|found| container(&snapshot.unenforced, found))
        .collect();
    containers.sort_by(|a, b| {
        (&a.namespace, &a.pod, &a.container, &a.id).cmp(&(
            &b.namespace,
            &b.pod,
            &b.container,
            &b.id,
        ))
    });
    StateView {
        policy: snapshot.policy.to_owned(),
        synced: snapshot.synced,
        online: snapshot.topology.online.to_string(),
        withheld: snapshot.topology.withheld.to_string(),
        pools: pools(snapshot),
        containers,
        pushed,
        fenced: (fenced.cgroups > 0).then(|| FencedView {
            cpus: fenced.cpus.to_string(),
            cgroups: fenced.cgroups,
            shadow: fenced.shadow,
        }),
    }
}

/// All exclusive CPUs, then the pools: those that the policy knows, and those that only containers show.
fn pools(snapshot: &Snapshot) -> Vec<PoolView> {
    let placements = || {
        let containers = snapshot.containers.iter();
        containers.filter_map(|container| container.placement)
    };
    let mut pools: BTreeMap<String, PoolView> = BTreeMap::new();
    for pool in snapshot.pools() {
        let view = PoolView {
            name: pool.name.clone(),
            cpus: pool.cpus.to_string(),
            containers: 0,
            free: pool.free.iter().map(ToString::to_string).collect(),
        };
        pools.insert(pool.name, view);
    }
    for placement in placements() {
        if let Some(name) = &placement.pool {
            let pool = pools.entry(name.to_string()).or_insert_with(|| PoolView {
                name: name.to_string(),
                cpus: placement.cpus.to_string(),
                ..PoolView::default()
            });
            pool.containers += 1;
        }
    }
    let exclusive = PoolView {
        name: "(exclusive)".to_owned(),
        cpus: snapshot.containers.state().exclusive().to_string(),
        containers: placements()
            .filter(|placement| !placement.exclusive.is_empty())
            .count(),
        free: Vec::new(),
    };
    let first = std::iter::once(exclusive);
    first.chain(pools.into_values()).collect()
}

/// The decisions about a container, and the changes of its pool between them, oldest first.
fn decisions(container: ContainerRef<'_>, snapshot: &Snapshot) -> Vec<DecisionView> {
    let notes = container.record.history.iter().map(|note| {
        let view = DecisionView {
            at: rfc3339(note.at_unix_s),
            summary: note.why.summary.clone(),
            reasons: note.why.reason_lines(),
            candidates: note.why.candidate_lines(),
            values: DecisionValues {
                reasons: note.why.reasons.clone(),
                candidates: note.why.candidates.clone(),
            },
        };
        (note.at_unix_s, view)
    });
    let placement = container.placement.cloned().unwrap_or_default();
    let changes = snapshot.containers.pool_changes();
    let met = changes.met_by(&placement, container.arrival);
    let met = met.map(|change| {
        let view = DecisionView {
            at: rfc3339(change.at_unix_s),
            summary: format!(
                "pool {} went from CPUs {} ({}) to {} ({})",
                change.pool,
                *change.from,
                change.from.len(),
                *change.to,
                change.to.len()
            ),
            reasons: change.causes.clone(),
            values: DecisionValues {
                reasons: change.causes.iter().cloned().map(Reason::from).collect(),
                candidates: Vec::new(),
            },
            ..DecisionView::default()
        };
        (change.at_unix_s, view)
    });
    let mut all: Vec<_> = notes.chain(met).collect();
    all.sort_by_key(|(at_unix_s, _view)| *at_unix_s);
    all.into_iter().map(|(_at, view)| view).collect()
}

/// A creation that was refused, explained.
fn refused(refused: &RefusedCreation) -> ExplainView {
    let request = &refused.request;
    ExplainView {
        container: ContainerView {
            unplaced: Some("its creation was refused".to_owned()),
            ..container_of(request)
        },
        refused: Some(RefusedView {
            at: rfc3339(refused.at_unix_s),
            why: refused.why.to_string(),
            times: refused.times,
        }),
        ..ExplainView::default()
    }
}

impl Views for LiveViews {
    fn state(&self) -> StateView {
        let pushed = pushed(&self.pushed.borrow());
        match &self.manager {
            Some(manager) => state(&manager.snapshot(), pushed, *self.fenced.borrow()),
            None => StateView {
                policy: "null".to_owned(),
                online: self.topology.online.to_string(),
                pushed,
                ..StateView::default()
            },
        }
    }

    fn history(&self) -> HistoryView {
        self.lock_history().view()
    }

    fn past(&self, at_unix_s: u64) -> Option<PastView> {
        self.lock_history().at(at_unix_s)
    }

    fn config(&self) -> ConfigView {
        let status = self.pushed.borrow();
        let typed = self.options.iter().map(|option| OptionView {
            name: option.name.clone(),
            value: beginning(&option.value),
            origin: option.origin.to_string(),
        });
        let documents = status.applied.iter().map(|applied| &applied.document);
        let in_documents = documents.flat_map(|document| {
            document.entries.iter().map(|(key, text)| OptionView {
                name: key.clone(),
                value: beginning(text),
                origin: document.source.clone(),
            })
        });
        ConfigView {
            policy: match &self.manager {
                Some(manager) => manager.snapshot().policy.to_owned(),
                None => "null".to_owned(),
            },
            options: typed.chain(in_documents).collect(),
            pushed: pushed(&status),
        }
    }

    fn explain(&self, wanted: &str) -> Result<ExplainView, String> {
        let manager = self
            .manager
            .as_ref()
            .ok_or("policy null places nothing, so there is nothing to explain")?;
        let snapshot = manager.snapshot();
        let found = match snapshot.find(wanted) {
            Ok(found) => found,
            Err(error @ FindError::NotFound(_)) => {
                let creation = snapshot.find_refused(wanted);
                return creation.map(refused).ok_or_else(|| error.to_string());
            }
            Err(error) => return Err(error.to_string()),
        };
        Ok(ExplainView {
            container: container(&snapshot.unenforced, found),
            measurements: self.measure.condition().to_string(),
            measured: self.measure.measured_of(found.id),
            refused: None,
            decisions: decisions(found, &snapshot),
        })
    }

    fn top(&self) -> Option<TopView> {
        self.measure.top()
    }

    fn topology(&self) -> TopologyView {
        match &self.manager {
            Some(manager) => {
                let snapshot = manager.snapshot();
                TopologyView::new(Arc::clone(&snapshot.topology), snapshot.reserved)
            }
            None => TopologyView::new(Arc::clone(&self.topology), CpuSet::EMPTY),
        }
    }
}

fn pushed(status: &ConfigStatus) -> PushedView {
    PushedView {
        generation: status.generation,
        applied: status.applied.as_ref().map(|applied| AppliedConfigView {
            source: applied.document.source.clone(),
            node: applied.node.clone(),
            at: rfc3339(applied.at_unix_s),
        }),
        refused: status.refused.as_ref().map(|refused| RefusedConfigView {
            source: refused.source.clone(),
            at: rfc3339(refused.at_unix_s),
            why: refused.why.clone(),
            outstanding: refused.outstanding,
        }),
    }
}

/// Seconds since 1970 as RFC 3339 in UTC.
fn rfc3339(at_unix_s: u64) -> String {
    let at = i64::try_from(at_unix_s).unwrap_or(i64::MAX);
    jiff::Timestamp::from_second(at).map_or_else(|_too_far| String::new(), |at| at.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        enforce::step::CgroupSettings,
        manager::{ContainerRecord, Stage},
    };
    use proptest::prelude::*;
    use resmgr_policy::{PodRef, QosClass, Requirements};

    proptest! {
        /// Secrets of a pod stand in its containers' environment, command line and annotations.
        #[test]
        fn the_view_of_a_container_holds_nothing_of_its_environment(
            secret in "[A-Za-z0-9]{24,40}",
            placed in any::<bool>(),
        ) {
            let id = ContainerId("0123456789ab".into());
            let request = Arc::new(Request {
                id: id.clone(),
                pod: PodRef {
                    sandbox: "cdef".into(),
                    uid: "uid".into(),
                    name: "db-0".into(),
                    namespace: "default".into(),
                },
                name: "db".into(),
                qos: QosClass::Burstable,
                requirements: Requirements::default(),
                init: false,
                annotations: BTreeMap::from([("intel.com/resources".into(), secret.clone())]),
                env: vec![(format!("STP_{secret}"), secret.clone())],
                command: vec![secret.clone()],
                args: vec![secret.clone()],
            });
            let record: ContainerRecord = serde_json::from_value(serde_json::json!({
                "stage": Stage::Running,
                "asked": CgroupSettings::default(),
                "cgroup_parent": "/kubepods",
            }))
            .unwrap();
            let placement = resmgr_policy::Placement::default();
            let view = container(&BTreeMap::new(), ContainerRef {
                id: &id,
                request: &request,
                placement: placed.then_some(&placement),
                unplaced: None,
                arrival: 0,
                record: &Arc::new(record),
            });
            let json = serde_json::to_string(&view).unwrap();
            prop_assert!(json.contains("db-0") && !json.contains(&secret), "{json}");
        }
    }
}
