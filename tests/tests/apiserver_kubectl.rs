//! `kubectl resmgr` against a real kube-apiserver, the agent with the rights of its manifest, and a real cri-resmgr.
//!
//! The agent is reached through the API server's own proxy for pods. There is no kubelet: the agent's pod is an object whose address is
//! this machine's, so what is not covered is that a network plug-in lets the API server reach a pod.
#![expect(clippy::unwrap_used, reason = "a test program: helpers fail the test")]

use std::{
    fmt::Write as _,
    net::Ipv4Addr,
    process::{Command, Stdio},
    time::SystemTime,
};

use cri_resmgr::control::agent_client::{AgentClient, PodEvent, PodEventReason};
use resmgr_tests::{
    Container, Relay,
    agent::Agent,
    apiserver::{self, ApiServer, free_port},
    built,
    cluster::{self, Cluster, SOON},
    eventually, mock_runtime,
    skip::skip,
};
use serde_json::{Value, json};

const NAMESPACE: &str = "kube-system";

/// How a command ended.
#[derive(Debug)]
struct Ended {
    code: Option<i32>,
    output: String,
    errors: String,
}

/// Runs the plugin as a user.
fn plugin(api: &ApiServer, user: &str, line: &str) -> Ended {
    let ended = Command::new(built("kubectl-resmgr").unwrap())
        .args(line.split_whitespace())
        .arg("--kubeconfig")
        .arg(api.kubeconfig(user))
        .stdin(Stdio::null())
        .output()
        .unwrap();
    Ended {
        code: ended.status.code(),
        output: String::from_utf8(ended.stdout).unwrap(),
        errors: String::from_utf8(ended.stderr).unwrap(),
    }
}

/// What a command prints that succeeds.
fn shown(api: &ApiServer, line: &str) -> String {
    let ended = plugin(api, "operator", line);
    assert_eq!((ended.code, &*ended.errors), (Some(0), ""), "{line}");
    ended.output
}

/// An address of this machine that the API server's proxy connects to: no loopback.
fn address() -> Option<Ipv4Addr> {
    let interfaces = nix::ifaddrs::getifaddrs().ok()?;
    let mut addresses = interfaces.filter_map(|interface| {
        let address = interface.address?;
        Some(address.as_sockaddr_in()?.ip())
    });
    addresses.find(|address| !address.is_loopback() && !address.is_link_local())
}

fn missing() -> Option<String> {
    let program = || built("kubectl-resmgr").is_none();
    let no_address = || "the API server's proxy reaches no address of this machine".to_owned();
    apiserver::missing()
        .or_else(|| program().then(|| "kubectl-resmgr is not built: cargo build --bins".to_owned()))
        .or_else(|| address().is_none().then(no_address))
}

/// The pod in which the agent of a node would be.
fn agent_pod(api: &ApiServer, node: &str, port: u16) {
    let name = format!("cri-resmgr-agent-{node}");
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": { "name": name, "namespace": NAMESPACE, "labels": { "app": "cri-resmgr-agent" } },
        "spec": { "nodeName": node, "containers": [{
            "name": "cri-resmgr-agent", "image": "x",
            "ports": [{ "name": "views", "containerPort": port }],
        }]},
    });
    api.apply(&pod.to_string()).unwrap();
    let address = address().unwrap().to_string();
    let status = json!({ "status": { "phase": "Running", "podIP": address, "podIPs": [{ "ip": address }] } });
    let patch = [
        "patch",
        "pod",
        "-n",
        NAMESPACE,
        &name,
        "--subresource=status",
        "--type=merge",
    ];
    let status = status.to_string();
    api.kubectl(&[&patch[..], &["-p", &status]].concat())
        .unwrap();
}

/// The agent of `n1`, which serves the views of this relay, its pod, and an operator who may read them.
fn start_agent(api: &ApiServer, relay: &Relay) -> (Agent, u16) {
    let port = free_port().unwrap();
    let inspect = relay.socket().with_file_name("relay-inspect.sock");
    let inspect = format!("--inspect-socket={}", inspect.display());
    let views = format!("--views-address=0.0.0.0:{port}");
    let agent = Agent::start_with(api, &[&views, &inspect]).unwrap();
    agent_pod(api, "n1", port);
    // As docs/kubectl.md says. The role `view` is empty here, as no controller puts it together.
    for line in [
        "create rolebinding -n kube-system resmgr-jane --role=cri-resmgr-viewer --user=jane",
        "create rolebinding -n default jane --clusterrole=system:aggregate-to-view --user=jane",
    ] {
        let words: Vec<_> = line.split_whitespace().collect();
        api.kubectl(&words).unwrap();
    }
    (agent, port)
}

async fn answers(api: &ApiServer, agent: &Agent) {
    let mut last = None;
    let ready = async || {
        let ended = plugin(api, "operator", "state n1");
        let is_ready = ended.code == Some(0);
        last = Some(ended);
        is_ready
    };
    let is_ready = eventually(SOON, ready).await;
    assert!(is_ready, "{last:?}\n{}", agent.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_sees_the_nodes_from_afar() {
    if let Some(why) = missing().or_else(cluster::missing) {
        skip("kubectl resmgr with containers", &why);
        return;
    }
    let options = ["--policy=static", "--reserved-resources=cpu=1"];
    let mut cluster = Cluster::start(&options).unwrap();
    cluster.start_relay(&[]).unwrap();
    let relay = cluster.relay.as_ref().unwrap();
    let api = &cluster.api;
    let (agent, port) = start_agent(api, relay);
    answers(api, &agent).await;

    let mut cri = cluster.cri().await.unwrap();
    let own = cri.run_pod("db-0", "", &[]).await.unwrap();
    cri.run(&own, &Container::sleeping("db").guaranteed(1))
        .await
        .unwrap();
    let second = cri.run_pod("web-0", "burstable", &[]).await.unwrap();
    cri.run(&second, &Container::sleeping("web").burstable(100))
        .await
        .unwrap();
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": { "name": "db-0", "namespace": "default" },
        "spec": { "nodeName": "n1", "containers": [{ "name": "db", "image": "x" }, { "name": "log", "image": "x" }] },
    });
    api.apply(&pod.to_string()).unwrap();

    // As on the node.
    let state = relay.ask(&["state"]).unwrap();
    assert!(state.contains("db-0") && state.contains("web-0"), "{state}");
    assert_eq!(shown(api, "state n1"), state);
    let json = |text: &str| serde_json::from_str::<Value>(text).unwrap();
    let on_node = json(&relay.ask(&["state", "--json"]).unwrap());
    assert_eq!(json(&shown(api, "state node/n1 -o json")), on_node);
    assert!(shown(api, "state n1 -o yaml").contains("\npolicy: static\n"));
    let of_pod = json(&shown(api, "state db-0 -o json"));
    let names: Vec<_> = of_pod["containers"]
        .as_array()
        .unwrap()
        .iter()
        .map(|c| &c["container"])
        .collect();
    assert_eq!(names, ["db"]);

    let why = relay.ask(&["explain", "default/db-0/db"]).unwrap();
    assert_eq!(shown(api, "explain db-0 -c db"), why);
    // A container that cri-resmgr does not know is told, and the rest is shown.
    let partial = plugin(api, "operator", "explain pod/db-0 -n default");
    assert_eq!((partial.code, partial.output), (Some(1), why));
    assert!(
        partial.errors.starts_with("error: node n1: "),
        "{}",
        partial.errors
    );
    let unmeasured = plugin(api, "operator", "top n1");
    assert_eq!((unmeasured.code, &*unmeasured.output), (Some(1), ""));
    let words = "error: node n1: its cri-resmgr measures nothing: start it with --ebpf-telemetry\n";
    assert_eq!(unmeasured.errors, words);

    // With a node that is away beside it, as one object.
    agent_pod(api, "n2", free_port().unwrap());
    let both = plugin(api, "operator", "state -A -o json");
    assert_eq!(both.code, Some(1));
    assert_eq!(json(&both.output), json!({ "n1": on_node }));
    assert!(
        both.errors.starts_with("error: node n2: ") && both.errors.lines().count() == 1,
        "{}",
        both.errors
    );
    let names = plugin(api, "operator", "state --all-namespaces -o name");
    assert_eq!((names.code, &*names.output), (Some(1), "node/n1\n"));
    let text = plugin(api, "operator", "state -A");
    assert_eq!(text.output, format!("node n1\n{state}"));

    for (line, words) in [
        ("state nowhere", "pods \"nowhere\" not found"),
        ("state node/nowhere", "node nowhere runs no agent"),
        ("explain n1", "pods \"n1\" not found"),
        (
            "explain db-0 -c cache",
            "pod db-0 has no container cache, but db, log",
        ),
        ("state n1 --context nowhere", "nowhere"),
        (
            "state n1 --agent-namespace default",
            "no node runs the agent",
        ),
        ("state n1 -o wide", "invalid value 'wide'"),
    ] {
        let ended = plugin(api, "operator", line);
        assert_eq!((ended.code, &*ended.output), (Some(1), ""), "{line}");
        let told = ended.errors.starts_with("error: ") && ended.errors.contains(words);
        assert!(told, "{line}: {}", ended.errors);
    }

    // Straight to the agent, as over `kubectl port-forward`.
    let direct = format!("state n1 --agent-address 127.0.0.1:{port}");
    assert_eq!(shown(api, &direct), state);
    drop(cluster.relay.take());
    let away = plugin(api, "operator", &direct);
    assert_eq!(away.code, Some(1));
    assert!(
        away.errors.contains("cri-resmgr does not answer at "),
        "{}",
        away.errors
    );
    drop(agent);
}

/// The answer of the agent to a request with this token, as it is.
fn raw(port: u16, token: &str) -> String {
    let request = format!(
        "GET /api/v1/state HTTP/1.1\r\nHost: x\r\nx-cri-resmgr-token: {token}\r\nConnection: close\r\n\r\n"
    );
    let mut client = Command::new("openssl")
        .args([
            "s_client",
            "-quiet",
            "-connect",
            &format!("127.0.0.1:{port}"),
        ])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    std::io::Write::write_all(client.stdin.as_mut().unwrap(), request.as_bytes()).unwrap();
    String::from_utf8(client.wait_with_output().unwrap().stdout).unwrap()
}

/// Runs a shell's line with the key of the API server's tokens, and gives its output.
fn signed(api: &ApiServer, line: &str) -> String {
    let line = format!("key={}; {line}", api.folder().join("sa.key").display());
    let ended = Command::new("sh").args(["-c", &line]).output().unwrap();
    assert!(ended.status.success(), "{ended:?}");
    String::from_utf8(ended.stdout).unwrap().trim().to_owned()
}

/// A token of the viewer's account for the agent of `n1`, valid from and until so many seconds from now.
fn token_of(api: &ApiServer, from_s: i64, until_s: i64) -> String {
    let account = api
        .get(&["serviceaccount", "-n", NAMESPACE, "cri-resmgr-viewer"])
        .unwrap();
    let now = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap();
    let now = i64::try_from(now.as_secs()).unwrap();
    let claims = json!({
        "iss": "https://kubernetes.default.svc",
        "sub": "system:serviceaccount:kube-system:cri-resmgr-viewer",
        "aud": ["cri-resmgr-agent/n1"],
        "iat": now + from_s, "nbf": now + from_s, "exp": now + until_s,
        "kubernetes.io": { "namespace": NAMESPACE, "serviceaccount": {
            "name": "cri-resmgr-viewer", "uid": account["metadata"]["uid"],
        }},
    });
    let script = r#"
        encode() { openssl base64 -A | tr '+/' '-_' | tr -d '='; }
        body=$(printf '{"alg":"RS256","typ":"JWT"}' | encode).$(printf '%s' "$claims" | encode)
        printf '%s' "$body.$(printf '%s' "$body" | openssl dgst -sha256 -sign "$key" | encode)""#;
    signed(api, &format!("claims='{claims}'; {script}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn the_rights_are_needed_and_a_token_that_is_not_for_this_is_refused() {
    if let Some(why) = missing() {
        skip("the rights of kubectl resmgr", &why);
        return;
    }
    let api = &ApiServer::start().unwrap();
    api.kubectl(&["apply", "-f", "deploy/kustomize/base/agent.yaml"])
        .unwrap();
    api.apply(r#"{"apiVersion":"v1","kind":"Node","metadata":{"name":"n1"}}"#)
        .unwrap();
    let runtime = api.folder().join("runtime.sock");
    mock_runtime::serve(&runtime);
    let relay = Relay::start_before(&runtime, &api.folder().join("relay"), &["--policy=null"]);
    let relay = relay.unwrap();
    let (agent, port) = start_agent(api, &relay);
    answers(api, &agent).await;

    // Without a token: the API server keeps the token that it was shown to itself, whatever it is good for.
    let path = format!(
        "/api/v1/namespaces/kube-system/pods/https:cri-resmgr-agent-n1:{port}/proxy/api/v1/state"
    );
    let refused = api
        .kubectl(&["get", "--raw", &path])
        .unwrap_err()
        .to_string();
    assert!(refused.contains("the request has no token"), "{refused}");

    let make = |account: &str, more: &[&str]| {
        let create = ["create", "token", "-n", NAMESPACE, account];
        api.kubectl(&[&create, more].concat())
            .unwrap()
            .trim()
            .to_owned()
    };
    for account in ["stranger", "gone"] {
        api.kubectl(&["create", "serviceaccount", "-n", NAMESPACE, account])
            .unwrap();
    }
    let audience = ["--audience", "cri-resmgr-agent/n1"];
    let gone = make("gone", &audience);
    api.kubectl(&["delete", "serviceaccount", "-n", NAMESPACE, "gone"])
        .unwrap();
    let forbidden = "User \\\"system:serviceaccount:kube-system:stranger\\\" cannot get resource \\\"nodes/resmgr\\\"";
    let expired = "is not valid for the audience cri-resmgr-agent/n1: [invalid bearer token, service account token has expired]";
    for (kind, token, code, words) in [
        ("own", token_of(api, -5, 600), 200, "\"policy\":\"null\""),
        (
            "made by the API server",
            make("cri-resmgr-viewer", &audience),
            200,
            "\"policy\":\"null\"",
        ),
        ("empty", String::new(), 401, "\"reason\":\"Unauthorized\""),
        (
            "made up",
            "a.b.c".to_owned(),
            401,
            "is not valid for the audience cri-resmgr-agent/n1",
        ),
        ("expired", token_of(api, -1200, -600), 401, expired),
        (
            "for the API server",
            make("cri-resmgr-viewer", &[]),
            401,
            "token audiences",
        ),
        (
            "for another node",
            make("cri-resmgr-viewer", &["--audience", "cri-resmgr-agent/n2"]),
            401,
            "token audiences",
        ),
        (
            "a user's",
            "operator-token".to_owned(),
            401,
            "is not valid for",
        ),
        (
            "an administrator's",
            "admin-token".to_owned(),
            401,
            "is not valid for",
        ),
        ("of an account that is gone", gone, 401, "is not valid for"),
        (
            "of an account without the right",
            make("stranger", &audience),
            403,
            forbidden,
        ),
    ] {
        let answer = raw(port, &token);
        let is_so = answer.starts_with(&format!("HTTP/1.1 {code} ")) && answer.contains(words);
        assert!(is_so, "{kind}: {answer}");
    }
    let stranger = plugin(api, "admin", "state n1 --service-account stranger");
    assert_eq!(stranger.code, Some(1));
    assert!(
        stranger
            .errors
            .contains("cannot get resource \"nodes/resmgr\""),
        "{}",
        stranger.errors
    );
    let page = agent.metrics().await.unwrap();
    for outcome in ["answered", "refused"] {
        let name = format!("cri_resmgr_agent_views_total{{outcome=\"{outcome}\"}} ");
        let count = page
            .lines()
            .find_map(|line| line.strip_prefix(&name))
            .unwrap();
        assert!(count.parse::<f64>().unwrap() > 0.0, "{page}");
    }

    each_right_is_needed(api).await;
    events_are_those_of_cri_resmgr(api).await;
}

/// Takes each right away alone, and gives it back.
async fn each_right_is_needed(api: &ApiServer) {
    for role in [
        ["clusterrole", "system:auth-delegator", "-n", NAMESPACE],
        ["clusterrole", "cri-resmgr-views", "-n", NAMESPACE],
        ["role", "cri-resmgr-viewer", "-n", NAMESPACE],
    ] {
        let rules = api.get(&role).unwrap()["rules"].as_array().unwrap().clone();
        for (number, rule) in rules.iter().enumerate() {
            let verb = rule["verbs"][0].as_str().unwrap();
            let resource = rule["resources"][0].as_str().unwrap();
            let patch = |verb: &str| {
                let path = format!("/rules/{number}/verbs");
                let patch = json!([{ "op": "replace", "path": path, "value": [verb] }]).to_string();
                let words = [&["patch"], &role[..], &["--type=json", "-p", &patch]].concat();
                api.kubectl(&words).unwrap();
            };
            patch("nothing");
            let words = format!("cannot {verb} resource \"{resource}\"");
            let mut last = None;
            let is_refused = async || {
                let ended = plugin(api, "operator", "state n1");
                let is_named = ended.code == Some(1) && ended.errors.contains(&words);
                last = Some(ended);
                is_named
            };
            let is_refused = eventually(SOON, is_refused).await;
            assert!(is_refused, "{words}: {last:?}");
            patch(verb);
            let works = async || plugin(api, "operator", "state n1").code == Some(0);
            assert!(eventually(SOON, works).await, "{words} is given back");
        }
    }
}

async fn events_are_those_of_cri_resmgr(api: &ApiServer) {
    let view = "create clusterrolebinding jane --clusterrole=system:aggregate-to-view --user=jane";
    let words: Vec<_> = view.split_whitespace().collect();
    api.kubectl(&words).unwrap();
    let client = AgentClient::new(api.folder().join("agent.sock"));
    for (pod, reason) in [
        ("db-0", PodEventReason::Moved),
        ("db-1", PodEventReason::PlacementRefused),
    ] {
        let event = PodEvent {
            namespace: "default".to_owned(),
            pod: pod.to_owned(),
            uid: pod.to_owned(),
            reason,
            message: format!("container {pod}: text"),
            at: SystemTime::now(),
        };
        client.record_event(&event).await.unwrap();
    }
    let foreign = json!({
        "apiVersion": "v1", "kind": "Event", "metadata": { "name": "x", "namespace": "default" },
        "involvedObject": { "kind": "Pod", "name": "db-0", "namespace": "default" },
        "reason": "Foreign", "type": "Normal", "message": "no", "reportingComponent": "kubelet",
    });
    api.apply(&foreign.to_string()).unwrap();
    // Two Events, and the head.
    let mut last = None;
    let written = async || {
        let ended = plugin(api, "operator", "events -A");
        let is_whole = ended.output.lines().count() == 3;
        last = Some(ended);
        is_whole
    };
    assert!(eventually(SOON, written).await, "{last:?}");
    for (line, rows) in [
        ("events", "CPUMoved db-0 CPUPlacementRefused db-1"),
        ("events -n kube-public", ""),
        (
            "events -A -o wide",
            "CPUMoved db-0 CPUPlacementRefused db-1",
        ),
        ("events n1", "CPUMoved db-0 CPUPlacementRefused db-1"),
        ("events node/n2", ""),
        ("events db-1", "CPUPlacementRefused db-1"),
        ("events pod/db-0", "CPUMoved db-0"),
    ] {
        let list: Value = serde_json::from_str(&shown(
            api,
            &format!("{line} -o json").replace("-o wide ", ""),
        ))
        .unwrap();
        let mut found = String::new();
        for event in list["items"].as_array().unwrap() {
            let text = |value: &Value| value.as_str().unwrap().to_owned();
            let (reason, name) = (
                text(&event["reason"]),
                text(&event["involvedObject"]["name"]),
            );
            write!(found, "{reason} {name} ").unwrap();
        }
        assert_eq!(found.trim_end(), rows, "{line}");
        let table = shown(api, line);
        let has = |word: &str| table.contains(word);
        assert!(rows.split(' ').all(has), "{line}: {table}");
    }
}
