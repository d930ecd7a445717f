use super::*;

fn review(pod: &Value) -> Value {
    json!({
        "apiVersion": "admission.k8s.io/v1",
        "kind": "AdmissionReview",
        "request": {
            "uid": "u1",
            "operation": "CREATE",
            "namespace": "default",
            "resource": { "group": "", "version": "v1", "resource": "pods" },
            "object": pod,
        },
    })
}

fn pod() -> Value {
    json!({
        "metadata": { "name": "p" },
        "spec": { "containers": [{
            "name": "c0",
            "resources": {
                "requests": { "memory": "100M", "cpu": "2" },
                "limits": { "cpu": "2", "memory": "100M" },
            },
        }] },
    })
}

const ANNOTATED: &str = r#"{"initContainers":{},"containers":{"c0":{"limits":{"cpu":"2","memory":"100M"},"requests":{"cpu":"2","memory":"100M"}}}}"#;

fn applied(pod: &Value) -> Value {
    let Reply::Patch(patch) = annotate(pod) else {
        panic!("no patch for {pod}");
    };
    let mut pod = pod.clone();
    let patch: json_patch::Patch = serde_json::from_value(patch).unwrap();
    json_patch::patch(&mut pod, &patch).unwrap();
    pod
}

#[test]
fn the_annotation_is_written_exactly_as_specified_and_only_once() {
    let once = applied(&pod());
    assert_eq!(once["metadata"]["annotations"][ANNOTATION], ANNOTATED);
    assert_eq!(annotate(&once), Reply::Unchanged);
}

#[test]
fn other_annotations_stay_and_a_claim_of_the_user_is_replaced() {
    let mut claimed = pod();
    claimed["metadata"]["annotations"] = json!({ "a/b": "c", ANNOTATION: "{\"containers\":{}}" });
    let annotations = &applied(&claimed)["metadata"]["annotations"];
    assert_eq!(annotations["a/b"], "c");
    assert_eq!(annotations[ANNOTATION], ANNOTATED);
}

#[test]
fn containers_without_resources_are_listed_empty() {
    let pod = json!({
        "metadata": {},
        "spec": {
            "initContainers": [{ "name": "i", "resources": { "limits": { "a.b/c": "1" } } }],
            "containers": [{ "name": "c" }, { "name": "d", "resources": { "limits": {} } }],
        },
    });
    assert_eq!(
        resources(&pod),
        r#"{"initContainers":{"i":{"limits":{"a.b/c":"1"}}},"containers":{"c":{},"d":{}}}"#
    );
}

#[test]
fn the_pods_own_resources_come_last_and_only_if_there_are_any() {
    let mut pod = json!({
        "metadata": {},
        "spec": {
            "initContainers": [{ "name": "sidecar", "restartPolicy": "Always" }],
            "containers": [{ "name": "c" }],
            "resources": { "requests": { "memory": "1Gi", "cpu": "1" }, "limits": { "cpu": "2" } },
        },
    });
    let containers = r#""initContainers":{"sidecar":{}},"containers":{"c":{}}"#;
    let own = r#""pod":{"limits":{"cpu":"2"},"requests":{"cpu":"1","memory":"1Gi"}}"#;
    let whole = format!("{{{containers},{own}}}");
    assert_eq!(resources(&pod), whole);
    let annotated = applied(&pod);
    assert_eq!(annotated["metadata"]["annotations"][ANNOTATION], whole);
    assert_eq!(annotate(&annotated), Reply::Unchanged);

    pod["spec"]["resources"]["limits"] = json!({});
    let own = r#""pod":{"requests":{"cpu":"1","memory":"1Gi"}}"#;
    assert_eq!(resources(&pod), format!("{{{containers},{own}}}"));

    for none in [
        json!({}),
        json!({ "limits": {}, "requests": null }),
        Value::Null,
    ] {
        pod["spec"]["resources"] = none;
        assert_eq!(resources(&pod), format!("{{{containers}}}"));
    }
}

#[test]
fn static_and_mirror_pods_are_left_alone() {
    for (key, value, left_alone) in [
        ("kubernetes.io/config.mirror", "hash", true),
        ("kubernetes.io/config.source", "file", true),
        ("kubernetes.io/config.source", "api", false),
    ] {
        let mut pod = pod();
        pod["metadata"]["annotations"] = json!({ key: value });
        assert_eq!(
            annotate(&pod) == Reply::LeftAlone,
            left_alone,
            "{key}={value}"
        );
    }
}

#[test]
fn exempt_namespaces_and_subresources_are_left_alone() {
    let exempt = BTreeSet::from(["default".to_owned()]);
    let answer = admit(&review(&pod()), &exempt).unwrap();
    assert_eq!(answer.outcome, ReviewOutcome::LeftAlone);
    assert_eq!(
        answer.review["response"],
        json!({ "uid": "u1", "allowed": true })
    );
    for part in ["status", "resize"] {
        let mut review = review(&pod());
        review["request"]["subResource"] = json!(part);
        let answer = admit(&review, &BTreeSet::new()).unwrap();
        assert_eq!(answer.outcome, ReviewOutcome::LeftAlone, "{part}");
    }
}

#[test]
fn both_versions_are_answered_in_kind() {
    for version in ["admission.k8s.io/v1", "admission.k8s.io/v1beta1"] {
        let mut review = review(&pod());
        review["apiVersion"] = json!(version);
        let answer = admit(&review, &BTreeSet::new()).unwrap();
        assert_eq!(answer.outcome, ReviewOutcome::Annotated);
        assert_eq!(answer.review["apiVersion"], version);
        assert_eq!(answer.review["kind"], "AdmissionReview");
        assert_eq!(answer.review["response"]["uid"], "u1");
        assert_eq!(answer.review["response"]["patchType"], "JSONPatch");
    }
}

#[test]
fn a_review_without_a_request_or_about_something_else_gets_a_valid_refusal() {
    let mut nodes = review(&pod());
    nodes["request"]["resource"]["resource"] = json!("nodes");
    let mut bare = review(&pod());
    bare["request"] = Value::Null;
    for review in [nodes, bare] {
        let answer = admit(&review, &BTreeSet::new()).unwrap();
        assert_eq!(answer.outcome, ReviewOutcome::Refused);
        assert_eq!(answer.review["kind"], "AdmissionReview");
        assert_eq!(answer.review["response"]["allowed"], false);
    }
    assert!(admit(&json!({ "kind": "Pod" }), &BTreeSet::new()).is_err());
}

#[test]
fn base64_follows_the_vectors_of_rfc_4648() {
    for (plain, coded) in [
        ("", ""),
        ("f", "Zg=="),
        ("fo", "Zm8="),
        ("foo", "Zm9v"),
        ("foob", "Zm9vYg=="),
        ("fooba", "Zm9vYmE="),
        ("foobar", "Zm9vYmFy"),
    ] {
        assert_eq!(base64(plain.as_bytes()), coded);
    }
}
