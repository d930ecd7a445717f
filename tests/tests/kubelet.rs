//! Pods of every kind under a kubelet of today, with a real API server, judged by the kernel's cpusets: they are
//! what `state` says and what the rules of the policy say, and the API has what was asked for.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test program: helpers fail the test"
)]

use cri_resmgr::control::agent_client::CONFLICT_CONDITION;
use resmgr_tests::{
    Node,
    agent::http_get,
    apiserver::free_port,
    eventually, kernel,
    node::{self, PATIENCE, container_id, container_status},
    runtime::IMAGE,
    skip::skip,
};
use resmgr_topology::CpuSet;
use serde_json::{Value, json};

/// With CPU 0 for the containers that may have no others.
const RESERVED: [&str; 2] = ["--reserved-resources", "cpu=cpuset:0"];

/// What the rules of the active policy give to a container.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wanted {
    /// So many CPUs that no other container runs on, none of them reserved.
    Exclusive(usize),
    /// So many such CPUs, and the shared ones.
    ExclusiveAndShared(usize),
    /// All shared CPUs.
    Shared,
    /// The reserved CPU alone.
    Reserved,
}
use Wanted::{Exclusive, ExclusiveAndShared, Reserved, Shared};

/// A container by its pod and its name, and what it is to have.
type Rule = (&'static str, &'static str, Wanted);

fn cpus(list: &str) -> CpuSet {
    list.parse().unwrap()
}

/// The CPUs that are shared where no container has any exclusively.
fn shareable(policy: &str) -> CpuSet {
    let online = cpus(&kernel::online().unwrap());
    match policy {
        "static" => online,
        "static-plus" => online.difference(&cpus("0")),
        _ => online.difference(&last()),
    }
}

/// The last CPU, which is the exclusive list of policy stp.
fn last() -> CpuSet {
    let online = cpus(&kernel::online().unwrap());
    CpuSet::single(online.iter().last().unwrap())
}

/// What is wrong by `rules`, which name every container there is.
fn wrong(node: &Node, policy: &str, rules: &[Rule]) -> Option<String> {
    let state = node
        .cluster
        .relay
        .as_ref()
        .unwrap()
        .ask(&["state", "--json"]);
    let state: Value = match state {
        Ok(state) => serde_json::from_str(&state).unwrap(),
        Err(error) => return Some(format!("{error:#}")),
    };
    let known = state["containers"].as_array().unwrap();
    if known.len() != rules.len() {
        return Some(format!("{} containers, not {}", known.len(), rules.len()));
    }
    let mut found = Vec::new();
    for (pod, container, wanted) in rules {
        let view = known
            .iter()
            .find(|view| view["pod"] == *pod && view["container"] == *container);
        let Some(view) = view else {
            return Some(format!("{pod}/{container} is not in the state"));
        };
        let id = view["id"].as_str().unwrap();
        let allowed = match kernel::allowed(node.cluster.runtime.cgroup_parent(), id) {
            Ok(allowed) => cpus(&allowed),
            Err(error) => return Some(format!("{pod}/{container}: {error:#}")),
        };
        if allowed != cpus(view["cpus"].as_str().unwrap()) {
            return Some(format!("{pod}/{container} runs on {allowed}: {view}"));
        }
        found.push((format!("{pod}/{container}"), *wanted, allowed));
    }
    // CPUs of a container that no second container has.
    let alone = |subject: &str, allowed: &CpuSet| {
        let rest = found.iter().filter(|(name, ..)| name != subject);
        rest.fold(*allowed, |left, (_, _, taken)| left.difference(taken))
    };
    let mut shared = shareable(policy);
    for (name, wanted, allowed) in &found {
        if let Exclusive(count) | ExclusiveAndShared(count) = wanted {
            let own = alone(name, allowed);
            if own.len() != *count || (policy != "stp" && !own.is_disjoint(&cpus("0"))) {
                return Some(format!(
                    "{name} runs on {allowed}, alone on {own}: {wanted:?}"
                ));
            }
            shared = shared.difference(&own);
        }
    }
    for (name, wanted, allowed) in &found {
        let own = alone(name, allowed);
        let right = match wanted {
            Exclusive(_) => own,
            ExclusiveAndShared(_) => own.union(&shared),
            Shared => shared,
            Reserved => cpus("0"),
        };
        if *allowed != right {
            return Some(format!(
                "{name} runs on {allowed}, not on {right}: {wanted:?}"
            ));
        }
    }
    None
}

/// Waits until state and kernel are as the rules say.
async fn settles(node: &Node, policy: &str, rules: &[Rule]) {
    let mut last = None;
    let right = async || {
        tokio::time::sleep(node::PAUSE).await;
        last = wrong(node, policy, rules);
        last.is_none()
    };
    if !eventually(PATIENCE, right).await {
        panic!("under {policy}: {}\n{}", last.unwrap(), node.logs());
    }
}

/// A container that sleeps.
fn sleeping(name: &str) -> Value {
    json!({ "name": name, "image": IMAGE, "imagePullPolicy": "Never" })
}

/// Request and limit of so much CPU, and some memory.
fn guaranteed(cpu: &str) -> Value {
    let amount = json!({ "cpu": cpu, "memory": "32Mi" });
    json!({ "requests": amount, "limits": amount })
}

/// With more fields.
fn with(mut object: Value, fields: Value) -> Value {
    let Value::Object(fields) = fields else {
        panic!("not an object: {fields}");
    };
    object.as_object_mut().unwrap().extend(fields);
    object
}

/// A container that sleeps, with request and limit of so much CPU.
fn container(name: &str, cpu: &str) -> Value {
    with(sleeping(name), json!({ "resources": guaranteed(cpu) }))
}

/// A container that runs a shell script.
fn script(container: Value, script: &str) -> Value {
    with(container, json!({ "command": ["/bin/sh", "-c", script] }))
}

/// Creates a pod of these containers, with more fields in its spec.
fn create(node: &Node, name: &str, containers: &[Value], more: Value) {
    create_in(node, "default", name, containers, more);
}

fn create_in(node: &Node, namespace: &str, name: &str, containers: &[Value], more: Value) {
    let spec = json!({
        "nodeName": "n1",
        "hostNetwork": true,
        "dnsPolicy": "Default",
        "terminationGracePeriodSeconds": 1,
        "automountServiceAccountToken": false,
        "tolerations": [{ "operator": "Exists" }],
        "containers": containers,
    });
    let pod = json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": { "name": name, "namespace": namespace },
        "spec": with(spec, more),
    });
    node.cluster.api.apply(&pod.to_string()).unwrap();
}

/// Changes the CPU of the only container of a pod in place.
async fn ask(node: &Node, name: &str, cpu: &str) {
    let wanted = guaranteed(cpu);
    let change = |pod: &mut Value| pod["spec"]["containers"][0]["resources"] = wanted.clone();
    node.change(name, "resize", change).await.unwrap();
}

/// Changes the CPU of the only container of a pod in place, and waits until the kubelet says that it is so.
async fn resize(node: &Node, name: &str, cpu: &str) -> Value {
    ask(node, name, cpu).await;
    let ends = node.wait(name, "resized", |pod| {
        has_what_was_asked(pod) && !resizes(pod)
    });
    let pod = ends.await.unwrap();
    let resources = &pod["spec"]["containers"][0]["resources"];
    assert_eq!(amount(&resources["requests"]["cpu"]), amount(&json!(cpu)));
    pod
}

/// Whether the kubelet still has a resize to do.
fn resizes(pod: &Value) -> bool {
    let conditions = pod["status"]["conditions"].as_array();
    conditions.into_iter().flatten().any(|condition| {
        let kind = condition["type"].as_str().unwrap();
        kind.starts_with("PodResize") && condition["status"] == "True"
    })
}

/// Whether the resources of every container in the status of a pod are those in its spec.
fn has_what_was_asked(pod: &Value) -> bool {
    let containers = pod["spec"]["containers"].as_array();
    containers.into_iter().flatten().all(|container| {
        let name = container["name"].as_str().unwrap();
        let status = container_status(pod, name).unwrap_or(&Value::Null);
        ["requests", "limits"].into_iter().all(|kind| {
            let amounts = container["resources"][kind].as_object();
            amounts.into_iter().flatten().all(|(resource, wanted)| {
                amount(&status["resources"][kind][resource]) == amount(wanted)
            })
        })
    })
}

/// A quantity of CPU in thousandths; that of another resource as it is written.
fn amount(quantity: &Value) -> String {
    let text = quantity.as_str().unwrap_or_default();
    text.parse().map_or_else(
        |_| text.to_owned(),
        |whole: u32| format!("{}m", whole * 1000),
    )
}

/// Ids and restarts of all containers of these pods.
fn lives(node: &Node, pods: &[&str]) -> Vec<(Value, Value)> {
    let pods = pods.iter().map(|name| node.pod(name).unwrap());
    let statuses = pods.flat_map(|pod| {
        pod["status"]["containerStatuses"]
            .as_array()
            .cloned()
            .unwrap()
    });
    statuses
        .map(|status| {
            (
                status["containerID"].clone(),
                status["restartCount"].clone(),
            )
        })
        .collect()
}

/// That every container could be created and started.
fn assert_no_failures(node: &Node) {
    let failed = [
        "events",
        "--all-namespaces",
        "--field-selector",
        "reason=Failed",
    ];
    let failed = node.cluster.api.get(&failed).unwrap();
    let failed: Vec<&Value> = failed["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|event| &event["message"])
        .collect();
    assert!(failed.is_empty(), "{failed:#?}\n{}", node.logs());
}

/// The answer to a command in a container.
fn exec(node: &Node, pod: &str, command: &str) -> String {
    let words = ["exec", pod, "--", "/bin/sh", "-c", command];
    let answer = node.cluster.api.kubectl(&words);
    answer.unwrap_or_else(|error| panic!("{error:#}\n{}", node.logs()))
}

/// What a container has written so far.
fn log(node: &Node, pod: &str, container: &str) -> String {
    let answer = node.cluster.api.kubectl(&["logs", pod, "-c", container]);
    answer.unwrap_or_else(|error| panic!("{error:#}\n{}", node.logs()))
}

/// The CPUs in a `Cpus_allowed_list:` that a container has printed.
fn printed(text: &str) -> CpuSet {
    cpus(text.trim().rsplit(['\t', ' ']).next().unwrap())
}

const PRINT_CPUS: &str = "busybox grep Cpus_allowed_list /proc/self/status";

fn begin(what: &str, options: &[&str]) -> Option<Node> {
    if let Some(why) = node::missing() {
        skip(what, &why);
        return None;
    }
    let node = Node::start(&[&RESERVED, options].concat()).unwrap();
    Some(node)
}

#[tokio::test(flavor = "multi_thread")]
async fn under_static_pods_of_every_kind_are_where_its_rules_say() {
    let Some(mut node) = begin("a kubelet's pods under static", &["--policy", "static"]) else {
        return;
    };
    node.cluster.start_relay(&[]).unwrap();
    node.start_kubelet(&json!({})).await.unwrap();
    Box::pin(every_class(&mut node)).await;
    Box::pin(resized_in_place(&node)).await;
    Box::pin(in_turn(&node)).await;
    Box::pin(resources_of_the_pod(&node)).await;
    assert_no_failures(&node);
    for pod in ["best", "late"] {
        node.delete(pod).await.unwrap();
    }
    settles(&node, "static", &[]).await;
}

/// Pods of each QoS class, their probes, their logs, and a death of cri-resmgr among them.
async fn every_class(node: &mut Node) {
    let probe = json!({ "exec": { "command": ["/bin/true"] }, "periodSeconds": 1 });
    let probes = json!({ "startupProbe": probe, "readinessProbe": probe, "livenessProbe": probe });
    let burstable =
        json!({ "resources": { "requests": { "cpu": "100m" }, "limits": { "cpu": "200m" } } });
    let burstable = script(
        with(sleeping("b"), burstable),
        "echo begins; exec sleep 1000000",
    );
    create(node, "whole", &[container("w", "1")], json!({}));
    create(node, "fraction", &[container("f", "500m")], json!({}));
    create(node, "burstable", &[burstable], json!({}));
    create(node, "best", &[with(sleeping("b"), probes)], json!({}));
    let pods = ["whole", "fraction", "burstable", "best"];
    for (name, class) in
        pods.into_iter()
            .zip(["Guaranteed", "Guaranteed", "Burstable", "BestEffort"])
    {
        let pod = node.ready(name).await.unwrap();
        assert_eq!(pod["status"]["qosClass"], class);
        assert!(has_what_was_asked(&pod), "{pod:#}");
    }
    let mut rules = vec![
        ("whole", "w", Exclusive(1)),
        ("fraction", "f", Shared),
        ("burstable", "b", Shared),
        ("best", "b", Shared),
    ];
    settles(node, "static", &rules).await;
    assert_eq!(log(node, "burstable", "b"), "begins\n");
    // A process that enters a container is where the container is.
    for name in ["whole", "best"] {
        let own = container_id(&node.pod(name).unwrap(), &name[..1]).unwrap();
        let own = kernel::allowed(node.cluster.runtime.cgroup_parent(), &own).unwrap();
        assert_eq!(printed(&exec(node, name, PRINT_CPUS)), cpus(&own));
    }

    let before = lives(node, &pods);
    node.cluster.relay.as_mut().unwrap().kill().unwrap();
    create(node, "late", &[sleeping("l")], json!({}));
    node.cluster.start_relay(&[]).unwrap();
    node.ready("late").await.unwrap();
    rules.push(("late", "l", Shared));
    settles(node, "static", &rules).await;
    assert_eq!(lives(node, &pods), before, "{}", node.logs());
    node.delete("burstable").await.unwrap();
}

/// A request that becomes a whole CPU as soon as there is room, and a fraction again, with a restart between.
async fn resized_in_place(node: &Node) {
    let rules = |wanted| {
        [
            ("fraction", "f", wanted),
            ("best", "b", Shared),
            ("late", "l", Shared),
        ]
    };
    if cpus(&kernel::online().unwrap()).len() == 2 {
        ask(node, "fraction", "1").await;
        let refused = |pod: &Value| {
            let conditions = pod["status"]["conditions"].as_array();
            let messages = conditions.into_iter().flatten();
            let mut messages = messages.filter_map(|condition| condition["message"].as_str());
            messages
                .any(|text| text.contains("the resize does not fit: static: not enough capacity"))
        };
        node.wait("fraction", "refused", refused).await.unwrap();
    }
    node.delete("whole").await.unwrap();
    let pod = resize(node, "fraction", "1").await;
    settles(node, "static", &rules(Exclusive(1))).await;
    assert_eq!(container_status(&pod, "f").unwrap()["restartCount"], 0);

    node.kill(&container_id(&pod, "f").unwrap()).unwrap();
    let restarted = |pod: &Value| {
        let status = container_status(pod, "f").unwrap_or(&Value::Null);
        status["restartCount"] == 1 && status["ready"] == true
    };
    let pod = node.wait("fraction", "restarted", restarted).await.unwrap();
    settles(node, "static", &rules(Exclusive(1))).await;
    assert!(has_what_was_asked(&pod), "{pod:#}");

    resize(node, "fraction", "500m").await;
    settles(node, "static", &rules(Shared)).await;
    node.delete("fraction").await.unwrap();
}

/// Containers that have the same CPU in turn: an initial one, one that stays; a pod that ends.
async fn in_turn(node: &Node) {
    let rest = [("best", "b", Shared), ("late", "l", Shared)];
    let initial = script(container("initial", "1"), PRINT_CPUS);
    let sidecar = with(
        container("sidecar", "500m"),
        json!({ "restartPolicy": "Always" }),
    );
    let more = json!({ "initContainers": [initial, sidecar] });
    create(node, "steps", &[container("s", "1")], more);
    node.ready("steps").await.unwrap();
    let mut rules = rest.to_vec();
    rules.extend([("steps", "s", Exclusive(1)), ("steps", "sidecar", Shared)]);
    settles(node, "static", &rules).await;
    let alone = printed(&log(node, "steps", "initial"));
    assert_eq!(
        (alone.len(), alone.is_disjoint(&cpus("0"))),
        (1, true),
        "{alone}"
    );

    let added = with(sleeping("added"), json!({ "targetContainerName": "s" }));
    let add = |pod: &mut Value| pod["spec"]["ephemeralContainers"] = json!([added]);
    node.change("steps", "ephemeralcontainers", add)
        .await
        .unwrap();
    rules.push(("steps", "added", Shared));
    settles(node, "static", &rules).await;
    node.delete("steps").await.unwrap();
    settles(node, "static", &rest).await;

    let job = script(container("j", "1"), PRINT_CPUS);
    create(node, "job", &[job], json!({ "restartPolicy": "Never" }));
    let ended = |pod: &Value| pod["status"]["phase"] == "Succeeded";
    node.wait("job", "at its end", ended).await.unwrap();
    let alone = printed(&log(node, "job", "j"));
    assert_eq!(
        (alone.len(), alone.is_disjoint(&cpus("0"))),
        (1, true),
        "{alone}"
    );
    settles(node, "static", &rest).await;
    node.delete("job").await.unwrap();
}

/// A pod that has a whole CPU, of which its containers ask for nothing.
async fn resources_of_the_pod(node: &Node) {
    let more = json!({ "resources": guaranteed("1") });
    create(node, "budget", &[sleeping("x"), sleeping("y")], more);
    let pod = node.ready("budget").await.unwrap();
    assert_eq!(pod["status"]["qosClass"], "Guaranteed");
    let cpu = |pod: &Value| amount(&pod["status"]["resources"]["limits"]["cpu"]);
    assert_eq!(cpu(&pod), "1000m");
    let rules = [
        ("best", "b", Shared),
        ("late", "l", Shared),
        ("budget", "x", Shared),
        ("budget", "y", Shared),
    ];
    settles(node, "static", &rules).await;
    let smaller = guaranteed("600m");
    let change = |pod: &mut Value| pod["spec"]["resources"] = smaller.clone();
    node.change("budget", "resize", change).await.unwrap();
    let resized = |pod: &Value| cpu(pod) == "600m" && !resizes(pod);
    node.wait("budget", "resized", resized).await.unwrap();
    settles(node, "static", &rules).await;
    node.delete("budget").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn from_static_plus_to_stp_no_pod_is_restarted_and_the_rules_of_each_hold() {
    let Some(mut node) = begin("a kubelet's pods under static-plus and stp", &[]) else {
        return;
    };
    let plus = ["--policy", "static-plus"];
    node.cluster.start_relay(&plus).unwrap();
    node.start_kubelet(&json!({})).await.unwrap();
    create_in(&node, "kube-system", "dns", &[sleeping("d")], json!({}));
    create(&node, "best", &[sleeping("b")], json!({}));
    create(&node, "fraction", &[container("f", "500m")], json!({}));
    node.ready("best").await.unwrap();
    node.ready("fraction").await.unwrap();
    let mut rules = vec![
        ("dns", "d", Reserved),
        ("best", "b", Shared),
        ("fraction", "f", Shared),
    ];
    settles(&node, "static-plus", &rules).await;
    // One CPU is reserved, one stays shared: from three on there is one to be had alone.
    let mixed = ("mixed", "m", ExclusiveAndShared(1));
    create(&node, "mixed", &[container("m", "1200m")], json!({}));
    if cpus(&kernel::online().unwrap()).len() > 2 {
        rules.push(mixed);
        node.ready("mixed").await.unwrap();
    } else {
        skip(
            "a kubelet's pod with an exclusive CPU under static-plus",
            "needs three CPUs",
        );
        let refused = |pod: &Value| {
            let status = container_status(pod, "m").unwrap_or(&Value::Null);
            let message = status["state"]["waiting"]["message"].as_str();
            message.is_some_and(|text| text.contains("not enough capacity for default/mixed/m"))
        };
        node.wait("mixed", "refused", refused).await.unwrap();
    }
    settles(&node, "static-plus", &rules).await;
    node.delete("mixed").await.unwrap();
    resize(&node, "fraction", "600m").await;

    let pools = node.cluster.api.folder().join("pools.yaml");
    let list = |cpus: &CpuSet| json!([{ "Socket": 0, "Cpuset": cpus.to_string() }]);
    let text = json!({ "pools": {
        "exclusive": { "exclusive": true, "cpuLists": list(&last()) },
        "shared": { "cpuLists": list(&shareable("stp")) },
    } });
    std::fs::write(&pools, text.to_string()).unwrap();
    let pods = ["best", "fraction"];
    let before = lives(&node, &pods);
    node.cluster.relay.as_mut().unwrap().stop().unwrap();
    let file = pools.display().to_string();
    let stp = ["--policy", "stp", "--static-pools-conf-file", &file];
    node.cluster.start_relay(&stp).unwrap();
    // A command line as CMK's users write it.
    let isolate = "cmk isolate --pool=exclusive sleep 1000000";
    let pool = script(container("p", "500m"), isolate);
    create(&node, "pool", &[pool], json!({}));
    node.ready("pool").await.unwrap();
    let rules = [
        ("dns", "d", Shared),
        ("best", "b", Shared),
        ("fraction", "f", Shared),
        ("pool", "p", Exclusive(1)),
    ];
    settles(&node, "stp", &rules).await;
    resize(&node, "pool", "1").await;
    settles(&node, "stp", &rules).await;
    assert_eq!(lives(&node, &pods), before, "{}", node.logs());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_kubelets_own_cpu_manager_is_overruled_while_pods_come_and_go() {
    let port = free_port().unwrap();
    let metrics = format!("--metrics-address=127.0.0.1:{port}");
    let options = ["--policy", "static", &metrics];
    let Some(mut node) = begin("a kubelet with a CPU manager of its own", &options) else {
        return;
    };
    node.cluster.start_relay(&[]).unwrap();
    node.cluster.start_agent().unwrap();
    let manager = json!({
        "cpuManagerPolicy": "static",
        "cpuManagerReconcilePeriod": "1s",
        "reservedSystemCPUs": "0",
    });
    node.start_kubelet(&manager).await.unwrap();
    create(&node, "whole", &[container("w", "1")], json!({}));
    node.ready("whole").await.unwrap();
    let whole = ("whole", "w", Exclusive(1));
    settles(&node, "static", &[whole]).await;
    let before = lives(&node, &["whole"]);
    // A pod comes before its predecessor goes, so that the kubelet's manager always has a container to place.
    let names = ["a", "b", "c", "d", "e", "f"];
    for (index, name) in names.into_iter().enumerate() {
        create(&node, name, &[sleeping("s")], json!({}));
        node.ready(name).await.unwrap();
        let last = index.checked_sub(1).map(|index| names[index]);
        let mut rules = vec![whole, (name, "s", Shared)];
        rules.extend(last.map(|last| (last, "s", Shared)));
        settles(&node, "static", &rules).await;
        if let Some(last) = last {
            node.delete(last).await.unwrap();
        }
    }
    assert_eq!(lives(&node, &["whole"]), before, "{}", node.logs());

    conflict(&node, "True").await;
    let page = http_get(port, "/metrics").await.unwrap();
    let value = |name: &str| {
        let line = page
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.unwrap_or_else(|| panic!("no {name} in\n{page}"))
            .to_owned()
    };
    assert_eq!(value("cri_resmgr_manager_other_cpu_manager"), "1");
    assert_ne!(value("cri_resmgr_manager_overridden_cpusets_total"), "0");
    let log = node.cluster.relay.as_ref().unwrap().log();
    let lines = log
        .lines()
        .filter(|line| line.contains("another CPU manager is at work"));
    assert_eq!(lines.count(), 1, "{log}");

    // Turned off as docs/resources.md says: nothing is restarted, and the next container ends the conflict.
    node.stop_kubelet();
    std::fs::remove_file(node.kubelet_root().join("cpu_manager_state")).unwrap();
    node.start_kubelet(&json!({})).await.unwrap();
    create(&node, "after", &[sleeping("s")], json!({}));
    node.ready("after").await.unwrap();
    let rules = [whole, ("f", "s", Shared), ("after", "s", Shared)];
    settles(&node, "static", &rules).await;
    conflict(&node, "False").await;
    assert_eq!(lives(&node, &["whole"]), before, "{}", node.logs());
    assert_no_failures(&node);
}

/// Waits until the Node says whether another CPU manager is at work.
async fn conflict(node: &Node, wanted: &str) {
    let path = format!(".status.conditions[?(@.type=='{CONFLICT_CONDITION}')].status");
    let told = async || {
        tokio::time::sleep(node::PAUSE).await;
        node.cluster.node(&path) == wanted
    };
    assert!(eventually(PATIENCE, told).await, "{}", node.logs());
}
