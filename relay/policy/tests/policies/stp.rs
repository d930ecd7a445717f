//! The scenarios of `static-pools` on two sockets of two nodes of two cores of two threads.

use super::common::*;
use resmgr_policy::{
    CpuListConfig, EXCLUSIVE_CORES, EXCLUSIVE_NON_ISOLCPUS_CORES, NON_ISOLCPUS_POOL, PoolConfig,
    PoolsConfig, QosClass::Guaranteed, Refusal, Request, StaticPools, pools_from_directory,
};

pub(super) fn pools() -> PoolsConfig {
    let pool = |exclusive, lists: &[(u32, &str)]| PoolConfig {
        exclusive,
        cpu_lists: lists
            .iter()
            .map(|(socket, list)| CpuListConfig {
                socket: *socket,
                cpuset: (*list).into(),
            })
            .collect(),
    };
    PoolsConfig {
        pools: [
            (
                "exclusive".into(),
                pool(true, &[(0, "0,1"), (0, "2,3"), (1, "8,9")]),
            ),
            ("shared".into(), pool(false, &[(0, "4-6,7")])),
            ("infra".into(), pool(false, &[(1, "10-15")])),
        ]
        .into(),
    }
}

fn world() -> World {
    let topology = n4c16();
    let policy = StaticPools::new(&topology, &pools()).unwrap();
    World::new(topology, policy)
}

fn asks(name: &str, cores: i64, env: &[(&str, &str)]) -> Request {
    let mut request = request(name, Guaranteed, 1000);
    if cores > 0 {
        request
            .requirements
            .extended
            .insert(EXCLUSIVE_CORES.into(), cores);
    }
    request.env = env
        .iter()
        .map(|(key, value)| ((*key).into(), (*value).into()))
        .collect();
    request
}

fn refused(result: Result<resmgr_policy::Placement, Refusal>, text: &str) {
    let message = result.unwrap_err().message;
    assert!(
        message.starts_with("static-pools: ") && message.contains(text),
        "{message}"
    );
}

const EXCLUSIVE: (&str, &str) = ("STP_POOL", "exclusive");

#[test]
fn free_lists_are_those_without_a_container() {
    let mut world = world();
    let lists = |lists: &[&str]| lists.iter().map(|list| cpus(list)).collect::<Vec<_>>();
    assert_eq!(world.free("exclusive"), lists(&["0-1", "2-3", "8-9"]));
    world.place(&asks("one", 1, &[EXCLUSIVE])).unwrap();
    world
        .place(&asks("web", 0, &[("STP_POOL", "shared")]))
        .unwrap();
    assert_eq!(world.free("exclusive"), lists(&["2-3", "8-9"]));
    assert_eq!(world.free("shared"), []);
    assert_eq!(world.free("infra"), lists(&["10-15"]));
}

#[test]
fn exclusive_lists_follow_socket_and_order() {
    let mut world = world();
    let first = world
        .place(&asks("one", 1, &[EXCLUSIVE, ("STP_SOCKET_ID", "1")]))
        .unwrap();
    assert_eq!(first.cpus, cpus("8-9"));
    let two = world
        .place(&asks("two", 2, &[EXCLUSIVE, ("STP_SOCKET_ID", "0")]))
        .unwrap();
    assert_eq!(
        (two.cpus, two.lists),
        (cpus("0-3").into(), vec![cpus("0-1"), cpus("2-3")])
    );
    let text = "not enough free cpu lists in pool \"exclusive\"";
    refused(world.place(&asks("three", 1, &[EXCLUSIVE])), text);
    world.release("one");
    assert_eq!(
        world.place(&asks("three", 1, &[EXCLUSIVE])).unwrap().cpus,
        cpus("8-9")
    );
    let saved = serde_json::to_string(&world.state).unwrap();
    world.state = serde_json::from_str(&saved).unwrap();
    assert!(world.reconcile().unwrap().changes.is_empty());
}

#[test]
fn a_container_that_asks_for_nothing_shares_the_shared_pool() {
    let placed = world().place(&asks("web", 0, &[])).unwrap();
    assert_eq!(placed.cpus, cpus("4-7"));
    let infra = world().place(&asks(
        "log",
        0,
        &[("STP_POOL", "infra"), ("STP_SOCKET_ID", "0")],
    ));
    assert_eq!(infra.unwrap().cpus, cpus("10-15"));
}

#[test]
fn without_affinity_only_the_environment_tells() {
    let mut world = world();
    let mut request = asks("app", 1, &[]);
    request.command = [
        "cmk",
        "isolate",
        "--no-affinity",
        "--pool=exclusive",
        "sleep",
        "9",
    ]
    .map(String::from)
    .into();
    let placed = world.place(&request).unwrap();
    assert!(placed.cpus.is_empty());
    assert_eq!(placed.exclusive, cpus("0-1"));
    let decision = world
        .policy
        .place(world.view(), &asks("next", 1, &[EXCLUSIVE]))
        .unwrap();
    assert_eq!(decision.changes[0].placement.cpus, cpus("2-3"));
    let expected = [
        ("CMK_CPUS_ASSIGNED", "0,1"),
        ("CMK_CPUS_ASSIGNED_MASK", "3"),
        ("CMK_CPUS_SHARED", "4,5,6,7"),
        ("CMK_CPUS_INFRA", "10,11,12,13,14,15"),
    ];
    assert_eq!(
        placed.env,
        expected.map(|(key, value)| (key.into(), value.into()))
    );
    assert_eq!(placed.command, Some(vec!["sleep".into(), "9".into()]));
}

fn isolates(pool: &str, env: &[(&str, &str)]) -> Request {
    let mut request = asks("app", 0, env);
    let line = ["cmk", "isolate", &*format!("--pool={pool}"), "sleep", "9"];
    request.command = line.map(String::from).into();
    request
}

#[test]
fn without_a_resource_the_variable_counts_lists_and_without_it_there_is_a_single_list() {
    let lists = |env: &[(&str, &str)]| {
        world()
            .place(&isolates("exclusive", env))
            .map(|placed| placed.lists.len())
    };
    assert_eq!(lists(&[]), Ok(1));
    assert_eq!(lists(&[("CMK_NUM_CORES", "2")]), Ok(2));
    refused(
        world().place(&isolates("exclusive", &[("CMK_NUM_CORES", "0")])),
        "requested is 0",
    );
    let mut both = isolates("exclusive", &[("CMK_NUM_CORES", "2")]);
    both.requirements.extended.insert(EXCLUSIVE_CORES.into(), 3);
    assert_eq!(world().place(&both).unwrap().lists.len(), 3);
    assert!(
        world()
            .place(&isolates("shared", &[]))
            .unwrap()
            .exclusive
            .is_empty()
    );
}

#[test]
fn the_pool_beside_isolated_cpus_has_a_resource_of_its_own() {
    let mut config = pools();
    let list = config
        .pools
        .get_mut("exclusive")
        .unwrap()
        .cpu_lists
        .pop()
        .unwrap();
    let pool = PoolConfig {
        exclusive: true,
        cpu_lists: vec![list],
    };
    config.pools.insert(NON_ISOLCPUS_POOL.into(), pool);
    let policy = StaticPools::new(&n4c16(), &config).unwrap();
    let mut world = World::new(n4c16(), policy);
    let mut request = asks("app", 2, &[("STP_POOL", NON_ISOLCPUS_POOL)]);
    refused(world.place(&request), "requested is 0");
    request
        .requirements
        .extended
        .insert(EXCLUSIVE_NON_ISOLCPUS_CORES.into(), 1);
    assert_eq!(world.place(&request).unwrap().cpus, cpus("8-9"));
}

#[test]
fn variables_list_cpus_in_the_order_of_their_lists() {
    let mut config = pools();
    let exclusive = config.pools.get_mut("exclusive").unwrap();
    exclusive.cpu_lists[0].cpuset = "1,3,0,2".into();
    exclusive.cpu_lists.remove(1);
    config.pools.get_mut("infra").unwrap().cpu_lists[0].cpuset = "10,14,11,12-13,15".into();
    let policy = StaticPools::new(&n4c16(), &config).unwrap();
    let mut world = World::new(n4c16(), policy);
    let env = world.place(&asks("app", 1, &[EXCLUSIVE])).unwrap().env;
    let value = |name: &str| {
        env.iter()
            .find(|(key, _)| key == name)
            .map(|(_, value)| value.as_str())
    };
    assert_eq!(value("CMK_CPUS_ASSIGNED"), Some("1,3,0,2"));
    assert_eq!(value("CMK_CPUS_ASSIGNED_MASK"), Some("F"));
    assert_eq!(value("CMK_CPUS_INFRA"), Some("10,14,11,12,13,15"));
    let mut world = World::new(
        n4c16().with_online(cpus("1-15")).unwrap(),
        StaticPools::new(&n4c16(), &config).unwrap(),
    );
    let env = world.place(&asks("app", 1, &[EXCLUSIVE])).unwrap().env;
    assert_eq!(env[0].1, "1,2,3");
    let env = world
        .place(&asks("log", 0, &[("STP_POOL", "infra")]))
        .unwrap()
        .env;
    assert_eq!(env[1], ("CMK_CPUS_ASSIGNED_MASK".into(), "FC00".into()));
}

#[test]
fn what_is_remembered_of_a_command_line_places_as_the_whole_did() {
    let mut first = world();
    let mut request = asks("c", 1, &[]);
    request.command = [
        "/opt/bin/cmk",
        "isolate",
        "--pool=exclusive",
        "--socket-id=1",
    ]
    .map(String::from)
    .into();
    request.args = ["--", "db", "--password=hunter2"].map(String::from).into();
    let whole = first.place(&request).unwrap();
    let again = world().place(&request.remembered()).unwrap();
    assert_eq!(whole.cpus, cpus("8-9"));
    assert_eq!(whole.exclusive, cpus("8-9"));
    assert_eq!((again.cpus, again.pool), (whole.cpus, whole.pool));
    assert!(!format!("{:?}", request.remembered()).contains("hunter2"));
}

#[test]
fn refusals_say_what_users_of_pools_know() {
    let none = "exclusive pool specified but the number of exclusive CPUs requested is 0";
    let few = "not enough free cpu lists in pool \"exclusive\"";
    for (cores, env, text) in [
        (1, &[("STP_POOL", "nope")][..], "non-existent pool \"nope\""),
        (1, &[EXCLUSIVE, ("STP_SOCKET_ID", "2")], few),
        (3, &[EXCLUSIVE, ("STP_SOCKET_ID", "0")], few),
        (2, &[EXCLUSIVE, ("STP_SOCKET_ID", "1")], few),
        (0, &[EXCLUSIVE], none),
        (
            1,
            &[("STP_POOL", "shared")],
            "with exclusive CPUs set to run in non-exclusive pool \"shared\"",
        ),
        (
            0,
            &[("STP_SOCKET_ID", "3")],
            "no available cpu lists in pool \"shared\"",
        ),
    ] {
        refused(world().place(&asks("a", cores, env)), text);
    }
}

#[test]
fn every_problem_of_the_pools_is_told() {
    let mut config = pools();
    config.pools.get_mut("infra").unwrap().cpu_lists[0].cpuset = "8,10-16".into();
    config.pools.get_mut("shared").unwrap().cpu_lists[0].socket = 1;
    let problems = StaticPools::new(&n4c16(), &config).unwrap_err();
    let text: Vec<String> = problems.iter().map(ToString::to_string).collect();
    let text = text.join("\n");
    for part in [
        "CPUs 16 are not on this machine",
        "CPUs 8 are also in list 8-9",
        "CPUs 4-7 are not on socket 1",
    ] {
        assert!(text.contains(part), "{text}");
    }
    let problems = StaticPools::new(&n4c16(), &PoolsConfig::default()).unwrap_err();
    assert!(
        problems[0]
            .message
            .contains("invalid config, no pools configured")
    );
}

#[test]
fn reconfiguration_moves_shared_containers_and_protects_exclusive_ones() {
    let mut world = world();
    world.place(&asks("app", 1, &[EXCLUSIVE])).unwrap();
    world.place(&asks("web", 0, &[])).unwrap();
    let mut config = pools();
    config.pools.get_mut("shared").unwrap().cpu_lists[0].cpuset = "4-5".into();
    world.policy = Box::new(StaticPools::new(&n4c16(), &config).unwrap());
    world.reconcile().unwrap();
    assert_eq!(
        (world.on("web"), world.on("app")),
        ("4-5".into(), "0-1".into())
    );
    config
        .pools
        .get_mut("exclusive")
        .unwrap()
        .cpu_lists
        .remove(0);
    world.policy = Box::new(StaticPools::new(&n4c16(), &config).unwrap());
    let refused = world.policy.reconcile(world.view()).unwrap_err().message;
    assert!(refused.contains(
        "invalid stp configuration: cpu list \"0-1\" configured for container \"app\" not found"
    ));
}

#[test]
fn the_directory_of_cmk_is_understood() {
    let config = pools_from_directory([
        ("pools", None),
        ("pools/exclusive", None),
        ("pools/exclusive/exclusive", Some("1\n")),
        ("pools/exclusive/0", None),
        ("pools/exclusive/0/2,3", None),
        ("pools/exclusive/0/0,1", None),
        ("pools/exclusive/0/0,1/tasks", Some("42")),
        ("pools/shared/exclusive", Some("0")),
        ("pools/shared/0/4-7", None),
    ])
    .unwrap();
    assert!(config.pools["exclusive"].exclusive && !config.pools["shared"].exclusive);
    assert_eq!(config.pools["exclusive"].cpu_lists[0].cpuset, "0,1");
    let problems =
        pools_from_directory([("pools/p/x/1", None), ("pools/p/0/a", None)]).unwrap_err();
    assert_eq!(problems.len(), 2, "{problems:?}");
    let stray = [
        ("pools/README", Some("x")),
        ("pools/p/exclusive", Some("true\n")),
        ("pools/p/0/notes", Some("x")),
    ];
    let problems = pools_from_directory(stray).unwrap_err();
    assert!(
        problems[0].starts_with("pools/README: not expected"),
        "{problems:?}"
    );
    assert!(
        problems[1].starts_with("pools/p/exclusive: \"true\" is neither 0"),
        "{problems:?}"
    );
    assert!(
        problems[2].starts_with("pools/p/0/notes: not expected"),
        "{problems:?}"
    );
}
