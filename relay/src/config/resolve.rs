//! Options to configuration: checked all at once, against the machine.

use super::{
    Config, CpuAmount, DumpConfig, EnforceConfig, FailPolicies, PolicyConfig, PolicyName,
    PoolsSource, Problem, Problems, Raw, RelayConfig, TelemetryConfig,
    options::{EnforceOptions, LogOptions, PolicyOptions, RelayOptions},
    origin::Origin,
    resources::Resources,
    value::RawValue,
};
use crate::{
    dump::rule::DumpRules,
    log::{self, source::Switches},
    values,
};
use resmgr_policy::{Reserved, StaticConfig};
use resmgr_topology::{CpuSet, MilliCpu, Topology};
use std::{fmt, path::Path};

/// What a configuration is checked against.
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

/// Checks every option.
///
/// # Errors
/// All that is wrong, not only the first.
pub fn resolve(raw: &Raw, machine: Machine<'_>) -> Result<Config, Problems> {
    let mut validator = Validator {
        raw,
        problems: Vec::new(),
        notes: Vec::new(),
    };
    let config = validator.config(machine);
    if validator.problems.is_empty() {
        Ok(config)
    } else {
        Err(Problems(validator.problems))
    }
}

struct Validator<'a> {
    raw: &'a Raw,
    problems: Vec<Problem>,
    notes: Vec<String>,
}

impl Validator<'_> {
    fn problem<T>(&mut self, value: &RawValue<T>, message: impl fmt::Display) {
        let origin = self.raw.origin(&value.option);
        self.report(&value.option, &value.text, origin, message);
    }

    fn report(&mut self, key: &str, value: &str, origin: Origin, message: impl fmt::Display) {
        self.problems.push(Problem {
            key: key.to_owned(),
            value: value.to_owned(),
            origin,
            message: message.to_string(),
        });
    }

    /// What the value means, or a stand-in and a problem.
    fn get<T: Clone + Default>(&mut self, value: &RawValue<T>) -> T {
        value.parsed.clone().unwrap_or_else(|expected| {
            self.problem(value, expected);
            T::default()
        })
    }

    /// Adds up every text given for an option.
    fn accumulate<T, E: fmt::Display>(
        &mut self,
        values: &[RawValue<String>],
        mut total: T,
        add: impl Fn(&mut T, &str) -> Result<(), E>,
    ) -> T {
        for (index, value) in values.iter().enumerate() {
            if let Err(error) = add(&mut total, &value.text) {
                let given = self.raw.given(&value.option).get(index);
                let origin = given.map_or(Origin::Default, |(_, origin)| origin.clone());
                self.report(&value.option, &value.text, origin, error);
            }
        }
        total
    }

    fn config(&mut self, machine: Machine<'_>) -> Config {
        let options = &self.raw.options;
        let relay = self.relay(&options.relay);
        let policy = self.policy(&options.policy, machine);
        let enforce = self.enforce(&options.enforce);
        let telemetry = TelemetryConfig {
            ebpf: self.get(&options.telemetry.ebpf_telemetry),
            max_containers: self.get(&options.telemetry.max_containers),
            half_life: self.get(&options.telemetry.telemetry_half_life),
            record: self.get(&options.telemetry.record),
            metrics: self.get(&options.telemetry.metrics_address),
            allowed_hosts: self.accumulate(
                &options.telemetry.metrics_allowed_hosts,
                Vec::new(),
                |hosts, list| values::host_names(list).map(|names| hosts.extend(names)),
            ),
        };
        let dump = DumpConfig {
            rules: self.accumulate(&options.dump.dump, DumpRules::default(), DumpRules::add),
            file: self.get(&options.dump.dump_file),
            format: self.get(&options.dump.dump_format),
            measured_lists: self.get(&options.dump.dump_measured_lists),
            secrets: self.get(&options.dump.dump_secrets),
            count_period: self.get(&options.dump.count_period),
        };
        let log = self.log(&options.log);
        if !self.get(&options.general.no_rdt) {
            self.notes
                .push("no-rdt=false has no effect: RDT is never touched".to_owned());
        }
        let general = &options.general;
        for option in [
            &general.resctrl_path.option,
            &general.trace.option,
            &general.cpu_allocator_debug.option,
        ] {
            if let Some((_, origin)) = self.raw.given(option).last() {
                self.notes
                    .push(format!("{option} has no effect here [{origin}]"));
            }
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

    fn relay(&mut self, options: &RelayOptions) -> RelayConfig {
        let before = self.problems.len();
        let runtime_socket = self.get(&options.runtime_socket);
        let image_socket = if options.image_socket.text.is_empty() {
            runtime_socket.clone()
        } else {
            self.get(&options.image_socket)
        };
        let legal = self.problems.len() == before;
        let relay_socket = self.get(&options.relay_socket);
        if [&runtime_socket, &image_socket].contains(&&Some(relay_socket.clone())) {
            self.problem(
                &options.relay_socket,
                "is the runtime's own socket; the relay needs another path",
            );
        }
        if legal && runtime_socket.is_none() && image_socket.is_none() {
            self.problem(
                &options.runtime_socket,
                "runtime and image service are both off: nothing to relay",
            );
        }
        RelayConfig {
            relay_socket,
            runtime_socket,
            image_socket,
            agent_socket: self.get(&options.agent_socket),
            config_socket: self.get(&options.config_socket),
            reset_config: self.get(&self.raw.options.enforce.reset_config),
            runtime_wait: self.get(&options.runtime_wait),
            runtime_timeout: self.get(&options.runtime_timeout),
            drain_timeout: self.get(&options.drain_timeout),
        }
    }

    fn policy(&mut self, options: &PolicyOptions, machine: Machine<'_>) -> PolicyConfig {
        let name = self.get(&options.policy);
        let available = self.cpus(&options.available_resources, machine);
        let reserved = self.cpus(&options.reserved_resources, machine);
        let available = match (available, options.available_resources.last()) {
            (Some(cpus), Some(last)) => {
                available_cpus(cpus, name, machine).unwrap_or_else(|message| {
                    self.problem(last, message);
                    None
                })
            }
            _ => None,
        };
        if let Some(last) = options.reserved_resources.last() {
            if let Some(reserved) = &reserved
                && let Err(message) = fits(reserved, &available.unwrap_or(machine.topology.online))
            {
                self.problem(last, message);
            }
        } else if name.needs_reserved_cpus() {
            let message = format!(
                "policy {name} needs CPUs set aside for system tasks, e.g. --reserved-resources cpu=1000m"
            );
            self.report("reserved-resources", "", Origin::Default, message);
        }
        let pools = &self.raw.options.pools;
        PolicyConfig {
            name,
            slices: StaticConfig {
                available,
                reserved,
                relaxed_isolation: self.get(&options.static_policy_relaxed_isolation),
                burstable_exclusive: self.get(&options.static_plus_burstable_exclusive),
                pin_memory: self.get(&options.pin_memory),
                ..StaticConfig::default()
            },
            pools: PoolsSource {
                pushed: None,
                file: self.get(&pools.static_pools_conf_file),
                dir: self.get(&pools.static_pools_conf_dir),
                origin: match self.raw.origin(&pools.static_pools_conf_file.option) {
                    Origin::Default => self.raw.origin(&pools.static_pools_conf_dir.option),
                    of_file => of_file,
                },
                label_node: self.get(&pools.static_pools_create_cmk_node_label),
                taint_node: self.get(&pools.static_pools_create_cmk_node_taint),
            },
            fail: self.accumulate(
                &options.fail_policy,
                FailPolicies::default(),
                FailPolicies::add,
            ),
            timeout: self.get(&options.policy_timeout),
            rebalance: self.get(&options.rebalance),
            reset: self.get(&self.raw.options.enforce.reset_policy),
        }
    }

    fn cpus(&mut self, values: &[RawValue<String>], machine: Machine<'_>) -> Option<Reserved> {
        let resources = self.accumulate(values, Resources::default(), Resources::add);
        let last = values.last()?;
        for domain in &resources.without_effect {
            self.notes.push(format!(
                "--{}: {domain} has no effect; only cpu has",
                last.option
            ));
        }
        on_machine(resources.cpu?, machine)
            .map_err(|message| self.problem(last, message))
            .ok()
    }

    fn enforce(&mut self, options: &EnforceOptions) -> EnforceConfig {
        let host_root = self.get(&options.host_root);
        let mount = self.get(&options.cgroup_mount);
        let below = mount.strip_prefix("/").unwrap_or(&mount);
        EnforceConfig {
            state_dir: self.get(&options.relay_dir),
            cgroup_mount: host_root.join(below),
            host_root,
            reconcile_interval: self.get(&options.reconcile_interval),
            restore_on_stop: self.get(&options.restore_on_stop),
            resources_file: self.get(&options.container_resources_file),
            fence_host: self.get(&options.fence_host),
        }
    }

    fn log(&mut self, options: &LogOptions) -> log::LogSettings {
        let back_end = self.get(&options.logger);
        let format = self.get(&options.log_format);
        let info = self.accumulate(&options.logger_source, Switches::all(), Switches::add);
        let debug = self.accumulate(&options.logger_debug, Switches::none(), Switches::add);
        self.notes.extend(retired_sources(&info, &debug));
        log::LogSettings {
            level: self.get(&options.logger_level),
            info,
            debug,
            prefix: self.get(&options.logger_prefix),
            format: match back_end {
                log::Format::Json => back_end,
                log::Format::Text => format,
            },
        }
    }
}

/// A note for each log source that was named in vain.
pub(super) fn retired_sources(info: &Switches, debug: &Switches) -> Vec<String> {
    let names = info.without_effect().chain(debug.without_effect());
    let note = |name| format!("log source {name} has no effect: nothing is logged under it");
    names.map(note).collect()
}

/// An amount of CPU on this machine.
pub(super) fn on_machine(amount: CpuAmount, machine: Machine<'_>) -> Result<Reserved, String> {
    let online = machine.topology.online;
    let check = |cpus: CpuSet, from: &str| {
        let missing = cpus.difference(&online);
        if cpus.is_empty() {
            Err(format!("{from} has no CPU"))
        } else if missing.is_empty() {
            Ok(Reserved::Set(cpus))
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
        CpuAmount::Quantity(milli) => Ok(Reserved::Quantity(milli)),
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

/// The CPUs that the policy of this name may use; `None`: every online one.
pub(super) fn available_cpus(
    cpus: Reserved,
    policy: PolicyName,
    machine: Machine<'_>,
) -> Result<Option<CpuSet>, &'static str> {
    match cpus {
        Reserved::Set(cpus) => Ok(Some(cpus).filter(|cpus| *cpus != machine.topology.online)),
        Reserved::Quantity(_) if policy == PolicyName::Null => Ok(None),
        Reserved::Quantity(_) => {
            Err("the policies need a CPU list, such as cpu=0-3, not an amount")
        }
    }
}

/// Whether the reserved CPUs lie within the available ones.
pub(super) fn fits(reserved: &Reserved, available: &CpuSet) -> Result<(), String> {
    let room = thousand(available.len());
    match reserved {
        Reserved::Set(reserved) if !reserved.is_subset(available) => Err(format!(
            "CPUs {} are not among the available ones ({available})",
            reserved.difference(available)
        )),
        Reserved::Quantity(MilliCpu(milli)) if u64::from(*milli) > room => Err(format!(
            "{milli}m is more than the available {room}m of CPU"
        )),
        _ => Ok(()),
    }
}

fn thousand(cpus: usize) -> u64 {
    cpus as u64 * 1000
}

#[cfg(test)]
pub(crate) mod tests;
