//! The policy at work: its manager, the hooks it gives the relay, the CPUs that come and go.

use super::{error::ExitError, hotplug::UsableCpus, policy, tasks::Tasks};
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

/// The origin of a topology that was read from the machine itself.
const THIS_MACHINE: &str = "this machine";

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
    let (hierarchy, host_root) = (hierarchy(config)?, config.enforce.host_root.clone());
    let usable = (topology.origin == THIS_MACHINE)
        .then(|| UsableCpus::new(Arc::clone(topology), host_root, hierarchy));
    let narrowed = usable.as_ref().map(|usable| Arc::new(usable.topology()));
    // Reserved CPUs that were named and are withheld are a mistake that can be lived with.
    let policy = policy::build(config, narrowed.as_ref().unwrap_or(topology))
        .or_else(|_withheld| policy::build(config, topology))?;
    let parts = manager::ManagerConfig {
        topology: narrowed.unwrap_or_else(|| Arc::clone(topology)),
        ..parts(config, topology, policy.into(), observers)?
    };
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
    if let Some(usable) = usable {
        tasks.spawn(
            "hotplug",
            usable.follow(handle.clone(), Arc::clone(&cgroups), tasks.stop().clone()),
        );
    }
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
    policy: Arc<dyn Policy>,
    observers: &[Arc<dyn Observer>],
) -> Result<manager::ManagerConfig, ExitError> {
    let socket = config.relay.runtime_socket.as_deref().ok_or_else(|| {
        ExitError::Usage(format!(
            "policy {} needs the runtime: --runtime-socket must not be off",
            config.policy.name
        ))
    })?;
    let memory_bytes = topology.nodes.iter().map(|node| node.memory_bytes).sum();
    let client = RuntimeClient::new(socket, config.relay.runtime_timeout, observers.to_vec());
    let cgroups = Arc::new(Cgroups::new(hierarchy(config)?));
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

fn hierarchy(config: &Config) -> Result<Hierarchy, ExitError> {
    let under = config.enforce.cgroup_mount.as_path();
    let hierarchy = Hierarchy::detect(Some(under)).map_err(anyhow::Error::from)?;
    Ok(hierarchy)
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
