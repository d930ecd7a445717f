//! `cri-resmgr restore`: gives back what a daemon that no longer runs has changed.

use super::{fetch::fetch, output::print};
use crate::{
    config::{Config, Raw},
    cri::client::RuntimeClient,
    daemon::{
        error::ExitError,
        fence,
        options::{lock_state_directory, resolve_options},
    },
    enforce::{Cgroups, Hierarchy},
    inspect::view::StateView,
    intercept::RuntimeView,
    manager::{self, Book, Ledger},
};
use anyhow::Context;

/// Gives every container back the CPUs it would have without us: through the running daemon's ledger.
///
/// # Errors
/// When a daemon still runs (it would take them back), there is no usable ledger, or a container could
/// not be restored.
pub fn restore(raw: &Raw) -> Result<(), ExitError> {
    if fetch::<StateView>(raw, "/state").is_ok() {
        return Err(ExitError::Usage(
            "a running cri-resmgr would take the CPUs back at once: stop it first, or stop it with \
             --restore-on-stop"
                .to_owned(),
        ));
    }
    let (config, _topology) = resolve_options(raw)?;
    // Held to the end: a daemon that starts meanwhile waits, or is refused.
    let _lock = lock_state_directory(&config)?;
    print(&from_ledger(&config)?)
}

/// Gives everything back from the ledger of a daemon that no longer runs; without one, from what the runtime
/// knows.
///
/// # Errors
/// When neither tells, or a container could not be restored.
pub(super) fn from_ledger(config: &Config) -> Result<String, ExitError> {
    let host = fence::give_back(config);
    let containers = containers_from_ledger(config);
    match host {
        Ok(text) => Ok(text + &containers?),
        Err(problem) => {
            let rest = containers.unwrap_or_else(|error| error.to_string());
            Err(anyhow::anyhow!("{}\n{rest}", problem.trim_end()).into())
        }
    }
}

fn containers_from_ledger(config: &Config) -> Result<String, ExitError> {
    let ledger = Ledger::open(&config.enforce.state_dir).map_err(anyhow::Error::from)?;
    let directory = ledger.directory().display();
    let loaded = ledger.load();
    let mut text = String::new();
    for problem in loaded.problems {
        text += &format!("{:#}\n", anyhow::Error::from(problem));
    }
    let book = match loaded.value {
        Some(book) => book,
        None => {
            let from = format!("no ledger in {directory}: asking the runtime what was asked for");
            let Some(book) = learn(config).context(from.clone())? else {
                return Ok(format!(
                    "{text}nothing to restore: no ledger in {directory}, and no container was created \
                     through cri-resmgr\n"
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
