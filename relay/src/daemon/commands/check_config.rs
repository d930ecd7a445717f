//! `cri-resmgr check-config`: what a run-time configuration would do.

use super::output::print;
use crate::{
    config::{Config, Document, PolicyName, Problems, Raw},
    control::check::{CheckError, check},
    daemon::{
        configure,
        error::ExitError,
        last_good,
        options::{resolve_options, validate},
        placement, policy,
    },
    manager::{Ledger, Manager, PlanPreview, ReconfigureError},
};
use anyhow::Context;
use resmgr_topology::Topology;
use std::{path::Path, sync::Arc};
use tokio_util::sync::CancellationToken;

/// Says what a run-time configuration would do: asks the running daemon, else validates it for this machine
/// and for what is in the ledger.
///
/// # Errors
/// Everything wrong with it.
pub fn check_config(raw: &Raw, file: &Path) -> Result<(), ExitError> {
    let (config, topology) = resolve_options(raw)?;
    let name = file.display().to_string();
    let text = std::fs::read_to_string(file)
        .map_err(|error| ExitError::Usage(format!("cannot read {name}: {error}")))?;
    let document = Document::from_file(&text, &name).map_err(wrong)?;
    // Validated for the node this command runs on, as for a push of the agent there.
    let node = std::env::var("NODE_NAME").unwrap_or_default();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the async runtime")?;
    let lines = runtime.block_on(async {
        if let Some(socket) = &config.relay.config_socket {
            match check(socket, document.clone(), &node).await {
                Ok(lines) => return Ok(lines),
                Err(CheckError::Away(_)) => {}
                Err(CheckError::Refused(problems)) => return Err(ExitError::Usage(problems)),
                Err(error) => return Err(anyhow::Error::from(error).into()),
            }
        }
        Box::pin(check_offline(config, topology, &document, &node)).await
    })?;
    print(&format!(
        "{name} is legal on this machine\n{}",
        lines.join("\n")
    ))
}

async fn check_offline(
    config: Config,
    topology: Topology,
    document: &Document,
    node: &str,
) -> Result<Vec<String>, ExitError> {
    let wanted = validate(&config, &topology, document, node).map_err(wrong)?;
    let policy = wanted.policy.name;
    let mut lines = vec![format!(
        "with policy {policy}; no cri-resmgr runs to be asked"
    )];
    lines.extend_from_slice(&wanted.notes);
    let is_null = |config: &Config| config.policy.name == PolicyName::Null;
    if is_null(&wanted) {
        return Ok(lines);
    }
    let topology = Arc::new(topology);
    policy::build(&wanted, &topology)?;
    // As it would start, without what it would forget.
    let before = match config.relay.reset_config {
        true => config,
        false => last_good::restore(config, &topology).config,
    };
    if is_null(&before) || !Ledger::at(&before.enforce.state_dir).exists() {
        return Ok(lines);
    }
    let outlook = outlook(&before, &wanted, &topology).await?;
    lines.extend(configure::lines(
        &outlook.map_err(|why| ExitError::Usage(why.to_string()))?,
    ));
    Ok(lines)
}

/// What another configuration would change for what a cri-resmgr that does not run has left in its
/// ledger; nothing is written. The answer by itself, or why it would be refused.
///
/// # Errors
/// What is wrong with either configuration.
async fn outlook(
    config: &Config,
    wanted: &Config,
    topology: &Arc<Topology>,
) -> Result<Result<PlanPreview, ReconfigureError>, ExitError> {
    let wanted = policy::build(wanted, topology)?;
    let policy = policy::build(config, topology)?.into();
    let parts = placement::parts(config, topology, policy, &[])?;
    let (mut manager, _handle) = Manager::new(parts, CancellationToken::new());
    Ok(manager.preview(wanted.into()).await)
}

fn wrong(problems: Problems) -> ExitError {
    let lines: Vec<_> = problems.0.iter().map(ToString::to_string).collect();
    ExitError::Usage(lines.join("\ncri-resmgr: "))
}
