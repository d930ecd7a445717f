//! Every option, defined once: a field's type says what its values mean, its comment is the help.
//!
//! The command line, option files, `--help`, `--print-config`, `docs/configuration.md`, shell completions and
//! the manual page are all made from these structs, by way of clap's view of them, [`command()`].

use super::{
    DumpFormat, FenceMode, PolicyName, ResourcesFile,
    value::{FromText, RawValue, parsed_by},
};
use crate::{log, values};
use clap::{Arg, ArgAction, ArgMatches, Args, Command, FromArgMatches as _};
use resmgr_policy::RebalanceMode;
use std::{any::TypeId, net::SocketAddr, path::PathBuf, time::Duration};

/// The option that names an option file; it is no part of the configuration.
pub const CONFIG: &str = "config";

/// Heading of what is not about the relay's work.
pub const GENERAL: &str = "General";

/// All options, in the order the help shows them.
#[derive(Args, Clone, Debug)]
#[expect(missing_docs, reason = "each section says what it is about")]
pub struct Options {
    #[command(flatten)]
    pub relay: RelayOptions,
    #[command(flatten)]
    pub policy: PolicyOptions,
    #[command(flatten)]
    pub pools: PoolsOptions,
    #[command(flatten)]
    pub enforce: EnforceOptions,
    #[command(flatten)]
    pub telemetry: TelemetryOptions,
    #[command(flatten)]
    pub dump: DumpOptions,
    #[command(flatten)]
    pub log: LogOptions,
    #[command(flatten)]
    pub general: GeneralOptions,
}

/// Sockets, and the deadlines of talking over them.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Relay: sockets of the kubelet and of the runtime")]
pub struct RelayOptions {
    /// Unix socket to serve; point the kubelet's --container-runtime-endpoint at it.
    #[arg(
        long,
        value_name = "PATH",
        default_value = "/var/run/cri-resmgr/cri-resmgr.sock"
    )]
    #[arg(value_parser = parsed_by(values::absolute_path))]
    pub relay_socket: RawValue<PathBuf>,
    /// Unix socket of the container runtime to relay to; `-` or `disabled` turns the runtime service off.
    #[arg(
        long,
        value_name = "PATH",
        default_value = "/run/containerd/containerd.sock"
    )]
    #[arg(value_parser = parsed_by(values::socket))]
    pub runtime_socket: RawValue<Option<PathBuf>>,
    /// Unix socket of the image service; when not given, the runtime's; `-` or `disabled` turns the service
    /// off.
    #[arg(long, value_name = "PATH", default_value = "")]
    #[arg(value_parser = parsed_by(values::socket))]
    pub image_socket: RawValue<Option<PathBuf>>,
    /// Unix socket of the node agent; `-` or `disabled`: there is no agent.
    #[arg(
        long,
        value_name = "PATH",
        default_value = "/var/run/cri-resmgr/cri-resmgr-agent.sock"
    )]
    #[arg(value_parser = parsed_by(values::socket))]
    pub agent_socket: RawValue<Option<PathBuf>>,
    /// Unix socket on which the node agent pushes configuration; `-` or `disabled` accepts none.
    #[arg(
        long,
        value_name = "PATH",
        default_value = "/var/run/cri-resmgr/cri-resmgr-config.sock"
    )]
    #[arg(value_parser = parsed_by(values::socket))]
    pub config_socket: RawValue<Option<PathBuf>>,
    /// How long to wait for the runtime's socket at start; 0s waits for ever. Calls are served meanwhile, and READY=1 is
    /// reported when the runtime listens.
    #[arg(long, value_name = "DURATION", default_value = "0s")]
    pub runtime_wait: RawValue<Duration>,
    /// Deadline of the relay's own calls to the runtime, and of connecting to it.
    #[arg(long, value_name = "DURATION", default_value = "10s")]
    #[arg(value_parser = parsed_by(values::positive_duration))]
    pub runtime_timeout: RawValue<Duration>,
    /// How long calls in flight may take to end when the relay stops.
    #[arg(long, value_name = "DURATION", default_value = "10s")]
    pub drain_timeout: RawValue<Duration>,
}

/// What to decide, and what happens when that fails.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Placement policy")]
pub struct PolicyOptions {
    /// How containers are placed; see --list-policies. `null` passes calls through unmodified.
    #[arg(long, value_name = "NAME", default_value = "null")]
    pub policy: RawValue<PolicyName>,
    /// CPUs the policy may use, all when not given. LIST is `cpu=VALUE`; VALUE is a CPU list (`0-3,8`,
    /// `cpuset:3`, `#3`), an amount (`4`, `1500m`, `quantity:4`) or a cgroup's cpuset (`/kubepods`,
    /// `cgroup:kubepods`).
    #[arg(long, value_name = "LIST")]
    pub available_resources: Vec<RawValue<String>>,
    /// CPUs set aside for system tasks, in the same form: `cpu=1000m`. The static and static-plus policies
    /// need them. An amount of one CPU or less is CPU 0, where that is available.
    #[arg(long, value_name = "LIST")]
    pub reserved_resources: Vec<RawValue<String>>,
    /// Let the static policies give kernel-isolated CPUs to containers that ask for more than one CPU.
    #[arg(long, default_value = "false")]
    pub static_policy_relaxed_isolation: RawValue<bool>,
    /// Let static-plus give the whole CPUs of a burstable container's request exclusively too.
    #[arg(long, default_value = "true")]
    pub static_plus_burstable_exclusive: RawValue<bool>,
    /// Keep a container's memory on the NUMA nodes of its CPUs (cpuset.mems), where it fits.
    #[arg(long, default_value = "false")]
    pub pin_memory: RawValue<bool>,
    /// What happens to a container the policy cannot place: `refuse` its creation, or let it `pass` without a
    /// decision: it runs on all CPUs that no container holds exclusively, and a warning is logged. Also per namespace and
    /// QoS class: `batch=pass`, `batch/BestEffort=pass`, `*/BestEffort=pass`; the most specific counts.
    #[arg(long, value_name = "LIST", default_value = "refuse,kube-system=pass")]
    pub fail_policy: Vec<RawValue<String>>,
    /// A decision later than this counts as a failure.
    #[arg(long, value_name = "DURATION", default_value = "1s")]
    #[arg(value_parser = parsed_by(values::positive_duration))]
    pub policy_timeout: RawValue<Duration>,
    /// Move running containers when measurements say it pays; `shadow` only reports what it would do.
    #[arg(long, value_name = "off|shadow|on", default_value = "off")]
    pub rebalance: RawValue<RebalanceMode>,
    /// Take the machine's topology from an hwloc XML file or a description such as `pack:2 numa:1 core:4
    /// pu:2`; when not given, from the machine.
    #[arg(long, value_name = "FILE|SYNTHETIC", default_value = "")]
    pub topology: RawValue<String>,
}

/// Where the pools of static-pools come from, and what the Node is marked with.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Pools of the static-pools (stp) policy")]
pub struct PoolsOptions {
    /// YAML file that defines the pools; comes before the directory.
    #[arg(long, value_name = "FILE", default_value = "")]
    pub static_pools_conf_file: RawValue<Option<PathBuf>>,
    /// Directory in the layout of the CPU Manager for Kubernetes that defines the pools.
    #[arg(long, value_name = "DIR", default_value = "/etc/cmk")]
    pub static_pools_conf_dir: RawValue<PathBuf>,
    /// Label this node cmk.intel.com/cmk-node=true through the agent.
    #[arg(long, default_value = "false")]
    pub static_pools_create_cmk_node_label: RawValue<bool>,
    /// Taint this node cmk=true:NoSchedule through the agent.
    #[arg(long, default_value = "false")]
    pub static_pools_create_cmk_node_taint: RawValue<bool>,
}

/// How decisions reach the kernel, and where they are remembered.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Enforcement and state")]
pub struct EnforceOptions {
    /// Where state lives that must survive a restart (also --state-dir).
    #[arg(
        long,
        alias = "state-dir",
        value_name = "DIR",
        default_value = "/var/lib/cri-resmgr"
    )]
    #[arg(value_parser = parsed_by(values::absolute_path))]
    pub relay_dir: RawValue<PathBuf>,
    /// Where the cgroup file systems are mounted.
    #[arg(long, value_name = "DIR", default_value = "/sys/fs/cgroup")]
    #[arg(value_parser = parsed_by(values::absolute_path))]
    pub cgroup_mount: RawValue<PathBuf>,
    /// Where the host's root is mounted when the relay itself runs in a container; prefixes the paths of
    /// sysfs, procfs and cgroups.
    #[arg(long, value_name = "DIR", default_value = "")]
    #[arg(value_parser = parsed_by(root))]
    pub host_root: RawValue<PathBuf>,
    /// How often wanted and actual cpusets are compared; 0s only on notice.
    #[arg(long, value_name = "DURATION", default_value = "1s")]
    pub reconcile_interval: RawValue<Duration>,
    /// When the relay stops, give every container back the CPUs the runtime was asked for.
    #[arg(long, default_value = "false")]
    pub restore_on_stop: RawValue<bool>,
    /// Which containers find their CPUs in /.cri-resmgr/resources.sh, a mount that their pod's spec does not
    /// have; `asked`: those whose pod has the annotation
    /// resources-file.cri-resource-manager.intel.com/pod: "true" (or /container.NAME).
    #[arg(long, value_name = "never|asked|always", default_value = "asked")]
    pub container_resources_file: RawValue<ResourcesFile>,
    /// Keep services of the host off exclusive CPUs: slices and scopes at the top of the cgroup hierarchy that hold no pods
    /// (`system.slice`, `user.slice`) get the CPUs that no container holds exclusively, the reserved ones always; `shadow` only
    /// reports what it would do. `restore` undoes it, and so does a start without it.
    #[arg(long, value_name = "off|shadow|on", default_value = "off")]
    pub fence_host: RawValue<FenceMode>,
    /// Forget stored placements at start and place every running container anew.
    #[arg(long, default_value = "false")]
    pub reset_policy: RawValue<bool>,
    /// Forget at start the configuration that the node agent pushed last; the options alone hold until it
    /// pushes again.
    #[arg(long, default_value = "false")]
    pub reset_config: RawValue<bool>,
}

/// What is measured, and where it can be seen.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Scheduler telemetry and metrics")]
pub struct TelemetryOptions {
    /// Measure by BPF what the scheduler does to each container; where that is impossible, log why and measure
    /// what can be.
    #[arg(long, default_value = "false")]
    pub ebpf_telemetry: RawValue<bool>,
    /// Containers the telemetry has room for.
    #[arg(long, value_name = "NUMBER", default_value = "1024")]
    #[arg(value_parser = parsed_by(container_count))]
    pub max_containers: RawValue<u32>,
    /// Smoothed measurements have come half the way to a new rate after this long, and rebalancing keeps time
    /// by it: a move is judged after one to twelve half-lives, a container moved rests for 30, one moved back for
    /// 360.
    #[arg(long, value_name = "DURATION", default_value = "10s")]
    #[arg(value_parser = parsed_by(half_life))]
    pub telemetry_half_life: RawValue<Duration>,
    /// Record what the policy is asked and what was measured to this file, for replay in the simulator;
    /// emptied at start, begun anew on SIGHUP when it was moved away.
    #[arg(long, value_name = "FILE", default_value = "")]
    pub record: RawValue<Option<PathBuf>>,
    /// Serve Prometheus metrics and the status page here; when not given, nowhere.
    #[arg(long, value_name = "[HOST]:PORT", default_value = "")]
    pub metrics_address: RawValue<Option<SocketAddr>>,
    /// Serve the status page under these names of hosts too, such as `status.example.com`; without them under addresses,
    /// `localhost` and the node's own names, for any web page can have a name of its own point here. `*` is every name.
    #[arg(long, value_name = "LIST")]
    pub metrics_allowed_hosts: Vec<RawValue<String>>,
}

/// The message dump.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Message dump")]
pub struct DumpOptions {
    /// Which CRI messages to dump, added to the built-in rules: items `[TARGET:]PATTERN`, `reset`, `on`, `off`;
    /// TARGET is off, name, full or count. Everything: `reset,full:.*`.
    #[arg(long, value_name = "SPEC")]
    pub dump: Vec<RawValue<String>>,
    /// Dump to this file too, not only to the log; reopened on SIGHUP.
    #[arg(long, value_name = "FILE", default_value = "")]
    pub dump_file: RawValue<Option<PathBuf>>,
    /// Form of the dump file: lines for people, or one JSON object a line.
    #[arg(long, value_name = "text|json", default_value = "text")]
    pub dump_format: RawValue<DumpFormat>,
    /// Dump what was measured of each container also after replies that list containers, where these are dumped.
    #[arg(long, default_value = "false")]
    pub dump_measured_lists: RawValue<bool>,
    /// Show registry credentials, environment values and annotations in the dump.
    #[arg(long, default_value = "false")]
    pub dump_secrets: RawValue<bool>,
    /// How often rules with the target `count` report.
    #[arg(long, value_name = "DURATION", default_value = "60s")]
    #[arg(value_parser = parsed_by(values::positive_duration))]
    pub count_period: RawValue<Duration>,
}

/// Logging.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Logging")]
pub struct LogOptions {
    /// Logging back-end; see --list-loggers.
    #[arg(long, value_name = "NAME", default_value = "fmt")]
    #[arg(value_parser = parsed_by(back_end))]
    pub logger: RawValue<log::Format>,
    /// Lowest severity shown: debug, info, warn or error.
    #[arg(long, value_name = "LEVEL", default_value = "info")]
    pub logger_level: RawValue<log::Level>,
    /// Sources whose info messages are shown, all when not given: `policy,message:off`, `*`, `none`.
    #[arg(long, value_name = "LIST")]
    pub logger_source: Vec<RawValue<String>>,
    /// Sources whose debug messages are shown, none when not given: `policy,cri/relay`, `*`, `none`. `*` is all of
    /// cri-resmgr's own; `http2` and `libraries` must be named.
    #[arg(long, value_name = "LIST")]
    pub logger_debug: Vec<RawValue<String>>,
    /// Show the source in front of each message.
    #[arg(long, default_value = "true")]
    pub logger_prefix: RawValue<bool>,
    /// Log lines for people, or one JSON object a line.
    #[arg(long, value_name = "text|json", default_value = "text")]
    pub log_format: RawValue<log::Format>,
}

/// Options about options.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = GENERAL)]
pub struct GeneralOptions {
    /// Read options from FILE: one `name = value` a line, no dashes. Later options win.
    #[arg(long, value_name = "FILE")]
    pub config: Vec<RawValue<String>>,
    /// Accepted for the predecessor's sake: RDT is never touched.
    #[arg(long, default_value = "true")]
    pub no_rdt: RawValue<bool>,
    /// Accepted for the predecessor's sake: RDT is never touched.
    #[arg(long, value_name = "PATH", default_value = "")]
    pub resctrl_path: RawValue<String>,
    /// Accepted for the predecessor's sake: no call is traced. Metrics are served at --metrics-address.
    #[arg(long, value_name = "WORD", default_value = "")]
    #[arg(alias = "trace-jaeger-collector", alias = "trace-jaeger-agent")]
    #[arg(alias = "trace-prometheus-metrics")]
    pub trace: RawValue<String>,
    /// Accepted for the predecessor's sake; --logger-debug policy says what is decided.
    #[arg(long, default_value = "false")]
    pub cpu_allocator_debug: RawValue<bool>,
}

/// clap's view of the options alone, without commands.
#[must_use]
pub fn command() -> Command {
    finish(Options::augment_args(Command::new("cri-resmgr")))
}

/// Adds to each option what follows from its type.
#[must_use]
pub fn finish(command: Command) -> Command {
    command.args_override_self(true).mut_args(|argument| {
        let mut defaults = argument.get_default_values().iter();
        let hidden = argument.is_hide_default_value_set() || defaults.all(|text| text.is_empty());
        let argument = argument
            .hide_default_value(hidden)
            .hide_possible_values(true);
        if is_switch(&argument) {
            argument
                .value_name("BOOL")
                .num_args(0..=1)
                .require_equals(true)
                .default_missing_value("true")
        } else {
            argument
        }
    })
}

/// What holds when nothing is typed.
pub(super) fn defaults() -> (Options, ArgMatches) {
    let matches = command()
        .try_get_matches_from(["cri-resmgr"])
        .expect("no option must be given");
    let options = Options::from_arg_matches(&matches).expect("every option has a default");
    (options, matches)
}

/// The option's name, without dashes; also its name in option files and in `--print-config`.
#[must_use]
pub fn name(argument: &Arg) -> &str {
    argument.get_long().unwrap_or_default()
}

/// The options among what a command takes; `--help` is none.
pub fn of(command: &Command) -> impl Iterator<Item = &Arg> {
    let arguments = command.get_arguments();
    arguments.filter(|argument| !matches!(argument.get_action(), ArgAction::Help))
}

/// Names of all options.
pub fn names(command: &Command) -> impl Iterator<Item = &str> {
    of(command).map(name)
}

/// The option of this name or alias.
#[must_use]
pub fn find<'a>(command: &'a Command, typed: &str) -> Option<&'a Arg> {
    of(command).find(|argument| {
        let aliases = argument.get_all_aliases().unwrap_or_default();
        argument.get_long() == Some(typed) || aliases.contains(&typed)
    })
}

/// Whether the option is true when it stands alone.
#[must_use]
pub fn is_switch(argument: &Arg) -> bool {
    argument.get_value_parser().type_id() == TypeId::of::<RawValue<bool>>()
}

fn root(text: &str) -> Result<PathBuf, String> {
    match text {
        "" => Ok(PathBuf::from("/")),
        _ => values::absolute_path(text),
    }
}

fn container_count(text: &str) -> Result<u32, String> {
    match text.parse() {
        Ok(count @ 1..=65_536) => Ok(count),
        _ => Err("expected a number from 1 to 65536".to_owned()),
    }
}

fn half_life(text: &str) -> Result<Duration, String> {
    let second = Duration::from_secs(1);
    match values::duration(text)? {
        short if short < second => Err("must be at least 1s".to_owned()),
        long if long > second * 3600 => Err("must be at most 1h".to_owned()),
        half_life => Ok(half_life),
    }
}

fn back_end(text: &str) -> Result<log::Format, String> {
    let words = [("fmt", log::Format::Text), ("json", log::Format::Json)];
    values::choice(text, &words)
}

impl FromText for PolicyName {
    fn from_text(text: &str) -> Result<Self, String> {
        text.parse()
    }

    fn words() -> Vec<(&'static str, Self)> {
        Self::ALL.map(|policy| (policy.as_str(), policy)).to_vec()
    }
}

impl FromText for RebalanceMode {
    fn words() -> Vec<(&'static str, Self)> {
        vec![
            ("off", Self::Off),
            ("shadow", Self::Shadow),
            ("on", Self::On),
        ]
    }
}

impl FromText for FenceMode {
    fn words() -> Vec<(&'static str, Self)> {
        vec![
            ("off", Self::Off),
            ("shadow", Self::Shadow),
            ("on", Self::On),
        ]
    }
}

impl FromText for ResourcesFile {
    fn words() -> Vec<(&'static str, Self)> {
        vec![
            ("never", Self::Never),
            ("asked", Self::Asked),
            ("always", Self::Always),
        ]
    }
}

impl FromText for DumpFormat {
    fn words() -> Vec<(&'static str, Self)> {
        vec![("text", Self::Text), ("json", Self::Json)]
    }
}

impl FromText for log::Format {
    fn words() -> Vec<(&'static str, Self)> {
        vec![("text", Self::Text), ("json", Self::Json)]
    }
}

impl FromText for log::Level {
    fn from_text(text: &str) -> Result<Self, String> {
        text.parse()
    }

    fn words() -> Vec<(&'static str, Self)> {
        vec![
            ("debug", Self::Debug),
            ("info", Self::Info),
            ("warn", Self::Warn),
            ("error", Self::Error),
        ]
    }
}
