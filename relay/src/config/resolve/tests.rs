use super::*;
use crate::{cli, config::Origin};
use std::{ffi::OsString, path::PathBuf};

/// A machine with CPUs from 0 on.
pub(crate) fn machine(cpus: u32) -> Topology {
    Topology::synthetic(&format!("pack:1 core:{cpus} pu:1")).unwrap()
}

fn resolved(line: &str) -> Result<Config, Problems> {
    let argv = std::iter::once("cri-resmgr")
        .chain(line.split_whitespace())
        .map(OsString::from);
    let raw = cli::parse(argv).unwrap().raw;
    let topology = machine(8);
    let machine = Machine {
        topology: &topology,
        cgroup_cpus: &|path| match path.to_str() {
            Some("/pods") => Ok("0-3\n".to_owned()),
            _ => Err(std::io::ErrorKind::NotFound.into()),
        },
    };
    resolve(&raw, machine)
}

fn cpus(list: &str) -> Option<CpuSet> {
    Some(list.parse().unwrap())
}

#[test]
fn the_readme_commands_resolve() {
    let config = resolved("-policy null -dump reset,full:.* -dump-file /tmp/x").unwrap();
    assert_eq!(config.policy.name, PolicyName::Null);
    assert_eq!(config.dump.file, Some("/tmp/x".into()));
    let config = resolved("--policy static --reserved-resources cpu=1000m").unwrap();
    assert_eq!(
        config.policy.slices.reserved,
        Some(Reserved::Quantity(MilliCpu(1000)))
    );
    assert_eq!(config.policy.slices.available, None);
    let config = resolved("--policy stp").unwrap();
    assert_eq!(config.policy.name, PolicyName::StaticPools);
}

#[test]
fn the_image_service_is_the_runtimes_unless_said() {
    let config = resolved("-runtime-socket unix:///run/x").unwrap();
    assert_eq!(config.relay.image_socket, Some("/run/x".into()));
    let config = resolved("-image-socket -").unwrap();
    assert_eq!(config.relay.image_socket, None);
}

#[test]
fn a_cgroups_cpuset_may_have_a_newline() {
    let config = resolved("-available-resources cpu=/pods").unwrap();
    assert_eq!(config.policy.slices.available, cpus("0-3"));
}

#[test]
fn the_host_root_comes_before_the_cgroup_mount() {
    let config = resolved("-host-root /host").unwrap();
    assert_eq!(
        config.enforce.cgroup_mount,
        PathBuf::from("/host/sys/fs/cgroup")
    );
}

#[test]
fn all_problems_are_reported_with_key_value_and_origin() {
    let problems = resolved(
        "-policy statc -reserved-resources cpu=6-9 -rebalance maybe -count-period 60 -dump full:[ \
         -logger-debug polcy -fail-policy x -relay-socket /run/containerd/containerd.sock",
    )
    .unwrap_err();
    let keys: Vec<&str> = problems.0.iter().map(|p| p.key.as_str()).collect();
    for key in [
        "policy",
        "reserved-resources",
        "rebalance",
        "count-period",
        "dump",
        "logger-debug",
        "fail-policy",
        "relay-socket",
    ] {
        assert!(keys.contains(&key), "{key} is missing from {keys:?}");
    }
    let text = problems.to_string();
    assert!(text.contains("did you mean \"static\""), "{text}");
    assert!(
        text.contains("CPUs 8-9 not online on this machine (0-7) [command line]"),
        "{text}"
    );
    assert!(problems.0.iter().all(|p| p.origin == Origin::CommandLine));
}

#[test]
fn policies_that_need_a_reservation_say_so() {
    let text = resolved("-policy static").unwrap_err().to_string();
    assert!(text.contains("--reserved-resources cpu=1000m"), "{text}");
}

#[test]
fn reserved_cpus_lie_within_available_ones() {
    for line in [
        "-available-resources cpu=0-3 -reserved-resources cpu=3-4",
        "-available-resources cpu=0-3 -reserved-resources cpu=5",
        "-available-resources cpu=9",
        "-available-resources cpu=/nowhere",
        "-policy none -available-resources cpu=4",
    ] {
        assert!(resolved(line).is_err(), "{line}");
    }
    resolved("-available-resources cpu=0-3 -reserved-resources cpu=3-3").unwrap();
    let config = resolved("-available-resources cpu=4").unwrap();
    assert_eq!(config.policy.slices.available, None, "null places nothing");
}

#[test]
fn the_printed_configuration_is_yaml_with_every_option() {
    let raw = cli::parse(["x", "-policy", "static", "-dump", "a:b"].map(OsString::from))
        .unwrap()
        .raw;
    let text = super::super::print::yaml(&raw);
    let value: serde_yaml::Value = serde_yaml::from_str(&text).unwrap();
    assert_eq!(value["policy"], "static");
    assert_eq!(value["dump"][0], "a:b");
    assert_eq!(value["pin-memory"], false);
    assert!(
        text.contains("# from: command line\npolicy: \"static\""),
        "{text}"
    );
}

#[test]
fn a_socket_that_is_no_path_is_one_problem_and_not_two() {
    let problems = resolved("--runtime-socket relative").unwrap_err();
    assert_eq!(problems.0.len(), 1, "{problems}");
    let problems = resolved("--runtime-socket - --image-socket disabled").unwrap_err();
    assert!(problems.to_string().contains("both off"), "{problems}");
}

#[test]
fn what_is_given_is_printed_behind_the_default_it_adds_to() {
    let argv = ["cri-resmgr", "--fail-policy", "batch=pass"].map(Into::into);
    let text = super::super::print::yaml(&crate::cli::parse(argv).unwrap().raw);
    let line = "fail-policy: [\"refuse,kube-system=pass\", \"batch=pass\"]";
    assert!(text.lines().any(|printed| printed == line), "{text}");
}
