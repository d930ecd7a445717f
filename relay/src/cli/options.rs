//! The table of options, and clap's view of it.

use clap::{Arg, ArgAction, Command};

/// How often an option may be given, and whether it needs a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `true` when given without a value.
    Switch,
    /// One value; the last one given counts.
    One,
    /// Values add up.
    Many,
    /// Like `Switch`, but asks for an action: no part of the configuration.
    Ask,
}

/// Groups of options, in the order `--help` shows them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the headings below say it")]
pub enum Group {
    Relay,
    Policy,
    Pools,
    Enforcement,
    Telemetry,
    Dump,
    Logging,
    General,
}

impl Group {
    /// Every group, in order.
    pub const ALL: [Self; 8] = [
        Self::Relay,
        Self::Policy,
        Self::Pools,
        Self::Enforcement,
        Self::Telemetry,
        Self::Dump,
        Self::Logging,
        Self::General,
    ];

    /// The heading over the group.
    #[must_use]
    pub const fn heading(self) -> &'static str {
        match self {
            Self::Relay => "Relay: where to listen and whom to talk to",
            Self::Policy => "Placement policy",
            Self::Pools => "Pools of the static-pools (stp) policy",
            Self::Enforcement => "Enforcement and state",
            Self::Telemetry => "Scheduler telemetry and metrics",
            Self::Dump => "Message dump",
            Self::Logging => "Logging",
            Self::General => "General",
        }
    }
}

/// One option.
#[derive(Clone, Copy, Debug)]
pub struct Opt {
    /// Long name, without dashes; also its name in option files and in `--print-config`.
    pub name: &'static str,
    /// Another name for it; empty when it has none.
    pub alias: &'static str,
    /// What stands for its value in the help.
    pub value: &'static str,
    /// Value when it is not given; the empty text means what `help` says.
    pub default: &'static str,
    /// How often, and with what.
    pub kind: Kind,
    /// Where the help shows it.
    pub group: Group,
    /// What it does.
    pub help: &'static str,
}

const fn one(
    group: Group,
    name: &'static str,
    value: &'static str,
    default: &'static str,
    help: &'static str,
) -> Opt {
    Opt {
        name,
        alias: "",
        value,
        default,
        kind: Kind::One,
        group,
        help,
    }
}

const fn many(
    group: Group,
    name: &'static str,
    value: &'static str,
    default: &'static str,
    help: &'static str,
) -> Opt {
    Opt {
        kind: Kind::Many,
        ..one(group, name, value, default, help)
    }
}

const fn switch(
    group: Group,
    name: &'static str,
    default: &'static str,
    help: &'static str,
) -> Opt {
    Opt {
        kind: Kind::Switch,
        ..one(group, name, "BOOL", default, help)
    }
}

const fn ask(name: &'static str, help: &'static str) -> Opt {
    Opt {
        kind: Kind::Ask,
        ..one(Group::General, name, "BOOL", "false", help)
    }
}

/// Every option.
pub const OPTIONS: &[Opt] = &[
    one(
        Group::Relay,
        "relay-socket",
        "PATH",
        "/var/run/cri-resmgr/cri-resmgr.sock",
        "Unix socket to serve; point the kubelet's --container-runtime-endpoint at it",
    ),
    one(
        Group::Relay,
        "runtime-socket",
        "PATH",
        "/run/containerd/containerd.sock",
        "Unix socket of the container runtime to relay to; `-` or `disabled` turns the runtime service off",
    ),
    one(
        Group::Relay,
        "image-socket",
        "PATH",
        "",
        "Unix socket of the image service; when not given, the runtime's; `-` or `disabled` turns the service off",
    ),
    one(
        Group::Relay,
        "agent-socket",
        "PATH",
        "/var/run/cri-resmgr/cri-resmgr-agent.sock",
        "Unix socket of the node agent; `-` or `disabled`: there is no agent",
    ),
    one(
        Group::Relay,
        "config-socket",
        "PATH",
        "/var/run/cri-resmgr/cri-resmgr-config.sock",
        "Unix socket on which the node agent pushes configuration; `-` or `disabled` accepts none",
    ),
    one(
        Group::Relay,
        "runtime-wait",
        "DURATION",
        "0s",
        "How long to wait for the runtime's socket at start; 0s waits for ever",
    ),
    one(
        Group::Relay,
        "runtime-timeout",
        "DURATION",
        "10s",
        "Deadline of the relay's own calls to the runtime, and of connecting to it",
    ),
    one(
        Group::Relay,
        "drain-timeout",
        "DURATION",
        "10s",
        "How long calls in flight may take to end when the relay stops",
    ),
    one(
        Group::Policy,
        "policy",
        "NAME",
        "null",
        "How containers are placed; see --list-policies. `null` relays without a look",
    ),
    many(
        Group::Policy,
        "available-resources",
        "LIST",
        "",
        "CPUs the policy may use, all when not given. LIST is `cpu=VALUE`; VALUE is a CPU list \
         (`0-3,8`, `cpuset:3`, `#3`), an amount (`4`, `1500m`, `quantity:4`) or a cgroup's cpuset \
         (`/kubepods`, `cgroup:kubepods`)",
    ),
    many(
        Group::Policy,
        "reserved-resources",
        "LIST",
        "",
        "CPUs set aside for system tasks, in the same form: `cpu=1000m`. The static and static-plus \
         policies need them. An amount of one CPU or less is CPU 0, where that is available",
    ),
    switch(
        Group::Policy,
        "static-policy-relaxed-isolation",
        "false",
        "Let the static policies give kernel-isolated CPUs to containers that ask for more than one CPU",
    ),
    switch(
        Group::Policy,
        "static-plus-burstable-exclusive",
        "true",
        "Let static-plus give the whole CPUs of a burstable container's request exclusively too",
    ),
    switch(
        Group::Policy,
        "pin-memory",
        "false",
        "Keep a container's memory on the NUMA nodes of its CPUs (cpuset.mems), where it fits",
    ),
    many(
        Group::Policy,
        "fail-policy",
        "LIST",
        "refuse,kube-system=pass",
        "What happens to a container the policy cannot place: `refuse` its creation, or let it `pass` \
         without a decision: it runs on all CPUs that nobody holds exclusively, and this is said. Also per namespace and QoS class: `batch=pass`, `batch/BestEffort=pass`, \
         `*/BestEffort=pass`; the most specific counts",
    ),
    one(
        Group::Policy,
        "policy-timeout",
        "DURATION",
        "1s",
        "A decision later than this counts as a failure",
    ),
    one(
        Group::Policy,
        "rebalance",
        "off|shadow|on",
        "off",
        "Move running containers when measurements say it pays; `shadow` only reports what it would do",
    ),
    one(
        Group::Policy,
        "topology",
        "FILE|SYNTHETIC",
        "",
        "Take the machine's topology from an hwloc XML file or a description such as \
         `pack:2 numa:1 core:4 pu:2`; when not given, from the machine",
    ),
    one(
        Group::Pools,
        "static-pools-conf-file",
        "FILE",
        "",
        "YAML file that defines the pools; comes before the directory",
    ),
    one(
        Group::Pools,
        "static-pools-conf-dir",
        "DIR",
        "/etc/cmk",
        "Directory in the layout of the CPU Manager for Kubernetes that defines the pools",
    ),
    switch(
        Group::Pools,
        "static-pools-create-cmk-node-label",
        "false",
        "Label this node cmk.intel.com/cmk-node=true through the agent",
    ),
    switch(
        Group::Pools,
        "static-pools-create-cmk-node-taint",
        "false",
        "Taint this node cmk=true:NoSchedule through the agent",
    ),
    Opt {
        alias: "state-dir",
        ..one(
            Group::Enforcement,
            "relay-dir",
            "DIR",
            "/var/lib/cri-resmgr",
            "Where state lives that must survive a restart (also --state-dir)",
        )
    },
    one(
        Group::Enforcement,
        "cgroup-mount",
        "DIR",
        "/sys/fs/cgroup",
        "Where the cgroup file systems are mounted",
    ),
    one(
        Group::Enforcement,
        "host-root",
        "DIR",
        "",
        "Where the host's root is mounted when the relay itself runs in a container; prefixes the \
         paths of sysfs, procfs and cgroups",
    ),
    one(
        Group::Enforcement,
        "reconcile-interval",
        "DURATION",
        "1s",
        "How often wanted and actual cpusets are compared; 0s only on notice",
    ),
    switch(
        Group::Enforcement,
        "restore-on-stop",
        "false",
        "When the relay stops, give every container back the CPUs the runtime was asked for",
    ),
    one(
        Group::Enforcement,
        "container-resources-file",
        "never|asked|always",
        "asked",
        "Which containers find their CPUs in /.cri-resmgr/resources.sh, a mount that their pod's spec does not have; \
         `asked`: those whose pod has the annotation resources-file.cri-resource-manager.intel.com/pod: \"true\" (or \
         /container.NAME)",
    ),
    switch(
        Group::Enforcement,
        "reset-policy",
        "false",
        "Forget stored placements at start and place every running container anew",
    ),
    switch(
        Group::Enforcement,
        "reset-config",
        "false",
        "Forget at start the configuration that the node agent pushed last; the options alone hold until it pushes again",
    ),
    switch(
        Group::Telemetry,
        "ebpf-telemetry",
        "false",
        "Measure by BPF what the scheduler does to each container; where that is impossible, say so and measure what can be",
    ),
    one(
        Group::Telemetry,
        "max-containers",
        "NUMBER",
        "1024",
        "Containers the telemetry has room for",
    ),
    one(
        Group::Telemetry,
        "telemetry-half-life",
        "DURATION",
        "10s",
        "Smoothed measurements have come half the way to a new rate after this long, and rebalancing \
         keeps time by it: a move is judged after two to six half-lives, a container moved rests for 30, one \
         moved back for 360",
    ),
    one(
        Group::Telemetry,
        "record",
        "FILE",
        "",
        "Record what the policy is asked and what was measured to this file, for replay in the simulator; emptied \
         at start, begun anew on SIGHUP when it was moved away",
    ),
    one(
        Group::Telemetry,
        "metrics-address",
        "[HOST]:PORT",
        "",
        "Serve Prometheus metrics and the status page here; when not given, nowhere",
    ),
    many(
        Group::Dump,
        "dump",
        "SPEC",
        "",
        "Which CRI messages to dump, added to the built-in rules: items `[TARGET:]PATTERN`, `reset`, \
         `on`, `off`; TARGET is off, name, full or count. Everything: `reset,full:.*`",
    ),
    one(
        Group::Dump,
        "dump-file",
        "FILE",
        "",
        "Dump to this file too, not only to the log; reopened on SIGHUP",
    ),
    one(
        Group::Dump,
        "dump-format",
        "text|json",
        "text",
        "Form of the dump file: lines for people, or one JSON object a line",
    ),
    switch(
        Group::Dump,
        "dump-secrets",
        "false",
        "Show registry credentials, environment values and annotations in the dump",
    ),
    one(
        Group::Dump,
        "count-period",
        "DURATION",
        "60s",
        "How often rules with the target `count` report",
    ),
    one(
        Group::Logging,
        "logger",
        "NAME",
        "fmt",
        "Logging back-end; see --list-loggers",
    ),
    one(
        Group::Logging,
        "logger-level",
        "LEVEL",
        "info",
        "Lowest severity shown: debug, info, warn or error",
    ),
    many(
        Group::Logging,
        "logger-source",
        "LIST",
        "",
        "Sources whose info messages are shown, all when not given: `policy,message:off`, `*`, `none`",
    ),
    many(
        Group::Logging,
        "logger-debug",
        "LIST",
        "",
        "Sources whose debug messages are shown, none when not given: `policy,cri/relay`, `*`, `none`",
    ),
    switch(
        Group::Logging,
        "logger-prefix",
        "true",
        "Show the source in front of each message",
    ),
    one(
        Group::Logging,
        "log-format",
        "text|json",
        "text",
        "Log lines for people, or one JSON object a line",
    ),
    Opt {
        value: "FILE",
        ..many(
            Group::General,
            "config",
            "FILE",
            "",
            "Read options from FILE: one `name = value` a line, no dashes. Later options win",
        )
    },
    switch(
        Group::General,
        "no-rdt",
        "true",
        "Accepted for the predecessor's sake: RDT is never touched",
    ),
    ask(
        "print-config",
        "Print the effective configuration as YAML and exit",
    ),
    ask("list-policies", "List the placement policies and exit"),
    ask(
        "list-loggers",
        "List the logging back-ends and sources and exit",
    ),
    ask("version", "Print the version and exit"),
];

/// The option of this name or alias.
#[must_use]
pub fn find(name: &str) -> Option<&'static Opt> {
    OPTIONS
        .iter()
        .find(|option| option.name == name || (!name.is_empty() && option.alias == name))
}

/// Names of all options.
pub fn names() -> impl Iterator<Item = &'static str> {
    OPTIONS.iter().map(|option| option.name)
}

/// The definitions in clap's terms: parses canonical words and renders the help.
#[must_use]
pub fn command() -> Command {
    let mut command = Command::new("cri-resmgr")
        .about(
            "Sits between the kubelet and the container runtime, relays every CRI call, and places \
             containers on CPUs.",
        )
        .override_usage("cri-resmgr [OPTIONS] [COMMAND]")
        .after_help(super::help::EXAMPLES)
        .subcommand_help_heading("Commands (without one, the relay runs)")
        .disable_help_subcommand(true)
        .disable_version_flag(true)
        .disable_help_flag(true)
        .args_override_self(true)
        .term_width(100)
        .subcommands(subcommands());
    for group in Group::ALL {
        for option in OPTIONS.iter().filter(|option| option.group == group) {
            command = command.arg(argument(option));
        }
    }
    command.arg(help_argument().help_heading(Group::General.heading()))
}

fn help_argument() -> Arg {
    Arg::new("help")
        .long("help")
        .short('h')
        .action(ArgAction::Help)
        .help("Print this help and exit")
}

fn argument(option: &Opt) -> Arg {
    let mut argument = Arg::new(option.name)
        .long(option.name)
        .value_name(option.value)
        .help(option.help)
        .help_heading(option.group.heading())
        .action(if option.kind == Kind::Many {
            ArgAction::Append
        } else {
            ArgAction::Set
        })
        .allow_hyphen_values(true);
    match option.kind {
        Kind::Switch => {
            argument = argument
                .num_args(0..=1)
                .require_equals(true)
                .default_missing_value("true")
                .default_value(option.default);
        }
        Kind::Ask => {
            argument = argument
                .num_args(0..=1)
                .require_equals(true)
                .default_missing_value("true")
                .hide_possible_values(true);
        }
        Kind::One | Kind::Many if !option.default.is_empty() => {
            argument = argument.default_value(option.default);
        }
        Kind::One | Kind::Many => {}
    }
    argument
}

fn subcommands() -> Vec<Command> {
    let new = |name: &'static str, about: &'static str| {
        Command::new(name)
            .about(about)
            .disable_version_flag(true)
            .term_width(100)
            .arg(help_argument())
    };
    let flag = |name: &'static str, help: &'static str| {
        Arg::new(name)
            .long(name)
            .action(ArgAction::SetTrue)
            .help(help)
    };
    vec![
        new(
            "restore",
            "Give every container back the CPUs it would have without us",
        ),
        new("state", "Show which container runs where")
            .arg(flag("json", "As JSON in place of a table")),
        new("explain", "Say why a container sits where it sits").arg(
            Arg::new("container")
                .value_name("CONTAINER")
                .required(true)
                .help("Container id, a unique beginning of it, or namespace/pod/container"),
        ),
        new("top", "Watch how the scheduler treats every container")
            .arg(flag("once", "Print one table and end"))
            .arg(flag("json", "As JSON, one object a line")),
        new(
            "check-config",
            "Check a run-time configuration on this machine without applying it",
        )
        .arg(
            Arg::new("file")
                .value_name("FILE")
                .required(true)
                .value_parser(clap::value_parser!(std::path::PathBuf))
                .help("A ConfigMap manifest, or a YAML document with its keys"),
        ),
    ]
}
