//! The command line: words as typed, nothing decided.

use std::{ffi::OsString, path::PathBuf, time::Duration};

use clap::{
    Args, Parser, Subcommand,
    builder::{PossibleValuesParser, TypedValueParser},
};

/// Shows what cri-resmgr does on the nodes of a cluster.
///
/// A view is read from the agent of its node, through the API server.
#[derive(Debug, Parser)]
#[command(
    name = "kubectl-resmgr",
    bin_name = "kubectl resmgr",
    version,
    disable_help_subcommand = true,
    after_help = EXAMPLES,
    term_width = 100
)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    pub(crate) command: PluginCommand,
    #[command(flatten)]
    pub(crate) cluster: ClusterArguments,
}

const EXAMPLES: &str = "\
Examples:
  kubectl resmgr state -A                  # which container runs where, on every node
  kubectl resmgr state db-0 -n shop        # on which CPUs the containers of a pod run
  kubectl resmgr explain db-0 -n shop      # why they run there
  kubectl resmgr top worker-1              # what the scheduler does to the containers of a node
  kubectl resmgr events -A                 # what happened to the CPUs of pods

Exit codes: 0 done, 1 something failed or a node did not answer; standard error has a line for each.";

/// What to show.
#[derive(Debug, Subcommand)]
pub(crate) enum PluginCommand {
    /// Show which container runs where.
    State {
        #[command(flatten)]
        target: ViewTarget,
        /// As the JSON of the node's cri-resmgr, as YAML, or only the names of the nodes that answered.
        #[arg(short, long, value_parser = outputs(&["json", "yaml", "name"]))]
        output: Option<OutputFormat>,
    },
    /// Say why the containers of a pod run where they run.
    Explain {
        /// The pod: NAME or pod/NAME.
        pod: String,
        /// This container of it alone.
        #[arg(short, long, value_name = "NAME")]
        container: Option<String>,
        /// As the JSON of the node's cri-resmgr, or as YAML.
        #[arg(short, long, value_parser = outputs(&["json", "yaml"]))]
        output: Option<OutputFormat>,
    },
    /// Show how the scheduler treats every container.
    Top {
        #[command(flatten)]
        target: ViewTarget,
        /// As the JSON of the node's cri-resmgr, or as YAML.
        #[arg(short, long, value_parser = outputs(&["json", "yaml"]))]
        output: Option<OutputFormat>,
    },
    /// Show the Events of cri-resmgr and its agents: of the namespace, or of a node, a pod, the cluster.
    Events {
        #[command(flatten)]
        target: EventTarget,
        /// With node and count, as JSON or YAML, or only their names.
        #[arg(short, long, value_parser = outputs(&["json", "yaml", "name", "wide"]))]
        output: Option<OutputFormat>,
    },
}

/// What a command is about.
#[derive(Debug, Args)]
pub(crate) struct EventTarget {
    /// node/NAME or pod/NAME; NAME alone is the node, if a node of this name runs the agent, otherwise the pod.
    #[arg(value_name = "NODE|POD")]
    pub(crate) name: Option<String>,
    /// All nodes that run the agent; of Events, all namespaces.
    #[arg(
        short = 'A',
        long = "all",
        visible_alias = "all-namespaces",
        conflicts_with = "name"
    )]
    pub(crate) all: bool,
}

/// As [`EventTarget`], and there must be one.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub(crate) struct ViewTarget {
    /// node/NAME or pod/NAME; NAME alone is the node, if a node of this name runs the agent, otherwise the pod.
    #[arg(value_name = "NODE|POD")]
    pub(crate) name: Option<String>,
    /// All nodes that run the agent.
    #[arg(short = 'A', long = "all", visible_alias = "all-namespaces")]
    pub(crate) all: bool,
}

/// How something is printed, if not as text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OutputFormat {
    Json,
    Yaml,
    Name,
    Wide,
}

/// A parser that takes some of them.
fn outputs(words: &'static [&'static str]) -> impl TypedValueParser<Value = OutputFormat> {
    PossibleValuesParser::new(words).map(|word| match &*word {
        "json" => OutputFormat::Json,
        "yaml" => OutputFormat::Yaml,
        "name" => OutputFormat::Name,
        _ => OutputFormat::Wide,
    })
}

/// How the cluster is reached; most options are kubectl's.
#[derive(Debug, Args)]
#[command(next_help_heading = "Cluster")]
pub(crate) struct ClusterArguments {
    /// The kubeconfig, if not that of $KUBECONFIG or ~/.kube/config.
    #[arg(long, value_name = "FILE", global = true)]
    pub(crate) kubeconfig: Option<PathBuf>,
    /// The context of the kubeconfig, if not its current one.
    #[arg(long, value_name = "NAME", global = true)]
    pub(crate) context: Option<String>,
    /// The namespace of pods and Events, if not that of the context.
    #[arg(short, long, value_name = "NAME", global = true)]
    pub(crate) namespace: Option<String>,
    /// How long to wait for one request, such as 5s or 2m; 0: without end.
    #[arg(long, value_name = "DURATION", default_value = "15s", value_parser = duration, global = true)]
    pub(crate) request_timeout: Duration,
    /// The namespace of the agents and of the service account.
    #[arg(
        long,
        value_name = "NAME",
        default_value = "kube-system",
        global = true
    )]
    pub(crate) agent_namespace: String,
    /// The service account of which a token is asked for, to be shown to the agent of a node.
    #[arg(
        long,
        value_name = "NAME",
        default_value = "cri-resmgr-viewer",
        global = true
    )]
    pub(crate) service_account: String,
    /// Connect to the agent of a single node here, and not through the API server.
    #[arg(long, value_name = "HOST:PORT", global = true)]
    pub(crate) agent_address: Option<String>,
}

impl Arguments {
    /// Reads the arguments of the process.
    pub(crate) fn from_words(
        words: impl IntoIterator<Item = OsString>,
    ) -> Result<Self, clap::Error> {
        Self::try_parse_from(words)
    }
}

/// A time limit as kubectl takes it: seconds, or a number with `ms`, `s`, `m` or `h`; 0 is none.
fn duration(text: &str) -> Result<Duration, String> {
    let unit = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(unit);
    let scale_ms = match unit {
        "ms" => 1,
        "" | "s" => 1000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => return Err("write it as 5s, 2m or 1h".to_owned()),
    };
    let number: u64 = number.parse().map_err(|error| format!("{error}"))?;
    Ok(match number.saturating_mul(scale_ms) {
        0 => Duration::MAX,
        limit_ms => Duration::from_millis(limit_ms),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Arguments, clap::Error> {
        let words = ["kubectl-resmgr"]
            .into_iter()
            .chain(line.split_whitespace());
        Arguments::from_words(words.map(OsString::from))
    }

    #[test]
    fn options_stand_before_and_after_the_command() {
        for line in [
            "-n shop --request-timeout 2m state db-0",
            "state db-0 -n shop --request-timeout=120",
        ] {
            let arguments = parse(line).unwrap();
            assert_eq!(arguments.cluster.namespace.as_deref(), Some("shop"));
            assert_eq!(arguments.cluster.request_timeout, Duration::from_secs(120));
        }
        let endless = parse("state -A --request-timeout=0").unwrap();
        assert_eq!(endless.cluster.request_timeout, Duration::MAX);
    }

    #[test]
    fn a_view_has_a_target_and_events_may_have() {
        for line in [
            "state",
            "top",
            "explain",
            "state n1 -A",
            "events n1 -A",
            "top n1 -o name",
            "state n1 -o wide",
            "state n1 --request-timeout soon",
        ] {
            parse(line).unwrap_err();
        }
        for line in [
            "events",
            "events -A",
            "events pod/x -o wide",
            "state -A -o name",
        ] {
            parse(line).unwrap();
        }
    }
}
