//! The commands that do not serve: they print, or ask a running daemon, and end.

mod top;

pub use top::top;

use super::{
    Failed,
    configure::{self, judge},
    last_good, placement,
    settle::settle,
};
use crate::{
    config::{self, Config, Document, PolicyName, Problems, Raw},
    control::check::{CheckError, check},
    inspect::{
        client,
        view::{ExplainView, StateView},
    },
    manager::Ledger,
};
use anyhow::Context;
use resmgr_topology::Topology;
use std::{
    io::Write,
    path::{Path, PathBuf},
    sync::Arc,
};

/// Prints a text to standard output.
///
/// # Errors
/// When standard output is gone.
pub fn print(text: &str) -> Result<(), Failed> {
    let mut out = std::io::stdout().lock();
    let newline = if text.ends_with('\n') { "" } else { "\n" };
    write!(out, "{text}{newline}")
        .and_then(|()| out.flush())
        .context("cannot write to standard output")?;
    Ok(())
}

/// Prints the effective configuration, if it is legal on this machine.
///
/// # Errors
/// What is wrong with it.
pub fn print_config(raw: &Raw) -> Result<(), Failed> {
    settle(raw)?;
    print(&config::print::yaml(raw))
}

/// The socket a daemon with this relay socket serves its views on.
#[must_use]
pub fn views_socket(relay_socket: &Path) -> PathBuf {
    let stem = relay_socket
        .file_stem()
        .unwrap_or_default()
        .to_string_lossy();
    relay_socket.with_file_name(format!("{stem}-inspect.sock"))
}

fn fetch<T: serde::de::DeserializeOwned>(raw: &Raw, view: &str) -> Result<T, Failed> {
    let typed = &raw.options.relay.relay_socket.text;
    let socket = views_socket(&crate::cri::listen::socket_path(typed));
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the async runtime")?;
    let answer = runtime.block_on(client::fetch(&socket, view));
    Ok(answer.map_err(anyhow::Error::from)?)
}

fn json(value: &impl serde::Serialize) -> Result<(), Failed> {
    print(&serde_json::to_string_pretty(value).context("cannot print JSON")?)
}

/// Prints the placement.
///
/// # Errors
/// When no daemon answers.
pub fn state(raw: &Raw, as_json: bool) -> Result<(), Failed> {
    let state: StateView = fetch(raw, "/state")?;
    if as_json {
        json(&state)
    } else {
        print(&state.to_string())
    }
}

/// Prints why a container sits where it sits.
///
/// # Errors
/// When no daemon answers, or it knows no such container.
pub fn explain(raw: &Raw, container: &str, as_json: bool) -> Result<(), Failed> {
    let view: ExplainView = fetch(raw, &format!("/explain/{container}"))?;
    if as_json {
        json(&view)
    } else {
        print(&view.to_string())
    }
}

/// Gives every container back the CPUs it would have without us: through the running daemon's ledger.
///
/// # Errors
/// When a daemon still runs (it would take them back), there is no usable ledger, or a container could
/// not be restored.
pub fn restore(raw: &Raw) -> Result<(), Failed> {
    if fetch::<StateView>(raw, "/state").is_ok() {
        return Err(Failed::Usage(
            "a running cri-resmgr would take the CPUs back at once: stop it first, or stop it with \
             --restore-on-stop"
                .to_owned(),
        ));
    }
    let (config, _topology) = settle(raw)?;
    print(&placement::restore(&config)?)
}

/// Says what a run-time configuration would do: asks the running daemon, else checks it for this machine
/// and for what is in the ledger.
///
/// # Errors
/// Everything wrong with it.
pub fn check_config(raw: &Raw, file: &Path) -> Result<(), Failed> {
    let (config, topology) = settle(raw)?;
    let name = file.display().to_string();
    let text = std::fs::read_to_string(file)
        .map_err(|error| Failed::Usage(format!("cannot read {name}: {error}")))?;
    let document = Document::from_file(&text, &name).map_err(wrong)?;
    // Checked for the node this command runs on, as the agent there would be told.
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
                Err(CheckError::Refused(problems)) => return Err(Failed::Usage(problems)),
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
) -> Result<Vec<String>, Failed> {
    let wanted = judge(&config, &topology, document, node).map_err(wrong)?;
    let policy = wanted.policy.name;
    let mut lines = vec![format!(
        "with policy {policy}; no cri-resmgr runs to be asked"
    )];
    let is_null = |config: &Config| config.policy.name == PolicyName::Null;
    if is_null(&wanted) {
        return Ok(lines);
    }
    let topology = Arc::new(topology);
    placement::policy(&wanted, &topology)?;
    // As it would start, without what it would forget.
    let before = match config.relay.reset_config {
        true => config,
        false => last_good::restore(config, &topology).config,
    };
    if is_null(&before) || !Ledger::at(&before.enforce.state_dir).path().exists() {
        return Ok(lines);
    }
    let outlook = placement::outlook(&before, &wanted, &topology).await?;
    lines.extend(configure::lines(
        &outlook.map_err(|why| Failed::Usage(why.to_string()))?,
    ));
    Ok(lines)
}

fn wrong(problems: Problems) -> Failed {
    let lines: Vec<_> = problems.0.iter().map(ToString::to_string).collect();
    Failed::Usage(lines.join("\ncri-resmgr: "))
}
