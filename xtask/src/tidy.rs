//! `cargo xtask tidy`: the rules of docs/architecture.md that the compiler cannot hold.
//!
//! Imports between modules, words, lints in every package, no generated or machine-bound text, module style, links of
//! documents.

mod doc_table;
mod imports;
mod links;
mod modules;
mod words;

use crate::shell::{output, root};
use anyhow::{Context, Result, bail};
use doc_table::DocTable;
use std::{path::Path, process::Command};

/// A crate (or module) that only some folders may name.
struct Rule {
    /// What may not be named elsewhere: the first segment(s) of a path in Rust code.
    words: &'static [&'static str],
    /// Where it may, as prefixes of paths from the root.
    only: &'static [&'static str],
    /// What the folders are for.
    why: &'static str,
}

/// Tests, benches and tools stand outside the product's layers.
const OUTSIDE: [&str; 8] = [
    "tests/",
    "xtask/",
    "relay/fuzz/",
    "relay/benches/",
    "relay/tests/",
    "relay/agent/tests/",
    "relay/webhook/tests/",
    "proto/",
];

const RULES: &[Rule] = &[
    Rule {
        words: &["tonic::", "h2::", "k8s_cri::"],
        only: &[
            "relay/src/cri",
            "relay/src/control",
            "relay/src/daemon",
            "relay/agent/",
            "relay/webhook/",
        ],
        why: "speak CRI or our own API",
    },
    Rule {
        words: &["hyper::", "hyper_util::"],
        only: &[
            "relay/src/cri",
            "relay/src/control",
            "relay/src/inspect",
            "relay/src/daemon",
            "relay/agent/",
            "relay/io/",
            "relay/webhook/",
        ],
        why: "speak HTTP",
    },
    Rule {
        words: &["resmgr_proto::"],
        only: &["relay/src/control", "relay/agent/", "relay/kubectl/"],
        why: "speak our own API",
    },
    Rule {
        words: &["cgroups_rs::"],
        only: &["relay/src/enforce"],
        why: "write cgroups",
    },
    Rule {
        words: &["aya::", "aya_log::"],
        only: &["relay/src/telemetry", "common/"],
        why: "load BPF programs",
    },
    Rule {
        words: &["hwlocality::"],
        only: &["relay/src/discover"],
        why: "look at the machine's topology",
    },
    Rule {
        words: &["kube::", "k8s_openapi::"],
        only: &["relay/agent/", "relay/kubectl/", "relay/webhook/"],
        why: "speak to the API server",
    },
    Rule {
        words: &["rustls::", "tokio_rustls::"],
        only: &["relay/webhook/", "relay/agent/"],
        why: "serve TLS",
    },
];

/// Tables of this check that documents show.
const DOC_TABLES: [DocTable; 2] = [modules::DOC_TABLE, words::DOC_TABLE];

/// Runs every check and lists all that is wrong.
///
/// # Errors
/// When something is wrong.
pub(crate) fn run(write: bool) -> Result<()> {
    if write {
        for table in DOC_TABLES {
            table.write(&root())?;
        }
    }
    let found = findings(&root())?;
    if found.is_empty() {
        println!("tidy: nothing to complain about");
        return Ok(());
    }
    for finding in &found {
        println!("{finding}");
    }
    bail!("{} findings", found.len())
}

fn findings(root: &Path) -> Result<Vec<String>> {
    let listed = output(
        Command::new("git")
            .args(["ls-files", "--cached", "--others", "--exclude-standard"])
            .current_dir(root),
    )?;
    let exist: Vec<_> = listed
        .lines()
        .filter(|path| root.join(path).is_file())
        .collect();
    let mut found = modules::findings(root, &exist)?;
    found.extend(links::findings(root, &exist)?);
    for table in DOC_TABLES {
        found.extend(table.finding(root)?);
    }
    for path in exist {
        let Ok(text) = std::fs::read_to_string(root.join(path)) else {
            continue; // binary, or deleted and not committed yet
        };
        match path.rsplit('.').next() {
            Some("rs") => {
                rust(path, &text, &mut found);
                found.extend(
                    words::findings(path, &text).with_context(|| format!("cannot read {path}"))?,
                );
            }
            Some("toml") if path.ends_with("Cargo.toml") => manifest(path, &text, &mut found),
            _ => {}
        }
    }
    Ok(found)
}

fn rust(path: &str, text: &str, found: &mut Vec<String>) {
    if path.ends_with("/mod.rs") {
        found.push(format!(
            "{path}: a module is foo.rs beside foo/, never mod.rs"
        ));
    }
    let tests = path.ends_with("tests.rs") || path.contains("/tests/");
    let lines = text.lines().count();
    if lines > 700 && !tests {
        found.push(format!("{path}: {lines} lines; a file has 700 at most"));
    }
    if tests || OUTSIDE.iter().any(|folder| path.starts_with(folder)) {
        return;
    }
    for (number, line) in text.lines().enumerate() {
        let code = line.trim_start();
        if code.starts_with("//") {
            continue;
        }
        for rule in RULES {
            let allowed = rule.only.iter().any(|prefix| path.starts_with(prefix));
            if !allowed && let Some(word) = rule.words.iter().find(|word| names(code, word)) {
                found.push(format!(
                    "{path}:{}: {word} belongs to {}, which alone may {}",
                    number + 1,
                    rule.only.join(", "),
                    rule.why
                ));
            }
        }
    }
}

/// Whether `code` names the path `word`: not in a text, nor as the end of a longer name.
fn names(code: &str, word: &str) -> bool {
    code.match_indices(word).any(|(at, _)| {
        let quoted = code[..at].matches('"').count() % 2 == 1;
        !quoted
            && code[..at]
                .chars()
                .next_back()
                .is_none_or(|before| !before.is_alphanumeric() && before != '_' && before != ':')
    })
}

fn manifest(path: &str, text: &str, found: &mut Vec<String>) {
    let package = text.lines().any(|line| line.trim() == "[package]");
    let own_workspace = ["ebpf/", "relay/fuzz/"].iter().any(|f| path.starts_with(f));
    if package && !own_workspace && !text.contains("[lints]\nworkspace = true") {
        found.push(format!("{path}: lacks [lints] workspace = true"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn complaints(path: &str, text: &str) -> Vec<String> {
        let mut found = Vec::new();
        rust(path, text, &mut found);
        found
    }

    #[test]
    fn an_import_outside_its_layer_is_found() {
        let found = complaints(
            "relay/policy/src/state.rs",
            "use std::fmt;\nuse aya::Ebpf;\n",
        );
        assert_eq!(found.len(), 1);
        assert!(
            found[0].starts_with("relay/policy/src/state.rs:2: aya::"),
            "{found:?}"
        );
    }

    #[test]
    fn an_import_inside_its_layer_a_comment_and_a_longer_name_are_not() {
        assert!(complaints("relay/src/telemetry/load.rs", "use aya::Ebpf;").is_empty());
        assert!(complaints("relay/src/ledger.rs", "// see aya::Ebpf").is_empty());
        assert!(complaints("relay/src/ledger.rs", "use malaya::Ebpf;").is_empty());
    }

    #[test]
    fn a_package_without_our_lints_is_found() {
        let mut found = Vec::new();
        manifest("relay/Cargo.toml", "[package]\nname = \"x\"\n", &mut found);
        assert_eq!(found.len(), 1);
    }
}
