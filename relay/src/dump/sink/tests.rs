use super::*;
use crate::cri::intercept::Status;
use bytes::Bytes;
use k8s_cri::v1;
use prost::Message as _;
use serde_json::{Value, json};
use std::{os::unix::fs::PermissionsExt as _, path::Path};

const CREATE: &str = "/runtime.v1.RuntimeService/CreateContainer";
const LIMIT: Duration = Duration::from_secs(20);

fn dumper(file: &Path, spec: &str, format: DumpFormat, secrets: bool) -> Dumper {
    let mut rules = DumpRules::default();
    rules.add(spec).unwrap();
    let config = DumpConfig {
        rules,
        file: Some(file.to_owned()),
        format,
        measured_lists: true,
        secrets,
        count_period: Duration::ZERO,
    };
    Dumper::start(&config, Some(Arc::new(Measured))).unwrap()
}

#[derive(Debug)]
struct Measured;

impl Measurements for Measured {
    fn since_last(&self, containers: &[String]) -> Vec<Value> {
        let known = containers.iter().filter(|id| *id == "c1");
        known
            .map(|id| json!({"container": id, "run_ns": 5}))
            .collect()
    }
}

fn call(seq: u64, path: &str) -> Arc<Call> {
    Arc::new(Call {
        seq,
        path: path.into(),
        received: Instant::now(),
        deadline: None,
    })
}

fn create_request(cpus: &str) -> Bytes {
    v1::CreateContainerRequest {
        pod_sandbox_id: "pod".to_owned(),
        config: Some(v1::ContainerConfig {
            envs: vec![v1::KeyValue {
                key: "TOKEN".to_owned(),
                value: "s3cret".to_owned(),
            }],
            linux: Some(v1::LinuxContainerConfig {
                resources: Some(v1::LinuxContainerResources {
                    cpuset_cpus: cpus.to_owned(),
                    ..Default::default()
                }),
                ..Default::default()
            }),
            ..Default::default()
        }),
        sandbox_config: None,
    }
    .encode_to_vec()
    .into()
}

fn create_reply() -> Bytes {
    v1::CreateContainerResponse {
        container_id: "c1".to_owned(),
    }
    .encode_to_vec()
    .into()
}

fn end(failed: Option<Status>) -> Event {
    Event::End {
        failed,
        total: Duration::from_micros(1500),
        runtime: Duration::from_micros(1000),
    }
}

fn create(dumper: &Dumper, seq: u64, path: &str) {
    let call = call(seq, path);
    for event in [
        Event::Request {
            body: create_request(""),
        },
        Event::Rewritten {
            body: create_request("0-1"),
        },
        Event::Reply {
            body: create_reply(),
        },
        end(None),
    ] {
        dumper.observe(&call, Kind::Intercepted, event);
    }
}

/// The dump without its stamps.
fn unstamped(text: &str) -> String {
    text.lines()
        .map(|line| {
            assert_eq!(line.find(']'), Some(25), "{line}");
            format!("{}\n", line.get(26..).unwrap())
        })
        .collect()
}

#[test]
fn a_call_is_dumped_as_received_as_sent_and_as_answered() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("dump");
    let dumper = dumper(&file, "reset,full:.*", DumpFormat::Text, false);
    create(&dumper, 17, CREATE);
    assert!(dumper.flush(LIMIT));
    let text = std::fs::read_to_string(&file).unwrap();
    crate::golden::assert_golden(&unstamped(&text), "src/dump/sink/create.golden.txt");
    assert!(!text.contains("s3cret"));
    assert_eq!(
        std::fs::metadata(&file).unwrap().permissions().mode() & 0o777,
        0o600
    );
}

#[test]
fn secrets_are_shown_on_request_only() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("dump");
    let dumper = dumper(&file, "reset,full:.*", DumpFormat::Text, true);
    create(&dumper, 1, CREATE);
    assert!(dumper.flush(LIMIT));
    assert!(std::fs::read_to_string(&file).unwrap().contains("s3cret"));
}

#[test]
fn machines_read_one_object_a_line() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("dump");
    let dumper = dumper(&file, "reset,full:.*", DumpFormat::Json, false);
    create(&dumper, 3, CREATE);
    assert!(dumper.flush(LIMIT));
    let events: Vec<Value> = std::fs::read_to_string(&file)
        .unwrap()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let names: Vec<&str> = events
        .iter()
        .map(|event| event["event"].as_str().unwrap())
        .collect();
    assert_eq!(
        names,
        ["request", "rewritten", "reply", "measured", "ended"]
    );
    assert!(events.iter().all(|event| event["seq"] == 3));
    assert_eq!(
        events[1]["body"]["config"]["linux"]["resources"]["cpuset_cpus"],
        "0-1"
    );
    assert_eq!(events[2]["body"], json!({"container_id": "c1"}));
    assert_eq!(events[3]["body"], json!([{"container": "c1", "run_ns": 5}]));
    assert_eq!(events[4]["latency_s"], 0.0015);
}

#[test]
fn unknown_methods_errors_names_and_counts_have_their_lines() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("dump");
    let spec = "reset,full:.*,name:StopContainer,RemoveContainer,count:Version";
    let dumper = dumper(&file, spec, DumpFormat::Text, false);
    let failed = Status {
        code: 5,
        message: "no such container".to_owned(),
    };
    let play = |seq, path: &str, events: Vec<Event>| {
        let call = call(seq, path);
        let bodies = dumper.interest(path) == Interest::Bodies;
        for event in events {
            if bodies || matches!(event, Event::End { .. }) {
                dumper.observe(&call, Kind::Passthrough, event);
            }
        }
    };
    let request = || Event::Request {
        body: Bytes::from_static(b"\x01\x02\x03"),
    };
    play(
        1,
        "/new.Service/Frobnicate",
        vec![request(), end(Some(failed.clone()))],
    );
    play(
        2,
        "/runtime.v1.RuntimeService/StopContainer",
        vec![request(), end(None)],
    );
    play(
        3,
        "/runtime.v1.RuntimeService/RemoveContainer",
        vec![request(), end(Some(failed))],
    );
    assert!(dumper.flush(LIMIT));
    let text = unstamped(&std::fs::read_to_string(&file).unwrap());
    assert_eq!(
        text,
        " (passthrough) REQUEST Frobnicate #1 => (3 bytes, not decoded)\n \
         (passthrough) FAILED Frobnicate #1\n  Frobnicate <= gRPC status 5: no such container\n \
         (passthrough) REQUEST StopContainer #2\n (passthrough) FAILED RemoveContainer #3\n"
    );
    play(4, "/runtime.v1.RuntimeService/Version", vec![end(None)]);
    assert!(dumper.flush(LIMIT));
    let text = std::fs::read_to_string(&file).unwrap();
    assert!(
        text.contains("(passthrough) REQUEST: Version #1, 1 total, "),
        "{text}"
    );
}

/// A list that comes in two messages.
fn stream(dumper: &Dumper) {
    let call = call(8, "/runtime.v1.RuntimeService/StreamContainers");
    let part = |id: &str, name: &str| {
        let container = v1::Container {
            id: id.to_owned(),
            metadata: Some(v1::ContainerMetadata {
                name: name.to_owned(),
                attempt: 1,
            }),
            annotations: [("note".to_owned(), "s3cret".to_owned())].into(),
            ..Default::default()
        };
        // On the wire a part of the list looks like the whole one.
        let list = v1::ListContainersResponse {
            containers: vec![container],
        };
        Event::Reply {
            body: list.encode_to_vec().into(),
        }
    };
    let body = Bytes::new();
    for event in [
        Event::Request { body },
        part("c1", "db"),
        part("c2", "web"),
        end(None),
    ] {
        dumper.observe(&call, Kind::Passthrough, event);
    }
    assert!(dumper.flush(LIMIT));
}

#[test]
fn a_list_in_parts_is_dumped_part_by_part() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("dump");
    let dumper = dumper(&file, "reset,full:.*", DumpFormat::Text, false);
    stream(&dumper);
    let text = std::fs::read_to_string(&file).unwrap();
    crate::golden::assert_golden(&unstamped(&text), "src/dump/sink/stream.golden.txt");
    assert!(!text.contains("s3cret"));
}

#[test]
fn machines_read_a_list_in_parts_part_by_part() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("dump");
    let dumper = dumper(&file, "reset,full:.*", DumpFormat::Json, false);
    stream(&dumper);
    let text = std::fs::read_to_string(&file).unwrap();
    let ids: Vec<Value> = text
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap())
        .filter(|event| event["event"] == "reply")
        .map(|event| event["body"]["containers"][0]["id"].clone())
        .collect();
    assert_eq!(ids, ["c1", "c2"]);
    assert!(!text.contains("s3cret"));
}

#[test]
fn interest_follows_the_rules_and_rules_may_change() {
    let dir = tempfile::tempdir().unwrap();
    let dumper = dumper(
        &dir.path().join("dump"),
        "name:Stop.*",
        DumpFormat::Text,
        false,
    );
    assert_eq!(dumper.interest(CREATE), Interest::Bodies);
    assert_eq!(dumper.interest("/s/StopContainer"), Interest::Ends);
    assert_eq!(dumper.interest("/s/Version"), Interest::None);
    // A call in flight is dumped to its end: no request without its reply.
    let call = call(1, CREATE);
    let body = create_request("");
    dumper.observe(&call, Kind::Passthrough, Event::Request { body });
    dumper.set_rules(DumpRules::empty());
    assert_eq!(dumper.interest(CREATE), Interest::None);
    let body = create_reply();
    dumper.observe(&call, Kind::Passthrough, Event::Reply { body });
    let refused = Status {
        code: 5,
        message: "no such pod".to_owned(),
    };
    dumper.observe(&call, Kind::Passthrough, end(Some(refused)));
    assert!(dumper.flush(LIMIT));
    let text = std::fs::read_to_string(dir.path().join("dump")).unwrap();
    assert!(text.contains("REPLY CreateContainer #1"), "{text}");
    assert!(text.contains("FAILED CreateContainer #1"), "{text}");
    assert!(text.contains("no such pod"), "{text}");
}

#[test]
fn a_file_moved_away_is_opened_anew() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("dump");
    let moved = dir.path().join("dump.1");
    let dumper = dumper(&file, "reset,full:.*", DumpFormat::Text, false);
    create(&dumper, 1, CREATE);
    assert!(dumper.flush(LIMIT));
    std::fs::rename(&file, &moved).unwrap();
    dumper.reopen();
    create(&dumper, 2, CREATE);
    assert!(dumper.flush(LIMIT));
    assert!(std::fs::read_to_string(&moved).unwrap().contains("#1"));
    let new = std::fs::read_to_string(&file).unwrap();
    assert!(new.contains("#2") && !new.contains("#1"));
}

#[test]
fn what_does_not_fit_is_counted_and_said() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("dump");
    let dumper = dumper(&file, "reset,full:.*", DumpFormat::Text, false);
    let call = call(1, "/x/Big");
    let big = Bytes::from(vec![0; QUEUE_BYTES / 2 + 1]);
    // Faster than any writer for long enough.
    for _ in 0..4 * QUEUE_EVENTS {
        dumper.observe(
            &call,
            Kind::Passthrough,
            Event::Request { body: big.clone() },
        );
    }
    assert!(dumper.dropped() > 0);
    assert!(dumper.flush(LIMIT));
    let text = std::fs::read_to_string(&file).unwrap();
    let said: u64 = text
        .lines()
        .filter_map(|line| {
            line.get(27..)?
                .split_once(" events dropped")?
                .0
                .parse::<u64>()
                .ok()
        })
        .sum();
    assert_eq!(said, dumper.dropped());
    assert_eq!(said + dumper.written(), 4 * QUEUE_EVENTS as u64);
}

#[test]
fn concurrent_calls_never_share_a_line() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("dump");
    let dumper = dumper(&file, "reset,full:.*", DumpFormat::Json, false);
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let dumper = &dumper;
            scope.spawn(move || {
                for number in 0..200 {
                    create(dumper, thread * 1000 + number, CREATE);
                }
            });
        }
    });
    assert!(dumper.flush(LIMIT));
    let text = std::fs::read_to_string(&file).unwrap();
    let mut events = 0;
    for line in text.lines() {
        let event: Value = serde_json::from_str(line).unwrap();
        if event["event"] != "dropped" && event["event"] != "measured" {
            events += 1;
        }
    }
    assert_eq!(events + dumper.dropped(), 3200);
}

#[test]
fn a_file_that_cannot_be_opened_is_an_error_at_start() {
    let config = DumpConfig {
        rules: DumpRules::default(),
        file: Some("/nowhere/at/all".into()),
        format: DumpFormat::Text,
        measured_lists: false,
        secrets: false,
        count_period: Duration::from_secs(60),
    };
    let error = Dumper::start(&config, None).unwrap_err();
    assert!(error.to_string().contains("/nowhere/at/all"));
}

#[test]
fn what_the_relay_itself_does_is_dumped_under_its_own_name() {
    let directory = tempfile::tempdir().unwrap();
    for (spec, format, expected) in [
        (
            "full:Rebalance",
            DumpFormat::Text,
            "(own) EVENT Rebalance #7\n",
        ),
        (
            "full:Rebalance",
            DumpFormat::Text,
            "Rebalance :: outcome: undone\n",
        ),
        (
            "name:Rebalance",
            DumpFormat::Text,
            "(own) REQUEST Rebalance #7\n",
        ),
        ("full:Rebalance", DumpFormat::Json, "\"event\":\"event\""),
        ("full:Rebalance", DumpFormat::Json, "\"outcome\":\"undone\""),
    ] {
        let file = directory.path().join("dump");
        let dumper = dumper(&file, spec, format, false);
        let value = json!({"outcome": "undone", "reason": "migrations"});
        dumper.tell("Rebalance", 7, value);
        assert!(dumper.flush(LIMIT));
        let text = std::fs::read_to_string(&file).unwrap();
        assert!(text.contains(expected), "{expected}: {text}");
    }
    let file = directory.path().join("dump");
    let dumper = dumper(&file, "off:Rebalance", DumpFormat::Text, false);
    dumper.tell("Rebalance", 7, Value::Null);
    assert!(dumper.flush(LIMIT));
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "");
}
