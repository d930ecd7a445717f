//! The commands that do not serve: they print, or ask a running daemon, and end.

use super::{
    Failed, placement,
    settle::{cgroup_cpus, settle},
};
use crate::{
    config::{Document, Machine, PolicyName, Problems, Raw, document::overlay, print},
    inspect::{
        client,
        top::TopView,
        view::{ExplainView, StateView},
    },
};
use anyhow::Context;
use std::{
    io::Write,
    path::{Path, PathBuf},
    time::Duration,
};

/// How often `top` looks.
const TOP_INTERVAL: Duration = Duration::from_secs(1);

/// Prints a text to standard output.
///
/// # Errors
/// When standard output is gone.
pub fn say(text: &str) -> Result<(), Failed> {
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
    say(&print::yaml(raw))
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
    let typed = raw.last("relay-socket").text;
    let socket = views_socket(&crate::cri::listen::socket_path(&typed));
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the async runtime")?;
    let answer = runtime.block_on(client::fetch(&socket, view));
    Ok(answer.map_err(anyhow::Error::from)?)
}

fn json(value: &impl serde::Serialize) -> Result<(), Failed> {
    say(&serde_json::to_string_pretty(value).context("cannot print JSON")?)
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
        say(&state.to_string())
    }
}

/// Prints why a container sits where it sits.
///
/// # Errors
/// When no daemon answers, or it knows no such container.
pub fn explain(raw: &Raw, container: &str) -> Result<(), Failed> {
    let view: ExplainView = fetch(raw, &format!("/explain/{container}"))?;
    say(&view.to_string())
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
    say(&placement::restore(&config)?)
}

/// Checks a run-time configuration on this machine.
///
/// # Errors
/// Everything wrong with it.
pub fn check_config(raw: &Raw, file: &Path) -> Result<(), Failed> {
    let (config, topology) = settle(raw)?;
    let name = file.display().to_string();
    let text = std::fs::read_to_string(file)
        .map_err(|error| Failed::Usage(format!("cannot read {name}: {error}")))?;
    let wrong = |problems: Problems| {
        let lines: Vec<_> = problems.0.iter().map(ToString::to_string).collect();
        Failed::Usage(lines.join("\ncri-resmgr: "))
    };
    let document = Document::from_file(&text, &name).map_err(wrong)?;
    let mount = PathBuf::from(raw.last("cgroup-mount").text);
    let cgroup_cpus = |path: &Path| cgroup_cpus(&mount, path);
    let machine = Machine {
        topology: &topology,
        cgroup_cpus: &cgroup_cpus,
    };
    // Judged for the node this command runs on, as the agent there would be told.
    let node = std::env::var("NODE_NAME").unwrap_or_default();
    let checked = overlay(&config, &document, &node, machine).map_err(wrong)?;
    if checked.policy.name != PolicyName::Null {
        placement::policy(&checked, &topology)?;
    }
    say(&format!(
        "{name} is legal on this machine, with policy {}",
        checked.policy.name
    ))
}

/// Shows what the scheduler did to every container.
///
/// # Errors
/// When no daemon answers, or it measures nothing.
pub fn top(raw: &Raw, once: bool, as_json: bool) -> Result<(), Failed> {
    let look = || {
        fetch::<Option<TopView>>(raw, "/top")?.ok_or_else(|| {
            Failed::Run(anyhow::anyhow!(
                "the running cri-resmgr measures nothing: start it with --ebpf-telemetry"
            ))
        })
    };
    let first = look()?;
    if once {
        return if as_json {
            json(&first)
        } else {
            say(&first.to_string())
        };
    }
    let mut before = first;
    loop {
        std::thread::sleep(TOP_INTERVAL);
        let now = look()?;
        let between = now.since(&before);
        if as_json {
            say(&serde_json::to_string(&between).context("cannot print JSON")?)?;
        } else {
            // Home, picture, and whatever an earlier, larger picture left.
            say(&format!("\x1b[H\x1b[2J{between}"))?;
        }
        before = now;
    }
}
