//! Which module of the daemon may import which: the table that docs/architecture.md shows; circles of imports;
//! types that share a name.

use super::{
    doc_table::DocTable,
    imports::{Modules, circles},
};
use anyhow::{Context, Result};
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write,
    fs,
    path::Path,
};

/// The crates of the product, by the folder of their code.
const CRATES: [&str; 11] = [
    "common/src",
    "ebpf/src",
    "relay/agent/src",
    "relay/io/src",
    "relay/kubectl/src",
    "relay/policy/src",
    "relay/sim/src",
    DAEMON,
    "relay/topology/src",
    "relay/webhook/src",
    "xtask/src",
];

/// The crate whose modules are a table.
const DAEMON: &str = "relay/src";

/// Where the table is shown.
pub(super) const DOC_TABLE: DocTable = DocTable {
    document: "docs/architecture.md",
    name: "modules",
    table,
};

/// One module of the daemon.
struct Row {
    name: &'static str,
    purpose: &'static str,
    /// What no other module does.
    alone: &'static str,
    imports: &'static [&'static str],
}

/// From the wiring down to the modules that import none.
const MODULES: &[Row] = &[
    Row {
        name: "daemon",
        purpose: "tasks, signals, order of start and stop",
        alone: "spawn tasks, bring all others together",
        imports: &[
            "cli",
            "config",
            "control",
            "cri",
            "discover",
            "dump",
            "enforce",
            "inspect",
            "install",
            "intercept",
            "ledger",
            "log",
            "manager",
            "metrics",
            "record",
            "telemetry",
        ],
    },
    Row {
        name: "intercept",
        purpose: "the calls a policy cares about: read, handed to the manager, changed",
        alone: "bring CRI and the manager together",
        imports: &["cri", "enforce", "manager"],
    },
    Row {
        name: "manager",
        purpose: "the one task that owns all containers; reservations; synchronisation",
        alone: "change the placement",
        imports: &["config", "enforce", "ledger", "log"],
    },
    Row {
        name: "cri",
        purpose: "server, upstream, raw forwarding, overlay, client",
        alone: "speak CRI: tonic, hyper, h2, k8s-cri",
        imports: &[],
    },
    Row {
        name: "control",
        purpose: "configuration pushed at run time; client of the agent",
        alone: "speak our own API",
        imports: &["config"],
    },
    Row {
        name: "dump",
        purpose: "what flies by, redacted, bounded",
        alone: "write the dump file",
        imports: &["config", "cri", "log"],
    },
    Row {
        name: "metrics",
        purpose: "the metrics page",
        alone: "",
        imports: &["cri", "manager", "telemetry"],
    },
    Row {
        name: "inspect",
        purpose: "state, explain, top, status page",
        alone: "",
        imports: &["telemetry"],
    },
    Row {
        name: "install",
        purpose: "the relay put between a node's kubelet and its runtime, and taken out",
        alone: "change the node's files and units",
        imports: &[],
    },
    Row {
        name: "enforce",
        purpose: "order of writes, undo, reconcile",
        alone: "write under the cgroup mount",
        imports: &[],
    },
    Row {
        name: "ledger",
        purpose: "what is kept on disk, checksummed",
        alone: "write state files",
        imports: &[],
    },
    Row {
        name: "telemetry",
        purpose: "load, read and smooth → `Measured`",
        alone: "use aya, hold `unsafe`",
        imports: &["enforce"],
    },
    Row {
        name: "discover",
        purpose: "the machine, hwloc XML or a description → `Topology`",
        alone: "use hwlocality, read sysfs",
        imports: &[],
    },
    Row {
        name: "record",
        purpose: "what the policy is asked, for the simulator",
        alone: "write the trace",
        imports: &[],
    },
    Row {
        name: "cli",
        purpose: "words as typed",
        alone: "read the command line",
        imports: &["config", "log", "suggest"],
    },
    Row {
        name: "config",
        purpose: "what was typed, pushed or written in a file → legal values",
        alone: "",
        imports: &["dump", "log", "suggest", "values"],
    },
    Row {
        name: "log",
        purpose: "lines by source and level",
        alone: "write the log",
        imports: &["suggest", "values"],
    },
    Row {
        name: "values",
        purpose: "texts of durations, switches, sizes and lists → values",
        alone: "",
        imports: &["suggest"],
    },
    Row {
        name: "suggest",
        purpose: "the name that was probably meant",
        alone: "",
        imports: &[],
    },
];

/// Types of one name in several modules of the product, and why that is no confusion.
const SAME_NAME: &[(&str, &str)] = &[];

/// Everything that is wrong with the files `listed`, paths below `root`.
///
/// # Errors
/// When a file cannot be read as Rust code.
pub(super) fn findings(root: &Path, listed: &[&str]) -> Result<Vec<String>> {
    let mut found = Vec::new();
    let mut types: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for folder in CRATES {
        let modules = read(root, folder, listed)?;
        let imports = modules.imports();
        for circle in circles(&imports) {
            let among = imports
                .iter()
                .filter(|(from, to)| circle.contains(from) && circle.contains(to));
            let among: Vec<_> = among.map(|(from, to)| format!("{from} → {to}")).collect();
            found.push(format!(
                "{folder}: modules import each other in a circle: {}",
                among.join(", ")
            ));
        }
        if folder == DAEMON {
            found.extend(outside_table(&imports));
        }
        if folder != "xtask/src" {
            for (name, module) in modules.types() {
                let at = format!("{folder} {module}");
                types.entry(name.to_owned()).or_default().push(at);
            }
        }
    }
    for (name, places) in types.into_iter().filter(|(_name, places)| places.len() > 1) {
        if !SAME_NAME.iter().any(|(same, _why)| *same == name) {
            found.push(format!("type {name} is defined in {}", places.join(", ")));
        }
    }
    Ok(found)
}

/// The table as [`DOC_TABLE`] has it.
fn table() -> String {
    let mut table = String::from(
        "\n| module | what for | imports | what it alone may do |\n| --- | --- | --- | --- |\n",
    );
    for row in MODULES {
        let imports = match row.name {
            "daemon" => "all".to_owned(),
            _ => row.imports.join(", "),
        };
        let _never_fails = writeln!(
            table,
            "| `{DAEMON}/{}` | {} | {imports} | {} |",
            row.name, row.purpose, row.alone
        );
    }
    table + "\n"
}

/// Imports that the table does not allow, and entries of it that nothing uses.
fn outside_table(imports: &BTreeSet<(String, String)>) -> Vec<String> {
    let top = |module: &str| module.split("::").next().unwrap_or_default().to_owned();
    let mut found = Vec::new();
    let mut used = BTreeSet::new();
    for (from, to) in imports {
        let (from_top, to_top) = (top(from), top(to));
        if from_top == to_top || from_top == "crate" {
            continue;
        }
        let row = MODULES.iter().find(|row| row.name == from_top);
        if row.is_some_and(|row| row.imports.contains(&to_top.as_str())) {
            used.insert((from_top, to_top));
        } else {
            found.push(format!(
                "{DAEMON}: {from} imports {to}; the table of modules does not allow {from_top} to import {to_top}"
            ));
        }
    }
    for row in MODULES {
        for import in row.imports {
            if !used.contains(&(row.name.to_owned(), (*import).to_owned())) {
                found.push(format!(
                    "{DAEMON}: the table of modules allows {} to import {import}, which it does not",
                    row.name
                ));
            }
        }
    }
    found
}

fn read(root: &Path, folder: &str, listed: &[&str]) -> Result<Modules> {
    let texts: Vec<_> = listed
        .iter()
        .filter_map(|path| {
            let below = path.strip_prefix(folder)?.strip_prefix('/')?;
            let apart = below.starts_with("bin/");
            (below.ends_with(".rs") && !apart).then_some((*path, below))
        })
        .map(|(path, below)| {
            let text = fs::read_to_string(root.join(path));
            text.map(|text| (below, text))
                .with_context(|| format!("cannot read {path}"))
        })
        .collect::<Result<_>>()?;
    Modules::read(texts.iter().map(|(below, text)| (*below, text.as_str())))
        .with_context(|| format!("in {folder}"))
}
