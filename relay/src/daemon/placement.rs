//! The policy at work: its manager, the hooks it gives the relay, the CPUs that come and go.

use super::{error::ExitError, hotplug::hotplug, policy, tasks::Tasks};
use crate::{
    config::Config,
    cri::{client::RuntimeClient, intercept::Interceptor, observe::Observer},
    enforce::{Cgroups, Hierarchy},
    intercept::{Hooks, RuntimeView},
    ledger::Blocking,
    manager::{self, Ledger, Manager, ManagerHandle},
    metrics::{placement::PlacementMetrics, registry::Metrics},
};
use resmgr_policy::Policy;
use resmgr_topology::Topology;
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

/// Events that may wait for the manager; more make the calls they belong to wait.
const MAILBOX: usize = 1024;

/// The manager of a policy at work, and the hooks of the relay.
#[derive(Debug)]
pub struct PlacementService {
    /// Talks to the manager.
    pub manager: ManagerHandle,
    /// Where containers' cgroups are.
    pub cgroups: Arc<Cgroups>,
    hooks: Arc<dyn Interceptor>,
}

/// Starts the manager. It waits for the runtime by itself, and says so once.
///
/// # Errors
/// What is wrong with the policy's configuration, or which part cannot be had.
pub fn start(
    config: &Config,
    topology: &Arc<Topology>,
    observers: &[Arc<dyn Observer>],
    tasks: &Tasks,
    metrics: &Metrics,
) -> Result<PlacementService, ExitError> {
    let parts = parts(config, topology, observers)?;
    let cgroups = Arc::clone(&parts.cgroups);
    let (manager, handle) = Manager::new(parts, CancellationToken::new());
    tasks.spawn("manager", {
        let asked_to_stop = tasks.stop().clone();
        async move {
            Box::pin(manager.run()).await;
            // The manager ends before the root token is cancelled: `stop` below ends it first.
            asked_to_stop.cancelled().await;
            Ok(())
        }
    });
    tasks.spawn(
        "hotplug",
        hotplug(config, topology, handle.clone(), tasks.stop().clone()),
    );
    metrics.register(|registry| {
        registry.register_collector(Box::new(PlacementMetrics::new(handle.snapshots())));
    });
    Ok(PlacementService {
        hooks: Arc::new(Hooks::new(handle.clone())),
        manager: handle,
        cgroups,
    })
}

/// All a manager is made of.
pub(super) fn parts(
    config: &Config,
    topology: &Arc<Topology>,
    observers: &[Arc<dyn Observer>],
) -> Result<manager::ManagerConfig, ExitError> {
    let policy: Arc<dyn Policy> = policy::build(config, topology)?.into();
    let socket = config.relay.runtime_socket.as_deref().ok_or_else(|| {
        ExitError::Usage(format!(
            "policy {} needs the runtime: --runtime-socket must not be off",
            config.policy.name
        ))
    })?;
    let memory_bytes = topology.nodes.iter().map(|node| node.memory_bytes).sum();
    let client = RuntimeClient::new(socket, config.relay.runtime_timeout, observers.to_vec());
    let under = config.enforce.cgroup_mount.as_path();
    let hierarchy = Hierarchy::detect(Some(under)).map_err(anyhow::Error::from)?;
    let cgroups = Arc::new(Cgroups::new(hierarchy));
    let ledger = Ledger::open(&config.enforce.state_dir).map_err(anyhow::Error::from)?;
    Ok(manager::ManagerConfig {
        policy,
        topology: Arc::clone(topology),
        cgroups: Arc::clone(&cgroups),
        ledger,
        runtime: Arc::new(RuntimeView::new(client, memory_bytes).with_cgroups(cgroups)),
        fail: config.policy.fail.clone(),
        policy_timeout: config.policy.timeout,
        reconcile_interval: config.enforce.reconcile_interval,
        export: Some(config.enforce.state_dir.join("containers")),
        resources_file: config.enforce.resources_file,
        blocking: Blocking::Threads,
        mailbox: MAILBOX,
        reset_policy: config.policy.reset,
    })
}

impl PlacementService {
    /// The hooks for the relay.
    #[must_use]
    pub fn interceptor(&self) -> Arc<dyn Interceptor> {
        Arc::clone(&self.hooks)
    }

    /// Gives everything back if asked, and ends the manager.
    pub async fn stop(&self, restore: bool) {
        if restore {
            match self.manager.restore().await {
                Ok(report) => {
                    tracing::info!(
                        target: "resource-manager",
                        "{} containers have their own CPUs again, {} failed",
                        report.restored.len(),
                        report.failed.len()
                    );
                    for (id, problem) in report.failed {
                        tracing::error!(target: "resource-manager", "cannot restore {id}: {problem}");
                    }
                }
                Err(ended) => {
                    tracing::error!(target: "resource-manager", "cannot restore: {ended}")
                }
            }
        }
        self.manager.shutdown();
    }
}
