//! Hands the recorder what is placed, as the manager publishes it.

use super::tasks::Tasks;
use crate::{
    config::Config,
    manager::{ManagerHandle, Snapshot, Stage},
    record::Recorder,
};
use resmgr_topology::Topology;
use std::{sync::Arc, time::Duration};

/// How long the recorder may take to write what is queued.
const LIMIT: Duration = Duration::from_secs(5);

/// Starts to record, if that is asked for.
///
/// # Errors
/// When the file cannot be opened or no thread can be had.
pub fn start(
    config: &Config,
    topology: &Arc<Topology>,
    manager: Option<&ManagerHandle>,
    tasks: &Tasks,
) -> anyhow::Result<Option<Arc<Recorder>>> {
    let Some(path) = &config.telemetry.record else {
        return Ok(None);
    };
    let Some(manager) = manager else {
        tracing::warn!(
            target: "resource-manager",
            "nothing is recorded: policy null keeps no track of containers; policy none does, and places none"
        );
        return Ok(None);
    };
    let recorder = Arc::new(Recorder::start(path, topology)?);
    let mut snapshots = manager.snapshots();
    let stop = tasks.stop().clone();
    let writer = Arc::clone(&recorder);
    tasks.spawn("record", async move {
        loop {
            let snapshot = Arc::clone(&snapshots.borrow_and_update());
            if snapshot.synced {
                record(&writer, &snapshot);
            }
            let ended = tokio::select! {
                () = stop.cancelled() => true,
                changed = snapshots.changed() => changed.is_err(),
            };
            if ended {
                break;
            }
        }
        stop.cancelled().await;
        let last = tokio::task::spawn_blocking(move || writer.stop(LIMIT));
        Ok(last.await?)
    });
    Ok(Some(recorder))
}

fn record(recorder: &Recorder, snapshot: &Snapshot) {
    let reserved = snapshot
        .containers
        .iter()
        .filter(|container| container.stage() == Stage::Reserved)
        .map(|container| container.id.clone())
        .collect();
    recorder.placed(snapshot.containers.state(), &snapshot.topology, reserved);
}
