//! What can be told afterwards: which container shrank the pool of another, and what was refused.

use super::*;
use resmgr_policy::{PolicySettings, Reserved as ReservedCpus, StaticConfig, by_name};

/// Eight CPUs, the first reserved.
async fn start(node: &Node) -> Running {
    let topology = Topology::synthetic("pack:1 core:8 pu:1").unwrap();
    let settings = PolicySettings {
        slices: StaticConfig {
            reserved: Some(ReservedCpus::Set(cpus("0"))),
            ..StaticConfig::default()
        },
        ..PolicySettings::default()
    };
    let policy = by_name("static", &topology, &settings).unwrap().into();
    node.start_with(policy, topology, Duration::from_millis(20))
        .await
}

fn changes_met(relay: &Running, name: &str) -> Vec<(String, String, Vec<String>)> {
    let snapshot = relay.handle.snapshot();
    let container = snapshot.find(name).unwrap();
    let changes = snapshot.containers.pool_changes();
    let placement = container.placement.unwrap();
    let met = changes.met_by(placement, container.arrival);
    met.map(|change| {
        (
            change.from.to_string(),
            change.to.to_string(),
            change.causes.clone(),
        )
    })
    .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_that_shares_is_told_which_other_changed_its_pool_also_after_a_restart() {
    let node = Node::new();
    let relay = start(&node).await;
    relay.create(&node, "web", SHARED, 500).await;
    let exclusive = relay.create(&node, "db", POD, 2000).await;
    relay.create(&node, "late", SHARED, 500).await;
    let came = (
        "0-7".to_owned(),
        cpus("0-7").difference(&cpus(&exclusive)).to_string(),
        vec![format!("default//db came and has CPUs {exclusive} alone")],
    );
    assert_eq!(changes_met(&relay, "web"), std::slice::from_ref(&came));
    assert_eq!(changes_met(&relay, "late"), [], "it came after");
    assert_eq!(changes_met(&relay, "db"), [], "it shares nothing");
    relay.kill().await;

    let relay = start(&node).await;
    assert_eq!(changes_met(&relay, "web"), std::slice::from_ref(&came));
    relay.handle.gone(ContainerId("db".into())).await;
    let gone = (
        came.1.clone(),
        "0-7".to_owned(),
        vec![format!(
            "default//db is gone, which had CPUs {exclusive} alone"
        )],
    );
    relay
        .eventually("db is gone", |now| now.find("db").is_err())
        .await;
    assert_eq!(changes_met(&relay, "web"), [came, gone.clone()]);
    assert_eq!(changes_met(&relay, "late"), [gone]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_creation_can_be_explained_and_is_counted_until_it_succeeds() {
    let node = Node::new();
    let relay = start(&node).await;
    relay.create(&node, "first", POD, 4000).await;
    for _attempt in 0..2 {
        let request = create_request("second", "default", POD, 4000);
        let before = relay.call("CreateContainer", &request).await;
        assert!(matches!(before, Before::Refuse(_)), "{before:?}");
    }
    let snapshot = relay.handle.snapshot();
    assert!(snapshot.find("second").is_err());
    let refused = snapshot.find_refused("second").unwrap();
    assert_eq!(refused.times, 2);
    assert!(
        refused.why.contains("4 exclusive CPUs requested, 3 free"),
        "{}",
        refused.why
    );
    assert_eq!(changes_met(&relay, "first"), []);

    node.runtime.containers.lock().unwrap().clear();
    relay.handle.gone(ContainerId("first".into())).await;
    relay.create(&node, "second", POD, 4000).await;
    let snapshot = relay.handle.snapshot();
    assert!(snapshot.find("second").is_ok());
    assert!(snapshot.find_refused("second").is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn every_pool_is_told_with_what_is_free_of_it() {
    let node = Node::new();
    let relay = start(&node).await;
    let pool = |name: &str| {
        let pools = relay.handle.snapshot().pools();
        let pool = pools.into_iter().find(|pool| pool.name == name).unwrap();
        (pool.cpus.to_string(), pool.free)
    };
    assert_eq!(pool("shared"), ("0-7".to_owned(), vec![cpus("1-7")]));
    assert_eq!(pool("reserved"), ("0".to_owned(), vec![]));
    let exclusive = relay.create(&node, "db", POD, 3000).await;
    let left = cpus("1-7").difference(&cpus(&exclusive));
    assert_eq!(pool("shared").1, [left]);
}
