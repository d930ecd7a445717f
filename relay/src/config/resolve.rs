//! Words to configuration: judged all at once, against the machine.

use super::{
    Config, CpuAmount, Cpus, DumpConfig, DumpFormat, EnforceConfig, FailPolicies, PolicyConfig,
    PoolsConfig, Problem, Problems, Raw, RebalanceMode, RelayConfig, ResourcesFile,
    TelemetryConfig, problem::nearest, raw::Valued, resources::Resources, values,
};
use crate::{
    cli::policies::PolicyName,
    dump::rule::Rules,
    log::{self, source::Switches},
};
use resmgr_topology::{CpuSet, MilliCpu, Topology};
use std::{
    fmt,
    path::{Path, PathBuf},
    time::Duration,
};

/// What a configuration is judged against.
#[derive(Clone, Copy)]
pub struct Machine<'a> {
    /// Its CPUs.
    pub topology: &'a Topology,
    /// Reads `cpuset.cpus` of a cgroup given relative to the cgroup mount.
    pub cgroup_cpus: &'a dyn Fn(&Path) -> std::io::Result<String>,
}

impl fmt::Debug for Machine<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Machine")
            .field("online", &self.topology.online)
            .finish_non_exhaustive()
    }
}

/// Judges every option.
///
/// # Errors
/// All that is wrong, not only the first.
pub fn resolve(raw: &Raw, machine: Machine<'_>) -> Result<Config, Problems> {
    let mut judge = Judge {
        raw,
        problems: Vec::new(),
        notes: Vec::new(),
    };
    let config = judge.config(machine);
    if judge.problems.is_empty() {
        Ok(config)
    } else {
        Err(Problems(judge.problems))
    }
}

struct Judge<'a> {
    raw: &'a Raw,
    problems: Vec<Problem>,
    notes: Vec<String>,
}

impl Judge<'_> {
    fn problem(&mut self, key: &str, value: &Valued, message: impl fmt::Display) {
        self.problems.push(Problem {
            key: key.to_owned(),
            value: value.text.clone(),
            origin: value.origin.clone(),
            message: message.to_string(),
        });
    }

    /// The option's value, or a stand-in and a problem.
    fn get<T: Default, E: fmt::Display>(
        &mut self,
        name: &str,
        parse: impl Fn(&str) -> Result<T, E>,
    ) -> T {
        let value = self.raw.last(name);
        parse(&value.text).unwrap_or_else(|error| {
            self.problem(name, &value, error);
            T::default()
        })
    }

    /// Adds up every value typed.
    fn sum<T, E: fmt::Display>(
        &mut self,
        name: &str,
        mut total: T,
        add: impl Fn(&mut T, &str) -> Result<(), E>,
    ) -> T {
        for value in self.raw.all(name) {
            if let Err(error) = add(&mut total, &value.text) {
                self.problem(name, value, error);
            }
        }
        total
    }

    fn on(&mut self, name: &str) -> bool {
        self.get(name, values::boolean)
    }

    fn duration(&mut self, name: &str) -> Duration {
        self.get(name, values::duration)
    }

    /// A duration that must not be zero.
    fn deadline(&mut self, name: &str) -> Duration {
        self.get(name, |text| match values::duration(text) {
            Ok(Duration::ZERO) => Err("must be more than 0".to_owned()),
            other => other,
        })
    }

    fn choice<T: Copy + Default>(&mut self, name: &str, choices: &[(&str, T)]) -> T {
        self.get(name, |text| {
            choices
                .iter()
                .find(|(word, _)| *word == text)
                .map(|(_, choice)| *choice)
                .ok_or_else(|| {
                    let words: Vec<&str> = choices.iter().map(|(word, _)| *word).collect();
                    one_of(text, &words)
                })
        })
    }

    fn file(&mut self, name: &str) -> Option<PathBuf> {
        self.get(name, |text| -> Result<_, std::convert::Infallible> {
            Ok(Some(text)
                .filter(|text| !text.is_empty())
                .map(PathBuf::from))
        })
    }

    fn config(&mut self, machine: Machine<'_>) -> Config {
        let relay = self.relay();
        let policy = self.policy(machine);
        let enforce = self.enforce();
        let telemetry = TelemetryConfig {
            ebpf: self.on("ebpf-telemetry"),
            max_containers: self.get("max-containers", |text| match text.parse::<u32>() {
                Ok(number @ 1..=65_536) => Ok(number),
                _ => Err("expected a number from 1 to 65536"),
            }),
            half_life: self.get("telemetry-half-life", |text| {
                let least = Duration::from_secs(1);
                match values::duration(text) {
                    Ok(short) if short < least => Err("must be at least 1s".to_owned()),
                    Ok(long) if long > least * 3600 => Err("must be at most 1h".to_owned()),
                    other => other,
                }
            }),
            record: self.file("record"),
            metrics: self.get("metrics-address", values::address),
        };
        let dump = DumpConfig {
            rules: self.sum("dump", Rules::default(), Rules::add),
            file: self.file("dump-file"),
            format: self.choice(
                "dump-format",
                &[("text", DumpFormat::Text), ("json", DumpFormat::Json)],
            ),
            secrets: self.on("dump-secrets"),
            count_period: self.deadline("count-period"),
        };
        let log = self.log();
        if self.raw.given("no-rdt") && !self.on("no-rdt") {
            self.notes
                .push("no-rdt=false has no effect: RDT is never touched".to_owned());
        }
        Config {
            relay,
            policy,
            enforce,
            telemetry,
            dump,
            log,
            notes: std::mem::take(&mut self.notes),
        }
    }

    fn relay(&mut self) -> RelayConfig {
        let before = self.problems.len();
        let runtime_socket = self.get("runtime-socket", values::socket);
        let image_socket = if self.raw.last("image-socket").text.is_empty() {
            runtime_socket.clone()
        } else {
            self.get("image-socket", values::socket)
        };
        let legal = self.problems.len() == before;
        let relay_socket = self.get("relay-socket", values::absolute_path);
        if [&runtime_socket, &image_socket].contains(&&Some(relay_socket.clone())) {
            let value = self.raw.last("relay-socket");
            self.problem(
                "relay-socket",
                &value,
                "is the runtime's own socket; the relay needs another path",
            );
        }
        if legal && runtime_socket.is_none() && image_socket.is_none() {
            let value = self.raw.last("runtime-socket");
            self.problem(
                "runtime-socket",
                &value,
                "runtime and image service are both off: nothing to relay",
            );
        }
        RelayConfig {
            relay_socket,
            runtime_socket,
            image_socket,
            agent_socket: self.get("agent-socket", values::socket),
            config_socket: self.get("config-socket", values::socket),
            reset_config: self.on("reset-config"),
            runtime_wait: self.duration("runtime-wait"),
            runtime_timeout: self.deadline("runtime-timeout"),
            drain_timeout: self.duration("drain-timeout"),
        }
    }

    fn policy(&mut self, machine: Machine<'_>) -> PolicyConfig {
        let name = self.get("policy", |text| {
            text.parse::<PolicyName>().map_err(|expected| {
                nearest(text, PolicyName::ALL.map(PolicyName::as_str)).map_or_else(
                    || expected.clone(),
                    |near| format!("no such policy; did you mean {near:?}? {expected}"),
                )
            })
        });
        let available = self
            .cpus("available-resources", machine)
            .unwrap_or(Cpus::Set(machine.topology.online));
        let reserved = self.cpus("reserved-resources", machine);
        if let Some(reserved) = &reserved
            && let Err(message) = fits(reserved, &available)
        {
            let value = self.raw.last("reserved-resources");
            self.problem("reserved-resources", &value, message);
        }
        if matches!(name, PolicyName::Static | PolicyName::StaticPlus)
            && reserved.is_none()
            && !self.raw.given("reserved-resources")
        {
            let value = self.raw.last("reserved-resources");
            self.problem(
                "reserved-resources",
                &value,
                format!(
                    "policy {name} needs CPUs set aside for system tasks, e.g. --reserved-resources cpu=1000m"
                ),
            );
        }
        PolicyConfig {
            name,
            available,
            reserved,
            relaxed_isolation: self.on("static-policy-relaxed-isolation"),
            burstable_exclusive: self.on("static-plus-burstable-exclusive"),
            pin_memory: self.on("pin-memory"),
            pools: PoolsConfig {
                pushed: None,
                file: self.file("static-pools-conf-file"),
                dir: PathBuf::from(self.raw.last("static-pools-conf-dir").text),
                label_node: self.on("static-pools-create-cmk-node-label"),
                taint_node: self.on("static-pools-create-cmk-node-taint"),
            },
            fail: self.sum("fail-policy", FailPolicies::default(), FailPolicies::add),
            timeout: self.deadline("policy-timeout"),
            rebalance: self.choice("rebalance", &REBALANCE),
            reset: self.on("reset-policy"),
        }
    }

    fn cpus(&mut self, name: &str, machine: Machine<'_>) -> Option<Cpus> {
        let resources = self.sum(name, Resources::default(), Resources::add);
        for domain in &resources.without_effect {
            self.notes
                .push(format!("--{name}: {domain} has no effect; only cpu has"));
        }
        match on_machine(resources.cpu?, machine) {
            Ok(cpus) => Some(cpus),
            Err(message) => {
                let value = self.raw.last(name);
                self.problem(name, &value, message);
                None
            }
        }
    }

    fn enforce(&mut self) -> EnforceConfig {
        let host_root = match self.raw.last("host-root").text.as_str() {
            "" | "/" => PathBuf::from("/"),
            _ => self.get("host-root", values::absolute_path),
        };
        let mount = self.get("cgroup-mount", values::absolute_path);
        let below = mount.strip_prefix("/").unwrap_or(&mount);
        EnforceConfig {
            state_dir: self.get("relay-dir", values::absolute_path),
            cgroup_mount: host_root.join(below),
            host_root,
            reconcile_interval: self.duration("reconcile-interval"),
            restore_on_stop: self.on("restore-on-stop"),
            resources_file: self.choice(
                "container-resources-file",
                &[
                    ("never", ResourcesFile::Never),
                    ("asked", ResourcesFile::Asked),
                    ("always", ResourcesFile::Always),
                ],
            ),
        }
    }

    fn log(&mut self) -> log::Settings {
        let backend = self.choice(
            "logger",
            &[("fmt", log::Format::Text), ("json", log::Format::Json)],
        );
        let format = self.choice(
            "log-format",
            &[("text", log::Format::Text), ("json", log::Format::Json)],
        );
        log::Settings {
            level: self.get("logger-level", str::parse::<log::Level>),
            info: self.sum("logger-source", Switches::all(), Switches::add),
            debug: self.sum("logger-debug", Switches::none(), Switches::add),
            prefix: self.on("logger-prefix"),
            format: if backend == log::Format::Json {
                backend
            } else {
                format
            },
        }
    }
}

/// The words of `--rebalance`.
pub(super) const REBALANCE: [(&str, RebalanceMode); 3] = [
    ("off", RebalanceMode::Off),
    ("shadow", RebalanceMode::Shadow),
    ("on", RebalanceMode::On),
];

/// "expected one of …", with the nearest word when there is one.
pub(super) fn one_of(text: &str, words: &[&str]) -> String {
    let expected = format!("expected one of {}", words.join(", "));
    nearest(text, words.iter().copied()).map_or(expected.clone(), |near| {
        format!("{expected}; did you mean {near:?}?")
    })
}

/// An amount of CPU on this machine.
pub(super) fn on_machine(amount: CpuAmount, machine: Machine<'_>) -> Result<Cpus, String> {
    let online = machine.topology.online;
    let check = |cpus: CpuSet, from: &str| {
        let missing = cpus.difference(&online);
        if cpus.is_empty() {
            Err(format!("{from} has no CPU"))
        } else if missing.is_empty() {
            Ok(Cpus::Set(cpus))
        } else {
            Err(format!(
                "{} {missing} not online on this machine ({online})",
                if missing.len() == 1 { "CPU" } else { "CPUs" }
            ))
        }
    };
    match amount {
        CpuAmount::Set(cpus) => check(cpus, "the list"),
        CpuAmount::Quantity(milli) if thousand(online.len()) < u64::from(milli.0) => Err(format!(
            "{milli}m is more than the {} CPUs online on this machine",
            online.len()
        )),
        CpuAmount::Quantity(milli) => Ok(Cpus::Quantity(milli)),
        CpuAmount::Cgroup(path) => {
            let text = (machine.cgroup_cpus)(&path).map_err(|error| {
                format!(
                    "cannot read the cpuset of cgroup {}: {error}",
                    path.display()
                )
            })?;
            let cpus = text
                .parse()
                .map_err(|error| format!("cpuset of cgroup {}: {error}", path.display()))?;
            check(cpus, "the cgroup's cpuset")
        }
    }
}

/// Whether the reserved CPUs lie within the available ones.
pub(super) fn fits(reserved: &Cpus, available: &Cpus) -> Result<(), String> {
    let enough = |room: u64, milli: MilliCpu| {
        if u64::from(milli.0) <= room {
            Ok(())
        } else {
            Err(format!(
                "{milli}m is more than the available {room}m of CPU"
            ))
        }
    };
    match (reserved, available) {
        (Cpus::Set(reserved), Cpus::Set(available)) if !reserved.is_subset(available) => {
            Err(format!(
                "CPUs {} are not among the available ones ({available})",
                reserved.difference(available)
            ))
        }
        (Cpus::Set(_), _) => Ok(()),
        (Cpus::Quantity(milli), Cpus::Set(available)) => enough(thousand(available.len()), *milli),
        (Cpus::Quantity(milli), Cpus::Quantity(room)) => enough(u64::from(room.0), *milli),
    }
}

fn thousand(cpus: usize) -> u64 {
    cpus as u64 * 1000
}

#[cfg(test)]
pub(crate) mod tests;
