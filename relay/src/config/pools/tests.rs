use super::*;
use crate::config::resolve::tests::machine;
use std::path::PathBuf;

fn yaml(text: &str) -> Result<PoolsConfig, Problems> {
    from_yaml(text, Path::new("pools.yaml"), &machine(8))
}

#[test]
fn pools_are_read_as_the_sample_writes_them() {
    let pools = yaml(
        "pools:\n  exclusive:\n    exclusive: true\n    cpuLists:\n    - Socket: 0\n      Cpuset: 2,3\n    - Socket: 0\n      Cpuset: '4-5'\n  shared:\n    cpuLists:\n    - Socket: 0\n      Cpuset: 6\n",
    )
    .unwrap();
    assert_eq!(pools.pools.len(), 2);
    let (exclusive, shared) = (&pools.pools["exclusive"], &pools.pools["shared"]);
    assert!(exclusive.exclusive && !shared.exclusive);
    assert_eq!(exclusive.cpu_lists[1].cpuset, "4-5");
    assert_eq!(shared.cpu_lists[0].cpuset, "6");
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
            "CPUs 8-9 are not on this machine (0-7) [pools.yaml:1]",
        ),
        (
            "\npools:\n  a:\n    cpuLists:\n    - Socket: x",
            "pools.a.cpuLists[0].Socket = \"x\": expected a package's number [pools.yaml:5]",
        ),
        (
            "\npools:\n  b: {}\n  a: {cpuLists: [{Socket: 0, Cpuset: '7-9'}]}",
            "[pools.yaml:4]",
        ),
        (
            "pools: {a: {cpuLists: [{Cpuset: '1-2'}, {Cpuset: '2-3'}]}}",
            "pools.a: CPUs 2 are also in list 1-2 of pool \"a\"",
        ),
        (
            "pools: {a: {cpuLists: [{Socket: 1, Cpuset: '1-2'}]}}",
            "CPUs 1-2 are not on socket 1",
        ),
        (
            "pools: {a: {cpuLists: [{Cpuset: '1-x'}]}}",
            "CPU list \"1-x\"",
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
    let source = PoolsSource {
        pushed: None,
        file: None,
        dir: dir.path().to_owned(),
        origin: Origin::CommandLine,
        label_node: false,
        taint_node: false,
    };
    let pools = load(&source, &machine(8)).unwrap();
    let (exclusive, shared) = (&pools.pools["exclusive"], &pools.pools["shared"]);
    assert_eq!(exclusive.cpu_lists.len(), 2);
    assert!(exclusive.exclusive && !shared.exclusive);
    for (stray, named) in [
        ("README", "pools/README: not expected"),
        ("shared/0/notes", "pools/shared/0/notes: not expected"),
        (
            "shared/exclusive",
            "pools/shared/exclusive: \"no\" is neither",
        ),
    ] {
        std::fs::write(pool(stray), "no").unwrap();
        let refused = load(&source, &machine(8)).unwrap_err().to_string();
        assert!(refused.contains(named), "{refused}");
        std::fs::remove_file(pool(stray)).unwrap();
    }
    let nowhere = PoolsSource {
        dir: PathBuf::from("/nowhere"),
        ..source
    };
    let error = load(&nowhere, &machine(8)).unwrap_err();
    let error = error.to_string();
    assert!(
        error.contains("static-pools-conf-dir") && error.ends_with("[command line]"),
        "{error}"
    );
}

#[test]
fn where_no_pools_are_the_refusal_says_in_a_line_how_to_make_some() {
    let folder = tempfile::tempdir().unwrap();
    let source = PoolsSource {
        pushed: None,
        file: None,
        dir: folder.path().join("cmk"),
        origin: Origin::Default,
        label_node: false,
        taint_node: false,
    };
    let refused = load(&source, &machine(8)).unwrap_err().to_string();
    for part in [
        "cannot read the pools",
        "cri-resmgr make-pools --exclusive 1",
        "--static-pools-conf-file",
    ] {
        assert!(refused.contains(part), "{part}: {refused}");
    }
    assert_eq!(refused.lines().count(), 1, "{refused}");
    assert!(are_awaited(&source), "a document may bring them");
    let named = PoolsSource {
        origin: Origin::CommandLine,
        ..source.clone()
    };
    assert!(!are_awaited(&named));
    std::fs::create_dir_all(source.dir.join("pools")).unwrap();
    assert!(!are_awaited(&source), "what is there is to be right");
}
