//! Builds the policy and its manager from the configuration, and keeps them informed.

use super::{Failed, tasks::Tasks};
use crate::{
    config::{self, Config, PolicyName},
    cri::{client::RuntimeClient, intercept::Interceptor, observe::Observer},
    discover::hotplug::Hotplug,
    enforce::{Cgroups, Hierarchy},
    intercept::{Hooks, RuntimeView},
    manager::{self, Book, Ledger, Manager, ManagerHandle, PlanPreview, ReconfigureError},
    metrics::{placement::PlacementMetrics, registry::Metrics},
};
use anyhow::Context;
use resmgr_policy::{Policy, PoolsConfig, Settings, by_name};
use resmgr_topology::Topology;
use std::{sync::Arc, time::Duration};
use tokio_util::sync::CancellationToken;

/// Events that may wait for the manager; more make the calls they belong to wait.
const MAILBOX: usize = 1024;

/// A policy at work.
#[derive(Debug)]
pub struct Placement {
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
) -> Result<Placement, Failed> {
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
    Ok(Placement {
        hooks: Arc::new(Hooks::new(handle.clone())),
        manager: handle,
        cgroups,
    })
}

/// All a manager is made of.
fn parts(
    config: &Config,
    topology: &Arc<Topology>,
    observers: &[Arc<dyn Observer>],
) -> Result<manager::ManagerConfig, Failed> {
    let policy: Arc<dyn Policy> = policy(config, topology)?.into();
    let socket = config.relay.runtime_socket.as_deref().ok_or_else(|| {
        Failed::Usage(format!(
            "policy {} needs the runtime: --runtime-socket must not be off",
            config.policy.name
        ))
    })?;
    let memory_bytes = topology.nodes.iter().map(|node| node.memory_bytes).sum();
    let client = RuntimeClient::new(socket, config.relay.runtime_timeout, observers.to_vec());
    let under = config.enforce.cgroup_mount.as_path();
    let hierarchy = Hierarchy::detect(Some(under)).map_err(anyhow::Error::from)?;
    let ledger = Ledger::open(&config.enforce.state_dir).map_err(anyhow::Error::from)?;
    Ok(manager::ManagerConfig {
        policy,
        topology: Arc::clone(topology),
        cgroups: Arc::new(Cgroups::new(hierarchy)),
        ledger,
        runtime: Arc::new(RuntimeView::new(client, memory_bytes)),
        fail: config.policy.fail.clone(),
        policy_timeout: config.policy.timeout,
        reconcile_interval: config.enforce.reconcile_interval,
        export: Some(config.enforce.state_dir.join("containers")),
        resources_file: config.enforce.resources_file,
        mailbox: MAILBOX,
        reset_policy: config.policy.reset,
    })
}

/// What another configuration would change for what a cri-resmgr that does not run has left in its
/// ledger; nothing is written. The answer by itself, or why it would be refused.
///
/// # Errors
/// What is wrong with either configuration.
pub async fn outlook(
    config: &Config,
    wanted: &Config,
    topology: &Arc<Topology>,
) -> Result<Result<PlanPreview, ReconfigureError>, Failed> {
    let wanted = policy(wanted, topology)?;
    let parts = parts(config, topology, &[])?;
    let (mut manager, _handle) = Manager::new(parts, CancellationToken::new());
    Ok(manager.preview(wanted.into()).await)
}

impl Placement {
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

/// Follows the machine's online CPUs, when the topology is the machine's.
fn hotplug(
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

/// The configured policy for this machine.
///
/// # Errors
/// Everything wrong with its configuration.
pub fn policy(config: &Config, topology: &Topology) -> Result<Box<dyn Policy>, Failed> {
    let options = &config.policy;
    let settings = Settings {
        slices: options.slices.clone(),
        pools: match options.name {
            PolicyName::StaticPools => config::pools::load(&options.pools, topology)
                .map_err(|problems| Failed::Usage(problems.to_string()))?,
            _ => PoolsConfig::default(),
        },
        rebalance: options.rebalance,
    };
    let policy = by_name(options.name.as_str(), topology, &settings).map_err(|problems| {
        let lines: Vec<_> = problems.iter().map(ToString::to_string).collect();
        Failed::Usage(lines.join("\ncri-resmgr: "))
    })?;
    #[cfg(all(feature = "faults", debug_assertions))]
    let policy = super::faults::wrap(policy);
    Ok(policy)
}

/// Gives everything back from the ledger of a daemon that no longer runs; without one, from what the runtime
/// knows.
///
/// # Errors
/// When neither tells, or a container could not be restored.
pub fn restore(config: &Config) -> Result<String, Failed> {
    let ledger = Ledger::open(&config.enforce.state_dir).map_err(anyhow::Error::from)?;
    let path = ledger.path();
    let loaded = ledger.load();
    let mut text = String::new();
    for problem in loaded.problems {
        text += &format!("{:#}\n", anyhow::Error::from(problem));
    }
    let book = match loaded.value {
        Some(book) => book,
        None => {
            let from = format!(
                "no ledger at {}: asking the runtime what was asked for",
                path.display()
            );
            let Some(book) = learn(config).context(from.clone())? else {
                return Ok(format!(
                    "{text}nothing to restore: no ledger at {}, and no container was created through \
                     cri-resmgr\n",
                    path.display()
                ));
            };
            text += &format!("{from}\n");
            book
        }
    };
    let hierarchy = Hierarchy::detect(Some(&config.enforce.cgroup_mount))
        .context("cannot find the containers' cgroups")?;
    let report = manager::restore(&book.containers, &Cgroups::new(hierarchy));
    text += &format!(
        "{} containers have the CPUs the runtime asked for; {} have ended\n",
        report.restored.len(),
        report.absent.len()
    );
    for (id, problem) in &report.failed {
        text += &format!("cannot restore {id}: {problem}\n");
    }
    if report.failed.is_empty() {
        Ok(text)
    } else {
        Err(anyhow::anyhow!(text).into())
    }
}

/// What runs, asked of the runtime.
fn learn(config: &Config) -> anyhow::Result<Option<Book>> {
    let socket = config
        .relay
        .runtime_socket
        .as_deref()
        .context("--runtime-socket is off")?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the async runtime")?;
    runtime.block_on(async {
        let client = RuntimeClient::new(socket, config.relay.runtime_timeout, Vec::new());
        // No estimate of memory is needed to give CPUs back.
        Ok(manager::learn(&RuntimeView::new(client, 0)).await?)
    })
}
