//! From options as typed to a configuration for this machine: the files `config` must not read itself.

use super::error::ExitError;
use crate::{
    config::{self, Config, Document, Machine, Problems, Raw, document::overlay},
    discover::{self, TopologySource},
    ledger::{LockError, StateLock},
};
use anyhow::Context;
use resmgr_io::file::check_directory;
use resmgr_topology::Topology;
use std::path::Path;

/// The configuration, and the machine it is legal on.
///
/// # Errors
/// Everything wrong with the options at once, or why the machine's topology is not known.
pub fn resolve_options(raw: &Raw) -> Result<(Config, Topology), ExitError> {
    let options = &raw.options;
    let host_root = match options.enforce.host_root.text.as_str() {
        "" => Path::new("/"),
        root => Path::new(root),
    };
    let typed = &options.policy.topology.text;
    let topology = discover::load(&TopologySource::parse(typed), host_root).with_context(|| {
        if typed.is_empty() {
            "cannot learn this machine's CPU topology".to_owned()
        } else {
            format!("topology = {typed:?}")
        }
    })?;
    let mount = Path::new(&options.enforce.cgroup_mount.text);
    let cgroup_cpus = |path: &Path| cgroup_cpus(mount, path);
    let machine = Machine {
        topology: &topology,
        cgroup_cpus: &cgroup_cpus,
    };
    let config = config::resolve(raw, machine).map_err(|problems| {
        ExitError::Usage(
            problems
                .0
                .iter()
                .map(ToString::to_string)
                .collect::<Vec<_>>()
                .join("\ncri-resmgr: "),
        )
    })?;
    Ok((config, topology))
}

/// Refuses a state directory that another user may have filled: what is read there decides about CPUs.
fn check_state_directory(config: &Config) -> anyhow::Result<()> {
    let directory = &config.enforce.state_dir;
    check_directory(directory)
        .with_context(|| format!("cannot use the state directory {}", directory.display()))
}

/// Locks the state directory for this process, so that no second daemon decides about the same containers. Where a
/// lock is impossible (a file system that is full or read-only) the daemon serves without: that state cannot be
/// written is reported where it is.
///
/// # Errors
/// A directory that is not to be trusted, or that another process holds.
pub(super) fn lock_state_directory(config: &Config) -> Result<Option<StateLock>, ExitError> {
    check_state_directory(config)?;
    match StateLock::acquire(&config.enforce.state_dir) {
        Ok(lock) => Ok(Some(lock)),
        Err(held @ LockError::Held { .. }) => Err(ExitError::Usage(held.to_string())),
        Err(LockError::Disk(error)) => {
            let error = anyhow::Error::from(error);
            tracing::warn!(target: "resource-manager", "a second cri-resmgr is not kept out: {error:#}");
            Ok(None)
        }
    }
}

/// What a document means on this machine.
pub(super) fn validate(
    options: &Config,
    topology: &Topology,
    document: &Document,
    node: &str,
) -> Result<Config, Problems> {
    let cgroup_cpus = |path: &Path| cgroup_cpus(&options.enforce.cgroup_mount, path);
    overlay(
        options,
        document,
        node,
        Machine {
            topology,
            cgroup_cpus: &cgroup_cpus,
        },
    )
}

/// `cpuset.cpus` of a cgroup given absolutely, below the cgroup mount, or below v1's cpuset hierarchy.
///
/// # Errors
/// When there is no such cgroup.
fn cgroup_cpus(mount: &Path, path: &Path) -> std::io::Result<String> {
    let relative = path.strip_prefix("/").unwrap_or(path);
    let places = [
        path.to_owned(),
        mount.join("cpuset").join(relative),
        mount.join(relative),
    ];
    let found = places
        .iter()
        .find(|dir| dir.is_absolute() && dir.join("cpuset.cpus").exists());
    std::fs::read_to_string(found.unwrap_or(&places[1]).join("cpuset.cpus"))
}
