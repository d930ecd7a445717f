//! The command line in clap's terms.

use crate::config::{
    options::{self, GENERAL, Options},
    value::RawValue,
};
use clap::{ArgAction, CommandFactory as _};
use clap_complete::Shell;
use std::{net::SocketAddr, path::PathBuf};

const EXAMPLES: &str = "\
Switches take an optional value: --pin-memory, --pin-memory=false. One dash or two, a space or `=`
before the value: all the same.

Examples:
  Watch what the kubelet asks of containerd, changing nothing:
    cri-resmgr --dump 'reset,full:.*' --dump-file /var/log/cri.dump
  Give guaranteed containers CPUs of their own, one CPU kept for the system:
    cri-resmgr --policy static --reserved-resources cpu=1000m
  Ask a running relay where containers sit, and why:
    cri-resmgr state
    cri-resmgr explain default/my-pod/my-container

Exit codes: 0 ended as asked, 1 failed while starting or running, 2 wrong usage or configuration.";

/// What to do.
#[derive(Clone, Debug, PartialEq, Eq, clap::Subcommand)]
pub enum Command {
    /// Serve as a relay: no subcommand was given.
    #[command(skip)]
    Run,
    /// Print this text to standard output and exit 0 (`--help`, `--version`, the lists).
    #[command(skip)]
    Print(String),
    /// Print the effective configuration and exit.
    #[command(skip)]
    PrintConfig,
    /// Put cri-resmgr between this node's kubelet and its runtime; undo it if CRI does not answer then.
    Install(InstallArguments),
    /// Take it out again: the kubelet's files, the containers' CPUs and the node are as they were.
    Uninstall,
    /// Give every container back the CPUs it would have without cri-resmgr.
    Restore,
    /// Show which container runs where.
    State {
        /// As JSON in place of a table.
        #[arg(long)]
        json: bool,
    },
    /// Say why a container sits where it sits.
    Explain {
        /// Container id, a unique beginning of it, or namespace/pod/container.
        container: String,
        /// As JSON in place of text.
        #[arg(long)]
        json: bool,
    },
    /// Watch how the scheduler treats every container.
    Top {
        /// Print one table and end.
        #[arg(long)]
        once: bool,
        /// As JSON, one object a line.
        #[arg(long)]
        json: bool,
    },
    /// Show the status page of a running relay to a browser, until interrupted.
    Status {
        /// Where the page is served; port 0: any that is free.
        #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:0")]
        listen: SocketAddr,
    },
    /// Write what explains the placements of this node into an archive, without secrets, for a report.
    Gather(GatherArguments),
    /// Check a run-time configuration on this machine without applying it.
    CheckConfig {
        /// A ConfigMap manifest, or a YAML document with its keys.
        file: PathBuf,
    },
    /// Write a pools file of the static-pools (stp) policy for this machine, in whole physical cores.
    MakePools(MakePoolsArguments),
    /// Print the completions of a shell, to be sourced by it.
    Completion {
        /// The shell.
        shell: Shell,
    },
    /// Print the manual page, for man -l or a package.
    Man,
}

/// What `install` takes.
#[derive(Clone, Debug, PartialEq, Eq, clap::Args)]
pub struct InstallArguments {
    /// Print each change as a diff, and change nothing.
    #[arg(long)]
    pub dry_run: bool,
    /// Bring an installation to this version, or install; whether the kubelet is still told is seen to as well.
    #[arg(long)]
    pub upgrade: bool,
    /// Stay; fail when the kubelet no longer reaches its runtime through cri-resmgr. For a pod.
    #[arg(long)]
    pub watch: bool,
    /// Options that the service shall have, instead of those in its option file; uninstalling puts that file back.
    #[arg(long, value_name = "FILE")]
    pub option_file: Option<PathBuf>,
    /// The systemd unit of the kubelet, if it is not found by itself.
    #[arg(long, value_name = "UNIT")]
    pub kubelet: Option<String>,
    /// The folder for the program: /usr/local/bin, or where a package put this one.
    #[arg(long, value_name = "DIR")]
    pub prefix: Option<PathBuf>,
}

/// What `gather` takes.
#[derive(Clone, Debug, PartialEq, Eq, clap::Args)]
pub struct GatherArguments {
    /// The archive (tar.gz), which must not exist yet; when not given, ./cri-resmgr-NODE-DATE.tar.gz.
    #[arg(long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// Put a short hash in place of each name of a namespace, a pod, a container and the node.
    #[arg(long)]
    pub anonymous: bool,
}

/// What `make-pools` takes.
#[derive(Clone, Debug, PartialEq, Eq, clap::Args)]
pub struct MakePoolsArguments {
    /// Cores that one container each has alone; isolated cores (isolcpus) come first, none has a CPU of
    /// --reserved-resources.
    #[arg(long, value_name = "N")]
    pub exclusive: usize,
    /// Cores that all containers of the pool `shared` share.
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub shared: usize,
    /// Cores of the pool `infra`; when not given, all that the other pools leave and that are not isolated.
    #[arg(long, value_name = "N")]
    pub infra: Option<usize>,
    /// So many cores of each socket; otherwise of the machine, from the lowest-numbered socket on.
    #[arg(long)]
    pub per_socket: bool,
    /// Write to this file; when not given, to standard output.
    #[arg(long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// Replace the file if there is one.
    #[arg(long)]
    pub force: bool,
}

/// All that may stand on the command line.
#[derive(clap::Parser)]
#[command(
    name = "cri-resmgr",
    about = "Sits between the kubelet and the container runtime, relays every CRI call, and places \
             containers on CPUs.",
    override_usage = "cri-resmgr [OPTIONS] [COMMAND]",
    after_help = EXAMPLES,
    subcommand_help_heading = "Commands (without one, the relay runs)",
    disable_help_subcommand = true,
    disable_version_flag = true,
    disable_help_flag = true,
    term_width = 100
)]
pub(super) struct CommandLine {
    #[command(flatten)]
    pub(super) options: Options,
    #[command(flatten)]
    pub(super) actions: Actions,
    #[command(subcommand)]
    pub(super) command: Option<Command>,
}

/// Options that print something and end.
#[derive(clap::Args)]
#[command(next_help_heading = GENERAL)]
pub(super) struct Actions {
    /// Print the effective configuration as YAML and exit.
    #[arg(long, default_value = "false", hide_default_value = true)]
    pub(super) print_config: RawValue<bool>,
    /// List the placement policies and exit.
    #[arg(long, default_value = "false", hide_default_value = true)]
    pub(super) list_policies: RawValue<bool>,
    /// List the logging back-ends and sources and exit.
    #[arg(long, default_value = "false", hide_default_value = true)]
    pub(super) list_loggers: RawValue<bool>,
    /// Print the version and exit.
    #[arg(long, default_value = "false", hide_default_value = true)]
    pub(super) version: RawValue<bool>,
}

/// All definitions: options, actions, commands.
#[must_use]
pub fn command() -> clap::Command {
    let help = |heading: Option<&'static str>| {
        clap::Arg::new("help")
            .long("help")
            .short('h')
            .action(ArgAction::Help)
            .help("Print this help and exit")
            .help_heading(heading)
    };
    options::finish(CommandLine::command())
        .arg(help(Some(GENERAL)))
        .mut_subcommands(|command| command.arg(help(None)))
}
