//! Configuration that changes while everything runs: applied whole, or not at all.
//!
//! What is pushed has been judged against the machine already. Here the policy is built and handed to the
//! manager, which re-places what must move; only when that has worked do limits, Node, dump and log
//! follow, which cannot fail, and the document is kept for the next start.

use super::{
    last_good::{self, StartConfig},
    node::NodePublisher,
    options::validate,
    policy,
    tasks::Tasks,
};
use crate::{
    config::{Config, Document, PolicyName, Problem, origin::Origin},
    control::{ApplyReport, ConfigPush, ConfigRefusal, ConfigServer, ConfigStatus},
    cri::AnyAuthority,
    dump::Dumper,
    log,
    manager::{ManagerHandle, PlanPreview},
};
use resmgr_io::socket::bind_private;
use resmgr_policy::Policy;
use resmgr_topology::Topology;
use std::{sync::Arc, time::Duration};
use tokio::sync::{mpsc, watch};

/// How long a push may take to be applied; the agent gives up after 5 s.
const LIMIT: Duration = Duration::from_secs(4);

/// Where a pushed configuration takes effect.
#[derive(Clone, Debug)]
pub struct ConfigTargets {
    /// The machine, as it was at start.
    pub topology: Arc<Topology>,
    /// Re-places; `None` under policy `null`.
    pub manager: Option<ManagerHandle>,
    /// Takes new rules.
    pub dumper: Arc<Dumper>,
    /// Takes new settings.
    pub log: log::Control,
    /// Publishes what the configuration desires of the Node; `None` without an agent.
    pub node: Option<NodePublisher>,
}

/// Serves the configuration socket, if there is one; what becomes of a push is told to `status`.
///
/// # Errors
/// When the socket cannot be served.
pub fn start(
    start: StartConfig,
    targets: ConfigTargets,
    status: watch::Sender<ConfigStatus>,
    tasks: &Tasks,
) -> anyhow::Result<()> {
    let Some(path) = start.options.relay.config_socket.clone() else {
        return Ok(());
    };
    let listener = bind_private(&path)?;
    let validate = {
        let (options, targets) = (start.options.clone(), targets.clone());
        move |document: &Document, node: &str| {
            validate(&options, &targets.machine(), document, node)
        }
    };
    let (pushes, pushed) = mpsc::channel(1);
    let server = ConfigServer::new(Arc::new(validate), pushes, LIMIT, status);
    tasks.spawn("configuration server", {
        let stop = tasks.stop().clone();
        async move {
            server.serve(listener, AnyAuthority::new, stop).await?;
            match std::fs::remove_file(&path) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error.into()),
                _removed => Ok(()),
            }
        }
    });
    tasks.spawn("configuration", {
        let stop = tasks.stop().clone();
        let applied = apply_all(start, targets, pushed);
        async move {
            tokio::select! {
                () = stop.cancelled() => {}
                () = applied => stop.cancelled().await,
            }
            Ok(())
        }
    });
    Ok(())
}

async fn apply_all(
    start: StartConfig,
    targets: ConfigTargets,
    mut pushes: mpsc::Receiver<ConfigPush>,
) {
    let (options, mut in_force, mut kept) = (start.options, start.config, start.pushed);
    while let Some(ConfigPush {
        pushed: new,
        config,
        dry,
        answer,
    }) = pushes.recv().await
    {
        if dry {
            // The caller may have gone.
            let outlook = targets.outlook(&new.document.source, &config).await;
            answer.send(outlook.map(|notes| ApplyReport { notes })).ok();
            continue;
        }
        if answer.is_closed() {
            continue; // too late: the agent has been answered that nothing changes
        }
        let mut outcome = targets.apply(&new.document.source, &config).await;
        if let Ok(applied) = &mut outcome {
            let new = Some(new);
            if let Err(why) = last_good::keep(&options, new.clone()).await {
                applied.notes.push(format!(
                    "in force, but not kept for the next start of cri-resmgr: {why}"
                ));
            }
            if answer.send(outcome).is_ok() {
                (in_force, kept) = (*config, new);
                continue;
            }
            // The agent was answered meanwhile that nothing changes, so nothing may.
            tracing::warn!("configuration applied too late; reverting it");
            if let Err(refused) = targets.apply("what was in force", &in_force).await {
                tracing::error!("configuration cannot be reverted: {refused:?}");
            }
            if let Err(why) = last_good::keep(&options, kept.clone()).await {
                tracing::error!("last good configuration not kept for the next start: {why}");
            }
        } else {
            // The server has seen its end, or stops: nothing has changed in either case.
            answer.send(outcome).ok();
        }
    }
}

impl ConfigTargets {
    /// The machine as it is now: CPUs may have come or gone.
    fn machine(&self) -> Arc<Topology> {
        match &self.manager {
            Some(manager) => Arc::clone(&manager.snapshot().topology),
            None => Arc::clone(&self.topology),
        }
    }

    /// What a configuration would do.
    async fn outlook(&self, source: &str, config: &Config) -> Result<Vec<String>, ConfigRefusal> {
        let mut notes = vec![format!("with policy {}", config.policy.name)];
        if let Some((manager, policy)) = self.policy(source, config)? {
            let outlook = manager.preview(policy).await;
            let outlook = outlook.map_err(|why| refused(source, config, why.to_string()))?;
            notes.extend(lines(&outlook));
        }
        notes.extend(config.notes.iter().cloned());
        Ok(notes)
    }

    async fn apply(&self, source: &str, config: &Config) -> Result<ApplyReport, ConfigRefusal> {
        let mut notes = vec![format!("policy {} is in force", config.policy.name)];
        if let Some((manager, policy)) = self.policy(source, config)? {
            let done = manager.reconfigure(policy).await;
            let done = done.map_err(|why| refused(source, config, why.to_string()))?;
            tracing::debug!(
                "{source}: policy {} built, {} containers move, {} stay",
                config.policy.name,
                done.moves.len(),
                done.staying
            );
            notes.extend(lines(&done));
            manager
                .set_limits(config.policy.fail.clone(), config.policy.timeout)
                .await;
            tracing::debug!("{source}: fail policies and --policy-timeout set");
        }
        if let Some(node) = &self.node {
            node.publish(config, &self.machine());
            tracing::debug!("{source}: what the Node shall have handed to the agent");
        }
        self.dumper.set_rules(config.dump.rules.clone());
        self.log.set(config.log.clone());
        tracing::debug!("{source}: rules of the dump and of the log set");
        notes.extend(config.notes.iter().cloned());
        Ok(ApplyReport { notes })
    }

    /// The policy, and the manager that is to take it over; `None` when there is nothing to place, before and
    /// after.
    #[expect(
        clippy::type_complexity,
        reason = "a pair, used twice, below and above"
    )]
    fn policy(
        &self,
        source: &str,
        config: &Config,
    ) -> Result<Option<(&ManagerHandle, Arc<dyn Policy>)>, ConfigRefusal> {
        match (&self.manager, config.policy.name) {
            (None, PolicyName::Null) => Ok(None),
            (Some(manager), name) if name != PolicyName::Null => {
                let policy = policy::build(config, &self.machine())
                    .map_err(|failed| refused(source, config, failed.to_string()))?;
                Ok(Some((manager, policy.into())))
            }
            _ => Err(refused(
                source,
                config,
                "changing to or from null needs a restart: set --policy and start cri-resmgr again"
                    .to_owned(),
            )),
        }
    }
}

/// An outlook for people.
pub(super) fn lines(preview: &PlanPreview) -> Vec<String> {
    let moves = preview.moves.iter().map(ToString::to_string);
    std::iter::once(preview.to_string()).chain(moves).collect()
}

fn refused(source: &str, config: &Config, message: String) -> ConfigRefusal {
    let origin = Origin::Document {
        source: source.into(),
        key: "policy".into(),
    };
    ConfigRefusal(vec![Problem {
        key: "policy".to_owned(),
        value: config.policy.name.to_string(),
        origin,
        message,
    }])
}
