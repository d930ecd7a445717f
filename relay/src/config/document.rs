//! Run-time configuration: what the node agent pushes, or `check-config` reads.
//!
//! A document is a map from keys to YAML texts, the data of a ConfigMap. It is laid over the
//! configuration given at start; what it does not say is as at start. Checked as a whole: the result is a
//! [`Config`] legal on this machine, or every problem.

pub(super) mod section;

use super::{
    Config, FailPolicies, Machine, PolicyName, Problem, Problems,
    origin::Origin,
    resolve::{available_cpus, fits, on_machine, retired_sources},
    resources,
    value::FromText as _,
};
use crate::{
    dump::rule::DumpRules,
    log::{self, source::Switches},
    suggest, values,
};
use resmgr_policy::{RebalanceMode, Reserved};
use section::{Report, Section};
use serde_yaml::Value;
use std::{collections::BTreeMap, sync::Arc};

/// Keys a document may have; those of policies also with `.NODE` behind them.
const KEYS: &[&str] = &[
    "policy",
    "policy.static",
    "policy.static-plus",
    "policy.static-pools",
    "policy.stp",
    "rebalance",
    "dump",
    "logger",
];

/// A pushed configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Document {
    /// Where it came from, for people: `ConfigMap kube-system/cri-resmgr-config`.
    pub source: String,
    /// Its keys and their YAML texts.
    pub entries: BTreeMap<String, String>,
}

impl Document {
    /// Reads a file: a ConfigMap manifest, or its data, where values may be YAML themselves.
    ///
    /// # Errors
    /// When it is neither.
    pub fn from_file(text: &str, name: &str) -> Result<Self, Problems> {
        let mut report = Report::new(Origin::Document {
            source: name.into(),
            key: "".into(),
        });
        let mut document = Self {
            source: name.to_owned(),
            entries: BTreeMap::new(),
        };
        if let Some(mut section) = report.parse("", text) {
            let kind = section.text(&mut report, "kind");
            let data = match kind.as_deref() {
                Some("ConfigMap") => Some(section.take("data").unwrap_or_default()),
                Some(kind) => {
                    report.problem("kind", kind, "expected ConfigMap");
                    None
                }
                None => serde_yaml::from_str(text).ok(),
            };
            match data {
                Some(Value::Mapping(map)) => {
                    for (key, value) in map {
                        document.insert(&mut report, &key, value);
                    }
                }
                Some(Value::Null) | None => {}
                Some(_) => report.problem("data", "", "expected keys with YAML texts"),
            }
        }
        report.result(document)
    }

    fn insert(&mut self, report: &mut Report, key: &Value, value: Value) {
        let Some(key) = key.as_str() else {
            report.problem(&format!("{key:?}"), "", "expected a text as key");
            return;
        };
        let text = match value {
            Value::String(text) => text,
            yaml => serde_yaml::to_string(&yaml).unwrap_or_default(),
        };
        self.entries.insert(key.to_owned(), text);
    }
}

/// Lays a document over the configuration given at start.
///
/// # Errors
/// Everything wrong with it.
pub fn overlay(
    start: &Config,
    document: &Document,
    node: &str,
    machine: Machine<'_>,
) -> Result<Config, Problems> {
    let source: Arc<str> = document.source.as_str().into();
    let mut problems = Vec::new();
    let mut config = start.clone();
    config.notes.clear(); // those of the options were logged at start
    let chosen = choose(document, node, &source, &mut problems);
    for (module, (key, text)) in &chosen {
        let mut report = Report::new(Origin::Document {
            source: Arc::clone(&source),
            key: (*key).into(),
        });
        if *module == "rebalance" {
            config.policy.rebalance = rebalance(&mut report, text).unwrap_or_default();
        } else if let Some(section) = report.parse(module, text) {
            apply(module, section, &mut report, &mut config, machine);
        }
        problems.extend(report.problems);
    }
    if problems.is_empty() {
        let mut report = Report::new(Origin::Document {
            source,
            key: "policy".into(),
        });
        consistent(&mut report, &config, machine);
        problems.extend(report.problems);
    }
    if problems.is_empty() {
        Ok(config)
    } else {
        Err(Problems(problems))
    }
}

/// What must hold between settings.
fn consistent(report: &mut Report, config: &Config, machine: Machine<'_>) {
    const KEY: &str = "policy.ReservedResources.CPU";
    let policy = &config.policy;
    let available = policy.slices.available.unwrap_or(machine.topology.online);
    match &policy.slices.reserved {
        Some(reserved) => {
            if let Err(message) = fits(reserved, &available) {
                let typed = match reserved {
                    Reserved::Set(cpus) => cpus.to_string(),
                    Reserved::Quantity(milli) => format!("{milli}m"),
                };
                report.problem(KEY, &typed, &message);
            }
        }
        None if policy.name.needs_reserved_cpus() => {
            let message = format!(
                "policy {} needs CPUs set aside for system tasks, e.g. {{CPU: 1000m}}",
                policy.name
            );
            report.problem(KEY, "", &message);
        }
        None => {}
    }
}

/// For each module, the key that holds on this node and its text.
fn choose<'a>(
    document: &'a Document,
    node: &str,
    source: &Arc<str>,
    problems: &mut Vec<Problem>,
) -> BTreeMap<&'static str, (&'a str, &'a str)> {
    let mut chosen: BTreeMap<&'static str, (&str, &str)> = BTreeMap::new();
    let mut problem = |key: &str, message: String| {
        problems.push(Problem {
            key: key.to_owned(),
            value: String::new(),
            origin: Origin::Document {
                source: Arc::clone(source),
                key: key.into(),
            },
            message,
        });
    };
    for (key, text) in &document.entries {
        let typed = key.trim();
        let Some((module, suffix)) = module_of(typed) else {
            let keys = format!(" (keys: {})", KEYS.join(", "));
            let hint = suggest::hint(typed, KEYS.iter().copied(), &keys);
            problem(key, format!("unknown key{hint}"));
            continue;
        };
        if suffix.is_some_and(|suffix| suffix != node) {
            continue;
        }
        // Both names of the pools policy mean one module.
        let module = if module == "policy.stp" {
            "policy.static-pools"
        } else {
            module
        };
        match chosen.get(module).copied() {
            None => {
                chosen.insert(module, (key, text));
            }
            Some((earlier, _)) => {
                let specific =
                    |key: &str| module_of(key.trim()).is_some_and(|(_, suffix)| suffix.is_some());
                match (specific(earlier), suffix.is_some()) {
                    (false, true) => {
                        chosen.insert(module, (key, text));
                    }
                    (true, false) => {}
                    _ => problem(
                        key,
                        format!("means the same as key {earlier:?}; give one of them"),
                    ),
                }
            }
        }
    }
    chosen
}

/// The module a key names, and the node's name behind it.
fn module_of(key: &str) -> Option<(&'static str, Option<&str>)> {
    if let Some(module) = KEYS.iter().find(|module| **module == key) {
        return Some((module, None));
    }
    KEYS.iter()
        .filter(|module| module.starts_with("policy."))
        .find_map(|module| {
            let node = key.strip_prefix(module)?.strip_prefix('.')?;
            (!node.is_empty()).then_some((*module, Some(node)))
        })
}

fn rebalance(report: &mut Report, text: &str) -> Option<RebalanceMode> {
    let typed = match serde_yaml::from_str::<Value>(text) {
        Ok(Value::String(text)) => text,
        // YAML 1.1 habits: `off` and `on` may arrive as switches.
        Ok(Value::Bool(on)) => if on { "on" } else { "off" }.to_owned(),
        _ => text.trim().to_owned(),
    };
    RebalanceMode::from_text(&typed)
        .map_err(|expected| report.problem("rebalance", &typed, &expected))
        .ok()
}

fn apply(
    module: &str,
    mut section: Section,
    report: &mut Report,
    config: &mut Config,
    machine: Machine<'_>,
) {
    match module {
        "policy" => policy(section, report, config, machine),
        "policy.static" => {
            if let Some(on) = section.boolean(report, "RelaxedIsolation") {
                config.policy.slices.relaxed_isolation = on;
            }
            if let Some(rdt) = section.text(report, "Rdt")
                && values::boolean(&rdt) == Ok(true)
            {
                report.problem(
                    &section.at("Rdt"),
                    &rdt,
                    "RDT is not supported; use off or auto",
                );
            }
            section.finish(report, &["RelaxedIsolation", "Rdt"]);
        }
        "policy.static-plus" => {
            if let Some(on) = section.boolean(report, "BurstableExclusive") {
                config.policy.slices.burstable_exclusive = on;
            }
            section.finish(report, &["BurstableExclusive"]);
        }
        "policy.static-pools" => {
            if let Some(pools) = section.take("pools") {
                let path = section.at("pools");
                let pools = super::pools::read(report, &path, pools, machine.topology);
                config.policy.pools.pushed = Some(pools);
            }
            if let Some(on) = section.boolean(report, "LabelNode") {
                config.policy.pools.label_node = on;
            }
            if let Some(on) = section.boolean(report, "TaintNode") {
                config.policy.pools.taint_node = on;
            }
            section.finish(report, &["pools", "LabelNode", "TaintNode"]);
        }
        "dump" => dump(section, report, config),
        _ => logger(section, report, config),
    }
}

fn policy(mut section: Section, report: &mut Report, config: &mut Config, machine: Machine<'_>) {
    let policy = &mut config.policy;
    if let Some(name) = section.parsed(report, "Active", str::parse::<PolicyName>) {
        policy.name = name;
    }
    if let Some(cpus) = cpus(&mut section, report, "AvailableResources", machine) {
        match available_cpus(cpus, policy.name, machine) {
            Ok(available) => policy.slices.available = available,
            Err(message) => report.problem("policy.AvailableResources.CPU", "", message),
        }
    }
    if let Some(cpus) = cpus(&mut section, report, "ReservedResources", machine) {
        policy.slices.reserved = Some(cpus);
    }
    if let Some(on) = section.boolean(report, "PinMemory") {
        policy.slices.pin_memory = on;
    }
    if let Some(lists) = section.texts(report, "FailPolicy") {
        let mut fail = FailPolicies::default();
        for list in lists {
            if let Err(error) = fail.add(&list) {
                report.problem(&section.at("FailPolicy"), &list, &error);
            }
        }
        policy.fail = fail;
    }
    if let Some(timeout) = section.parsed(report, "Timeout", values::positive_duration) {
        policy.timeout = timeout;
    }
    section.finish(
        report,
        &[
            "Active",
            "AvailableResources",
            "ReservedResources",
            "PinMemory",
            "FailPolicy",
            "Timeout",
        ],
    );
}

fn cpus(
    section: &mut Section,
    report: &mut Report,
    key: &str,
    machine: Machine<'_>,
) -> Option<Reserved> {
    let value = section.take(key)?;
    let path = section.at(key);
    let mut fields = Section::new(report, &path, value)?;
    let cpus = fields.parsed(report, "CPU", |text| {
        on_machine(resources::cpu(text)?, machine)
    });
    fields.finish(report, &["CPU"]);
    cpus
}

fn dump(mut section: Section, report: &mut Report, config: &mut Config) {
    if let Some(specs) = section.texts(report, "Config") {
        let mut rules = DumpRules::default();
        for spec in specs {
            if let Err(error) = rules.add(&spec) {
                report.problem(&section.at("Config"), &spec, &error.to_string());
            }
        }
        config.dump.rules = rules;
    }
    if section.boolean(report, "Disabled") == Some(true) {
        config.dump.rules = DumpRules::empty();
    }
    // The cluster must not name files that root empties, nor open the node's secrets.
    for (key, option) in [("File", "--dump-file"), ("Secrets", "--dump-secrets")] {
        if let Some(typed) = section.text(report, key) {
            let message = format!("can only be given at start, with {option}");
            report.problem(&section.at(key), &typed, &message);
        }
    }
    section.finish(report, &["Config", "Disabled"]);
}

fn logger(mut section: Section, report: &mut Report, config: &mut Config) {
    if let Some(level) = section.parsed(report, "Level", str::parse::<log::Level>) {
        config.log.level = level;
    }
    let mut switches = |section: &mut Section, key: &str, start: Switches| {
        let lists = section.texts(report, key)?;
        let mut switches = start;
        for list in lists {
            if let Err(error) = switches.add(&list) {
                report.problem(&section.at(key), &list, &error);
            }
        }
        Some(switches)
    };
    if let Some(info) = switches(&mut section, "LogSource", Switches::all()) {
        config.log.info = info;
    }
    if let Some(debug) = switches(&mut section, "Debug", Switches::none()) {
        config.log.debug = debug;
    }
    let (info, debug) = (&config.log.info, &config.log.debug);
    config.notes.extend(retired_sources(info, debug));
    section.finish(report, &["Level", "LogSource", "Debug"]);
}

#[cfg(test)]
mod tests;
