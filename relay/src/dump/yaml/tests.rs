use super::*;
use crate::{
    cri::{
        decode::{Side, show, to_json},
        shape::shape,
    },
    dump::{redact, text},
};
use k8s_cri::v1;
use proptest::prelude::*;
use prost::Message as _;
use serde::{Serializer, ser::SerializeMap as _};
use serde_json::{Value, json};

/// The long way: a tree, emptied, hidden, written.
fn by_tree(mut value: Value, secrets: bool) -> String {
    redact::drop_empty(&mut value);
    if !secrets {
        redact::hide_secrets(&mut value);
    }
    text::yaml(&value)
}

fn straight(message: &impl Serialize, secrets: bool) -> String {
    let mut yaml = Yaml::default();
    let into = Into {
        yaml: &mut yaml,
        secrets,
    };
    into.show(message).unwrap();
    let text = String::from_utf8(yaml.text).unwrap();
    text.strip_suffix('\n').unwrap().to_owned()
}

/// A value whose fields come in another order than that of their names, but for the `key` of an entry.
struct Backwards<'a>(&'a Value);

impl Serialize for Backwards<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            Value::Object(fields) => {
                let mut map = serializer.serialize_map(None)?;
                let mut names: Vec<_> = fields.iter().rev().collect();
                names.sort_by_key(|(name, _)| *name != "key");
                for (name, value) in names {
                    map.serialize_entry(name, &Backwards(value))?;
                }
                map.end()
            }
            Value::Array(items) => serializer.collect_seq(items.iter().map(Backwards)),
            other => other.serialize(serializer),
        }
    }
}

fn any_message() -> impl Strategy<Value = Value> {
    let name = prop_oneof![
        proptest::sample::select(&[
            "auth",
            "server_address",
            "envs",
            "key",
            "value",
            "annotations",
            "info",
            "stdout",
            "stderr",
            "labels",
            "sysctls",
            "status",
            "id",
            "container_id",
            "io.kubernetes.pod.uid",
        ])
        .prop_map(str::to_owned),
        "[a-c: ]{0,2}",
    ];
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        (-1_i64..3).prop_map(Value::from),
        prop_oneof![Just(0.0), any::<f64>()].prop_map(Value::from),
        "\\PC{0,4}".prop_map(Value::from),
        proptest::sample::select(&["", "STP_POOL", "CMK_X", "TOKEN", "on", "/a\nb"])
            .prop_map(Value::from),
    ];
    let value = leaf.prop_recursive(5, 48, 5, move |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            proptest::collection::btree_map(name.clone(), inner, 0..6)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    });
    proptest::collection::btree_map(
        "auth|envs|info|status|container_id|stdout|[a-z]",
        value,
        0..6,
    )
    .prop_map(|map| Value::Object(map.into_iter().collect()))
}

proptest! {
    #[test]
    fn what_is_written_straight_is_what_is_written_by_the_tree(
        value in any_message(), secrets in any::<bool>(),
    ) {
        let expected = by_tree(value.clone(), secrets);
        prop_assert_eq!(&straight(&value, secrets), &expected);
        prop_assert_eq!(&straight(&Backwards(&value), secrets), &expected);
    }
}

#[test]
fn a_message_of_every_kind_of_field_reads_alike_by_both_ways() {
    let request = v1::CreateContainerRequest {
        pod_sandbox_id: "pod".into(),
        config: Some(v1::ContainerConfig {
            metadata: Some(v1::ContainerMetadata {
                name: "db".into(),
                attempt: 2,
            }),
            command: vec!["sh".into(), "-c".into(), String::new()],
            envs: vec![
                v1::KeyValue {
                    key: "TOKEN".into(),
                    value: "s3cret".into(),
                },
                v1::KeyValue {
                    key: "STP_POOL".into(),
                    value: "fast".into(),
                },
            ],
            labels: [("b".into(), String::new()), ("a".into(), "1".into())].into(),
            annotations: [
                ("secret".into(), "x".into()),
                ("io.kubernetes.container.hash".into(), "y".into()),
            ]
            .into(),
            linux: Some(v1::LinuxContainerConfig::default()),
            ..Default::default()
        }),
        ..Default::default()
    };
    let reply = v1::ExecSyncResponse {
        stdout: b"printed".to_vec(),
        exit_code: -1,
        ..Default::default()
    };
    for (path, side, body) in [
        ("CreateContainer", Side::Request, request.encode_to_vec()),
        ("ExecSync", Side::Reply, reply.encode_to_vec()),
    ] {
        let path = format!("/runtime.v1.RuntimeService/{path}");
        for secrets in [false, true] {
            let mut yaml = Yaml::default();
            let into = Into {
                yaml: &mut yaml,
                secrets,
            };
            show(&path, side, &body, into).unwrap();
            let expected = by_tree(to_json(&path, side, &body).unwrap(), secrets);
            assert_eq!(String::from_utf8(yaml.text).unwrap(), expected + "\n");
        }
    }
}

#[test]
fn secrets_are_hidden_in_the_messages_that_came_after_k8s_cri() {
    let secret = || String::from("s3cret");
    let annotations = || [(String::from("note"), secret())].into();
    let spec = || v1::ImageSpec {
        image: "shown".into(),
        annotations: annotations(),
        ..Default::default()
    };
    let sandbox = v1::PodSandbox {
        id: "shown".into(),
        annotations: annotations(),
        ..Default::default()
    };
    let container = v1::Container {
        image: Some(spec()),
        annotations: annotations(),
        ..Default::default()
    };
    let container_stats = v1::ContainerStats {
        attributes: Some(v1::ContainerAttributes {
            id: "shown".into(),
            annotations: annotations(),
            ..Default::default()
        }),
        ..Default::default()
    };
    let sandbox_stats = v1::PodSandboxStats {
        attributes: Some(v1::PodSandboxAttributes {
            id: "shown".into(),
            annotations: annotations(),
            ..Default::default()
        }),
        linux: Some(v1::LinuxPodSandboxStats {
            containers: vec![container_stats.clone()],
            ..Default::default()
        }),
        ..Default::default()
    };
    let image = v1::Image {
        spec: Some(spec()),
        ..Default::default()
    };
    let config = v1::PodSandboxConfig {
        hostname: "shown".into(),
        annotations: annotations(),
        ..Default::default()
    };
    let container_config = v1::ContainerConfig {
        image: Some(spec()),
        annotations: annotations(),
        envs: vec![v1::KeyValue {
            key: "TOKEN".into(),
            value: secret(),
        }],
        ..Default::default()
    };
    let mut restore = Vec::new();
    prost::encoding::message::encode(2, &config, &mut restore);
    prost::encoding::message::encode(5, &container_config, &mut restore);
    let list = |item: Vec<u8>| {
        let mut body = Vec::new();
        prost::encoding::bytes::encode(1, &item, &mut body);
        body
    };
    let runtime = |method| format!("/runtime.v1.RuntimeService/{method}");
    let images = String::from("/runtime.v1.ImageService/StreamImages");
    let list_of = |path, item: Vec<u8>| (path, Side::Reply, list(item));
    for (path, side, body) in [
        list_of(runtime("StreamPodSandboxes"), sandbox.encode_to_vec()),
        list_of(runtime("StreamContainers"), container.encode_to_vec()),
        list_of(
            runtime("StreamContainerStats"),
            container_stats.encode_to_vec(),
        ),
        list_of(
            runtime("StreamPodSandboxStats"),
            sandbox_stats.encode_to_vec(),
        ),
        list_of(images.clone(), image.encode_to_vec()),
        // A filter with the image in it.
        (images, Side::Request, list(list(spec().encode_to_vec()))),
        (runtime("RestorePod"), Side::Request, restore),
    ] {
        for secrets in [false, true] {
            let tree = by_tree(to_json(&path, side, &body).unwrap(), secrets);
            let mut yaml = Yaml::default();
            let into = Into {
                yaml: &mut yaml,
                secrets,
            };
            show(&path, side, &body, into).unwrap();
            let decoded = String::from_utf8(yaml.text).unwrap();
            assert_eq!(decoded, format!("{tree}\n"), "{path}");
            assert_eq!(tree.contains("s3cret"), secrets, "{path}: {tree}");
            assert!(tree.contains("shown"), "{path}: {tree}");
            if let Some(shape) = shape(&path, side) {
                let mut yaml = Yaml::default();
                yaml.read(shape, &body, secrets).unwrap();
                let read = String::from_utf8(yaml.text).unwrap();
                assert_eq!(read, decoded, "{path}");
            }
        }
    }
}

#[test]
fn the_container_a_message_is_about_is_found() {
    for (message, container) in [
        (
            json!({"container_id": "c", "status": {"id": "s"}}),
            Some("c"),
        ),
        (
            json!({"container_id": "", "status": {"id": "s"}}),
            Some("s"),
        ),
        (json!({"config": {"container_id": "c"}, "id": "x"}), None),
    ] {
        let mut yaml = Yaml::default();
        let into = Into {
            yaml: &mut yaml,
            secrets: false,
        };
        into.show(&message).unwrap();
        assert_eq!(yaml.container().as_deref(), container, "{message}");
    }
}
