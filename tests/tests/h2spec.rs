//! RFC 9113 and RFC 7541 case by case: the cases of h2spec, through the relay.
//!
//! Most cases begin with a GET, which a gRPC server refuses before it looks at what the case is about. So a made-up
//! runtime that answers any request stands behind the relay first, then a real one.
#![expect(clippy::unwrap_used, reason = "a test program: helpers fail the test")]

use resmgr_tests::{Relay, Runtime, built, mock_runtime, skip};
use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    process::{Command, Stdio},
    thread,
};

const CLOSED: &str = "RFC 9113, 5.1: frames on a closed stream may be discarded, the relay does";
const PRIORITY: &str = "RFC 9113, 5.3: there are no dependencies any more, PRIORITY is passed over";
const NOT_GRPC: &str = "gRPC refuses the request before it comes to it";

/// Cases that fail whatever the runtime is, and why they may.
const FAILING: [(&str, &str); 4] = [
    ("http2/5.1/8", CLOSED),
    ("http2/5.1/11", CLOSED),
    ("http2/5.3.1/1", PRIORITY),
    ("http2/5.3.1/2", PRIORITY),
];
/// Cases of the sections `http2` and `hpack` that fail in front of containerd. They fail at containerd itself too.
const FAILING_BEFORE_CONTAINERD: [(&str, &str); 12] = [
    ("http2/4.2/1", NOT_GRPC),
    ("http2/5.1/8", CLOSED),
    ("http2/5.1/11", NOT_GRPC),
    ("http2/5.1/12", NOT_GRPC),
    ("http2/5.1/13", NOT_GRPC),
    ("http2/5.3.1/2", PRIORITY),
    ("http2/6.5.3/1", NOT_GRPC),
    ("http2/6.9.1/1", NOT_GRPC),
    ("http2/6.9.1/3", NOT_GRPC),
    ("http2/6.9.2/1", NOT_GRPC),
    ("http2/6.9.2/2", NOT_GRPC),
    ("http2/6.10/1", NOT_GRPC),
];
/// A case has 2 s. On a busy machine that may not be enough once.
const ATTEMPTS: u32 = 3;

/// The cases of `sections` by number, with what h2spec says of each: "passed", "skipped" or "failed", and more.
fn outcomes(socket: &Path, sections: &[&str]) -> BTreeMap<String, String> {
    let output = Command::new(program())
        .arg(socket)
        .arg("/runtime.v1.RuntimeService/Version")
        .args(sections)
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    let report = String::from_utf8(output.stdout).unwrap();
    let cases = report.lines().map(|line| {
        let number = line.split('\t').nth(1).unwrap().to_owned();
        (number, line.to_owned())
    });
    cases.collect()
}

fn failed((number, outcome): (&String, &String)) -> Option<String> {
    outcome.starts_with("failed\t").then(|| number.clone())
}

/// Runs `sections`: exactly the cases in `failing` fail.
fn assert_fails_only(socket: &Path, sections: &[&str], failing: &[(&str, &str)]) {
    let expected: BTreeSet<String> = failing.iter().map(|(number, _)| (*number).into()).collect();
    let mut outcomes_seen = outcomes(socket, sections);
    assert!(outcomes_seen.len() > 90, "{outcomes_seen:#?}");
    for _ in 1..ATTEMPTS {
        let seen: BTreeSet<String> = outcomes_seen.iter().filter_map(failed).collect();
        let unexpected: Vec<&str> = seen.difference(&expected).map(String::as_str).collect();
        if unexpected.is_empty() {
            break;
        }
        outcomes_seen.extend(outcomes(socket, &unexpected));
    }
    let seen: BTreeSet<String> = outcomes_seen.iter().filter_map(failed).collect();
    let differing = seen.symmetric_difference(&expected);
    let differing: Vec<&String> = differing.map(|number| &outcomes_seen[number]).collect();
    assert!(
        differing.is_empty(),
        "not as expected of {failing:#?}: {differing:#?}"
    );
}

fn program() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../.cache/h2spec/h2spec")
}

fn unbuilt() -> Option<String> {
    let lacking = if built("cri-resmgr").is_none() {
        "cri-resmgr is not built: cargo build --bins"
    } else if !program().is_file() {
        "h2spec is not built: cargo xtask setup"
    } else {
        return None;
    };
    Some(lacking.to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_relay_answers_to_each_case() {
    if let Some(why) = unbuilt() {
        return skip::skip("h2spec: before a runtime that answers all", &why);
    }
    let folder = tempfile::tempdir().unwrap();
    let runtime = folder.path().join("runtime.sock");
    mock_runtime::serve(&runtime);
    let relay = Relay::start_before(&runtime, &folder.path().join("relay"), &[]).unwrap();
    let socket = relay.socket();
    tokio::task::block_in_place(|| assert_fails_only(&socket, &[], &FAILING));
}

#[test]
fn what_the_relay_answers_to_each_case_before_containerd_and_what_containerd_does() {
    if let Some(why) = unbuilt().or_else(skip::no_relay) {
        return skip::skip("h2spec: before containerd", &why);
    }
    let runtime = Runtime::start().unwrap();
    let relay = Relay::start(&runtime, &[]).unwrap();
    let listed = FAILING_BEFORE_CONTAINERD.map(|(number, _)| number);
    let direct = thread::scope(|scope| {
        let direct = scope.spawn(|| outcomes(&runtime.socket(), &listed));
        let sections = ["http2", "hpack"];
        assert_fails_only(&relay.socket(), &sections, &FAILING_BEFORE_CONTAINERD);
        direct.join().unwrap()
    });
    let failing: BTreeSet<String> = direct.iter().filter_map(failed).collect();
    assert_eq!(failing, listed.map(str::to_owned).into(), "{direct:#?}");
}
