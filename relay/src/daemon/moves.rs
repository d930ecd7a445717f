//! Dumps every move of what runs: made, shown only, kept or undone.

use crate::{
    dump::Dumper,
    manager::{ManagerHandle, Snapshot},
};
use resmgr_policy::{ContainerId, Outcome, RebalanceMove};
use resmgr_topology::Nanos;
use serde_json::{Value, json};
use std::{collections::BTreeMap, sync::Arc};
use tokio_util::sync::CancellationToken;

/// Name of the records, for the rules of `--dump`.
const NAME: &str = "Rebalance";

pub(super) type KnownMoves = BTreeMap<(Nanos, ContainerId), Outcome>;

/// Follows the manager's state until it ends.
pub(super) async fn dump(
    manager: ManagerHandle,
    dumper: Arc<Dumper>,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let mut snapshots = manager.snapshots();
    // What an earlier run did is in that run's dump.
    let mut known = KnownMoves::new();
    new_moves(&manager.snapshot(), &mut known);
    let mut seq = 0;
    loop {
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            changed = snapshots.changed() => if changed.is_err() {
                stop.cancelled().await;
                return Ok(());
            },
        }
        let snapshot = Arc::clone(&snapshots.borrow_and_update());
        for moved in new_moves(&snapshot, &mut known) {
            seq += 1;
            dumper.tell(NAME, seq, record(&snapshot, &moved));
        }
    }
}

/// Moves that are new or have ended since the last snapshot. Snapshots may be missed, moves are not:
/// the state remembers many.
pub(super) fn new_moves(snapshot: &Snapshot, known: &mut KnownMoves) -> Vec<RebalanceMove> {
    let history = &snapshot.containers.state().rebalance.history;
    let now: KnownMoves = history
        .iter()
        .map(|moved| ((moved.at, moved.id.clone()), moved.outcome))
        .collect();
    let before = std::mem::replace(known, now);
    let new = history
        .iter()
        .filter(|moved| before.get(&(moved.at, moved.id.clone())) != Some(&moved.outcome));
    new.cloned().collect()
}

fn record(snapshot: &Snapshot, moved: &RebalanceMove) -> Value {
    let container = |id: &ContainerId| snapshot.containers.get(id);
    let parts: Vec<Value> = moved
        .steps
        .iter()
        .map(|part| {
            let placed = container(&part.id);
            let request = placed.map(|placed| placed.request);
            json!({
                "container_id": part.id,
                "namespace": request.map(|request| &*request.pod.namespace),
                "pod": request.map(|request| &*request.pod.name),
                "container": request.map(|request| &*request.name),
                "what": part.kind.to_string(),
                "from": part.from.as_ref().map(ToString::to_string),
                "to": part.to.as_ref().map(ToString::to_string),
                "cpus": placed
                    .and_then(|placed| placed.placement)
                    .map(|placement| placement.cpus.to_string()),
            })
        })
        .collect();
    let why = container(&moved.id).and_then(|container| container.record.history.last());
    json!({
        "outcome": moved.outcome.word(),
        "reason": moved.reason,
        "parts": parts,
        "lost_ns_per_s": moved.lost_ns_per_s,
        "promised_ns_per_s": moved.promised_ns_per_s,
        "cost_ns_per_s": moved.cost_ns_per_s,
        "seen_ns_per_s": moved.seen_ns_per_s,
        "why": why.map(|note| json!({
            "summary": note.why.summary,
            "reasons": note.why.reason_lines(),
            "candidates": note.why.candidate_lines(),
        })),
    })
}
