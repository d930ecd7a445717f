//! What the documentation tells people to type, and what `deploy/` holds, word for word.
#![expect(clippy::unwrap_used, reason = "a test program: helpers fail the test")]

use resmgr_tests::{
    agent::{Agent, Receiver},
    apiserver::{self, ApiServer, repository},
    built,
    cluster::SOON,
    eventually, installed,
    skip::skip,
};
use std::{
    path::{Path, PathBuf},
    process::Command,
};

fn start(what: &str) -> Option<ApiServer> {
    if let Some(why) = apiserver::missing() {
        skip(what, &why);
        return None;
    }
    Some(ApiServer::start().unwrap())
}

/// The command lines of a page that begin with a program's name; a `\` at the end goes on.
fn command_lines(page: &str, program: &str) -> Vec<String> {
    let text = std::fs::read_to_string(repository().join(page)).unwrap();
    let joined = text.replace("\\\n", " ");
    let lines = joined.lines().filter_map(|line| line.strip_prefix("    "));
    let own = lines.filter(|line| line.starts_with(&format!("{program} ")));
    own.map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
        .collect()
}

fn files(folder: &str, ends: &str) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(repository().join(folder)).unwrap();
    let mut files: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    files.retain(|path| path.display().to_string().ends_with(ends));
    files.sort();
    files
}

#[tokio::test(flavor = "multi_thread")]
async fn the_readmes_way_to_configure_a_cluster_works_as_typed() {
    let Some(api) = start("the README's kubectl lines") else {
        return;
    };
    api.apply(r#"{"apiVersion":"v1","kind":"Node","metadata":{"name":"n1"}}"#)
        .unwrap();
    for page in ["docs/agent.md", "docs/webhook.md"] {
        let lines = command_lines(page, "kubectl");
        assert!(!lines.is_empty(), "{page} no longer says how to install");
        for line in lines {
            api.type_in(&repository(), &line).unwrap();
        }
    }
    let receiver = Receiver::start(&api.folder().join("config.sock")).unwrap();
    let agent = Agent::start(&api).unwrap();
    let lines = command_lines("README.md", "kubectl");
    assert!(
        lines
            .iter()
            .any(|line| line.contains("create configmap") && line.contains("--from-file")),
        "{lines:?}"
    );
    // In the folder of the sample that the line names.
    for line in lines {
        api.type_in(&repository().join("deploy/config"), &line)
            .unwrap();
    }
    let pools = std::fs::read_to_string(repository().join("deploy/config/pools.yaml")).unwrap();
    let pushed = async || {
        let got = receiver.got();
        got.last()
            .is_some_and(|last| last.config.get("policy.stp") == Some(&pools))
    };
    assert!(eventually(SOON, pushed).await, "{}", agent.log());
    assert_eq!(receiver.last_origin(), "kube-system/cri-resmgr-config");

    // A folder with a file per key, whose last lines may or may not end.
    let folder = api.folder().join("keys");
    std::fs::create_dir(&folder).unwrap();
    std::fs::write(folder.join("policy"), "Active: static").unwrap();
    std::fs::write(folder.join("policy.static"), "RelaxedIsolation: true\n").unwrap();
    api.type_in(
        api.folder(),
        "kubectl create configmap --namespace kube-system cri-resmgr-config.node.n1 --from-file keys",
    )
    .unwrap();
    let pushed = async || {
        let got = receiver.got();
        let Some(last) = got.last() else { return false };
        last.config.keys().collect::<Vec<_>>() == ["policy", "policy.static"]
    };
    assert!(eventually(SOON, pushed).await, "{}", agent.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn every_manifest_passes_a_server_side_dry_run_and_every_sample_map_its_judge() {
    let Some(api) = start("dry runs of the manifests") else {
        return;
    };
    api.kubectl(&["create", "namespace", "cri-resmgr"]).unwrap();
    let mut manifests = files("deploy/kustomize/base", ".yaml");
    manifests.retain(|file| !file.ends_with("kustomization.yaml"));
    assert_eq!(manifests.len(), 3, "{manifests:?}");
    manifests.extend(files("deploy/config", ".yaml"));
    let mut maps = 0;
    for file in manifests {
        let path = file.display().to_string();
        let text = std::fs::read_to_string(&file).unwrap();
        if !text.lines().any(|line| line.starts_with("apiVersion:")) {
            continue; // pools.yaml: what a key of a map holds
        }
        let apply = [
            "apply",
            "--dry-run=server",
            "--validate=strict",
            "-f",
            &path,
        ];
        api.kubectl(&apply)
            .unwrap_or_else(|error| panic!("{path}: {error:#}"));
        if text.contains("kind: ConfigMap") {
            maps += 1;
            judged(&file);
        }
    }
    assert_eq!(maps, 3, "samples for static, static-plus and stp");
}

/// Has cri-resmgr judge a sample for a machine of the size that it was written for.
fn judged(map: &Path) {
    let machine = "pack:1 numa:1 core:16 pu:2";
    let output = Command::new(built("cri-resmgr").unwrap())
        .args([
            "--topology",
            machine,
            "--policy=none",
            "--config-socket=disabled",
            "check-config",
        ])
        .arg(map)
        .env("NODE_NAME", "n1")
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}: {}",
        map.display(),
        String::from_utf8_lossy(&output.stderr)
    );
}

#[test]
fn every_option_file_is_read_by_the_program_it_is_for() {
    let Some(program) = built("cri-resmgr") else {
        return skip(
            "option files",
            "cri-resmgr is not built: cargo build --bins",
        );
    };
    let files = files("deploy/config", ".conf");
    assert_eq!(files.len(), 4, "{files:?}");
    for file in files {
        let output = Command::new(&program)
            .arg("-config")
            .arg(&file)
            .arg("-print-config")
            .output()
            .unwrap();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{}: {errors}", file.display());
    }
}

#[test]
fn the_daemon_set_installs_on_the_host_and_serves_nothing_itself() {
    let text = std::fs::read_to_string(repository().join("deploy/kustomize/base/cri-resmgr.yaml"))
        .unwrap();
    let objects = text
        .lines()
        .filter(|line| !line.trim_start().starts_with('#'));
    let objects: Vec<_> = objects.collect();
    let words = objects
        .iter()
        .find_map(|line| line.trim().strip_prefix("args: "));
    let words: Vec<String> = serde_json::from_str(words.unwrap()).unwrap();
    assert_eq!(words[0], "install");
    assert!(words.contains(&"--host-root=/host".to_owned()), "{words:?}");
    for line in &objects {
        // A socket that only a pod serves is gone when that pod is.
        assert!(!line.contains(".sock") && !line.contains("/run/"), "{line}");
    }
    taken(&words.iter().map(String::as_str).collect::<Vec<_>>());
}

#[test]
fn the_commands_of_the_page_on_installing_are_taken_by_the_program() {
    let lines = command_lines("docs/install.md", "cri-resmgr");
    assert!(lines.len() >= 4, "{lines:?}");
    for line in lines {
        let line = line.split('#').next().unwrap();
        taken(&line.split_whitespace().skip(1).collect::<Vec<_>>());
    }
}

/// The program takes these words for a command with its options.
fn taken(words: &[&str]) {
    let Some(program) = built("cri-resmgr") else {
        return skip("commands", "cri-resmgr is not built: cargo build --bins");
    };
    let output = Command::new(program).args(words).arg("--help").output();
    let output = output.unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{words:?}: {errors}");
}

#[test]
fn the_units_are_what_systemd_takes_for_units() {
    let Some(analyze) = installed("systemd-analyze") else {
        return skip("systemd units", "systemd-analyze is not installed");
    };
    // The program need not be installed here; the file that ExecStart names must exist all the same.
    let folder = tempfile::tempdir().unwrap();
    let mut units = Vec::new();
    for file in [
        files("deploy/systemd", ".service"),
        files("deploy/systemd", ".socket"),
    ]
    .concat()
    {
        let text = std::fs::read_to_string(&file).unwrap();
        let copy = folder.path().join(file.file_name().unwrap());
        std::fs::write(&copy, text.replace("/usr/bin/cri-resmgr", "/bin/true")).unwrap();
        units.push(copy);
    }
    assert_eq!(units.len(), 2, "{units:?}");
    let output = Command::new(analyze)
        .arg("verify")
        .args(&units)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    // Complaints about units of the machine itself are none of ours.
    let ours: Vec<_> = said
        .lines()
        .filter(|line| line.contains("cri-resmgr"))
        .collect();
    assert!(ours.is_empty(), "{said}");
}
