//! The webhook and the shipped manifests against a real kube-apiserver.

use std::{process::Command, time::Duration};

use resmgr_tests::{
    apiserver::{self, ApiServer, Process, free_port, repository},
    built, eventually,
    skip::skip,
};

/// Longest wait for a state that comes "within seconds" on a machine that is busy.
const SOON: Duration = Duration::from_secs(30);

fn start(what: &str) -> Option<ApiServer> {
    if let Some(why) = apiserver::missing() {
        skip(what, &why);
        return None;
    }
    Some(ApiServer::start().expect("an API server"))
}

fn pod(namespace: &str, name: &str) -> String {
    let resources = serde_json::json!({ "cpu": "2", "memory": "100M" });
    serde_json::json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": { "name": name, "namespace": namespace },
        "spec": { "containers": [{
            "name": "c0",
            "image": "x",
            "resources": { "limits": resources, "requests": resources },
        }] },
    })
    .to_string()
}

fn annotation(api: &ApiServer, namespace: &str, name: &str) -> String {
    let path = r"jsonpath={.metadata.annotations.intel\.com/resources}";
    api.kubectl(&["get", "pod", "-n", namespace, name, "-o", path])
        .expect("the pod is there")
}

const ANNOTATED: &str = r#"{"initContainers":{},"containers":{"c0":{"limits":{"cpu":"2","memory":"100M"},"requests":{"cpu":"2","memory":"100M"}}}}"#;

#[tokio::test(flavor = "multi_thread")]
async fn pods_are_annotated_while_the_webhook_is_up_and_created_while_it_is_down() {
    let Some(api) = start("the webhook annotates pods") else {
        return;
    };
    // The shipped manifest, called at an address instead of a service: nothing routes those here.
    let port = free_port().unwrap();
    let shipped = std::fs::read_to_string(repository().join("deploy/webhook.yaml")).unwrap();
    let service = "    service:\n      namespace: cri-resmgr\n      name: cri-resmgr-webhook\n      path: /\n";
    assert!(
        shipped.contains(service),
        "the manifest's clientConfig has changed"
    );
    let address = format!("    url: https://127.0.0.1:{port}/\n");
    api.apply(&shipped.replace(service, &address)).unwrap();

    let log = api.folder().join("webhook.log");
    let webhook = Process::start(
        Command::new(built("cri-resmgr-webhook").unwrap())
            .args([
                format!("-port={port}"),
                "-self-signed=cri-resmgr".to_owned(),
            ])
            .args(["-host=127.0.0.1", "-kubeconfig"])
            .arg(api.kubeconfig("webhook")),
        &log,
    )
    .unwrap();
    let said = || std::fs::read_to_string(&log).unwrap_or_default();
    let bundle = async || {
        let path = "jsonpath={.webhooks[0].clientConfig.caBundle}";
        let get = [
            "get",
            "mutatingwebhookconfiguration",
            "cri-resmgr",
            "-o",
            path,
        ];
        api.kubectl(&get).is_ok_and(|text| !text.is_empty())
    };
    assert!(eventually(SOON, bundle).await, "{}", said());

    // The API server learns of a changed registration a moment later.
    let mut count = 0;
    let annotated = async || {
        count += 1;
        let name = format!("p{count}");
        api.apply(&pod("default", &name)).unwrap();
        annotation(&api, "default", &name) == ANNOTATED
    };
    assert!(eventually(SOON, annotated).await, "{}", said());

    // Its own namespace is exempt.
    api.apply(&pod("cri-resmgr", "own")).unwrap();
    assert_eq!(annotation(&api, "cri-resmgr", "own"), "");
    assert!(!said().contains("100M"), "nothing of a pod is logged");

    drop(webhook);
    api.apply(&pod("default", "without")).unwrap();
    assert_eq!(annotation(&api, "default", "without"), "");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_shipped_manifest_passes_a_server_side_dry_run() {
    let Some(api) = start("dry runs of the manifests") else {
        return;
    };
    api.kubectl(&["create", "namespace", "cri-resmgr"]).unwrap();
    let mut files = Vec::new();
    for folder in ["deploy", "deploy/config"] {
        for entry in std::fs::read_dir(repository().join(folder)).unwrap() {
            let path = entry.unwrap().path();
            let manifest = std::fs::read_to_string(&path).unwrap_or_default();
            if manifest.lines().any(|line| line.starts_with("apiVersion:")) {
                files.push(path);
            }
        }
    }
    assert!(files.len() >= 6, "{files:?}");
    for file in files {
        let path = file.display().to_string();
        api.kubectl(&[
            "apply",
            "--dry-run=server",
            "--validate=strict",
            "-f",
            &path,
        ])
        .unwrap_or_else(|error| panic!("{path}: {error:#}"));
    }
}
