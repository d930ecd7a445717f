//! CPUs that come and go while the daemon runs.

use crate::{config::Config, discover::hotplug::Hotplug, manager::ManagerHandle};
use resmgr_topology::Topology;
use std::{sync::Arc, time::Duration};
use tokio_util::sync::CancellationToken;

/// Follows the machine's online CPUs, when the topology is the machine's.
pub(super) fn hotplug(
    config: &Config,
    topology: &Arc<Topology>,
    manager: ManagerHandle,
    stop: CancellationToken,
) -> impl Future<Output = anyhow::Result<()>> + Send + use<> {
    let from_machine = topology.origin == "this machine";
    let mut watch = Hotplug::new(config.enforce.host_root.clone(), topology);
    async move {
        if !from_machine {
            stop.cancelled().await;
            return Ok(());
        }
        loop {
            let changed = tokio::select! {
                () = stop.cancelled() => return Ok(()),
                changed = watch.changed() => changed,
            };
            match changed {
                Ok(topology) => {
                    if let Err(problem) = manager.set_topology(Arc::new(topology)).await {
                        tracing::error!(target: "policy", "the online CPUs changed: {problem}");
                    }
                }
                Err(error) => {
                    tracing::warn!(target: "sysfs", "cannot follow the online CPUs: {error}");
                    tokio::time::sleep(Duration::from_secs(10)).await;
                }
            }
        }
    }
}
