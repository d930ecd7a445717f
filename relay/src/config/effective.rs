//! The configuration in force: legal on this machine, without a question left open.

use super::{fail_policy::FailPolicies, origin::Origin, policy_name::PolicyName};
use crate::{dump::rule::DumpRules, log};
use resmgr_policy::{PoolsConfig, RebalanceMode, StaticConfig};
use std::{net::SocketAddr, path::PathBuf, time::Duration};

/// Everything the daemon needs to know, legal on this machine. `None` always means "off", never
/// "default".
#[derive(Clone, Debug)]
pub struct Config {
    /// Sockets and the deadlines of talking over them.
    pub relay: RelayConfig,
    /// What to decide, and what happens when that fails.
    pub policy: PolicyConfig,
    /// How decisions reach the kernel, and where they are remembered.
    pub enforce: EnforceConfig,
    /// What is measured, and where it can be seen.
    pub telemetry: TelemetryConfig,
    /// The message dump.
    pub dump: DumpConfig,
    /// Logging.
    pub log: log::LogSettings,
    /// What was accepted although it has no effect, a sentence each.
    pub notes: Vec<String>,
}

/// Sockets and the deadlines of talking over them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RelayConfig {
    /// The socket to serve.
    pub relay_socket: PathBuf,
    /// The runtime service's socket.
    pub runtime_socket: Option<PathBuf>,
    /// The image service's socket.
    pub image_socket: Option<PathBuf>,
    /// The node agent's socket.
    pub agent_socket: Option<PathBuf>,
    /// Where the node agent pushes configuration.
    pub config_socket: Option<PathBuf>,
    /// Forget at start what was pushed there last.
    pub reset_config: bool,
    /// How long to wait for the runtime at start; zero: for ever.
    pub runtime_wait: Duration,
    /// Deadline of the relay's own calls to the runtime.
    pub runtime_timeout: Duration,
    /// How long calls in flight may take to end at shutdown.
    pub drain_timeout: Duration,
}

/// What to decide, and what happens when that fails.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyConfig {
    /// The active policy.
    pub name: PolicyName,
    /// Of static and static-plus.
    pub slices: StaticConfig,
    /// Of static-pools.
    pub pools: PoolsSource,
    /// What happens to a container that cannot be placed.
    pub fail: FailPolicies,
    /// A decision later than this counts as a failure.
    pub timeout: Duration,
    /// Whether measurements may move containers.
    pub rebalance: RebalanceMode,
    /// Forget stored placements at start.
    pub reset: bool,
}

/// Where the pools of static-pools come from, and what the agent is asked to do about them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PoolsSource {
    /// From a pushed document; beats the files.
    pub pushed: Option<PoolsConfig>,
    /// YAML file.
    pub file: Option<PathBuf>,
    /// Directory in CMK's layout.
    pub dir: PathBuf,
    /// Where the file, or else the directory, was named.
    pub origin: Origin,
    /// Label the node.
    pub label_node: bool,
    /// Taint the node.
    pub taint_node: bool,
}

/// Which containers are shown where they run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ResourcesFile {
    /// None.
    Never,
    /// Those whose pod asks for it (annotation `resources-file`): the mount is one that the pod's spec does
    /// not have.
    #[default]
    Asked,
    /// All that the policy places.
    Always,
}

/// Whether services of the host are kept off exclusive CPUs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FenceMode {
    /// They run where they are let.
    #[default]
    Off,
    /// What would be done is logged and counted.
    Shadow,
    /// Their cgroups are confined.
    On,
}

/// How decisions reach the kernel, and where they are remembered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EnforceConfig {
    /// Directory of the state file.
    pub state_dir: PathBuf,
    /// Where cgroups are mounted, host root included.
    pub cgroup_mount: PathBuf,
    /// The host's root directory, `/` when the relay runs on the host itself.
    pub host_root: PathBuf,
    /// How often wanted and actual cpusets are compared; zero: only on notice.
    pub reconcile_interval: Duration,
    /// Give everything back at stop.
    pub restore_on_stop: bool,
    /// Which containers are shown where they run.
    pub resources_file: ResourcesFile,
    /// Whether services of the host are kept off exclusive CPUs.
    pub fence_host: FenceMode,
}

/// What is measured, and where it can be seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TelemetryConfig {
    /// Whether to measure by BPF.
    pub ebpf: bool,
    /// Room for so many containers.
    pub max_containers: u32,
    /// Half-life of the smoothed measurements.
    pub half_life: Duration,
    /// Replay file.
    pub record: Option<PathBuf>,
    /// Prometheus metrics and status page.
    pub metrics: Option<SocketAddr>,
    /// Names under which the status page is served besides those of the node; `*` is every name.
    pub allowed_hosts: Vec<String>,
}

/// The form of the dump file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DumpFormat {
    /// Lines for people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// The message dump.
#[derive(Clone, Debug)]
pub struct DumpConfig {
    /// What is dumped how.
    pub rules: DumpRules,
    /// Also to this file.
    pub file: Option<PathBuf>,
    /// Its form.
    pub format: DumpFormat,
    /// What was measured of containers, also after lists.
    pub measured_lists: bool,
    /// Credentials and environment values in clear.
    pub secrets: bool,
    /// How often counts are reported.
    pub count_period: Duration,
}
