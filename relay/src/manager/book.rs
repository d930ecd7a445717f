//! What is kept on disk: where containers run, what the runtime itself was last asked for (so that everything
//! can be given back), and why. No environment and no annotation that does not concern placement; of a
//! command line only the options of `cmk isolate`.

use super::{
    containers::{ContainerRecord, Containers, Stored},
    pool_changes::PoolChanges,
};
use crate::ledger::{self, StateFile};
use resmgr_policy::{
    Annotated, Basis, ContainerId, CriResources, RebalanceMemory, Request, Source, State,
};
use resmgr_topology::Nanos;
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, sync::Arc};

/// The file of a [`Book`].
pub type Ledger = StateFile<Book>;

/// All that is remembered.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "StoredBook", into = "StoredBook")]
pub struct Book {
    /// Name of the policy that decided.
    pub policy: String,
    /// The containers, and what the policy remembers.
    pub containers: Containers,
    /// When this was handed over (`CLOCK_MONOTONIC`): a clock behind it was set to zero by a reboot.
    pub saved_at: Nanos,
}

impl ledger::StateRecord for Book {
    const NAME: &'static str = "ledger";
    const MAGIC: &'static str = "cri-resmgr-ledger";
}

/// A book as it is stored. The keys are those of the versions before.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct StoredBook {
    policy: String,
    next_arrival: u64,
    entries: BTreeMap<ContainerId, Stored>,
    #[serde(default)]
    rebalance: RebalanceMemory,
    #[serde(default)]
    saved_at: Nanos,
    #[serde(default)]
    pool_changes: PoolChanges,
}

impl From<Book> for StoredBook {
    fn from(book: Book) -> Self {
        let state = book.containers.state();
        Self {
            policy: book.policy,
            next_arrival: state.next_arrival,
            rebalance: state.rebalance.clone(),
            saved_at: book.saved_at,
            pool_changes: book.containers.pool_changes().clone(),
            entries: book
                .containers
                .iter()
                .map(|container| (container.id.clone(), container.into()))
                .collect(),
        }
    }
}

impl From<StoredBook> for Book {
    fn from(stored: StoredBook) -> Self {
        let state = State {
            next_arrival: stored.next_arrival,
            rebalance: stored.rebalance,
            ..State::default()
        };
        let mut containers = Containers::of(state, stored.pool_changes);
        for mut container in stored.entries.into_values() {
            let basis = earlier_basis(&container.request, &container.record);
            if let Some(basis) = basis {
                Arc::make_mut(&mut container.record).basis = basis;
            }
            containers.insert_stored(container);
        }
        Self {
            policy: stored.policy,
            containers,
            saved_at: stored.saved_at,
        }
    }
}

/// What an earlier version did not keep of a container, from what it did.
fn earlier_basis(request: &Request, record: &ContainerRecord) -> Option<Basis> {
    if record.basis != Basis::default() {
        return None;
    }
    let requirements = &request.requirements;
    let signed = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
    let quota = record.requested.cpu_quota.unwrap_or_default();
    let limit = requirements.cpu_limit.unwrap_or_default().0;
    Some(Basis {
        shown: CriResources {
            cpu_shares: signed(record.requested.cpu_shares.unwrap_or_default()),
            cpu_quota: quota,
            cpu_period: match limit {
                0 => 100_000,
                limit => quota.saturating_mul(1000) / i64::from(limit),
            },
            memory_limit_bytes: signed(requirements.memory_limit_bytes.unwrap_or_default()),
            oom_score_adj: 0,
        },
        annotated: (requirements.source == Source::Annotation).then(|| Annotated {
            cpu_request: Some(requirements.cpu_request),
            cpu_limit: requirements.cpu_limit,
            memory_request_bytes: requirements.memory_request_bytes,
            memory_limit_bytes: requirements.memory_limit_bytes,
            extended: requirements.extended.clone(),
        }),
        ..Basis::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::enforce::CgroupSettings;
    use resmgr_topology::CpuSet;

    #[test]
    fn a_ledger_of_the_version_before_is_read_and_written_alike() {
        // As 0.1 wrote it, without the basis that came later.
        let text = r#"{"policy":"static","next_arrival":2,"entries":{
            "db":{"request":{"id":"db","pod":{"sandbox":"s","uid":"u","name":"p","namespace":"n"},
                "name":"db","qos":"Guaranteed","requirements":{"cpu_request":2000,"cpu_limit":2000,
                "memory_request_bytes":null,"memory_limit_bytes":1024,"extended":{},"source":"estimate"},
                "init":false,"annotations":{},"env":[],"command":[]},
              "placement":{"exclusive":"0-1","pool":null,"shared":0,"cpus":"0-1","mems":[0],
                "cpu_shares":null,"quota":"unlimited"},
              "unplaced":null,"arrival":0,"stage":"running",
              "asked":{"cpus":"","mems":null,"cpu_shares":2048,"cpu_quota":200000},
              "cgroup_parent":"/kubepods/pod","attempt":1,
              "history":[{"at_unix_s":7,"cpus":"0-1","why":{"summary":"placed","reasons":["it fits"]}}]},
            "web":{"request":{"id":"web","pod":{"sandbox":"s","uid":"u","name":"p","namespace":"n"},
                "name":"web","qos":"BestEffort","requirements":{"cpu_request":0,"cpu_limit":null,
                "memory_request_bytes":null,"memory_limit_bytes":null,"extended":{},"source":"estimate"},
                "init":false,"annotations":{},"env":[],"command":[]},
              "placement":null,"unplaced":"no room","arrival":1,"stage":"created",
              "asked":{"cpus":"","mems":null,"cpu_shares":2,"cpu_quota":null},
              "cgroup_parent":"/kubepods/pod"}}}"#;
        let book: Book = serde_json::from_str(text).unwrap();
        assert_eq!(book.policy, "static");
        let db = book.containers.get(&ContainerId("db".into())).unwrap();
        assert_eq!(
            db.placement.unwrap().exclusive,
            "0-1".parse::<CpuSet>().unwrap()
        );
        let requested = CgroupSettings {
            cpu_shares: Some(2048),
            cpu_quota: Some(200_000),
            ..CgroupSettings::default()
        };
        assert_eq!(db.record.requested, requested);
        let shown = &db.record.basis.shown;
        assert_eq!((shown.cpu_quota, shown.cpu_period), (200_000, 100_000));
        assert_eq!((db.record.attempt, db.record.history.len()), (1, 1));
        let web = book.containers.get(&ContainerId("web".into())).unwrap();
        assert_eq!(web.unplaced.map(|why| &**why), Some("no room"));
        assert_eq!((web.arrival, book.containers.state().next_arrival), (1, 2));
        // The version before reads what this one writes: the keys are the same.
        let written = serde_json::to_value(&book).unwrap();
        let db = &written["entries"]["db"];
        for key in [
            "request",
            "placement",
            "unplaced",
            "arrival",
            "stage",
            "asked",
            "cgroup_parent",
        ] {
            assert!(db.get(key).is_some(), "{key}: {db}");
        }
        assert_eq!(serde_json::from_value::<Book>(written).unwrap(), book);
    }
}
