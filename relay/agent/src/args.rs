//! The command line: words as typed, nothing decided.

use std::{ffi::OsString, net::SocketAddr, path::PathBuf};

use clap::Parser;

/// Watches the ConfigMaps of this node, pushes them into cri-resmgr, relays node operations.
///
/// Long options take one dash or two.
#[derive(Clone, Debug, Parser)]
#[command(name = "cri-resmgr-agent", version)]
pub(crate) struct AgentArgs {
    /// Name of the Node this agent runs on.
    #[arg(
        long,
        env = "NODE_NAME",
        hide_env_values = true,
        value_name = "NAME",
        default_value = ""
    )]
    pub(crate) node_name: String,
    /// Socket to serve node operations on.
    #[arg(long, value_name = "PATH", default_value = resmgr_proto::AGENT_SOCKET)]
    pub(crate) agent_socket: PathBuf,
    /// Configuration socket of cri-resmgr.
    #[arg(long, value_name = "PATH", default_value = resmgr_proto::CONFIG_SOCKET)]
    pub(crate) cri_resmgr_socket: PathBuf,
    /// Credentials for the API server; without it, those of the pod's service account.
    #[arg(long, value_name = "FILE")]
    pub(crate) kubeconfig: Option<PathBuf>,
    /// Namespace of the ConfigMaps.
    #[arg(long, value_name = "NAMESPACE", default_value = "kube-system")]
    pub(crate) config_ns: String,
    /// Base name of the ConfigMaps: NAME.node.<node>, NAME.group.<group>, NAME.default, NAME.
    #[arg(long, value_name = "NAME", default_value = "cri-resmgr-config")]
    pub(crate) configmap_name: String,
    /// Label of the Node whose value is its configuration group.
    #[arg(
        long,
        value_name = "KEY",
        default_value = "cri-resource-manager.intel.com/group"
    )]
    pub(crate) label_name: String,
    /// Where to serve /healthz, /readyz and /metrics.
    #[arg(long, value_name = "ADDRESS", default_value = "0.0.0.0:8893")]
    pub(crate) health_address: SocketAddr,
    /// Where to serve the views of cri-resmgr over TLS, for `kubectl resmgr`; without it they are not served.
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) views_address: Option<SocketAddr>,
    /// Socket on which cri-resmgr serves its views.
    #[arg(long, value_name = "PATH", default_value = resmgr_proto::INSPECT_SOCKET)]
    pub(crate) inspect_socket: PathBuf,
    /// What to log, such as `info` or `cri_resmgr_agent=debug`.
    #[arg(
        long,
        value_name = "FILTER",
        default_value = "info,kube_client=off,kube_runtime=off,tower=off"
    )]
    pub(crate) log: String,
}

/// Why the command line cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ArgsError {
    /// Clap's own message, also for `--help` and `--version`.
    #[error(transparent)]
    Clap(#[from] clap::Error),
    /// No node name.
    #[error(
        "NODE_NAME is not set: set it to the name of the Node this agent runs on (in a pod: \
         valueFrom fieldRef spec.nodeName), or give --node-name"
    )]
    NoNode,
}

impl AgentArgs {
    /// Reads the arguments of the process.
    pub(crate) fn from_words(words: impl IntoIterator<Item = OsString>) -> Result<Self, ArgsError> {
        let args = Self::try_parse_from(words.into_iter().map(two_dashes))?;
        if args.node_name.is_empty() {
            return Err(ArgsError::NoNode);
        }
        Ok(args)
    }
}

/// `-kubeconfig` means `--kubeconfig`; `-h` and `-V` stay as they are.
fn two_dashes(word: OsString) -> OsString {
    match word.to_str() {
        Some(text) if text.len() > 2 && text.starts_with('-') && !text.starts_with("--") => {
            format!("-{text}").into()
        }
        _ => word,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(words: &[&str]) -> Result<AgentArgs, ArgsError> {
        AgentArgs::from_words(words.iter().map(|word| OsString::from(*word)))
    }

    #[test]
    fn options_take_one_dash_or_two() {
        let args = parse(&[
            "agent",
            "-node-name=n1",
            "-kubeconfig",
            "/k",
            "--config-ns",
            "x",
        ])
        .unwrap();
        assert_eq!(args.kubeconfig, Some(PathBuf::from("/k")));
        assert_eq!(args.config_ns, "x");
        assert_eq!(args.node_name, "n1");
    }

    #[test]
    fn an_empty_node_name_is_refused_with_what_to_do() {
        let refused = parse(&["agent", "-node-name="]).unwrap_err().to_string();
        assert!(refused.contains("NODE_NAME is not set"), "{refused}");
    }
}
