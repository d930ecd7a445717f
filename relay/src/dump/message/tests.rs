use super::*;
use crate::cri::schema::{Side, message_type};
use k8s_cri::v1;
use proptest::prelude::*;
use prost::encoding::{bytes, encode_key, encode_varint, message};
use serde_json::{Value, json};
use std::collections::HashMap;

const RUN: &str = "RuntimeService/RunPodSandbox";
const CREATE: &str = "RuntimeService/CreateContainer";

fn type_of(method: &str, side: Side) -> &'static MessageType {
    message_type(&format!("/runtime.v1.{method}"), side).unwrap()
}

/// What is shown of a message; `None` when it is none.
fn shown(method: &str, side: Side, body: &[u8], secrets: bool) -> Option<Value> {
    let message = Message::new(type_of(method, side), body, secrets);
    serde_json::to_value(message).ok()
}

fn text(text: &str) -> String {
    text.to_owned()
}

fn map(entries: &[(&str, &str)]) -> HashMap<String, String> {
    let entries = entries.iter();
    entries
        .map(|(name, value)| (text(name), text(value)))
        .collect()
}

/// Choices that a message is made by.
struct Dice<'a>(std::slice::Iter<'a, u8>);

impl Dice<'_> {
    /// Below `sides`; 0 when there are no more.
    fn roll(&mut self, sides: usize) -> usize {
        usize::from(*self.0.next().unwrap_or(&0)) % sides
    }

    fn text(&mut self) -> &'static [u8] {
        const TEXTS: [&str; 8] = ["", "a", "on", "key", "2", "a\nb", "\u{fc}\u{7f}", "auth"];
        TEXTS[self.roll(TEXTS.len())].as_bytes()
    }

    fn number(&mut self) -> u64 {
        const NUMBERS: [u64; 8] = [
            0,
            1,
            2,
            127,
            1 << 31,
            1 << 32,
            u64::MAX,
            1_732_000_000_123_456_789,
        ];
        NUMBERS[self.roll(NUMBERS.len())]
    }
}

fn put(out: &mut Vec<u8>, number: u32, octets: &[u8]) {
    encode_key(number, WireType::LengthDelimited, out);
    encode_varint(octets.len() as u64, out);
    out.extend_from_slice(octets);
}

/// A message of this type; when `odd`, with what no encoder writes like this.
fn any_message(of: &MessageType, dice: &mut Dice<'_>, odd: bool) -> Vec<u8> {
    let numbers: Vec<u32> = (0..64)
        .filter(|number| of.place(*number).is_some())
        .collect();
    let mut out = Vec::new();
    if numbers.is_empty() {
        return out;
    }
    for _ in 0..dice.roll(9) {
        let number = numbers[dice.roll(numbers.len())];
        let field = &of.fields[usize::from(of.place(number).unwrap())];
        match field.kind {
            FieldKind::Text | FieldKind::Bytes => put(&mut out, number, dice.text()),
            FieldKind::Message(of) => {
                let octets = any_message(of, dice, odd);
                put(&mut out, number, &octets);
            }
            FieldKind::Map => {
                let mut entry = Vec::new();
                for number in [1, 2] {
                    if dice.roll(8) < 7 {
                        put(&mut entry, number, dice.text());
                    }
                }
                put(&mut out, number, &entry);
            }
            FieldKind::Double => {
                encode_key(number, WireType::SixtyFourBit, &mut out);
                out.extend_from_slice(&dice.number().to_le_bytes());
            }
            _ if field.repeated && dice.roll(2) == 0 => {
                let mut packed = Vec::new();
                for _ in 0..dice.roll(3) {
                    encode_varint(dice.number(), &mut packed);
                }
                put(&mut out, number, &packed);
            }
            _ => {
                encode_key(number, WireType::Varint, &mut out);
                encode_varint(dice.number(), &mut out);
            }
        }
        if odd {
            match dice.roll(40) {
                1 => put(&mut out, 100, b"unknown"),
                2 => put(&mut out, number, b"\xff"),
                3 => {
                    encode_key(number, WireType::Varint, &mut out);
                    out.push(1);
                }
                4 => {
                    encode_key(number, WireType::ThirtyTwoBit, &mut out);
                    out.extend_from_slice(&[1, 2, 3, 4]);
                }
                5 => out.extend_from_slice(&[0xff; 11]),
                6 => out.truncate(out.len() - 1),
                7 => put(&mut out, number, b"\x0a\x01n\x0a\x01m\x18\x01"),
                _ => {}
            }
        }
    }
    out
}

/// What k8s-cri decodes of a body, less its empty fields.
fn decoded<M: prost::Message + Default + Serialize>(body: &[u8]) -> Option<Value> {
    let mut value = serde_json::to_value(M::decode(body).ok()?).unwrap();
    drop_empty(&mut value);
    Some(value)
}

fn drop_empty(value: &mut Value) {
    const MAPS: [&str; 4] = ["annotations", "labels", "sysctls", "unified"];
    match value {
        Value::Array(items) => items.iter_mut().for_each(drop_empty),
        Value::Object(fields) => fields.retain(|name, field| {
            let is_map = MAPS.contains(&name.as_str());
            if !is_map {
                drop_empty(field);
            }
            match field {
                Value::Null => false,
                Value::Bool(on) => *on,
                Value::Number(number) => number.as_f64() != Some(0.0),
                Value::String(text) => !text.is_empty(),
                Value::Array(items) => !items.is_empty(),
                Value::Object(entries) => !(is_map && entries.is_empty()),
            }
        }),
        _ => {}
    }
}

type Decoded = fn(&[u8]) -> Option<Value>;

/// Messages of which k8s-cri knows every field.
fn complete() -> [(&'static str, Side, Decoded); 6] {
    use Side::{Reply, Request};
    [
        (RUN, Request, decoded::<v1::RunPodSandboxRequest>),
        (
            "RuntimeService/ListPodSandbox",
            Reply,
            decoded::<v1::ListPodSandboxResponse>,
        ),
        (
            "RuntimeService/UpdateContainerResources",
            Request,
            decoded::<v1::UpdateContainerResourcesRequest>,
        ),
        (
            "RuntimeService/ExecSync",
            Reply,
            decoded::<v1::ExecSyncResponse>,
        ),
        (
            "RuntimeService/ListPodSandboxMetrics",
            Reply,
            decoded::<v1::ListPodSandboxMetricsResponse>,
        ),
        (
            "ImageService/ImageFsInfo",
            Reply,
            decoded::<v1::ImageFsInfoResponse>,
        ),
    ]
}

proptest! {
    #[test]
    fn a_message_says_what_k8s_cri_decodes(
        choices in proptest::collection::vec(any::<u8>(), 0..400), odd in any::<bool>(),
    ) {
        for (method, side, decoded) in complete() {
            let body = any_message(type_of(method, side), &mut Dice(choices.iter()), odd);
            let expected = decoded(&body);
            prop_assert!(odd || expected.is_some(), "{}", method);
            if expected.is_some() {
                prop_assert_eq!(shown(method, side, &body, true), expected, "{}", method);
            }
        }
    }

    #[test]
    fn any_octets_are_read_as_they_decode(
        body in proptest::collection::vec(any::<u8>(), 0..40),
    ) {
        for (method, side, decoded) in complete() {
            if let Some(expected) = decoded(&body) {
                prop_assert_eq!(shown(method, side, &body, true), Some(expected), "{}", method);
            }
        }
    }
}

#[test]
fn what_is_no_message_of_its_type_is_not_shown() {
    for body in [
        &b"\xff\xff"[..],
        b"\x0a\x05p",        // shorter than it says
        b"\x0a\x01\xff",     // no UTF-8
        b"\x08\x01",         // a number where a text must be
        b"\x12\x02\x0a\x05", // wrong within the configuration
        b"\xfc\x3f",         // the end of a group that never began
    ] {
        assert_eq!(shown(CREATE, Side::Request, body, false), None, "{body:?}");
    }
}

#[test]
fn a_field_that_comes_twice_is_read_by_protobufs_rule() {
    let config = |hostname: &str, labels: &[(&str, &str)]| v1::RunPodSandboxRequest {
        config: Some(v1::PodSandboxConfig {
            hostname: text(hostname),
            labels: map(labels),
            ..Default::default()
        }),
        runtime_handler: text(hostname),
    };
    let mut body = prost::Message::encode_to_vec(&config("first", &[("a", "1"), ("b", "1")]));
    body.extend(prost::Message::encode_to_vec(&config(
        "last",
        &[("a", "2")],
    )));
    assert_eq!(
        shown(RUN, Side::Request, &body, false),
        Some(json!({
            "config": {"hostname": "last", "labels": {"a": "2", "b": "1"}},
            "runtime_handler": "last"
        }))
    );
}

#[test]
fn empty_fields_are_left_out_but_not_messages_and_entries() {
    let request = v1::CreateContainerRequest {
        config: Some(v1::ContainerConfig {
            args: vec![String::new()],
            labels: map(&[("x", "")]),
            mounts: vec![v1::Mount::default()],
            linux: Some(v1::LinuxContainerConfig::default()),
            ..Default::default()
        }),
        ..Default::default()
    };
    let body = prost::Message::encode_to_vec(&request);
    assert_eq!(
        shown(CREATE, Side::Request, &body, false),
        Some(json!({
            "config": {"args": [""], "labels": {"x": ""}, "linux": {}, "mounts": [{}]}
        }))
    );
}

/// One message of each kind of secret.
#[test]
fn secrets_are_hidden_wherever_they_sit() {
    let variable = |key: &str| v1::KeyValue {
        key: text(key),
        value: text("s3cret"),
    };
    let request = v1::CreateContainerRequest {
        config: Some(v1::ContainerConfig {
            envs: vec![
                variable("TOKEN"),
                variable("STP_POOL"),
                variable(""),
                v1::KeyValue {
                    key: text("EMPTY"),
                    value: String::new(),
                },
            ],
            annotations: map(&[
                ("kubectl.kubernetes.io/last-applied-configuration", "s3cret"),
                ("io.kubernetes.container.hash", "1"),
                ("empty", ""),
            ]),
            labels: map(&[("auth", "s3cret"), ("stdout", "shown")]),
            image: Some(v1::ImageSpec {
                annotations: map(&[("a", "s3cret")]),
                ..Default::default()
            }),
            ..Default::default()
        }),
        ..Default::default()
    };
    let body = prost::Message::encode_to_vec(&request);
    assert_eq!(
        shown(CREATE, Side::Request, &body, false),
        Some(json!({"config": {
            "envs": [
                {"key": "TOKEN", "value": HIDDEN},
                {"key": "STP_POOL", "value": "s3cret"},
                {"value": HIDDEN},
                {"key": "EMPTY"}
            ],
            "annotations": {
                "kubectl.kubernetes.io/last-applied-configuration": HIDDEN,
                "io.kubernetes.container.hash": "1",
                "empty": ""
            },
            "labels": {"auth": HIDDEN, "stdout": "shown"},
            "image": {"annotations": {"a": HIDDEN}}
        }}))
    );

    let pull = v1::PullImageRequest {
        auth: Some(v1::AuthConfig {
            username: text("s3cret"),
            password: text("s3cret"),
            server_address: text("registry"),
            ..Default::default()
        }),
        ..Default::default()
    };
    let body = prost::Message::encode_to_vec(&pull);
    assert_eq!(
        shown("ImageService/PullImage", Side::Request, &body, false),
        Some(json!({
            "auth": {"username": HIDDEN, "password": HIDDEN, "server_address": "registry"}
        }))
    );

    let status = v1::StatusResponse {
        info: map(&[("config", "s3cret")]),
        ..Default::default()
    };
    let body = prost::Message::encode_to_vec(&status);
    assert_eq!(
        shown("RuntimeService/Status", Side::Reply, &body, false),
        Some(json!({"info": {"config": HIDDEN}}))
    );

    let printed = v1::ExecSyncResponse {
        stdout: vec![1, 2, 3],
        exit_code: -1,
        ..Default::default()
    };
    let body = prost::Message::encode_to_vec(&printed);
    for (secrets, stdout) in [
        (false, json!("(hidden, 3 bytes)")),
        (true, json!([1, 2, 3])),
    ] {
        assert_eq!(
            shown("RuntimeService/ExecSync", Side::Reply, &body, secrets),
            Some(json!({"stdout": stdout, "exit_code": -1}))
        );
    }
    let flags = v1::ExecRequest {
        stdout: true,
        ..Default::default()
    };
    assert_eq!(
        shown(
            "RuntimeService/Exec",
            Side::Request,
            &prost::Message::encode_to_vec(&flags),
            false
        ),
        Some(json!({"stdout": true}))
    );
}

#[test]
fn secrets_are_hidden_in_the_messages_that_k8s_cri_does_not_have() {
    let annotations = || map(&[("note", "s3cret")]);
    let spec = || v1::ImageSpec {
        image: text("shown"),
        annotations: annotations(),
        ..Default::default()
    };
    let sandbox = v1::PodSandbox {
        id: text("shown"),
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
            id: text("shown"),
            annotations: annotations(),
            ..Default::default()
        }),
        ..Default::default()
    };
    let sandbox_stats = v1::PodSandboxStats {
        linux: Some(v1::LinuxPodSandboxStats {
            containers: vec![container_stats.clone()],
            ..Default::default()
        }),
        ..Default::default()
    };
    let config = v1::PodSandboxConfig {
        hostname: text("shown"),
        annotations: annotations(),
        ..Default::default()
    };
    let container_config = v1::ContainerConfig {
        image: Some(spec()),
        annotations: annotations(),
        envs: vec![v1::KeyValue {
            key: text("TOKEN"),
            value: text("s3cret"),
        }],
        ..Default::default()
    };
    let mut restore = Vec::new();
    message::encode(2, &config, &mut restore);
    message::encode(5, &container_config, &mut restore);
    let list = |item: Vec<u8>| {
        let mut body = Vec::new();
        bytes::encode(1, &item, &mut body);
        body
    };
    let reply = |method, item: Vec<u8>| (method, Side::Reply, list(item));
    let spec_octets = prost::Message::encode_to_vec(&spec());
    for (method, side, body) in [
        reply(
            "RuntimeService/StreamPodSandboxes",
            prost::Message::encode_to_vec(&sandbox),
        ),
        reply(
            "RuntimeService/StreamContainers",
            prost::Message::encode_to_vec(&container),
        ),
        reply(
            "RuntimeService/StreamContainerStats",
            prost::Message::encode_to_vec(&container_stats),
        ),
        reply(
            "RuntimeService/StreamPodSandboxStats",
            prost::Message::encode_to_vec(&sandbox_stats),
        ),
        // A filter with the image in it.
        (
            "ImageService/StreamImages",
            Side::Request,
            list(list(spec_octets)),
        ),
        ("RuntimeService/RestorePod", Side::Request, restore),
    ] {
        for secrets in [false, true] {
            let value = shown(method, side, &body, secrets).unwrap().to_string();
            assert_eq!(value.contains("s3cret"), secrets, "{method}: {value}");
            assert!(value.contains("shown"), "{method}: {value}");
        }
    }
}

/// What the table of secrets says of a field counts only where the field is of a kind that it can hide.
#[test]
fn every_field_with_the_name_of_a_secret_is_hidden() {
    fn judge(of: &'static MessageType, redaction: Redaction, fields: &mut Vec<String>) {
        for field in of.fields {
            let redaction = redaction.field(field.name);
            let found = match (redaction, field.kind, field.repeated) {
                (Redaction::Secrets | Redaction::Nothing, ..) => None,
                // Entries, a list of variables, and a message of credentials are gone through.
                (Redaction::AllBut(_), FieldKind::Map, _) => Some("map"),
                (Redaction::Environment, FieldKind::Message(_), true) => Some("variables"),
                (Redaction::Credentials, FieldKind::Message(_), false) => Some("credentials"),
                (Redaction::Output, FieldKind::Bytes, false) => Some("output"),
                (Redaction::Output, FieldKind::Bool, false) => Some("flag, shown"),
                (Redaction::All, FieldKind::Text, false) => Some("text"),
                (Redaction::Variable { .. }, ..) => panic!("{}: a variable alone", field.name),
                unexpected => panic!("{}: {unexpected:?} is not hidden", field.name),
            };
            fields.extend(found.map(|found| format!("{}: {found}", field.name)));
            if let FieldKind::Message(below) = field.kind
                && redaction != Redaction::All
            {
                judge(below, redaction.item(), fields);
            }
        }
    }
    let mut fields = Vec::new();
    for path in crate::cri::schema::paths() {
        for side in [Side::Request, Side::Reply] {
            let of = message_type(&path, side).unwrap();
            judge(of, Redaction::Secrets, &mut fields);
        }
    }
    fields.sort();
    fields.dedup();
    assert_eq!(
        fields,
        [
            "annotations: map",
            "auth: credentials",
            "auth: text",
            "envs: variables",
            "identity_token: text",
            "info: map",
            "password: text",
            "registry_token: text",
            "stderr: flag, shown",
            "stderr: output",
            "stdout: flag, shown",
            "stdout: output",
            "username: text",
            "value: text",
        ]
    );
}

#[test]
fn lists_in_parts_show_their_items_by_the_name_that_the_proto_has_there() {
    for (method, field) in [
        ("RuntimeService/StreamPodSandboxes", "pod_sandboxes"),
        ("RuntimeService/StreamContainers", "containers"),
        ("RuntimeService/StreamContainerStats", "container_stats"),
        ("RuntimeService/StreamPodSandboxStats", "pod_sandbox_stats"),
        (
            "RuntimeService/StreamPodSandboxMetrics",
            "pod_sandbox_metrics",
        ),
        ("ImageService/StreamImages", "images"),
    ] {
        let one_item = [0x0a, 0];
        assert_eq!(
            shown(method, Side::Reply, &one_item, false),
            Some(json!({ field: [{}] })),
            "{method}"
        );
    }
}

#[test]
fn pods_are_resized_checkpointed_and_restored_with_all_that_is_said() {
    let resources = |shares| v1::LinuxContainerResources {
        cpu_shares: shares,
        ..Default::default()
    };
    let mut body = Vec::new();
    put(&mut body, 1, b"p");
    message::encode(2, &resources(2), &mut body);
    message::encode(3, &resources(3), &mut body);
    assert_eq!(
        shown(
            "RuntimeService/UpdatePodSandboxResources",
            Side::Request,
            &body,
            false
        ),
        Some(json!({
            "pod_sandbox_id": "p", "overhead": {"cpu_shares": 2}, "resources": {"cpu_shares": 3}
        }))
    );

    // An entry of a map is a message of its name and its value.
    let option = [0x0a, 1, b'k', 0x12, 1, b'v'];
    let mut body = Vec::new();
    for (number, octets) in [
        (1, &b"p"[..]),
        (2, b"/to"),
        (3, b"c"),
        (3, b"d"),
        (4, &option),
    ] {
        put(&mut body, number, octets);
    }
    assert_eq!(
        shown("RuntimeService/CheckpointPod", Side::Request, &body, false),
        Some(json!({
            "pod_sandbox_id": "p",
            "output_path": "/to",
            "container_ids": ["c", "d"],
            "options": {"k": "v"}
        }))
    );
    let reply = b"\x0a\x01p\x12\x06\x0a\x01n\x12\x01c";
    assert_eq!(
        shown("RuntimeService/RestorePod", Side::Reply, reply, false),
        Some(json!({
            "pod_sandbox_id": "p",
            "restored_containers": [{"name": "n", "container_id": "c"}]
        }))
    );
}

#[test]
fn the_container_a_message_is_about_is_found() {
    let status = |id: &str| {
        let status = v1::ContainerStatus {
            id: text(id),
            ..Default::default()
        };
        let mut body = Vec::new();
        message::encode(1, &status, &mut body);
        body
    };
    let mut request = Vec::new();
    put(&mut request, 1, b"c");
    for (method, side, body, container) in [
        (
            "RuntimeService/StopContainer",
            Side::Request,
            request.clone(),
            Some("c"),
        ),
        (
            "RuntimeService/StopContainer",
            Side::Request,
            vec![0x0a, 0],
            None,
        ),
        (
            "RuntimeService/ContainerStatus",
            Side::Reply,
            status("s"),
            Some("s"),
        ),
        (
            "RuntimeService/ContainerStatus",
            Side::Reply,
            status(""),
            None,
        ),
        (CREATE, Side::Request, request, None),
        (CREATE, Side::Reply, vec![0xff], None),
    ] {
        let message = Message::new(type_of(method, side), &body, false);
        assert_eq!(message.container().as_deref(), container, "{method}");
    }
}

#[test]
fn the_containers_of_a_list_are_those_of_its_entries() {
    let mut named = Vec::new();
    put(&mut named, 1, b"c1");
    let mut stats = Vec::new();
    put(&mut stats, 1, &named);
    let list = |entry: &[u8]| {
        let mut list = Vec::new();
        put(&mut list, 1, entry);
        put(&mut list, 1, b"");
        put(&mut list, 1, entry);
        list
    };
    for (method, body) in [
        ("RuntimeService/ListContainers", list(&named)),
        ("RuntimeService/ListContainerStats", list(&stats)),
    ] {
        let message = Message::new(type_of(method, Side::Reply), &body, false);
        assert_eq!(message.listed_containers(), ["c1", "c1"], "{method}");
    }
    let create = Message::new(type_of(CREATE, Side::Reply), &named, false);
    assert_eq!(create.listed_containers(), [""; 0]);
}
