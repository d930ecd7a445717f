//! The configuration pushed last: kept on disk, in force again at start, before any agent has come.
//!
//! A configuration that no longer fits the machine or the options is logged and left alone; the options' own
//! configuration is used then. `--reset-config` forgets it.

use super::{options::validate, policy};
use crate::{
    config::{Config, Document, PolicyName},
    control::PushedConfig,
    ledger::{LastGood, StateFile},
};
use resmgr_topology::Topology;

/// What is in force at start.
#[derive(Clone, Debug)]
pub struct StartConfig {
    /// The options' configuration, over which every pushed document is laid.
    pub options: Config,
    /// With what was pushed last laid over it, if that is in force.
    pub config: Config,
    /// What was pushed last, if it is in force.
    pub pushed: Option<PushedConfig>,
}

/// Reads what was pushed last and validates it again. Logs what is in force, and why something is not.
#[must_use]
pub fn restore(options: Config, topology: &Topology) -> StartConfig {
    let mut start = StartConfig {
        config: options.clone(),
        options,
        pushed: None,
    };
    let file = StateFile::<LastGood>::at(&start.options.enforce.state_dir);
    if start.options.relay.reset_config {
        if let Err(error) = file.forget() {
            let error = anyhow::Error::new(error);
            tracing::error!("configuration pushed last cannot be forgotten: {error:#}");
        }
        return start;
    }
    if start.options.relay.config_socket.is_none() {
        return start; // nothing can be pushed: what once was has no say
    }
    let loaded = file.load();
    for problem in loaded.problems {
        let problem = anyhow::Error::new(problem);
        tracing::warn!("configuration pushed last is unusable: {problem:#}");
    }
    let Some(kept) = loaded.value else {
        return start;
    };
    let document = Document {
        source: kept.source,
        entries: kept.entries,
    };
    match validate_here(&start.options, topology, &document, &kept.node) {
        Ok(config) => {
            tracing::info!(
                "configuration pushed last is in force again ({})",
                document.source
            );
            start.config = config;
            start.pushed = Some(PushedConfig {
                document,
                node: kept.node,
                at_unix_s: kept.at_unix_s,
            });
        }
        Err(problems) => {
            for problem in problems {
                tracing::warn!("configuration pushed last no longer fits: {problem}");
            }
            tracing::warn!(
                "the options' own configuration is in force until another is pushed, not {}",
                document.source
            );
        }
    }
    start
}

/// What a document means here and now, as far as it can be told without trying.
fn validate_here(
    options: &Config,
    topology: &Topology,
    document: &Document,
    node: &str,
) -> Result<Config, Vec<String>> {
    let config = validate(options, topology, document, node).map_err(|problems| {
        let lines = problems.0.iter().map(ToString::to_string);
        lines.collect::<Vec<_>>()
    })?;
    let is_null = |config: &Config| config.policy.name == PolicyName::Null;
    if is_null(&config) != is_null(options) {
        return Err(vec![format!(
            "policy.Active is {}, the option --policy is {}: changing to or from null is left to the option",
            config.policy.name, options.policy.name
        )]);
    }
    if !is_null(&config) {
        policy::build(&config, topology).map_err(|failed| vec![failed.to_string()])?;
    }
    Ok(config)
}

/// Keeps what is in force from now on; `None`: the options alone.
///
/// # Errors
/// Why it could not be kept, for people.
pub async fn keep(options: &Config, pushed: Option<PushedConfig>) -> Result<(), String> {
    let directory = options.enforce.state_dir.clone();
    let stored = tokio::task::spawn_blocking(move || match pushed {
        None => StateFile::<LastGood>::at(&directory).forget(),
        Some(PushedConfig {
            document,
            node,
            at_unix_s,
        }) => StateFile::open(&directory)?.store(&LastGood {
            source: document.source,
            node,
            at_unix_s,
            entries: document.entries,
        }),
    });
    match stored.await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => Err(format!("{:#}", anyhow::Error::new(error))),
        Err(panic) => Err(panic.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        cli,
        config::{Machine, resolve},
    };
    use std::{ffi::OsString, io::ErrorKind, path::Path};

    fn options(state: &Path, line: &str) -> (Config, Topology) {
        let topology = Topology::synthetic("pack:1 core:4 pu:1").unwrap();
        let state = format!("--relay-dir={}", state.display());
        let words = ["cri-resmgr", &state].into_iter().chain(line.split(' '));
        let raw = cli::parse(words.map(OsString::from)).unwrap().raw;
        let machine = Machine {
            topology: &topology,
            cgroup_cpus: &|_| Err(ErrorKind::NotFound.into()),
        };
        let config = resolve(&raw, machine).unwrap();
        (config, topology)
    }

    async fn pushed(options: &Config, policy: &str) {
        let document = Document {
            source: "ConfigMap kube-system/x".to_owned(),
            entries: [("policy".to_owned(), policy.to_owned())].into(),
        };
        let pushed = PushedConfig {
            document,
            node: "n1".to_owned(),
            at_unix_s: 1_767_225_600,
        };
        keep(options, Some(pushed)).await.unwrap();
    }

    #[tokio::test]
    async fn what_was_pushed_last_is_in_force_again_until_it_is_forgotten() {
        let state = tempfile::tempdir().unwrap();
        let (config, topology) = options(state.path(), "--policy=none");
        assert_eq!(restore(config.clone(), &topology).pushed, None);

        pushed(&config, "Active: static\nReservedResources: {CPU: 1}").await;
        let start = restore(config.clone(), &topology);
        assert_eq!(start.config.policy.name, PolicyName::Static);
        assert_eq!(start.options.policy.name, PolicyName::None);
        let kept = start.pushed.unwrap();
        assert_eq!(
            (kept.document.source.as_str(), kept.node.as_str()),
            ("ConfigMap kube-system/x", "n1")
        );
        assert_eq!(kept.at_unix_s, 1_767_225_600);

        let (deaf, _) = options(state.path(), "--policy=none --config-socket=disabled");
        assert_eq!(
            restore(deaf, &topology).config.policy.name,
            PolicyName::None
        );

        let (reset, _) = options(state.path(), "--policy=none --reset-config");
        assert_eq!(restore(reset, &topology).pushed, None);
        assert_eq!(
            restore(config, &topology).pushed,
            None,
            "it is forgotten for good"
        );
    }

    #[tokio::test]
    async fn what_no_longer_fits_machine_or_options_is_left_alone() {
        let state = tempfile::tempdir().unwrap();
        let (config, topology) = options(state.path(), "--policy=none");
        let (null, _) = options(state.path(), "--policy=null");
        for (start, policy) in [
            (
                &config,
                "Active: static\nReservedResources: {CPU: \"cpuset:4\"}",
            ),
            (&config, "Active: static"),
            (&config, "Active: null"),
            (&config, "Active: \"null\""),
            (&config, "Acitve: static"),
            (&config, "Active: [\n"),
            (&null, "Active: none"),
        ] {
            pushed(start, policy).await;
            let restored = restore(start.clone(), &topology);
            assert_eq!(restored.config.policy, start.policy, "{policy}");
            if policy != "Active: null" {
                assert_eq!(restored.pushed, None, "{policy}");
            }
        }
        pushed(&null, "PinMemory: true").await;
        assert!(restore(null, &topology).pushed.is_some());
    }

    #[tokio::test]
    async fn a_torn_file_gives_way_to_the_one_before() {
        let state = tempfile::tempdir().unwrap();
        let (config, topology) = options(state.path(), "--policy=none");
        pushed(&config, "PinMemory: true").await;
        pushed(&config, "PinMemory: false").await;
        let path = state.path().join("configuration.b");
        let file = std::fs::File::options().write(true).open(path);
        file.unwrap().set_len(100).unwrap();
        assert!(
            restore(config.clone(), &topology)
                .config
                .policy
                .slices
                .pin_memory
        );
    }
}
