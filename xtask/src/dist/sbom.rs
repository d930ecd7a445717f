//! The crates that the programs and the BPF object in them are made of, as CycloneDX 1.5.

use super::release::{PROGRAMS, Release};
use crate::shell::{cargo, output};
use anyhow::{Context as _, Result};
use serde_json::{Value, json};
use std::{collections::BTreeMap, fs, process::Command};

/// Writes `cri-resmgr-VERSION.cdx.json`: what is in any program for any of the targets.
pub(super) fn write(release: &Release, targets: &[String]) -> Result<()> {
    let mut programs = tree();
    for program in PROGRAMS {
        programs.args(["-p", program]);
    }
    for target in targets {
        programs.args(["--target", target]);
    }
    let mut object = tree();
    object.args(["--manifest-path", "ebpf/Cargo.toml"]);
    object.args(["--target", "bpfel-unknown-none"]);
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
        "components": components(&(output(&mut programs)? + &output(&mut object)?))?,
    });
    let path = release.out.join(format!("{}.cdx.json", release.name()));
    fs::write(path, serde_json::to_string_pretty(&document)? + "\n")?;
    Ok(())
}

/// Prints a crate a line, in the format that [`components`] reads.
fn tree() -> Command {
    let mut command = cargo();
    command.args(["tree", "--locked", "--edges", "normal", "--prefix", "none"]);
    command.args(["--format", "{p}|{l}"]);
    command
}

/// Each crate of `name v1.2.3 (proc-macro)|licences` once; members of this workspace have a folder behind the version.
fn components(tree: &str) -> Result<Vec<Value>> {
    let mut components = BTreeMap::new();
    for line in tree.lines().filter(|line| !line.is_empty()) {
        let (package, licences) = line
            .split_once('|')
            .context("cargo tree has another format")?;
        let mut words = package.split_whitespace();
        let (Some(name), Some(version)) = (words.next(), words.next()) else {
            continue;
        };
        if package.contains("(/") {
            continue;
        }
        let version = version.trim_start_matches('v');
        // A mark of what was shown before; a slash is an older form of OR.
        let licences = licences.trim_end_matches(" (*)").split('/');
        let licences: Vec<_> = licences.map(str::trim).collect();
        let component = json!({
            "type": "library",
            "name": name,
            "version": version,
            "purl": format!("pkg:cargo/{name}@{version}"),
            "licenses": [{"expression": licences.join(" OR ")}],
        });
        components.insert((name, version), component);
    }
    Ok(components.into_values().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_crate_from_outside_is_there_once_with_its_licences() {
        let tree = "cri-resmgr v0.1.0 (/source/relay)|Apache-2.0\n\nlibc v0.2.1|MIT/Apache-2.0\n\
                    syn v2.0.1 (proc-macro)|MIT\nsyn v1.0.0|MIT\nlibc v0.2.1|MIT/Apache-2.0 (*)\n";
        let components = components(tree).unwrap();
        let shown: Vec<_> = components
            .iter()
            .map(|component| {
                (
                    component["purl"].as_str().unwrap(),
                    component["licenses"][0]["expression"].as_str().unwrap(),
                )
            })
            .collect();
        let expected = [
            ("pkg:cargo/libc@0.2.1", "MIT OR Apache-2.0"),
            ("pkg:cargo/syn@1.0.0", "MIT"),
            ("pkg:cargo/syn@2.0.1", "MIT"),
        ];
        assert_eq!(shown, expected);
    }
}
