//! The crates that the programs are made of, as CycloneDX 1.5.

use super::release::{PROGRAMS, Release};
use crate::shell::{cargo, output};
use anyhow::{Context as _, Result};
use serde_json::json;
use std::{collections::BTreeSet, fs};

/// Writes `cri-resmgr-VERSION.cdx.json`.
pub(super) fn write(release: &Release) -> Result<()> {
    let mut command = cargo();
    command.args(["tree", "--locked", "--edges", "normal", "--prefix", "none"]);
    command.args(["--format", "{p}|{l}"]);
    for program in PROGRAMS {
        command.args(["-p", program]);
    }
    let tree = output(&mut command)?;
    let mut components = Vec::new();
    let lines: BTreeSet<_> = tree.lines().filter(|line| !line.is_empty()).collect();
    for line in lines {
        // `name v1.2.3 (/path/of/a/member)|licences`, with a mark behind what was shown before.
        let (package, licences) = line
            .split_once('|')
            .context("cargo tree has another format")?;
        let mut words = package.split_whitespace();
        let (Some(name), Some(version)) = (words.next(), words.next()) else {
            continue;
        };
        let version = version.trim_start_matches('v');
        // An older form of OR.
        let licences = licences.trim_end_matches(" (*)").replace('/', " OR ");
        if package.contains("(/") {
            continue; // a member of this workspace
        }
        let component = json!({
            "type": "library",
            "name": name,
            "version": version,
            "purl": format!("pkg:cargo/{name}@{version}"),
            "licenses": [{"expression": licences}],
        });
        if components.last() != Some(&component) {
            components.push(component);
        }
    }
    let document = json!({
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": {"component": {
            "type": "application",
            "name": "cri-resmgr",
            "version": release.version,
            "licenses": [{"expression": "Apache-2.0"}],
        }},
        "components": components,
    });
    let path = release
        .out
        .join(format!("cri-resmgr-{}.cdx.json", release.version));
    fs::write(path, serde_json::to_string_pretty(&document)? + "\n")?;
    Ok(())
}
