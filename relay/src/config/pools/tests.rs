use super::*;
use crate::config::resolve::tests::machine;
use std::path::PathBuf;

fn with_machine<T>(act: impl FnOnce(Machine<'_>) -> T) -> T {
    let topology = machine(8);
    act(Machine {
        topology: &topology,
        cgroup_cpus: &|_| Err(io::ErrorKind::NotFound.into()),
    })
}

fn yaml(text: &str) -> Result<Pools, Problems> {
    with_machine(|machine| from_yaml(text, Path::new("pools.yaml"), machine))
}

#[test]
fn pools_are_read_as_the_sample_writes_them() {
    let pools = yaml(
        "pools:\n  exclusive:\n    exclusive: true\n    cpuLists:\n    - Socket: 0\n      Cpuset: 2,3\n    - Socket: 0\n      Cpuset: '4-5'\n  shared:\n    cpuLists:\n    - Socket: 0\n      Cpuset: 6\n",
    )
    .unwrap();
    assert_eq!(pools.0.len(), 2);
    assert!(pools.0[0].exclusive && !pools.0[1].exclusive);
    assert_eq!(pools.0[0].lists[1].cpus, "4-5".parse().unwrap());
    assert_eq!(pools.0[1].lists[0].cpus, "6".parse().unwrap());
}

#[test]
fn mistakes_in_pools_are_named_by_key() {
    for (text, part) in [
        ("pools: {}", "no pools configured"),
        ("{}", "no pools configured"),
        ("pools: {a: {exclusiv: true}}", "did you mean \"exclusive\""),
        (
            "pools: {a: {cpuLists: [{Socket: x, Cpuset: '1'}]}}",
            "pools.a.cpuLists[0].Socket",
        ),
        (
            "pools: {a: {cpuLists: [{Socket: 0, Cpuset: '7-9'}]}}",
            "CPUs 8-9 not online",
        ),
        (
            "pools: {a: {cpuLists: [{Cpuset: '1-2'}, {Cpuset: '2-3'}]}}",
            "CPUs 2 are in another list",
        ),
        ("pools: {a: {cpuLists: 3}}", "expected a list"),
        ("pools: [", "not YAML"),
    ] {
        let error = yaml(text).unwrap_err().to_string();
        assert!(error.contains(part), "{text}: {error}");
    }
}

#[test]
fn cmks_directory_is_read() {
    let dir = tempfile::tempdir().unwrap();
    let pool = |name: &str| dir.path().join("pools").join(name);
    for (name, list) in [
        ("exclusive", "0/2,3"),
        ("exclusive", "0/4-5"),
        ("shared", "0/6"),
    ] {
        std::fs::create_dir_all(pool(name).join(list)).unwrap();
    }
    std::fs::write(pool("exclusive").join("exclusive"), "1").unwrap();
    std::fs::write(pool("shared").join("exclusive"), "0\n").unwrap();
    let config = PoolsConfig {
        pushed: None,
        file: None,
        dir: dir.path().to_owned(),
        label_node: false,
        taint_node: false,
    };
    let pools = with_machine(|machine| load(&config, machine)).unwrap();
    assert_eq!(pools.0[0].lists.len(), 2);
    assert!(pools.0[0].exclusive && !pools.0[1].exclusive);
    let nowhere = PoolsConfig {
        dir: PathBuf::from("/nowhere"),
        ..config
    };
    let error = with_machine(|machine| load(&nowhere, machine)).unwrap_err();
    assert!(error.to_string().contains("static-pools-conf-dir"));
}
