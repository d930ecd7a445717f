//! Pools by ConfigMap: what is refused and where that can be seen, and what the Node is marked with.
#![expect(clippy::unwrap_used, reason = "a test program: helpers fail the test")]

use resmgr_tests::{
    Cluster, Container, Cri,
    cluster::{SOON, missing},
    eventually, kernel,
    skip::skip,
};

const MAP: &str = "cri-resmgr-config.default";
const STATIC: [&str; 4] = ["--policy", "static", "--reserved-resources", "cpu=1000m"];
/// CPU 0 shared, CPU 1 exclusive.
const POOLS: &str = r#"
pools:
  exclusive:
    exclusive: true
    cpuLists:
    - Socket: 0
      Cpuset: "1"
  shared:
    cpuLists:
    - Socket: 0
      Cpuset: "0""#;

fn start(what: &str) -> Option<Cluster> {
    if let Some(why) = missing() {
        skip(what, &why);
        return None;
    }
    let mut cluster = Cluster::start(&STATIC).unwrap();
    cluster.start_relay(&[]).unwrap();
    cluster.start_agent().unwrap();
    Some(cluster)
}

async fn active(cluster: &Cluster, policy: &str) -> bool {
    let wanted = format!("policy {policy},");
    let is = async || {
        cluster
            .state()
            .is_ok_and(|state| state.starts_with(&wanted))
    };
    eventually(SOON, is).await
}

async fn ready(cluster: &Cluster) -> (bool, String) {
    match &cluster.agent {
        Some(agent) => agent.ready().await,
        None => (false, "the agent is away".to_owned()),
    }
}

/// A container of the exclusive pool.
async fn exclusive(cri: &mut Cri) -> String {
    let asked = r#"{"cmk.intel.com/exclusive-cores":"1"}"#;
    let resources = format!(
        r#"{{"initContainers":{{}},"containers":{{"own":{{"limits":{asked},"requests":{asked}}}}}}}"#
    );
    let annotations = [("intel.com/resources", resources.as_str())];
    let pod = cri.run_pod("own", "burstable", &annotations).await.unwrap();
    let mut container = Container::sleeping("own");
    container.envs = vec![("STP_POOL".to_owned(), "exclusive".to_owned())];
    cri.run(&pod, &container).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_map_changes_nothing_and_the_reason_is_seen_on_the_node() {
    let Some(mut cluster) = start("bad ConfigMaps") else {
        return;
    };
    let good = [("policy", "Active: stp"), ("policy.stp", POOLS)];
    cluster.map(MAP, &good).unwrap();
    assert!(active(&cluster, "static-pools").await, "{}", cluster.logs());
    let mut cri = cluster.cri().await.unwrap();
    let own = Box::pin(exclusive(&mut cri)).await;
    let pod = cri.run_pod("common", "besteffort", &[]).await.unwrap();
    let common = cri.run(&pod, &Container::sleeping("common")).await.unwrap();
    let parent = cluster.runtime.cgroup_parent().to_owned();
    let where_all = || {
        let of = |id: &str| kernel::allowed(&parent, id).unwrap();
        (of(&own), of(&common))
    };
    let placed = ("1".to_owned(), "0".to_owned());
    assert_eq!(where_all(), placed, "{}", cluster.logs());

    let overlapping = POOLS.replace("\"0\"", "\"0-1\"");
    let elsewhere = POOLS.replace("\"0\"", "\"0,200\"");
    let renamed = POOLS.replace(
        "  exclusive:\n    exclusive: true",
        "  private:\n    exclusive: true",
    );
    let bad: [(&str, &str, &[&str]); 8] = [
        (
            "policy.stp",
            "pools: [",
            &["policy.static-pools", "not YAML"],
        ),
        ("policy.stp", "polls: {}", &["unknown field", "pools"]),
        ("policy.sttp", POOLS, &["unknown key", "policy.stp"]),
        ("policy.stp", "pools: {}", &["no pools configured"]),
        (
            "policy.stp",
            &overlapping,
            &["CPUs 1 are also in list", "of pool"],
        ),
        (
            "policy.stp",
            &elsewhere,
            &["CPUs 200 are not on this machine"],
        ),
        ("policy.stp", &renamed, &["pool \"exclusive\""]),
        (
            "policy",
            "Active: \"null\"",
            &["changing to or from null needs a restart"],
        ),
    ];
    for (key, text, reasons) in bad {
        let mut map: Vec<_> = good
            .into_iter()
            .filter(|(other, _)| *other != key)
            .collect();
        map.push((key, text));
        cluster.map(MAP, &map).unwrap();
        let described = || {
            cluster
                .api
                .kubectl(&["describe", "node", "n1"])
                .unwrap_or_default()
        };
        let seen = async || {
            let text = described();
            let says = |word: &str| {
                let told = |line: &&str| {
                    line.contains(word) && reasons.iter().all(|why| line.contains(why))
                };
                text.lines().any(|line| told(&line))
            };
            says("CriResmgrConfigured") && says("Warning") && status(&cluster).contains("refused")
        };
        assert!(
            eventually(SOON, seen).await,
            "{key}: {text}\n{}\n{}",
            described(),
            cluster.logs()
        );
        let (is_ready, words) = ready(&cluster).await;
        assert!(
            !is_ready && reasons.iter().all(|why| words.contains(why)),
            "{key}: {text}\n{words}"
        );
        assert_eq!(where_all(), placed, "{key}: {text}\n{}", cluster.logs());
        assert!(active(&cluster, "static-pools").await);
    }

    // The last good one is also that of the next start; the bad one is refused again.
    cluster.relay = None;
    cluster.start_relay(&[]).unwrap();
    assert!(active(&cluster, "static-pools").await, "{}", cluster.logs());
    assert_eq!(where_all(), placed, "{}", cluster.logs());

    cluster.map(MAP, &good).unwrap();
    assert!(
        eventually(SOON, async || ready(&cluster).await.0).await,
        "{}",
        cluster.logs()
    );
    assert_eq!(where_all(), placed, "{}", cluster.logs());

    // As CRI Resource Manager was given it: what exists here counts, and the rest is named.
    let nested = format!(
        "Active: static-pools\nstatic-pools:{}\ntopology-aware: {{PinCPU: true}}",
        POOLS.replace('\n', "\n  ")
    );
    let map = [("policy", &*nested), ("rdt", "options: {}")];
    cluster.map(MAP, &map).unwrap();
    let told = async || {
        let node = cluster.api.kubectl(&["describe", "node", "n1"]);
        let node = node.unwrap_or_default();
        let mut lines = node.lines();
        let condition = lines.find(|line| line.contains("CriResmgrConfigured"));
        condition.is_some_and(|line| {
            let parts = ["policy.topology-aware has no effect", "rdt has no effect"];
            line.contains("True") && parts.iter().all(|part| line.contains(part))
        })
    };
    assert!(eventually(SOON, told).await, "{}", cluster.logs());
    assert!(active(&cluster, "static-pools").await, "{}", cluster.logs());
    assert_eq!(where_all(), placed, "{}", cluster.logs());
}

fn status(cluster: &Cluster) -> String {
    cluster.node(r".metadata.annotations.cri-resource-manager\.intel\.com/config-status")
}

const LABEL: &str = r".metadata.labels.cmk\.intel\.com/cmk-node";
const CAPACITY: &str = r".status.capacity.cmk\.intel\.com/exclusive-cores";
/// But for the taint of a Node that no kubelet has made ready.
const TAINTS: &str = r".spec.taints[?(@.key!='node.kubernetes.io/not-ready')].key";

#[tokio::test(flavor = "multi_thread")]
async fn the_node_is_marked_for_its_pools_and_unmarked_when_they_are_left() {
    let Some(mut cluster) = start("label, taint and capacity") else {
        return;
    };
    let taint = ["taint", "node", "n1", "other=1:NoExecute"];
    cluster.api.kubectl(&taint).unwrap();
    let marked_in = async |cluster: &Cluster, label: &str, taints: &str, capacity: &str| {
        let wanted = (label.to_owned(), taints.to_owned(), capacity.to_owned());
        let mut found = Default::default();
        let is = async || {
            found = (
                cluster.node(LABEL),
                cluster.node(TAINTS),
                cluster.node(CAPACITY),
            );
            found == wanted
        };
        assert!(
            eventually(SOON, is).await,
            "{found:?} is not {wanted:?}\n{}",
            cluster.logs()
        );
    };

    // Under another policy nobody touches the Node.
    assert!(eventually(SOON, async || ready(&cluster).await.0).await);
    marked_in(&cluster, "", "other", "").await;

    // Off unless asked for, but for the capacity, which the scheduler needs.
    cluster
        .map(MAP, &[("policy", "Active: stp"), ("policy.stp", POOLS)])
        .unwrap();
    marked_in(&cluster, "", "other", "1").await;
    let asking = format!("LabelNode: true\nTaintNode: true\n{POOLS}");
    let asked = [("policy", "Active: stp"), ("policy.stp", asking.as_str())];
    cluster.map(MAP, &asked).unwrap();
    marked_in(&cluster, "true", "other cmk", "1").await;
    let more = asking.replace("\"1\"", "\"1\"\n    - Socket: 0\n      Cpuset: \"0\"");
    let more = more.split("  shared:").next().unwrap();
    cluster
        .map(MAP, &[("policy", "Active: stp"), ("policy.stp", more)])
        .unwrap();
    marked_in(&cluster, "true", "other cmk", "2").await;

    // Left at run time.
    cluster.map(MAP, &[("policy", "Active: none")]).unwrap();
    marked_in(&cluster, "", "other", "0").await;

    // Left by a restart with another policy, the agent coming later.
    cluster.map(MAP, &asked).unwrap();
    marked_in(&cluster, "true", "other cmk", "1").await;
    (cluster.agent, cluster.relay) = (None, None);
    cluster.unmap(MAP).unwrap();
    cluster.start_relay(&["--reset-config"]).unwrap();
    cluster.start_agent().unwrap();
    marked_in(&cluster, "", "other", "0").await;

    // Without an agent that is one quiet line, and placement goes on.
    (cluster.agent, cluster.relay) = (None, None);
    let file = cluster.api.folder().join("pools.yaml");
    std::fs::write(&file, POOLS).unwrap();
    let file = file.display().to_string();
    let before = cluster.runtime.folder().join("relay/log");
    let before = std::fs::read_to_string(before).unwrap().len();
    cluster
        .start_relay(&["--policy", "stp", "--static-pools-conf-file", &file])
        .unwrap();
    let mut cri = cluster.cri().await.unwrap();
    let own = Box::pin(exclusive(&mut cri)).await;
    assert!(cluster.runs_on(&own, "1").await, "{}", cluster.logs());
    let said = || cluster.relay.as_ref().unwrap().log().split_off(before);
    let once = async || said().matches("no agent at").count() == 1;
    assert!(eventually(SOON, once).await, "{}", said());
    assert!(!said().contains("W: [ config-server"), "{}", said());
}
