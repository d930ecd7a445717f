//! The views of the running daemon: what `state`, `explain` and `top` are told.

use super::measure::Measure;
use crate::{
    inspect::{
        server::Views,
        top::TopView,
        view::{ContainerView, DecisionView, ExplainView, PoolView, StateView},
    },
    ledger::Entry,
    manager::{ManagerHandle, Snapshot},
};
use resmgr_topology::{CpuSet, Topology};
use std::{collections::BTreeMap, sync::Arc};

/// Answers from the manager's last snapshot; without a manager there is nothing placed to show.
#[derive(Debug)]
pub struct LiveViews {
    manager: Option<ManagerHandle>,
    topology: Arc<Topology>,
    measure: Arc<Measure>,
}

impl LiveViews {
    /// Views of this manager.
    #[must_use]
    pub fn new(
        manager: Option<ManagerHandle>,
        topology: Arc<Topology>,
        measure: Arc<Measure>,
    ) -> Self {
        Self {
            manager,
            topology,
            measure,
        }
    }
}

fn container(id: &str, entry: &Entry) -> ContainerView {
    let placement = entry.placement.clone().unwrap_or_default();
    let mems: Vec<String> = placement
        .mems
        .iter()
        .flat_map(|mems| mems.iter())
        .map(ToString::to_string)
        .collect();
    ContainerView {
        id: id.to_owned(),
        namespace: entry.request.pod.namespace.to_string(),
        pod: entry.request.pod.name.to_string(),
        container: entry.request.name.to_string(),
        qos: format!("{:?}", entry.request.qos),
        request_mcpu: entry.request.requirements.cpu_request.0,
        request_source: entry.request.requirements.source.to_string(),
        exclusive: placement.exclusive.to_string(),
        pool: placement.pool.as_deref().unwrap_or_default().to_owned(),
        cpus: placement.cpus.to_string(),
        mems: mems.join(","),
        unplaced: entry.placement.is_none().then(|| {
            entry
                .unplaced
                .clone()
                .unwrap_or_else(|| "the policy did not place it".to_owned())
        }),
    }
}

fn state(snapshot: &Snapshot) -> StateView {
    let mut containers: Vec<_> = snapshot
        .entries
        .iter()
        .map(|(id, entry)| container(&id.0, entry))
        .collect();
    containers.sort_by(|a, b| {
        (&a.namespace, &a.pod, &a.container, &a.id).cmp(&(
            &b.namespace,
            &b.pod,
            &b.container,
            &b.id,
        ))
    });
    let mut pools: BTreeMap<String, (CpuSet, usize)> = BTreeMap::new();
    for entry in snapshot.entries.values() {
        let Some(placement) = &entry.placement else {
            continue;
        };
        if let Some(pool) = &placement.pool {
            let (cpus, members) = pools.entry(pool.to_string()).or_default();
            // An stp pool's exclusive lists are the pool's; elsewhere a pool is what is shared.
            let own = match placement.lists.is_empty() {
                true => *placement.exclusive,
                false => CpuSet::EMPTY,
            };
            *cpus = cpus.union(&placement.cpus.difference(&own));
            *members += 1;
        }
    }
    let holders = snapshot
        .state
        .containers
        .values()
        .filter(|one| !one.placement.exclusive.is_empty());
    pools.insert(
        "(exclusive)".to_owned(),
        (snapshot.state.exclusive(), holders.count()),
    );
    StateView {
        policy: snapshot.policy.to_owned(),
        online: snapshot.topology.online.to_string(),
        pools: pools
            .into_iter()
            .map(|(name, (cpus, containers))| PoolView {
                name,
                cpus: cpus.to_string(),
                containers,
            })
            .collect(),
        containers,
    }
}

impl Views for LiveViews {
    fn state(&self) -> StateView {
        match &self.manager {
            Some(manager) => state(&manager.snapshot()),
            None => StateView {
                policy: "null".to_owned(),
                online: self.topology.online.to_string(),
                ..StateView::default()
            },
        }
    }

    fn explain(&self, wanted: &str) -> Result<ExplainView, String> {
        let manager = self
            .manager
            .as_ref()
            .ok_or("policy null places nothing, so there is nothing to explain")?;
        let snapshot = manager.snapshot();
        let named = |entry: &Entry| {
            let request = &entry.request;
            let short = format!("{}/{}", request.pod.name, request.name);
            wanted == short || wanted == format!("{}/{short}", request.pod.namespace)
        };
        let mut found = snapshot.entries.iter().filter(|(id, entry)| {
            id.0.starts_with(wanted) || named(entry) || *entry.request.name == *wanted
        });
        let (id, entry) = found
            .next()
            .ok_or_else(|| format!("no container is called {wanted:?}"))?;
        if let Some((other, _)) = found.next() {
            return Err(format!(
                "{wanted:?} is both {id} and {other}; name it by its id"
            ));
        }
        Ok(ExplainView {
            container: container(&id.0, entry),
            measurements: self.measure.condition().to_string(),
            decisions: entry
                .history
                .iter()
                .map(|note| DecisionView {
                    at: rfc3339(note.at_unix_s),
                    summary: note.why.summary.clone(),
                    reasons: note.why.reasons.clone(),
                    candidates: note.why.candidates.clone(),
                })
                .collect(),
        })
    }

    fn top(&self) -> Option<TopView> {
        self.measure.top()
    }
}

/// Seconds since 1970 as RFC 3339 in UTC.
fn rfc3339(at_unix_s: u64) -> String {
    let at = i64::try_from(at_unix_s).unwrap_or(i64::MAX);
    jiff::Timestamp::from_second(at).map_or_else(|_too_far| String::new(), |at| at.to_string())
}
