//! The webhook and the shipped manifests against a real kube-apiserver.

use std::{
    io::Write as _,
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use resmgr_tests::{
    apiserver::{self, ApiServer, Process, free_port, repository},
    built, eventually,
    skip::skip,
};

/// Longest wait for a state that comes "within seconds" on a machine that is busy.
const SOON: Duration = Duration::from_secs(60);

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

/// A pod with resources of its own, a native sidecar, and a container without any.
fn pod_of_own_resources(name: &str) -> String {
    serde_json::json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": { "name": name, "namespace": "default" },
        "spec": {
            "resources": { "requests": { "cpu": "2", "memory": "1Gi" }, "limits": { "cpu": "3" } },
            "initContainers": [{
                "name": "sidecar",
                "image": "x",
                "restartPolicy": "Always",
                "resources": { "requests": { "cpu": "100m" } },
            }],
            "containers": [
                { "name": "c0", "image": "x", "resources": { "requests": { "cpu": "1" } } },
                { "name": "c1", "image": "x" },
            ],
        },
    })
    .to_string()
}

const OF_OWN_RESOURCES: &str = r#"{"initContainers":{"sidecar":{"requests":{"cpu":"100m"}}},"containers":{"c0":{"requests":{"cpu":"1"}},"c1":{}},"pod":{"limits":{"cpu":"3"},"requests":{"cpu":"2","memory":"1Gi"}}}"#;

/// The shipped registration, called at an address instead of a service: nothing routes those here.
fn registration(port: u16) -> String {
    let shipped = std::fs::read_to_string(repository().join("deploy/kustomize/base/webhook.yaml"))
        .expect("the manifest is there");
    let service = "    service:\n      namespace: cri-resmgr\n      name: cri-resmgr-webhook\n      path: /\n";
    assert!(
        shipped.contains(service),
        "the manifest's clientConfig has changed"
    );
    let address = format!("    url: https://127.0.0.1:{port}/\n");
    shipped.replace(service, &address)
}

/// Makes a certificate for 127.0.0.1, its own authority, as `cert.pem` and `key.pem`; PEM in base64.
fn certify(folder: &Path, name: &str) -> String {
    let at = |file: &str| folder.join(file).display().to_string();
    let made = Command::new("openssl")
        .args([
            "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2",
        ])
        .args([
            "-subj",
            &format!("/CN={name}"),
            "-addext",
            "subjectAltName=IP:127.0.0.1",
        ])
        .args(["-keyout", &at("key.new"), "-out", &at("cert.new")])
        .output()
        .expect("openssl runs");
    assert!(
        made.status.success(),
        "{}",
        String::from_utf8_lossy(&made.stderr)
    );
    for file in ["key", "cert"] {
        std::fs::rename(at(&format!("{file}.new")), at(&format!("{file}.pem"))).expect("renamed");
    }
    let encoded = Command::new("openssl")
        .args(["base64", "-A", "-in", &at("cert.pem")])
        .output()
        .expect("openssl runs");
    String::from_utf8_lossy(&encoded.stdout).into_owned()
}

/// What the webhook answers to a GET, and the certificate that it showed.
fn get(port: u16, path: &str) -> String {
    let mut client = Command::new("openssl")
        .args([
            "s_client",
            "-ign_eof",
            "-connect",
            &format!("127.0.0.1:{port}"),
        ])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("openssl runs");
    let mut words = client.stdin.take().expect("it is piped");
    write!(
        words,
        "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    )
    .expect("it listens");
    drop(words);
    let output = client.wait_with_output().expect("it ends");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_are_read_again_both_versions_served_and_pods_never_logged() {
    let Some(api) = start("the webhook's certificates") else {
        return;
    };
    let port = free_port().unwrap();
    let folder = api.folder().join("webhook-certs");
    std::fs::create_dir(&folder).unwrap();
    let mut bundle = certify(&folder, "first");
    api.apply(&registration(port)).unwrap();
    let log = api.folder().join("webhook.log");
    let _webhook = Process::start(
        Command::new(built("cri-resmgr-webhook").unwrap())
            .arg(format!("-port={port}"))
            .arg("-cert-file")
            .arg(folder.join("cert.pem"))
            .arg("-key-file")
            .arg(folder.join("key.pem"))
            .arg("-log=trace"),
        &log,
    )
    .unwrap();
    let said = || std::fs::read_to_string(&log).unwrap_or_default();
    let register = |bundle: &str, versions: &[&str]| {
        let change = serde_json::json!([
            { "op": "add", "path": "/webhooks/0/clientConfig/caBundle", "value": bundle },
            { "op": "replace", "path": "/webhooks/0/admissionReviewVersions", "value": versions },
        ]);
        let patch = [
            "patch",
            "mutatingwebhookconfiguration",
            "cri-resmgr",
            "--type=json",
            "-p",
        ];
        api.kubectl(&[&patch[..], &[&change.to_string()]].concat())
            .unwrap();
    };
    let mut count = 0;
    let mut annotated = async || {
        count += 1;
        let name = format!("p{count}");
        let secret = serde_json::json!([{ "name": "TOKEN", "value": "hunter2" }]);
        let mut pod: serde_json::Value = serde_json::from_str(&pod("default", &name)).unwrap();
        pod["spec"]["containers"][0]["env"] = secret;
        api.apply(&pod.to_string()).unwrap();
        annotation(&api, "default", &name) == ANNOTATED
    };

    for versions in [&["v1"][..], &["v1beta1"]] {
        register(&bundle, versions);
        let mut fresh = async || annotated().await;
        assert!(
            eventually(SOON, &mut fresh).await,
            "{versions:?}\n{}",
            said()
        );
    }
    // A key that does not fit: the old pair stays. Then a new pair: in use, and trusted.
    let key = folder.join("key.pem");
    let good = std::fs::read(&key).unwrap();
    std::fs::write(&key, "no key").unwrap();
    let stays = async || get(port, "/metrics").contains("certificate_reload_failures_total 1");
    assert!(eventually(SOON, stays).await, "{}", said());
    assert!(
        get(port, "/healthz").contains("CN = first") || get(port, "/healthz").contains("CN=first")
    );
    std::fs::write(&key, good).unwrap();
    bundle = certify(&folder, "second");
    let shown = async || {
        let page = get(port, "/healthz");
        page.contains("CN = second") || page.contains("CN=second")
    };
    assert!(eventually(SOON, shown).await, "{}", said());
    register(&bundle, &["v1", "v1beta1"]);
    assert!(eventually(SOON, &mut annotated).await, "{}", said());

    // What a user wrote is replaced; what kubelet made is left alone; both are counted.
    let mut own: serde_json::Value = serde_json::from_str(&pod("default", "own")).unwrap();
    own["metadata"]["annotations"] = serde_json::json!({ "intel.com/resources": "{}" });
    api.apply(&own.to_string()).unwrap();
    assert_eq!(annotation(&api, "default", "own"), ANNOTATED);
    let mut mirror: serde_json::Value = serde_json::from_str(&pod("default", "mirror")).unwrap();
    mirror["metadata"]["annotations"] = serde_json::json!({ "kubernetes.io/config.mirror": "x", "kubernetes.io/config.source": "file" });
    mirror["spec"]["nodeName"] = "n1".into();
    api.apply(&mirror.to_string()).unwrap();
    assert_eq!(annotation(&api, "default", "mirror"), "");
    let label = ["label", "pod", "-n", "default", "own", "a=b"];
    api.kubectl(&label).unwrap();
    let page = get(port, "/metrics");
    for outcome in ["annotated", "unchanged", "left"] {
        let counted = page.lines().any(|line| {
            line.starts_with("cri_resmgr_webhook_reviews_total")
                && line.contains(outcome)
                && !line.ends_with(" 0")
        });
        assert!(counted, "{outcome}\n{page}");
    }
    let said = said();
    for word in ["hunter2", "TOKEN", "100M", "p1"] {
        assert!(!said.contains(&format!("\"{word}")), "{said}");
    }
    assert!(!said.contains("hunter2"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn pods_are_annotated_while_the_webhook_is_up_and_created_while_it_is_down() {
    let Some(api) = start("the webhook annotates pods") else {
        return;
    };
    let port = free_port().unwrap();
    api.apply(&registration(port)).unwrap();

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

    // A pod's own resources (Kubernetes 1.34).
    api.apply(&pod_of_own_resources("whole")).unwrap();
    assert_eq!(annotation(&api, "default", "whole"), OF_OWN_RESOURCES);

    // A resize in place: the API server takes nothing but resources from it, no annotation.
    api.apply(&pod("default", "resized")).unwrap();
    let more = serde_json::json!({ "cpu": "3", "memory": "100M" });
    let resize = serde_json::json!({ "spec": { "containers": [
        { "name": "c0", "resources": { "limits": more, "requests": more } },
    ] } })
    .to_string();
    let patch = ["patch", "pod", "resized", "--subresource=resize", "-p"];
    api.kubectl(&[&patch[..], &[&resize]].concat()).unwrap();
    let resized = api.get(&["pod", "resized"]).unwrap();
    let container = &resized["spec"]["containers"][0];
    assert_eq!(container["resources"]["requests"]["cpu"], "3");
    assert_eq!(annotation(&api, "default", "resized"), ANNOTATED);

    // Its own namespace is exempt.
    api.apply(&pod("cri-resmgr", "own")).unwrap();
    assert_eq!(annotation(&api, "cri-resmgr", "own"), "");
    assert!(!said().contains("100M"), "nothing of a pod is logged");

    drop(webhook);
    api.apply(&pod("default", "without")).unwrap();
    assert_eq!(annotation(&api, "default", "without"), "");
}
