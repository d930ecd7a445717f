//! The Helm chart and the kustomize base: the same objects, accepted by a real API server for every value that the
//! chart takes; and what it does not take is refused by its name.
#![expect(clippy::unwrap_used, reason = "a test program: helpers fail the test")]

use resmgr_tests::{
    apiserver::{self, ApiServer, repository},
    built, installed,
    skip::skip,
};
use serde::Deserialize as _;
use serde_json::{Map, Value, json};
use std::{
    collections::{BTreeMap, BTreeSet},
    process::Command,
};

/// Kinds of the Prometheus operator, as a cluster that has it.
const MONITORING: [&str; 2] = ["PodMonitor", "PrometheusRule"];
const GROUP: &str = "monitoring.coreos.com";

/// Options that are not the chart's: the installer's own, those for one start, and those that print.
const NOT_IN_THE_CHART: [&str; 16] = [
    "agent-socket",
    "cgroup-mount",
    "config",
    "config-socket",
    "host-root",
    "list-loggers",
    "list-policies",
    "logger",
    "print-config",
    "relay-dir",
    "relay-socket",
    "reset-config",
    "reset-policy",
    "runtime-socket",
    "topology",
    "version",
];

/// What Helm made of one set of values: texts of files by name, or why not.
type Rendered = Result<BTreeMap<String, String>, String>;

fn read(path: &str) -> String {
    std::fs::read_to_string(repository().join(path)).unwrap()
}

/// Answers of the helper in `tests/helm`; `None`, and said so, where it is not built.
fn helm(what: &str, requests: &[Value]) -> Option<Vec<Value>> {
    let program = repository().join(".cache/helm/helm");
    if !program.is_file() {
        skip(what, "helm is not built: cargo xtask setup");
        return None;
    }
    let folder = tempfile::tempdir().unwrap();
    let asked = folder.path().join("requests");
    let text: String = requests.iter().map(Value::to_string).collect();
    std::fs::write(&asked, text).unwrap();
    let output = Command::new(program)
        .arg(repository().join("deploy/chart"))
        .stdin(std::fs::File::open(asked).unwrap())
        .output()
        .unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    let answers: Vec<Value> = serde_json::Deserializer::from_slice(&output.stdout)
        .into_iter()
        .map(Result::unwrap)
        .collect();
    assert_eq!(answers.len(), requests.len());
    Some(answers)
}

fn render(what: &str, values: &[Value]) -> Option<Vec<Rendered>> {
    render_in(what, "kube-system", values)
}

fn render_in(what: &str, namespace: &str, values: &[Value]) -> Option<Vec<Rendered>> {
    let kinds = MONITORING.map(|kind| format!("{GROUP}/v1/{kind}"));
    let requests: Vec<Value> = values
        .iter()
        .map(|values| json!({"values": values, "namespace": namespace, "apiVersions": kinds}))
        .collect();
    let rendered = helm(what, &requests)?.into_iter().map(|answer| {
        if let Some(error) = answer["error"].as_str() {
            return Err(error.to_owned());
        }
        Ok(serde_json::from_value(answer["files"].clone()).unwrap())
    });
    Some(rendered.collect())
}

/// The objects of a manifest.
fn objects(text: &str) -> Vec<Value> {
    serde_yaml::Deserializer::from_str(text)
        .map(|document| Value::deserialize(document).unwrap())
        .filter(|object| !object.is_null())
        .collect()
}

/// The objects of the templates.
fn objects_of(rendered: &Rendered) -> Vec<Value> {
    let files = rendered.as_ref().unwrap();
    let templates = files.iter().filter(|(name, _)| name.ends_with(".yaml"));
    templates.flat_map(|(_, text)| objects(text)).collect()
}

fn kustomize(folder: &str) -> Vec<Value> {
    let output = Command::new(installed("kubectl").unwrap())
        .args(["kustomize", folder])
        .current_dir(repository())
        .output()
        .unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{folder}: {errors}");
    objects(&String::from_utf8(output.stdout).unwrap())
}

fn no_kubectl(what: &str) -> bool {
    let missing = installed("kubectl").is_none();
    if missing {
        skip(what, "kubectl is not installed: cargo xtask setup");
    }
    missing
}

/// Kind, namespace and name.
fn name(object: &Value) -> String {
    let at = |pointer| {
        object
            .pointer(pointer)
            .and_then(Value::as_str)
            .unwrap_or("")
    };
    let namespace = at("/metadata/namespace");
    format!("{} {namespace}/{}", at("/kind"), at("/metadata/name"))
}

/// The objects by name, without the labels that tell where Helm has them from.
fn by_name(objects: Vec<Value>) -> BTreeMap<String, Value> {
    let mut named = BTreeMap::new();
    for mut object in objects {
        let metadata = object["metadata"].as_object_mut().unwrap();
        if let Some(labels) = metadata.get_mut("labels").and_then(Value::as_object_mut) {
            labels.retain(|label, _| {
                !label.starts_with("app.kubernetes.io/") && !label.starts_with("helm.sh/")
            });
            if labels.is_empty() {
                metadata.remove("labels");
            }
        }
        let twice = named.insert(name(&object), object);
        assert!(twice.is_none(), "twice: {twice:?}");
    }
    named
}

fn assert_equal(chart: &BTreeMap<String, Value>, base: &BTreeMap<String, Value>) {
    let names = |objects: &BTreeMap<String, Value>| objects.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(chart), names(base));
    let yaml = |value: &Value| serde_yaml::to_string(value).unwrap();
    for (name, object) in chart {
        let (rendered, written) = (yaml(object), yaml(&base[name]));
        assert!(
            rendered == written,
            "{name}\n# chart:\n{rendered}\n# kustomize:\n{written}"
        );
    }
}

fn schema() -> Value {
    serde_json::from_str(&read("deploy/chart/values.schema.json")).unwrap()
}

/// What a part of the schema refers to, or the part itself.
fn resolved<'a>(schema: &'a Value, part: &'a Value) -> &'a Value {
    match part["$ref"].as_str() {
        Some(reference) => schema.pointer(reference.trim_start_matches('#')).unwrap(),
        None => part,
    }
}

/// A place in the values; `[]` is the first element of a list, `sample` a name of the administrator's choice.
type Place = Vec<String>;

/// Every place with its part of the schema.
fn places(schema: &Value) -> Vec<(Place, Value)> {
    let mut found = Vec::new();
    let mut open = vec![(Place::new(), schema.clone())];
    while let Some((place, part)) = open.pop() {
        let part = resolved(schema, &part).clone();
        let mut below = |name: &str, part: &Value| {
            let mut place = place.clone();
            place.push(name.to_owned());
            open.push((place, part.clone()));
        };
        for (name, property) in part["properties"].as_object().into_iter().flatten() {
            below(name, property);
        }
        if part["additionalProperties"].is_object() {
            below("sample", &part["additionalProperties"]);
        }
        if part["items"].is_object() {
            below("[]", &part["items"]);
        }
        found.push((place, part));
    }
    found
}

/// The legal values of a place that has few.
fn choices(part: &Value) -> Vec<Value> {
    match &part["enum"] {
        Value::Array(values) => values.clone(),
        _ if part["type"] == "boolean" => vec![json!(false), json!(true)],
        _ => Vec::new(),
    }
}

/// Values that say `value` at a place and nothing else.
fn values_at(place: &[String], value: &Value) -> Value {
    place.iter().rev().fold(value.clone(), |value, name| {
        if name == "[]" {
            return json!([value]);
        }
        let mut map = Map::new();
        map.insert(name.clone(), value);
        if ["operator", "effect"].contains(&name.as_str()) {
            map.insert("key".to_owned(), json!("sample"));
        }
        Value::Object(map)
    })
}

/// Each option of the chart with a value.
fn all_options() -> Value {
    json!({
        "image-socket": "/run/containerd/containerd.sock",
        "runtime-wait": "30s",
        "runtime-timeout": "1m30s",
        "drain-timeout": "500ms",
        "policy": "static",
        "available-resources": "cpu=0-15",
        "reserved-resources": ["cpu=1000m"],
        "static-policy-relaxed-isolation": true,
        "static-plus-burstable-exclusive": false,
        "pin-memory": true,
        "fail-policy": ["refuse", "batch=pass"],
        "policy-timeout": "2s",
        "rebalance": "shadow",
        "static-pools-conf-file": "/etc/cri-resmgr/pools.yaml",
        "static-pools-conf-dir": "/etc/cmk",
        "static-pools-create-cmk-node-label": true,
        "static-pools-create-cmk-node-taint": true,
        "reconcile-interval": "0",
        "restore-on-stop": true,
        "container-resources-file": "never",
        "fence-host": true,
        "ebpf-telemetry": true,
        "max-containers": 65536,
        "telemetry-half-life": "5s",
        "record": "/var/log/cri.record",
        "metrics-address": "0.0.0.0:8891",
        "metrics-allowed-hosts": "status.example.com",
        "dump": ["reset,full:^Create,.*Pod.*", "count:*"],
        "dump-file": "/var/log/cri.dump",
        "dump-format": "json",
        "dump-measured-lists": true,
        "dump-secrets": false,
        "count-period": "1h",
        "logger-level": "warn",
        "logger-source": ["policy", "message:off"],
        "logger-debug": "policy,cri/relay",
        "logger-prefix": false,
        "log-format": "json",
    })
}

/// Each key of a pushed document with every field.
fn documents() -> Value {
    let pools = json!({
        "LabelNode": true,
        "TaintNode": false,
        "pools": {
            "exclusive": {"exclusive": true, "cpuLists": [{"Socket": 0, "Cpuset": "2,18"}]},
            "shared": {"cpuLists": [{"Cpuset": "4-7,20-23"}]},
            "infra": {"cpuLists": [{"Socket": 0, "Cpuset": 0}]},
        },
    });
    json!({
        "default": {
            "policy": {
                "Active": "static",
                "AvailableResources": {"CPU": "0-15"},
                "ReservedResources": {"CPU": 1},
                "PinMemory": true,
                "FailPolicy": ["refuse", "kube-system=pass"],
                "Timeout": "1s",
            },
            "policy.static": {"RelaxedIsolation": true},
            "policy.static-plus": {"BurstableExclusive": false},
            "policy.static-pools": pools,
            "rebalance": true,
            "dump": {"Config": "full:.*", "Disabled": false},
            "logger": {"Level": "warn", "LogSource": "policy", "Debug": ["policy"]},
        },
        "groups": {"mixed": {"policy.stp": pools}},
        "nodes": {"n1.example.com": {"rebalance": "off"}},
    })
}

/// Everything that the chart can make, and values that are no choices.
fn wholes() -> Vec<Value> {
    let image = json!({"repository": "team/x", "tag": "v1"});
    let digest = format!("sha256:{}", "0a".repeat(32));
    vec![
        json!({}),
        json!({
            "registry": "registry.example/cpu",
            "imagePullSecrets": [{"name": "credentials"}],
            "relay": {
                "image": {"digest": digest},
                "kubelet": "k3s.service",
                "maxUnavailable": "10%",
                "nodeSelector": {"cri-resource-manager.intel.com/enabled": null, "pool": "cpu"},
                "tolerations": [],
                "options": all_options(),
            },
            "agent": {"image": image, "resources": {"limits": {"cpu": 1, "memory": "1Gi"}}},
            "config": documents(),
            "webhook": {
                "image": image,
                "replicas": 3,
                "timeoutSeconds": 10,
                "certificate": {"secretName": "tls", "caBundle": "QQ=="},
                "annotations": {"cert-manager.io/inject-ca-from": "cri-resmgr/x"},
            },
            "monitoring": {
                "podMonitors": {"enabled": true, "interval": "1m", "labels": {"release": "x"}},
                "alerts": {"enabled": true, "labels": {"release": "x"}},
                "dashboards": {"enabled": true, "labels": {"x": "y"}},
            },
        }),
        serde_yaml::from_str(&read("deploy/config/values.yaml")).unwrap(),
        json!({"webhook": {"namespace": "kube-system"}}),
        json!({"webhook": {"namespace": "admission"}}),
    ]
}

#[test]
fn the_api_server_takes_the_objects_of_every_choice_and_of_every_overlay() {
    let what = "server-side dry runs of the chart";
    let mut values = wholes();
    for (place, part) in places(&schema()) {
        values.extend(choices(&part).iter().map(|value| values_at(&place, value)));
    }
    assert!(values.len() > 100, "{}", values.len());
    let Some(mut rendered) = render(what, &values) else {
        return;
    };
    if let Some(why) = apiserver::missing() {
        return skip(what, &why);
    }
    rendered.extend(render_in(what, "elsewhere", &wholes()).unwrap());
    let mut distinct = BTreeSet::new();
    for (number, rendered) in rendered.iter().enumerate() {
        let values = values.get(number % values.len());
        assert!(rendered.is_ok(), "{values:?}: {rendered:?}");
        distinct.extend(objects_of(rendered).iter().map(Value::to_string));
    }
    for overlay in ["base", "static", "static-plus", "static-pools"] {
        let objects = kustomize(&format!("deploy/kustomize/{overlay}"));
        distinct.extend(objects.iter().map(Value::to_string));
    }
    let api = ApiServer::start().unwrap();
    for namespace in ["cri-resmgr", "admission", "elsewhere"] {
        api.kubectl(&["create", "namespace", namespace]).unwrap();
    }
    for kind in MONITORING {
        let plural = kind.to_lowercase() + "s";
        let definition = json!({
            "apiVersion": "apiextensions.k8s.io/v1",
            "kind": "CustomResourceDefinition",
            "metadata": {"name": format!("{plural}.{GROUP}")},
            "spec": {
                "group": GROUP,
                "scope": "Namespaced",
                "names": {"kind": kind, "plural": plural},
                "versions": [{"name": "v1", "served": true, "storage": true, "schema": {
                    "openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": true},
                }}],
            },
        });
        api.apply(&definition.to_string()).unwrap();
        let crd = format!("crd/{plural}.{GROUP}");
        let wait = ["wait", "--for=condition=established", "--timeout=60s", &crd];
        api.kubectl(&wait).unwrap();
    }
    let items: Vec<Value> = distinct
        .iter()
        .map(|text| serde_json::from_str(text).unwrap())
        .collect();
    let path = api.folder().join("objects.json");
    let list = json!({"apiVersion": "v1", "kind": "List", "items": items});
    std::fs::write(&path, list.to_string()).unwrap();
    let path = path.display().to_string();
    let said = api
        .kubectl(&[
            "apply",
            "--server-side",
            "--dry-run=server",
            "--validate=strict",
            "-f",
            &path,
        ])
        .unwrap();
    assert_eq!(said.lines().count(), items.len(), "{said}");
}

#[test]
fn the_chart_with_its_defaults_and_the_kustomize_base_hold_the_same_objects() {
    let what = "the chart beside the kustomize base";
    if no_kubectl(what) {
        return;
    }
    let Some(rendered) = render(what, &wholes()) else {
        return;
    };
    let base = by_name(kustomize("deploy/kustomize/base"));
    assert_equal(&by_name(objects_of(&rendered[0])), &base);
    // Rights are the same with all values: tests/apiserver_rights.rs shows that none lacks and none is too many.
    for rendered in &rendered {
        for (name, role) in by_name(objects_of(rendered)) {
            if role["rules"].is_array() {
                assert_eq!(role, base[&name], "{name}");
            }
        }
    }
}

#[test]
fn an_overlay_gives_nodes_the_same_options_as_the_chart_with_these_values() {
    let what = "the chart beside the kustomize overlays";
    if no_kubectl(what) {
        return;
    }
    let overlays = ["static", "static-plus", "static-pools"];
    let values = overlays.map(|policy| {
        let mut options = json!({"policy": policy});
        if policy != "static-pools" {
            options["reserved-resources"] = json!(["cpu=1000m"]);
        }
        json!({"relay": {"options": options}})
    });
    let Some(rendered) = render(what, &values) else {
        return;
    };
    for (overlay, rendered) in overlays.iter().zip(&rendered) {
        let mut chart = objects_of(rendered);
        for object in &mut chart {
            // A digest of the options, which kustomize has in the name of the ConfigMap.
            if let Some(template) = object.pointer_mut("/spec/template/metadata") {
                template.as_object_mut().unwrap().remove("annotations");
            }
        }
        let mut overlaid = kustomize(&format!("deploy/kustomize/{overlay}"));
        let map = overlaid
            .iter_mut()
            .find(|object| object["kind"] == "ConfigMap");
        let map = map.unwrap();
        let text = map["data"]["cri-resmgr.conf"].as_str().unwrap();
        let lines: Vec<_> = text
            .lines()
            .filter(|line| !line.starts_with('#'))
            .map(|line| line.to_owned() + "\n")
            .collect();
        map["data"]["cri-resmgr.conf"] = lines.concat().into();
        let hashed = map["metadata"]["name"].as_str().unwrap().to_owned();
        let text = serde_json::to_string(&overlaid).unwrap();
        let text = text.replace(&hashed, "cri-resmgr-options");
        let overlaid = serde_json::from_str(&text).unwrap();
        assert_equal(&by_name(chart), &by_name(overlaid));
    }
}

#[test]
fn a_value_that_is_not_taken_is_refused_by_its_name() {
    let mut cases: Vec<(Value, String)> = Vec::new();
    for (place, part) in places(&schema()) {
        let pointer = format!("/{}", place.join("/").replace("[]", "0"));
        if !choices(&part).is_empty() {
            cases.push((values_at(&place, &json!("wrong")), pointer));
        } else if part["additionalProperties"] == false {
            let mut typo = place.clone();
            typo.push("polcy".to_owned());
            cases.push((values_at(&typo, &json!("static")), "polcy".to_owned()));
        }
    }
    for (place, value) in [
        ("relay/options/fence-host", json!("maybe")),
        ("relay/options/dump", json!("everything:.*")),
        ("relay/options/metrics-address", json!("8891")),
        ("relay/options/max-containers", json!(0)),
        ("relay/options/policy-timeout", json!("1 second")),
        ("relay/options/dump-file", json!("cri.dump")),
        (
            "relay/options/reserved-resources",
            json!("cpu=1\npolicy = null"),
        ),
        ("relay/maxUnavailable", json!(0)),
        ("relay/image/digest", json!("sha256:12")),
        ("agent/resources/limits/memory", json!("1 GB")),
        ("webhook/timeoutSeconds", json!(60)),
        ("config/nodes/N 1", json!({})),
    ] {
        let parts: Vec<_> = place.split('/').map(str::to_owned).collect();
        let named = if place.ends_with("N 1") { "N 1" } else { place };
        cases.push((values_at(&parts, &value), named.to_owned()));
    }
    let values: Vec<Value> = cases.iter().map(|(values, _)| values.clone()).collect();
    let Some(rendered) = render("wrong values of the chart", &values) else {
        return;
    };
    for ((values, named), rendered) in cases.iter().zip(&rendered) {
        let error = rendered.as_ref().err();
        assert!(
            error.is_some_and(|error| error.contains(named)),
            "{values} is not refused for {named}: {error:?}"
        );
    }
}

#[test]
fn values_that_contradict_each_other_are_refused_with_the_reason() {
    let cases = [
        (
            json!({"webhook": {"replicas": 2}}),
            "webhook.certificate.secretName",
        ),
        (
            json!({"agent": {"enabled": false}, "config": {"default": {"rebalance": "off"}}}),
            "agent.enabled",
        ),
        (
            json!({"webhook": {"certificate": {"secretName": "tls"}}}),
            "caBundle",
        ),
        (
            json!({
                "relay": {"options": {"fence-host": "shadow"}},
                "config": {"nodes": {"n1": {"policy": {"Active": "static"}}}},
            }),
            "config (node.n1): from the policy null to static",
        ),
        (
            json!({
                "relay": {"options": {"policy": "static"}},
                "config": {"default": {"policy": {"Active": "null"}}},
            }),
            "config (default): from the policy static to null",
        ),
    ];
    let values = cases.clone().map(|(values, _)| values);
    let Some(rendered) = render("contradicting values of the chart", &values) else {
        return;
    };
    for ((values, reason), rendered) in cases.iter().zip(&rendered) {
        let error = rendered.as_ref().unwrap_err();
        assert!(error.contains(reason), "{values}: {error}");
    }
}

#[test]
fn the_program_takes_every_option_and_every_document_of_the_chart() {
    let what = "options and documents of the chart";
    let known = schema();
    let known = known.pointer("/$defs/options/properties").unwrap();
    let options: BTreeSet<_> = known.as_object().unwrap().keys().cloned().collect();
    let sampled: BTreeSet<_> = all_options().as_object().unwrap().keys().cloned().collect();
    assert_eq!(options, sampled);
    let page = read("docs/configuration.md");
    let documented: BTreeSet<_> = page
        .lines()
        .filter(|line| !line.contains("Accepted for the predecessor's sake"))
        .filter_map(|line| line.strip_prefix("| `--"))
        .filter_map(|line| line.split(['`', ' ', '[']).next())
        .filter(|option| !NOT_IN_THE_CHART.contains(option))
        .map(str::to_owned)
        .collect();
    assert_eq!(options, documented);

    let all = json!({"relay": {"options": all_options()}, "config": documents()});
    let sample: Value = serde_yaml::from_str(&read("deploy/config/values.yaml")).unwrap();
    let values = [all, sample];
    let Some(rendered) = render(what, &values) else {
        return;
    };
    let Some(program) = built("cri-resmgr") else {
        return skip(what, "cri-resmgr is not built: cargo build --bins");
    };
    let folder = tempfile::tempdir().unwrap();
    let mut judged = 0;
    for (values, rendered) in values.iter().zip(&rendered) {
        let options = values["relay"]["options"].as_object().unwrap();
        for object in objects_of(rendered) {
            let mut run = Command::new(&program);
            run.args(["--topology", "pack:1 numa:1 core:16 pu:2"]);
            run.env("NODE_NAME", "n1");
            let file = folder.path().join("file");
            if let Some(text) = object["data"]["cri-resmgr.conf"].as_str() {
                std::fs::write(&file, text).unwrap();
                run.arg("--config").arg(&file).arg("--print-config");
                let shown = succeeded(&mut run);
                for option in options.keys() {
                    assert!(shown.contains(option), "{option} is not in {shown}");
                }
            } else if object["kind"] == "ConfigMap" {
                std::fs::write(&file, object.to_string()).unwrap();
                run.args(["--policy=none", "--config-socket=disabled", "check-config"]);
                succeeded(run.arg(&file));
            } else {
                continue;
            }
            judged += 1;
        }
    }
    assert_eq!(judged, 6);
}

#[test]
fn the_programs_take_the_words_that_their_containers_are_started_with() {
    let what = "command lines of the chart";
    let (Some(mut rendered), Some(elsewhere)) = (
        render(what, &wholes()),
        render_in(what, "elsewhere", &wholes()),
    ) else {
        return;
    };
    rendered.extend(elsewhere);
    let mut lines = BTreeSet::new();
    for object in rendered.iter().flat_map(objects_of) {
        let containers = object.pointer("/spec/template/spec/containers");
        for container in containers.and_then(Value::as_array).into_iter().flatten() {
            let words: Vec<String> = serde_json::from_value(container["args"].clone()).unwrap();
            lines.insert((container["name"].as_str().unwrap().to_owned(), words));
        }
    }
    assert!(lines.len() >= 8, "{lines:?}");
    for (name, words) in lines {
        let Some(program) = built(&name) else {
            return skip(what, &format!("{name} is not built: cargo build --bins"));
        };
        succeeded(Command::new(program).args(words).arg("--help"));
    }
}

fn succeeded(command: &mut Command) -> String {
    let output = command.output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {errors}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn alerts_and_dashboards_of_the_chart_are_those_of_the_repository() {
    let enabled = json!({"enabled": true});
    let values =
        json!({"monitoring": {"alerts": enabled, "dashboards": enabled, "podMonitors": enabled}});
    let Some(rendered) = render("alerts and dashboards of the chart", &[values]) else {
        return;
    };
    let objects = by_name(objects_of(&rendered[0]));
    let rules = &objects["PrometheusRule kube-system/cri-resmgr"]["spec"];
    let written: Value = serde_yaml::from_str(&read("deploy/monitoring/rules.yaml")).unwrap();
    assert_eq!(*rules, written);
    for dashboard in ["fleet", "node", "workload"] {
        let map = &objects[&format!("ConfigMap kube-system/cri-resmgr-dashboard-{dashboard}")];
        let file = format!("{dashboard}.json");
        let shipped: Value = serde_json::from_str(map["data"][&file].as_str().unwrap()).unwrap();
        let written = read(&format!("deploy/monitoring/dashboards/{file}"));
        assert_eq!(shipped, serde_json::from_str::<Value>(&written).unwrap());
    }
    // The relay serves metrics on its host, and only where the options say so.
    assert!(!objects.contains_key("PodMonitor kube-system/cri-resmgr"));
    assert!(objects.contains_key("PodMonitor kube-system/cri-resmgr-agent"));
}

#[test]
fn the_relay_is_scraped_on_its_host_and_named_after_its_node() {
    let what = "where the PodMonitor of the relay leads";
    let values = json!({
        "relay": {"options": {"metrics-address": "0.0.0.0:8899"}},
        "monitoring": {"podMonitors": {"enabled": true}},
    });
    let Some(rendered) = render(what, &[values]) else {
        return;
    };
    let promtool = repository().join(".cache/prometheus/promtool");
    if !promtool.is_file() {
        return skip(what, "no promtool: cargo xtask setup fetches it");
    }
    let mut objects = by_name(objects_of(&rendered[0]));
    let monitor = objects.remove("PodMonitor kube-system/cri-resmgr").unwrap();
    let endpoint = &monitor["spec"]["podMetricsEndpoints"][0];
    // Its series have the namespace, pod and container that they are about.
    assert_eq!(endpoint["honorLabels"], true);
    // What the operator makes of it, with the words of Prometheus' own configuration.
    let relabelings = endpoint["relabelings"].to_string();
    let relabelings = relabelings
        .replace("sourceLabels", "source_labels")
        .replace("targetLabel", "target_label");
    let relabelings: Value = serde_json::from_str(&relabelings).unwrap();
    let hosts = [
        ("192.0.2.7", "192.0.2.7:8899"),
        ("2001:db8::7", "[2001:db8::7]:8899"),
    ];
    let pods = hosts.map(|(host, _)| {
        json!({"targets": ["10.0.0.1"], "labels": {
            "__meta_kubernetes_pod_host_ip": host,
            "__meta_kubernetes_pod_node_name": "n1",
        }})
    });
    let job = json!({"job_name": "relay", "relabel_configs": relabelings, "static_configs": pods});
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), json!({"scrape_configs": [job]}).to_string()).unwrap();
    // It always takes the whole time that it is given.
    let discovered = ["1s", "5s", "30s"].into_iter().find_map(|time| {
        let mut check = Command::new(&promtool);
        check.args(["check", "service-discovery", "--timeout", time]);
        let said = succeeded(check.arg(file.path()).arg("relay"));
        let targets: Vec<Value> = serde_json::from_str(&said).unwrap_or_default();
        (targets.len() == hosts.len()).then_some(targets)
    });
    let mut found: Vec<_> = discovered
        .unwrap()
        .iter()
        .map(|target| {
            let label = |name: &str| target["labels"][name].as_str().unwrap().to_owned();
            (label("__address__"), label("instance"))
        })
        .collect();
    found.sort();
    let expected = hosts.map(|(_, address)| (address.to_owned(), "n1".to_owned()));
    assert_eq!(found, expected);
}

#[test]
fn a_cluster_without_the_prometheus_operator_gets_none_of_its_objects_and_is_told() {
    let enabled = json!({"enabled": true});
    let values = json!({"monitoring": {"alerts": enabled, "podMonitors": enabled}});
    let request = json!({"values": values, "namespace": "kube-system"});
    let Some(answers) = helm("the chart without the Prometheus operator", &[request]) else {
        return;
    };
    let files = answers[0]["files"].as_object().unwrap();
    let text = |name: &str| {
        files[&format!("cri-resmgr/templates/{name}")]
            .as_str()
            .unwrap()
    };
    assert_eq!(text("monitoring.yaml").trim(), "");
    for kind in MONITORING {
        let told = format!("This cluster has no {kind}");
        assert!(text("NOTES.txt").contains(&told), "{}", text("NOTES.txt"));
    }
}

#[test]
fn lint_finds_nothing_and_the_notes_name_commands_that_exist() {
    let what = "lint and notes of the chart";
    let lint = json!({"lint": true, "namespace": "kube-system"});
    let Some(answers) = helm(what, &[lint, json!({"namespace": "kube-system"})]) else {
        return;
    };
    assert_eq!(answers[0], json!({}));
    let notes = answers[1]["files"]["cri-resmgr/templates/NOTES.txt"]
        .as_str()
        .unwrap();
    let Some(program) = built("cri-resmgr") else {
        return skip(what, "cri-resmgr is not built: cargo build --bins");
    };
    let mut commands = 0;
    for line in notes.lines() {
        let line = line.trim().trim_start_matches("/usr/local/bin/");
        if let Some(words) = line.strip_prefix("cri-resmgr ") {
            let words = words.split('#').next().unwrap().split_whitespace();
            succeeded(Command::new(&program).args(words).arg("--help"));
            commands += 1;
        }
    }
    assert_eq!(commands, 4, "{notes}");
}

#[test]
fn every_value_of_the_schema_has_its_default_in_values_yaml() {
    let text = read("deploy/chart/values.yaml");
    let values: Value = serde_yaml::from_str(&text).unwrap();
    for (place, _) in places(&schema()) {
        // Below these are names and fields of the administrator, or of Kubernetes.
        let free = [
            "global", "options", "default", "sample", "[]", "requests", "limits",
        ];
        if !free
            .iter()
            .any(|name| place.iter().any(|part| part == name))
        {
            let pointer: String = place.iter().map(|part| format!("/{part}")).collect();
            assert!(values.pointer(&pointer).is_some(), "{pointer}");
        }
    }
}

#[test]
fn chart_and_images_have_the_version_of_the_programs() {
    let version = env!("CARGO_PKG_VERSION");
    let chart: Value = serde_yaml::from_str(&read("deploy/chart/Chart.yaml")).unwrap();
    assert_eq!(chart["version"], version);
    assert_eq!(chart["appVersion"], version);
    let base = read("deploy/kustomize/base/kustomization.yaml");
    let base: Value = serde_yaml::from_str(&base).unwrap();
    let images = base["images"].as_array().unwrap();
    assert_eq!(images.len(), 3, "{images:?}");
    for image in images {
        assert_eq!(image["newTag"], version, "{image}");
    }
}
