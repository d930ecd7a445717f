//! Configuration that changes while everything runs: applied whole, or not at all.
//!
//! What is pushed has been judged against the machine already. Here the policy is built and handed to the
//! manager, which re-places what must move; only when that has worked do the dump and the log follow,
//! which cannot fail.

use super::{placement, settle::cgroup_cpus, tasks::Tasks};
use crate::{
    config::{
        Config, Document, Machine, PolicyName, Problem, Problems, document::overlay, raw::Origin,
    },
    control::{self, Applied, ConfigServer, Pushed, Refused},
    dump::Dumper,
    log,
    manager::ManagerHandle,
};
use resmgr_topology::Topology;
use std::{path::Path, sync::Arc, time::Duration};
use tokio::sync::mpsc;

/// How long a push may take to be applied; the agent gives up after 5 s.
const LIMIT: Duration = Duration::from_secs(4);

/// What a pushed configuration can change.
#[derive(Debug)]
pub struct Changeable {
    /// The configuration given at start, over which every document is laid.
    pub start: Config,
    /// The machine.
    pub topology: Arc<Topology>,
    /// Re-places; `None` under policy `null`.
    pub manager: Option<ManagerHandle>,
    /// Takes new rules.
    pub dumper: Arc<Dumper>,
    /// Takes new settings.
    pub log: log::Control,
}

/// Serves the configuration socket, if there is one.
///
/// # Errors
/// When the socket cannot be served.
pub fn start(changeable: Changeable, tasks: &Tasks) -> anyhow::Result<()> {
    let Some(path) = changeable.start.relay.config_socket.clone() else {
        return Ok(());
    };
    let listener = control::bind(&path)?;
    let (start, topology) = (changeable.start.clone(), Arc::clone(&changeable.topology));
    let judge = move |document: &Document, node: &str| judge(&start, &topology, document, node);
    let (pushes, pushed) = mpsc::channel(1);
    let server = ConfigServer::new(Arc::new(judge), pushes, LIMIT);
    tasks.spawn("configuration server", {
        let stop = tasks.stop().clone();
        async move {
            server.serve(listener, stop).await?;
            match std::fs::remove_file(&path) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error.into()),
                _removed => Ok(()),
            }
        }
    });
    tasks.spawn("configuration", {
        let stop = tasks.stop().clone();
        let applied = apply_all(changeable, pushed);
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

/// What a document means on this machine.
fn judge(
    start: &Config,
    topology: &Topology,
    document: &Document,
    node: &str,
) -> Result<Config, Problems> {
    let cgroup_cpus = |path: &Path| cgroup_cpus(&start.enforce.cgroup_mount, path);
    overlay(
        start,
        document,
        node,
        Machine {
            topology,
            cgroup_cpus: &cgroup_cpus,
        },
    )
}

async fn apply_all(changeable: Changeable, mut pushed: mpsc::Receiver<Pushed>) {
    while let Some(Pushed {
        document,
        config,
        answer,
        ..
    }) = pushed.recv().await
    {
        let outcome = apply(&changeable, &document.source, &config).await;
        match &outcome {
            Ok(_) => tracing::info!(target: "config-server", "{} is in force", document.source),
            Err(Refused(problems)) => {
                for problem in problems {
                    tracing::warn!(target: "config-server", "refused: {problem}");
                }
            }
        }
        // The agent may have stopped waiting; it pushes again, and then nothing changes.
        answer.send(outcome).ok();
    }
}

async fn apply(changeable: &Changeable, source: &str, config: &Config) -> Result<Applied, Refused> {
    let refused = |message: String| {
        let origin = Origin::Document {
            source: source.into(),
            key: "policy".into(),
        };
        Refused(vec![Problem {
            key: "policy".to_owned(),
            value: config.policy.name.to_string(),
            origin,
            message,
        }])
    };
    match (&changeable.manager, config.policy.name) {
        (None, PolicyName::Null) => {}
        (Some(manager), name) if name != PolicyName::Null => {
            let policy = placement::policy(config, &changeable.topology)
                .map_err(|failed| refused(failed.to_string()))?;
            manager.reconfigure(policy.into()).await.map_err(refused)?;
        }
        _ => {
            return Err(refused(
                "changing to or from null needs a restart: set --policy and start cri-resmgr again"
                    .to_owned(),
            ));
        }
    }
    changeable.dumper.set_rules(config.dump.rules.clone());
    changeable.log.set(config.log.clone());
    let policy = format!("policy {} is in force", config.policy.name);
    Ok(Applied {
        notes: vec![policy],
    })
}
