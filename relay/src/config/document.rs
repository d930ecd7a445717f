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
use resmgr_policy::{PoolsConfig, RebalanceMode, Reserved};
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

/// Keys of CRI Resource Manager for what does not exist here, alone or with more behind a dot.
const WITHOUT_EFFECT: &[&str] = &[
    "policy.balloons",
    "policy.dynamic-pools",
    "policy.eda",
    "policy.memtier",
    "policy.podpools",
    "policy.topology-aware",
    "blockio",
    "control",
    "cpu",
    "instrumentation",
    "rdt",
    "resource-manager",
];

/// The fields of a module.
fn fields(module: &str) -> &'static [&'static str] {
    match module {
        "policy" => &[
            "Active",
            "AvailableResources",
            "ReservedResources",
            "PinMemory",
            "FailPolicy",
            "Timeout",
        ],
        "policy.static" => &["RelaxedIsolation", "Rdt"],
        "policy.static-plus" => &["BurstableExclusive"],
        "policy.static-pools" | "policy.stp" => &["pools", "LabelNode", "TaintNode"],
        "dump" => &["Config", "Disabled"],
        "logger" => &["Level", "LogSource", "Debug"],
        _ => &[],
    }
}

/// Fields of CRI Resource Manager that have no effect in a document, and the option that has.
fn fields_without_effect(module: &str) -> &'static [(&'static str, &'static str)] {
    match module {
        "policy.static-pools" | "policy.stp" => &[
            ("ConfFilePath", "--static-pools-conf-file"),
            ("ConfDirPath", "--static-pools-conf-dir"),
        ],
        // The cluster must not name files that root empties.
        "dump" => &[("File", "--dump-file"), ("Debug", "")],
        "logger" => &[("Klog", "")],
        _ => &[],
    }
}

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
    let chosen = choose(document, node, &source, &mut problems, &mut config.notes);
    for (module, texts) in &chosen {
        let text = texts.text.unwrap_or_default();
        let mut report = Report::new(Origin::Document {
            source: Arc::clone(&source),
            key: texts.key.into(),
        });
        if *module == "rebalance" {
            config.policy.rebalance = rebalance(&mut report, text).unwrap_or_default();
        } else if let Some(mut section) = report.parse(module, text) {
            // The node's own key beats single fields too.
            for (field, text) in texts.fields.iter().filter(|_field| !texts.specific) {
                section.add(&mut report, field, text);
            }
            let policies = match *module {
                "policy" => policies_within(&mut section, &mut report, &chosen),
                _ => Vec::new(),
            };
            apply(module, section, &mut report, &mut config, machine);
            for (policy, section) in policies {
                apply(policy, section, &mut report, &mut config, machine);
            }
        }
        problems.extend(report.problems);
        config.notes.extend(report.notes);
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

/// What a document says of a module on this node.
#[derive(Debug, Default)]
struct ModuleTexts<'a> {
    /// The key that holds, or the first of a single field.
    key: &'a str,
    text: Option<&'a str>,
    /// Whether the key names the node.
    specific: bool,
    /// Fields with a key of their own (`logger.Debug`), and their texts.
    fields: Vec<(&'a str, &'a str)>,
}

/// A key of a document.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Key<'a> {
    /// A module on every node, or on that of this name.
    Module(&'static str, Option<&'a str>),
    /// A field of a module, with the fields within it behind dots.
    Field(&'static str, &'a str),
    WithoutEffect,
    Unknown,
}

/// For each module, what holds on this node.
fn choose<'a>(
    document: &'a Document,
    node: &str,
    source: &Arc<str>,
    problems: &mut Vec<Problem>,
    notes: &mut Vec<String>,
) -> BTreeMap<&'static str, ModuleTexts<'a>> {
    let mut chosen: BTreeMap<&'static str, ModuleTexts<'_>> = BTreeMap::new();
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
        let (module, suffix) = match Key::of(typed, node) {
            Key::Module(module, suffix) => (module, suffix),
            Key::Field(module, field) => {
                let texts = chosen.entry(module).or_default();
                texts.fields.push((field, text));
                if texts.key.is_empty() {
                    texts.key = key;
                }
                continue;
            }
            Key::WithoutEffect => {
                notes.push(format!("{typed} has no effect: it does not exist here"));
                continue;
            }
            Key::Unknown => {
                let keys = format!(" (keys: {})", KEYS.join(", "));
                let hint = suggest::hint(typed, KEYS.iter().copied(), &keys);
                problem(key, format!("unknown key{hint}"));
                continue;
            }
        };
        if suffix.is_some_and(|suffix| suffix != node) {
            continue;
        }
        let texts = chosen.entry(module).or_default();
        let whole = ModuleTexts {
            key,
            text: Some(text),
            specific: suffix.is_some(),
            fields: std::mem::take(&mut texts.fields),
        };
        match (texts.text.is_none(), texts.specific, suffix.is_some()) {
            (true, _, _) | (false, false, true) => *texts = whole,
            (false, true, false) => texts.fields = whole.fields,
            _ => {
                texts.fields = whole.fields;
                problem(key, same_meaning(texts.key));
            }
        }
    }
    chosen
}

fn same_meaning(key: &str) -> String {
    format!("means the same as key {key:?}; give one of them")
}

impl<'a> Key<'a> {
    fn of(typed: &'a str, node: &str) -> Self {
        if let Some(module) = KEYS.iter().find(|module| **module == typed) {
            return Self::Module(canonical(module), None);
        }
        for module in KEYS {
            let Some(rest) = typed
                .strip_prefix(module)
                .and_then(|rest| rest.strip_prefix('.'))
                .filter(|rest| !rest.is_empty())
            else {
                continue;
            };
            // Names of nodes have no capitals, and those of fields have, but for `pools`.
            let field = rest.split('.').next().unwrap_or_default();
            let without_effect = fields_without_effect(module).iter().map(|(name, _)| name);
            if rest != node
                && fields(module)
                    .iter()
                    .chain(without_effect)
                    .any(|name| *name == field)
            {
                return Self::Field(canonical(module), rest);
            }
            if module.starts_with("policy.") {
                return Self::Module(canonical(module), Some(rest));
            }
        }
        let begins = |name: &&&str| {
            let rest = typed.strip_prefix(**name);
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
        };
        match WITHOUT_EFFECT.iter().find(begins) {
            Some(_) => Self::WithoutEffect,
            None => Self::Unknown,
        }
    }
}

/// Both names of the pools policy mean one module.
fn canonical(module: &'static str) -> &'static str {
    match module {
        "policy.stp" => "policy.static-pools",
        module => module,
    }
}

/// Takes the sections of policies out that stand within that of `policy`.
fn policies_within(
    section: &mut Section,
    report: &mut Report,
    chosen: &BTreeMap<&'static str, ModuleTexts<'_>>,
) -> Vec<(&'static str, Section)> {
    let mut found: Vec<(&'static str, Section)> = Vec::new();
    for key in KEYS {
        let Some(name) = key.strip_prefix("policy.") else {
            continue;
        };
        let Some(value) = section.take(name) else {
            continue;
        };
        let module = canonical(key);
        match chosen.get(module) {
            Some(apart) if apart.specific => continue,
            Some(apart) => report.problem(key, "", &same_meaning(apart.key)),
            None if found.iter().any(|(earlier, _)| *earlier == module) => {
                report.problem(key, "", &same_meaning(module));
            }
            None => found.extend(Section::new(report, module, value).map(|found| (module, found))),
        }
    }
    for key in WITHOUT_EFFECT {
        if let Some(name) = key.strip_prefix("policy.")
            && section.take(name).is_some()
        {
            let note = format!("{key} has no effect: it does not exist here");
            report.notes.push(note);
        }
    }
    found
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
        "policy" => policy(&mut section, report, config, machine),
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
        }
        "policy.static-plus" => {
            if let Some(on) = section.boolean(report, "BurstableExclusive") {
                config.policy.slices.burstable_exclusive = on;
            }
        }
        "policy.static-pools" => {
            if let Some(pools) = section.take("pools") {
                let path = section.at("pools");
                config.policy.pools.pushed = pools_for(report, &path, pools, config, machine);
            }
            if let Some(on) = section.boolean(report, "LabelNode") {
                config.policy.pools.label_node = on;
            }
            if let Some(on) = section.boolean(report, "TaintNode") {
                config.policy.pools.taint_node = on;
            }
        }
        "dump" => dump(&mut section, report, config),
        _ => logger(&mut section, report, config),
    }
    section.without_effect(report, fields_without_effect(module));
    section.finish(report, fields(module));
}

/// Pools that are legal on this machine. Of a policy that is not active it is only noted where they are not: a
/// document may be for machines of several kinds.
fn pools_for(
    report: &mut Report,
    path: &str,
    value: Value,
    config: &Config,
    machine: Machine<'_>,
) -> Option<PoolsConfig> {
    let pools = super::pools::read(report, path, value)?;
    let mut unfit = Report::new(report.origin.clone());
    super::pools::check(&mut unfit, path, &pools, machine.topology);
    if config.policy.name == PolicyName::StaticPools {
        report.problems.extend(unfit.problems);
        return Some(pools);
    }
    let notes = unfit.problems.iter();
    let notes = notes.map(|problem| format!("{} has no effect: {}", problem.key, problem.message));
    report.notes.extend(notes);
    unfit.problems.is_empty().then_some(pools)
}

fn policy(section: &mut Section, report: &mut Report, config: &mut Config, machine: Machine<'_>) {
    let policy = &mut config.policy;
    if section.is_null("Active") {
        let message = "YAML's null is no value: write \"null\" in quotes, or leave the field out";
        report.problem(&section.at("Active"), "", message);
    }
    if let Some(name) = section.parsed(report, "Active", str::parse::<PolicyName>) {
        policy.name = name;
    }
    if let Some(cpus) = cpus(section, report, "AvailableResources", machine) {
        match available_cpus(cpus, policy.name, machine) {
            Ok(available) => policy.slices.available = available,
            Err(message) => report.problem("policy.AvailableResources.CPU", "", message),
        }
    }
    if let Some(cpus) = cpus(section, report, "ReservedResources", machine) {
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

fn dump(section: &mut Section, report: &mut Report, config: &mut Config) {
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
    // The cluster must not open the node's secrets.
    if let Some(typed) = section.text(report, "Secrets") {
        let message = "can only be given at start, with --dump-secrets";
        report.problem(&section.at("Secrets"), &typed, message);
    }
}

fn logger(section: &mut Section, report: &mut Report, config: &mut Config) {
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
    if let Some(info) = switches(section, "LogSource", Switches::all()) {
        config.log.info = info;
    }
    if let Some(debug) = switches(section, "Debug", Switches::none()) {
        config.log.debug = debug;
    }
    let (info, debug) = (&config.log.info, &config.log.debug);
    config.notes.extend(retired_sources(info, debug));
}

#[cfg(test)]
mod tests;
