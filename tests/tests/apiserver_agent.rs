//! The agent against a real kube-apiserver, with exactly the rights of its shipped manifest.

use std::{
    collections::BTreeMap,
    path::Path,
    time::{Duration, SystemTime},
};

use cri_resmgr::control::agent_client::{
    AgentClient, CONFLICT_CONDITION, CmkProperties, NodeCondition, NodeProperty as _, PodEvent,
    PodEventReason,
};
use resmgr_proto::v1::{
    GetConfigRequest, HealthCheckRequest, JsonPatch, PatchNodeRequest, SetNodeConditionRequest,
    agent_client::AgentClient as Raw,
};
use resmgr_tests::{
    agent::{Agent, Receiver},
    apiserver::{self, ApiServer, repository},
    eventually, promtool,
    skip::skip,
};
use tonic::{Code, transport::Channel};

/// Longest wait for a state that comes "within seconds" on a machine that is busy.
const SOON: Duration = Duration::from_secs(60);

fn start(what: &str) -> Option<ApiServer> {
    if let Some(why) = apiserver::missing() {
        skip(what, &why);
        return None;
    }
    let api = ApiServer::start().expect("an API server");
    api.kubectl(&["apply", "-f", "deploy/kustomize/base/agent.yaml"])
        .expect("the manifest is applied");
    api.apply(r#"{"apiVersion":"v1","kind":"Node","metadata":{"name":"n1"}}"#)
        .expect("a Node");
    Some(api)
}

fn map(name: &str, policy: &str) -> String {
    serde_json::json!({
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": { "name": name, "namespace": "kube-system" },
        "data": { "policy": format!("Active: {policy}") },
    })
    .to_string()
}

async fn comes_from(receiver: &Receiver, name: &str) -> bool {
    let wanted = format!("kube-system/{name}");
    eventually(SOON, async || receiver.last_origin() == wanted).await
}

fn annotation(api: &ApiServer) -> String {
    let path = r"jsonpath={.metadata.annotations.cri-resource-manager\.intel\.com/config-status}";
    api.kubectl(&["get", "node", "n1", "-o", path])
        .unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_configuration_follows_the_maps_and_the_label_and_is_never_empty() {
    let Some(api) = start("the agent follows ConfigMaps") else {
        return;
    };
    let receiver = Receiver::start(&api.folder().join("config.sock")).unwrap();
    let agent = Agent::start(&api).unwrap();

    // Nothing there: ready, and nothing pushed.
    assert!(
        eventually(SOON, async || agent.ready().await.0).await,
        "{}",
        agent.log()
    );
    assert!(receiver.got().is_empty());

    // The README's way, one map with keys by policy.
    let pools = "policy.stp=deploy/config/pools.yaml";
    let create = [
        "create",
        "configmap",
        "--namespace",
        "kube-system",
        "cri-resmgr-config",
    ];
    api.kubectl(&[&create[..], &["--from-file", pools]].concat())
        .unwrap();
    assert!(
        comes_from(&receiver, "cri-resmgr-config").await,
        "{}",
        agent.log()
    );
    let got = receiver.got().pop().unwrap();
    assert_eq!(got.node_name, "n1");
    assert!(got.config["policy.stp"].contains("cpuLists"), "{got:?}");

    // The three maps, each winning over those before; the label chooses the group.
    api.apply(&map("cri-resmgr-config.default", "none"))
        .unwrap();
    assert!(
        comes_from(&receiver, "cri-resmgr-config.default").await,
        "{}",
        agent.log()
    );
    api.apply(&map("cri-resmgr-config.group.g1", "static"))
        .unwrap();
    api.kubectl(&[
        "label",
        "node",
        "n1",
        "cri-resource-manager.intel.com/group=g1",
    ])
    .unwrap();
    assert!(
        comes_from(&receiver, "cri-resmgr-config.group.g1").await,
        "{}",
        agent.log()
    );
    api.apply(&map("cri-resmgr-config.node.n1", "static-plus"))
        .unwrap();
    assert!(
        comes_from(&receiver, "cri-resmgr-config.node.n1").await,
        "{}",
        agent.log()
    );

    // An update of the winner.
    api.apply(&map("cri-resmgr-config.node.n1", "static-pools"))
        .unwrap();
    let updated = async || {
        receiver
            .got()
            .last()
            .is_some_and(|got| got.config["policy"] == "Active: static-pools")
    };
    assert!(eventually(SOON, updated).await, "{}", agent.log());
    assert!(eventually(SOON, async || annotation(&api).contains("accepted")).await);

    // And back down.
    let delete = |name| {
        api.kubectl(&["delete", "configmap", "-n", "kube-system", name])
            .unwrap();
    };
    delete("cri-resmgr-config.node.n1");
    assert!(
        comes_from(&receiver, "cri-resmgr-config.group.g1").await,
        "{}",
        agent.log()
    );
    api.kubectl(&[
        "label",
        "node",
        "n1",
        "cri-resource-manager.intel.com/group-",
    ])
    .unwrap();
    assert!(
        comes_from(&receiver, "cri-resmgr-config.default").await,
        "{}",
        agent.log()
    );
    delete("cri-resmgr-config");
    delete("cri-resmgr-config.default");
    assert!(
        eventually(SOON, async || annotation(&api)
            .contains(r#""state":"none""#))
        .await,
        "{}",
        agent.log()
    );
    assert_eq!(
        receiver.last_origin(),
        "kube-system/cri-resmgr-config.default"
    );
    assert!(receiver.got().iter().all(|got| !got.config.is_empty()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_is_visible_in_the_node_its_events_and_the_readiness() {
    let Some(api) = start("the agent reports refusals") else {
        return;
    };
    let _receiver = Receiver::start(&api.folder().join("config.sock")).unwrap();
    let agent = Agent::start(&api).unwrap();
    api.apply(&map("cri-resmgr-config.default", "BAD")).unwrap();

    let describe = || api.kubectl(&["describe", "node", "n1"]);
    let described = async || {
        let text = describe().unwrap_or_default();
        ["refused", "BAD is no key", "ConfigurationRefused"]
            .iter()
            .all(|word| text.contains(word))
    };
    let seen = eventually(SOON, described).await;
    assert!(seen, "{}\n{:?}", agent.log(), describe());
    let (ready, text) = agent.ready().await;
    assert!(!ready && text.contains("BAD is no key"), "{text}");

    api.apply(&map("cri-resmgr-config.default", "static"))
        .unwrap();
    assert!(
        eventually(SOON, async || agent.ready().await.0).await,
        "{}",
        agent.log()
    );
    assert!(eventually(SOON, async || annotation(&api).contains("accepted")).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_right_configuration_comes_back_after_restarts_in_every_order() {
    let Some(mut api) = start("the agent survives restarts") else {
        return;
    };
    let socket = api.folder().join("config.sock");
    api.apply(&map("cri-resmgr-config.default", "static"))
        .unwrap();
    let pushed =
        async |receiver: &Receiver| eventually(SOON, async || !receiver.got().is_empty()).await;

    // The agent first, cri-resmgr later.
    let agent = Agent::start(&api).unwrap();
    let receiver = Receiver::start(&socket).unwrap();
    assert!(pushed(&receiver).await, "{}", agent.log());

    // cri-resmgr restarts: pushed again, though no map has changed.
    drop(receiver);
    let receiver = Receiver::start(&socket).unwrap();
    assert!(pushed(&receiver).await, "{}", agent.log());

    // The API server restarts: what is in force stays, and the next change arrives.
    api.stop_server();
    let pushes = receiver.got().len();
    api.start_server().unwrap();
    api.apply(&map("cri-resmgr-config.default", "static-plus"))
        .unwrap();
    let changed = async || {
        receiver
            .got()
            .last()
            .is_some_and(|got| got.config["policy"] == "Active: static-plus")
    };
    assert!(eventually(SOON, changed).await, "{}", agent.log());
    assert_eq!(receiver.got().len(), pushes + 1, "one change is one push");

    // cri-resmgr restarts while there is no API server: the agent still knows.
    api.stop_server();
    drop(receiver);
    let receiver = Receiver::start(&socket).unwrap();
    assert!(pushed(&receiver).await, "{}", agent.log());
    assert_eq!(receiver.got()[0].config["policy"], "Active: static-plus");

    // The agent restarts while there is no API server: nothing is pushed until there is one.
    drop(agent);
    let before = receiver.got().len();
    let agent = Agent::start(&api).unwrap();
    api.start_server().unwrap();
    let again = async || receiver.got().len() > before;
    assert!(eventually(SOON, again).await, "{}", agent.log());
    assert!(
        receiver
            .got()
            .iter()
            .all(|got| got.config["policy"] == "Active: static-plus")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn node_operations_reach_the_node_with_the_shipped_rights() {
    let Some(api) = start("node operations through the agent") else {
        return;
    };
    let agent = Agent::start(&api).unwrap();
    let client = AgentClient::new(api.folder().join("agent.sock"));
    let up = async || client.node().await.is_ok();
    assert!(eventually(SOON, up).await, "{}", agent.log());

    let taint = ["taint", "node", "n1", "other=1:NoExecute"];
    api.kubectl(&taint).unwrap();
    let desired = CmkProperties {
        label: true,
        taint: true,
        exclusive_lists: 3,
        non_isolcpus_lists: 2,
    };
    desired.ensure(&client).await.unwrap();
    desired.ensure(&client).await.unwrap();
    let annotate = async |name: &str| {
        let patch = JsonPatch {
            op: "add".to_owned(),
            path: format!("/metadata/annotations/{name}"),
            value: "\"true\"".to_owned(),
        };
        let patches = vec![patch];
        let request = PatchNodeRequest { patches };
        raw(&api.folder().join("agent.sock"))
            .patch_node(request)
            .await
    };
    annotate("a.b~1c~0d").await.unwrap_err();
    annotate("a.b~1c").await.unwrap();
    let node = client.node().await.unwrap();
    assert_eq!(node["metadata"]["labels"]["cmk.intel.com/cmk-node"], "true");
    assert_eq!(node["metadata"]["annotations"]["a.b/c"], "true");
    for (resource, lists) in [
        ("exclusive-cores", "3"),
        ("exclusive-non-isolcpus-cores", "2"),
    ] {
        let capacity = &node["status"]["capacity"][format!("cmk.intel.com/{resource}")];
        assert_eq!(capacity, lists, "{resource}");
    }
    let taints = node["spec"]["taints"].as_array().unwrap();
    let keys: Vec<_> = taints
        .iter()
        .filter_map(|taint| taint["key"].as_str())
        .collect();
    assert!(
        keys.contains(&"other") && keys.contains(&"cmk"),
        "{taints:?}"
    );

    CmkProperties::default().ensure(&client).await.unwrap();
    let node = client.node().await.unwrap();
    assert_eq!(
        node["metadata"]["labels"]["cmk.intel.com/cmk-node"],
        serde_json::Value::Null
    );
    let taints = node["spec"]["taints"].to_string();
    assert!(
        taints.contains("other") && !taints.contains("cmk"),
        "{taints}"
    );

    let kubelets = BTreeMap::from([("cpu".to_owned(), "1".to_owned())]);
    assert!(client.set_capacity(kubelets).await.is_err());
}

/// A client that says what it is told to, however wrong.
fn raw(socket: &Path) -> Raw<Channel> {
    let path = socket.to_owned();
    let connector = tower::service_fn(move |_: http::Uri| {
        let path = path.clone();
        async move {
            let stream = tokio::net::UnixStream::connect(path).await?;
            Ok::<_, std::io::Error>(hyper_util::rt::TokioIo::new(stream))
        }
    });
    let channel = tonic::transport::Endpoint::from_static("http://agent")
        .connect_with_connector_lazy(connector);
    Raw::new(channel)
}

#[tokio::test(flavor = "multi_thread")]
async fn conditions_change_their_time_with_their_status_and_leave_those_of_others_alone() {
    let Some(api) = start("conditions through the agent") else {
        return;
    };
    let agent = Agent::start(&api).unwrap();
    let socket = api.folder().join("agent.sock");
    let client = AgentClient::new(socket.clone());
    let condition = |kind: &str| {
        let status = &api.get(&["node", "n1"]).unwrap()["status"];
        let all = status["conditions"].as_array().cloned().unwrap_or_default();
        let mut found = all.into_iter().filter(|found| found["type"] == kind);
        let first = found.next().unwrap_or_default();
        assert!(found.next().is_none(), "{status}");
        first
    };
    let own = "CriResmgrConfigured";
    let reported = async || condition(own)["status"] == "True";
    assert!(eventually(SOON, reported).await, "{}", agent.log());
    // As of long ago: the API server keeps whole seconds.
    let kubelets = serde_json::json!({ "status": { "conditions": [
        { "type": "Ready", "status": "True", "lastTransitionTime": "2001-01-01T00:00:00Z" },
        { "type": CONFLICT_CONDITION, "status": "False", "lastTransitionTime": "2001-01-01T00:00:00Z",
          "lastHeartbeatTime": "2001-01-01T00:00:00Z" },
    ] } });
    let patch = ["patch", "node", "n1", "--subresource=status", "-p"];
    api.kubectl(&[&patch[..], &[&kubelets.to_string()]].concat())
        .unwrap();
    let others = (condition(own), condition("Ready"));

    // The status stays: so does its time, but the heartbeat is of now.
    let (yes, no) = (
        NodeCondition::conflict(Some("static")),
        NodeCondition::conflict(None),
    );
    assert!(no.ensure(&client).await.unwrap());
    let before = condition(CONFLICT_CONDITION);
    assert_eq!(before["reason"], "NoConflict");
    assert_eq!(before["lastTransitionTime"], "2001-01-01T00:00:00Z");
    assert_ne!(before["lastHeartbeatTime"], "2001-01-01T00:00:00Z");

    // It changes, and stays again, with another message.
    assert!(yes.ensure(&client).await.unwrap());
    let held = condition(CONFLICT_CONDITION);
    assert_eq!(
        (&held["status"], &held["reason"]),
        (&"True".into(), &"AnotherCpuManager".into())
    );
    assert_eq!(held["message"], yes.message);
    assert_ne!(held["lastTransitionTime"], before["lastTransitionTime"]);
    assert!(!yes.ensure(&client).await.unwrap(), "it was right already");
    let later = async || {
        client.set_condition(&yes).await.unwrap();
        condition(CONFLICT_CONDITION)["lastHeartbeatTime"] != held["lastHeartbeatTime"]
    };
    assert!(eventually(SOON, later).await);
    client
        .set_condition(&NodeCondition::conflict(Some("static-plus")))
        .await
        .unwrap();
    let other = condition(CONFLICT_CONDITION);
    assert_ne!(other["message"], held["message"]);
    assert_eq!(other["lastTransitionTime"], held["lastTransitionTime"]);
    assert!(no.ensure(&client).await.unwrap());
    let after = condition(CONFLICT_CONDITION);
    assert_eq!(
        (&after["status"], &after["reason"]),
        (&"False".into(), &"NoConflict".into())
    );
    assert_ne!(after["lastTransitionTime"], held["lastTransitionTime"]);

    // What is not cri-resmgr's to say, or makes no condition, is refused.
    let good = SetNodeConditionRequest {
        r#type: "CriResmgrX".to_owned(),
        status: "Unknown".to_owned(),
        reason: "Some".to_owned(),
        message: "x".repeat(32768),
    };
    let set = async |request| raw(&socket).set_node_condition(request).await;
    set(good.clone()).await.unwrap();
    assert_eq!(condition("CriResmgrX")["status"], "Unknown");
    let mut bad = vec![good; 6];
    own.clone_into(&mut bad[0].r#type);
    "Ready".clone_into(&mut bad[1].r#type);
    bad[2].r#type.clear();
    "true".clone_into(&mut bad[3].status);
    "no word".clone_into(&mut bad[4].reason);
    bad[5].message.push('x');
    for request in bad {
        let refused = set(request).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument, "{refused}");
    }
    assert_eq!((condition(own), condition("Ready")), others);
}

#[tokio::test(flavor = "multi_thread")]
async fn events_about_a_pod_are_counted_together_and_limited_with_the_shipped_rights() {
    let Some(api) = start("Events about pods") else {
        return;
    };
    let pod = r#"{"apiVersion":"v1","kind":"Pod","metadata":{"name":"db-0","namespace":"shop"},
        "spec":{"containers":[{"name":"db","image":"db"}]}}"#;
    api.kubectl(&["create", "namespace", "shop"]).unwrap();
    api.apply(pod).unwrap();
    let uid = api.get(&["pod", "-n", "shop", "db-0"]).unwrap()["metadata"]["uid"].clone();
    let event = |reason, text: &str| PodEvent {
        namespace: "shop".to_owned(),
        pod: "db-0".to_owned(),
        uid: uid.as_str().unwrap().to_owned(),
        reason,
        message: format!("container db: {text}"),
        at: SystemTime::now(),
    };
    let agent = Agent::start(&api).unwrap();
    let client = AgentClient::new(api.folder().join("agent.sock"));
    let up = async || client.node().await.is_ok();
    assert!(eventually(SOON, up).await, "{}", agent.log());
    let record = async |event: PodEvent| client.record_event(&event).await;

    // Equal ones are one Event with a count; others stand beside it.
    let no_room = "2 exclusive CPUs are asked for, 1 is free";
    let refused = || event(PodEventReason::PlacementRefused, no_room);
    for _ in 0..3 {
        record(refused()).await.unwrap();
    }
    let violated = "its exclusive CPUs are not its alone: in the last minute others had 4.1 % of their time, on CPUs \
                    2-3, most of it system.slice/chronyd.service: 4000 ms";
    for (reason, text) in [
        (
            PodEventReason::Moved,
            "moved exclusive CPUs from 2-3 to 4-5, because of contention",
        ),
        (
            PodEventReason::MovedBack,
            "moved back exclusive CPUs from 4-5 to 2-3: the move because of contention did not help",
        ),
        (
            PodEventReason::Moved,
            "moved exclusive CPUs from 2-3 to 6-7, because of contention",
        ),
        (PodEventReason::ExclusivityViolated, violated),
    ] {
        record(event(reason, text)).await.unwrap();
    }
    let describe = || api.kubectl(&["describe", "pod", "-n", "shop", "db-0"]);
    let told = async || {
        let text = describe().unwrap_or_default();
        [no_room, "(x3 over", "to 4-5", "to 6-7", violated]
            .iter()
            .all(|words| text.contains(words))
    };
    let seen = eventually(SOON, told).await;
    assert!(seen, "{}\n{:?}", agent.log(), describe());
    let get = [
        "get",
        "events",
        "-n",
        "shop",
        "--sort-by=.metadata.creationTimestamp",
    ];
    println!("{}\n{}", api.kubectl(&get).unwrap(), describe().unwrap());
    let events = || {
        let all = api.get(&["events", "-n", "shop"]).unwrap();
        all["items"].as_array().unwrap().clone()
    };
    assert_eq!(events().len(), 5);
    for event in events() {
        let from = (&event["reportingComponent"], &event["reportingInstance"]);
        assert_eq!(from, (&"cri-resmgr".into(), &"n1".into()));
    }

    // Without its Event, a series begins anew.
    api.kubectl(&["delete", "events", "--all", "-n", "shop"])
        .unwrap();
    record(refused()).await.unwrap();
    let one = async || events().len() == 1;
    assert!(eventually(SOON, one).await, "{}", agent.log());

    // One that the API server refuses is said, and does not stand in the way.
    let lost = PodEvent {
        namespace: "nowhere".to_owned(),
        ..refused()
    };
    record(lost).await.unwrap();
    record(refused()).await.unwrap();
    let again = async || agent.log().contains("can be written again");
    assert!(eventually(SOON, again).await, "{}", agent.log());
    assert!(agent.log().contains("cannot write an Event about a pod"));

    // What is no Event about a pod is refused.
    let nameless = PodEvent {
        pod: String::new(),
        ..refused()
    };
    let why = record(nameless).await.unwrap_err();
    assert!(why.is_refusal(), "{why}");

    // A flood: far fewer are written than there were, and the node is served all the same.
    for number in 0..200 {
        let text = format!("moved for the {number}th time");
        record(event(PodEventReason::Moved, &text)).await.unwrap();
    }
    assert!(client.node().await.is_ok());
    // A few come through while it lasts, most do not.
    let mut outcomes = Outcomes::default();
    let settled = async || {
        outcomes = Outcomes::of(&agent).await;
        outcomes.written + outcomes.suppressed + outcomes.failed == 7 + 1 + 2 + 200
    };
    assert!(eventually(SOON, settled).await, "{outcomes:?}");
    assert_eq!(outcomes.failed, 1);
    assert!((10..100).contains(&outcomes.written), "{outcomes:?}");
}

/// The agent's count of Events about pods.
#[derive(Debug, Default)]
struct Outcomes {
    written: u64,
    suppressed: u64,
    failed: u64,
}

impl Outcomes {
    async fn of(agent: &Agent) -> Self {
        let page = agent.metrics().await.unwrap_or_default();
        let count = |outcome: &str| {
            let name = format!("cri_resmgr_agent_pod_events_total{{outcome=\"{outcome}\"}} ");
            let mut lines = page.lines();
            let count = lines.find_map(|line| line.strip_prefix(&name));
            count.and_then(|count| count.parse().ok()).unwrap_or(0)
        };
        Self {
            written: count("written"),
            suppressed: count("suppressed"),
            failed: count("failed"),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_metrics_tell_of_watches_pushes_operations_and_requests() {
    let Some(mut api) = start("the agent's metrics") else {
        return;
    };
    let promtool_path = repository().join(".cache/prometheus/promtool");
    if !promtool_path.exists() {
        return skip(
            "the agent's metrics",
            "no promtool: cargo xtask setup fetches it",
        );
    }
    let receiver = Receiver::start(&api.folder().join("config.sock")).unwrap();
    let agent = Agent::start(&api).unwrap();
    let client = AgentClient::new(api.folder().join("agent.sock"));
    let comes = async |lines: &[&str]| {
        let mut page = String::new();
        let told = async || {
            page = agent.metrics().await.unwrap_or_default();
            lines
                .iter()
                .all(|line| page.contains(&format!("\n{line}\n")))
        };
        assert!(
            eventually(SOON, told).await,
            "{lines:?}\n{page}\n{}",
            agent.log()
        );
        page
    };
    comes(&[
        "cri_resmgr_agent_watch_up{watch=\"node\"} 1",
        "cri_resmgr_agent_watch_up{watch=\"default_map\"} 1",
        "cri_resmgr_agent_watch_errors_total{watch=\"node\"} 0",
        "cri_resmgr_agent_configuration_in_force 1",
        "cri_resmgr_agent_configuration_accepted_timestamp_seconds 0",
        "cri_resmgr_agent_pushes_total{outcome=\"accepted\"} 0",
        "cri_resmgr_agent_pod_events_total{outcome=\"suppressed\"} 0",
    ])
    .await;
    api.apply(&map("cri-resmgr-config.default", "static"))
        .unwrap();
    assert!(comes_from(&receiver, "cri-resmgr-config.default").await);
    client.set_label("a.b/c", Some("x")).await.unwrap();
    let kubelets = BTreeMap::from([("cpu".to_owned(), "1".to_owned())]);
    client.set_capacity(kubelets).await.unwrap_err();
    comes(&[
        "cri_resmgr_agent_pushes_total{outcome=\"accepted\"} 1",
        "cri_resmgr_agent_operations_total{operation=\"patch_node\",outcome=\"done\"} 1",
        "cri_resmgr_agent_operations_total{operation=\"update_node_capacity\",outcome=\"failed\"} 1",
        "cri_resmgr_agent_configuration_in_force 1",
    ])
    .await;
    api.apply(&map("cri-resmgr-config.default", "BAD")).unwrap();
    let page = comes(&[
        "cri_resmgr_agent_pushes_total{outcome=\"refused\"} 1",
        "cri_resmgr_agent_configuration_in_force 0",
    ])
    .await;
    assert!(page.contains("cri_resmgr_agent_api_requests_total{code=\"200\"} "));
    assert!(page.contains("\nprocess_resident_memory_bytes "), "{page}");
    assert!(!page.contains("accepted_timestamp_seconds 0\n"), "{page}");
    let complaints = promtool::complaints(&promtool_path, &page).unwrap();
    assert!(complaints.is_empty(), "{complaints}\n{page}");

    // The API server goes: each watch says so.
    api.stop_server();
    let page = comes(&["cri_resmgr_agent_watch_up{watch=\"node\"} 0"]).await;
    assert!(page.contains("cri_resmgr_agent_api_requests_total{code=\"none\"} "));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_socket_tells_health_and_the_configuration_and_is_roots_alone() {
    use std::os::unix::fs::PermissionsExt as _;
    let Some(api) = start("the agent's socket") else {
        return;
    };
    api.apply(&map("cri-resmgr-config.default", "static"))
        .unwrap();
    let agent = Agent::start(&api).unwrap();
    let socket = api.folder().join("agent.sock");
    assert!(
        eventually(SOON, async || socket.exists()).await,
        "{}",
        agent.log()
    );
    let mode = std::fs::metadata(&socket).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);

    let client = raw(&socket);
    let known = async || {
        let reply = client.clone().get_config(GetConfigRequest {}).await;
        reply.is_ok_and(|reply| reply.into_inner().config.contains_key("policy"))
    };
    assert!(eventually(SOON, known).await, "{}", agent.log());
    let health = async |query: &str| {
        let query = query.to_owned();
        let reply = client
            .clone()
            .health_check(HealthCheckRequest { query })
            .await;
        reply.map(|reply| reply.into_inner().error)
    };
    assert_eq!(health("").await.unwrap(), "");
    // Nobody stands for cri-resmgr here.
    assert_ne!(health("config-status").await.unwrap(), "");
    assert!(health("nonsense").await.is_err());
}
