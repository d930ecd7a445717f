//! Every CRI call, direct and through the relay: what comes back must be the same, byte for byte.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::large_futures,
    reason = "a test program: helpers fail the test"
)]

use prost::Message as _;
use resmgr_tests::{
    Container, Cri, Relay, Runtime,
    frames::{RawClient, frame, remembered},
    skip,
    wire::{Answer, Wire},
};
use std::{path::Path, time::Duration};

const RUNTIME: [&str; 37] = [
    "Version",
    "RunPodSandbox",
    "StopPodSandbox",
    "RemovePodSandbox",
    "PodSandboxStatus",
    "ListPodSandbox",
    "CreateContainer",
    "StartContainer",
    "StopContainer",
    "RemoveContainer",
    "ListContainers",
    "ContainerStatus",
    "UpdateContainerResources",
    "ReopenContainerLog",
    "ExecSync",
    "Exec",
    "Attach",
    "PortForward",
    "ContainerStats",
    "ListContainerStats",
    "PodSandboxStats",
    "ListPodSandboxStats",
    "UpdateRuntimeConfig",
    "Status",
    "CheckpointContainer",
    "GetContainerEvents",
    "ListMetricDescriptors",
    "ListPodSandboxMetrics",
    "RuntimeConfig",
    "StreamPodSandboxes",
    "StreamContainers",
    "StreamContainerStats",
    "StreamPodSandboxStats",
    "StreamPodSandboxMetrics",
    "CheckpointPod",
    "RestorePod",
    "UpdatePodSandboxResources",
];
const IMAGE: [&str; 6] = [
    "ListImages",
    "ImageStatus",
    "PullImage",
    "RemoveImage",
    "ImageFsInfo",
    "StreamImages",
];

/// Every path of both versions, whether or not the runtime has it, and paths of nobody.
fn paths() -> Vec<String> {
    let mut paths = Vec::new();
    for version in ["v1", "v1alpha2"] {
        for method in RUNTIME {
            paths.push(format!("/runtime.{version}.RuntimeService/{method}"));
        }
        for method in IMAGE {
            paths.push(format!("/runtime.{version}.ImageService/{method}"));
        }
    }
    paths.extend(
        [
            "/runtime.v1.RuntimeService/NoSuchMethod",
            "/runtime.v9.RuntimeService/Version",
            "/no.such.Service/Method",
        ]
        .map(str::to_owned),
    );
    paths
}

/// Requests that every method can be asked: nothing; an id nobody has, in field 1, which is where
/// CRI keeps ids; an unknown field; bytes that are no message.
fn requests() -> Vec<(&'static str, Vec<u8>)> {
    let mut unknown_field = vec![0x0a, 3];
    unknown_field.extend_from_slice(b"xyz");
    unknown_field.extend_from_slice(&[0xfa, 0x7f, 2, b'h', b'i']);
    vec![
        ("empty", Vec::new()),
        ("an id nobody has", [&[0x0a, 6], &b"nobody"[..]].concat()),
        ("an unknown field", unknown_field),
        ("no message", vec![0xff, 0xff, 0xff]),
    ]
}

async fn ask(wire: &Wire, path: &str, request: &[u8]) -> Answer {
    let call = wire.call(path, request);
    match tokio::time::timeout(Duration::from_secs(30), call).await {
        Ok(answer) => answer.unwrap_or_else(|error| panic!("{path}: {error:#}")),
        Err(_) => panic!("{path} does not end"),
    }
}

/// Replies with the clock in them; all but the digits of the clock must be alike.
const CLOCKED: [&str; 5] = [
    "ImageFsInfo",
    "ContainerStats",
    "ListContainerStats",
    "PodSandboxStats",
    "ListPodSandboxStats",
];

fn alike(path: &str, first: &Answer, second: &Answer) -> bool {
    if CLOCKED.iter().any(|method| path.ends_with(method)) {
        first.http == second.http
            && first.fields == second.fields
            && first.data.len() == second.data.len()
    } else {
        first == second
    }
}

/// Asks both everything; what differs. A runtime in Go writes maps in an order that changes from
/// call to call, so a reply has many chances to come in the same order.
async fn differences(direct: &Path, other: &Path) -> Vec<String> {
    let direct = Wire::connect(direct).await.unwrap();
    let other = Wire::connect(other).await.unwrap();
    let mut found = Vec::new();
    for path in paths() {
        for (name, request) in requests() {
            let mut last = None;
            for _ in 0..200 {
                let first = ask(&direct, &path, &request).await;
                let second = ask(&other, &path, &request).await;
                if alike(&path, &first, &second) {
                    last = None;
                    break;
                }
                last = Some((first, second));
            }
            if let Some((first, second)) = last {
                found.push(format!("{path} ({name}):\n  {first:?}\n  {second:?}"));
            }
        }
    }
    found
}

/// A runtime with a pod and a container in it, so that lists are not empty. Stopped, so that
/// statistics stand still.
async fn populated() -> Runtime {
    let runtime = Runtime::start().unwrap();
    let mut cri = Cri::connect(&runtime.socket(), runtime.cgroup_parent())
        .await
        .unwrap();
    let pod = cri.run_pod("table", "", &[("note", "kept")]).await.unwrap();
    let id = cri
        .create(&pod, &Container::sleeping("main"))
        .await
        .unwrap();
    cri.start(&id).await.unwrap();
    cri.stop(&id).await.unwrap();
    runtime
}

#[tokio::test(flavor = "multi_thread")]
async fn the_table_finds_no_difference_between_the_runtime_and_itself() {
    if let Some(why) = skip::no_runtime() {
        return skip::skip("cri: the table against containerd itself", &why);
    }
    let runtime = populated().await;
    let found = differences(&runtime.socket(), &runtime.socket()).await;
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn every_call_through_the_relay_answers_what_the_runtime_answers() {
    if let Some(why) = skip::no_relay() {
        return skip::skip("cri: every call through the relay", &why);
    }
    let runtime = populated().await;
    for policy in [&[][..], &["--dump", "reset,full:.*"]] {
        let mut relay = Relay::start(&runtime, policy).unwrap();
        let found = differences(&runtime.socket(), &relay.socket()).await;
        assert!(found.is_empty(), "{}", found.join("\n"));
        assert!(relay.stop().unwrap().success(), "{}", relay.log());
        assert!(!relay.socket().exists(), "the socket outlives the relay");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_lives_and_dies_through_the_relay() {
    if let Some(why) = skip::no_relay() {
        return skip::skip("cri: a pod's life through the relay", &why);
    }
    let runtime = Runtime::start().unwrap();
    let relay = Relay::start(&runtime, &[]).unwrap();
    let mut cri = Cri::connect(&relay.socket(), runtime.cgroup_parent())
        .await
        .unwrap();
    let pod = cri.run_pod("life", "", &[]).await.unwrap();
    let id = cri.run(&pod, &Container::sleeping("main")).await.unwrap();
    cri.stop(&id).await.unwrap();
    cri.remove(&id).await.unwrap();
    cri.remove_pod(&pod).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_calls_at_once_on_one_connection_are_all_answered() {
    if let Some(why) = skip::no_relay() {
        return skip::skip("cri: a thousand concurrent calls", &why);
    }
    let runtime = Runtime::start().unwrap();
    let relay = Relay::start(&runtime, &[]).unwrap();
    let wire = Wire::connect(&relay.socket()).await.unwrap();
    let calls = (0..1000).map(|_| wire.call("/runtime.v1.RuntimeService/Version", &[]));
    for answer in futures::future::join_all(calls).await {
        assert_eq!(answer.unwrap().status(), Some(0));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_the_runtime_finds_too_large_is_refused_alike() {
    if let Some(why) = skip::no_relay() {
        return skip::skip("cri: large messages", &why);
    }
    let runtime = Runtime::start().unwrap();
    let relay = Relay::start(&runtime, &[]).unwrap();
    // 15 MiB is under containerd's limit; 17 MiB is over it.
    for size in [15 << 20, 17 << 20] {
        let request = k8s_cri::v1::VersionRequest {
            version: "x".repeat(size),
        };
        let request = request.encode_to_vec();
        let path = "/runtime.v1.RuntimeService/Version";
        let direct = Wire::connect(&runtime.socket()).await.unwrap();
        let relayed = Wire::connect(&relay.socket()).await.unwrap();
        let first = ask(&direct, path, &request).await;
        let second = ask(&relayed, path, &request).await;
        assert_eq!(first.status(), second.status(), "{size} bytes");
        assert_eq!(first.data, second.data, "{size} bytes");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restarted_runtime_is_found_again() {
    if let Some(why) = skip::no_relay() {
        return skip::skip("cri: runtime killed and restarted", &why);
    }
    let mut runtime = Runtime::start().unwrap();
    let relay = Relay::start(&runtime, &[]).unwrap();
    let wire = Wire::connect(&relay.socket()).await.unwrap();
    let path = "/runtime.v1.RuntimeService/Version";
    assert_eq!(ask(&wire, path, &[]).await.status(), Some(0));
    runtime.kill().unwrap();
    // A call meanwhile is told why it fails, and the client keeps its connection.
    let meanwhile = wire.call_with(path, &[], &[("grpc-timeout", "300m")]).await;
    let meanwhile = meanwhile.unwrap();
    assert_eq!(meanwhile.status(), Some(14), "{meanwhile:?}");
    runtime.restart().unwrap();
    let back = ask(&wire, path, &[]).await;
    assert_eq!(back.status(), Some(0), "{back:?}\n{}", relay.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_names_the_server_by_its_sockets_path_is_served() {
    if let Some(why) = skip::no_relay() {
        return skip::skip("the socket's path as :authority", &why);
    }
    let runtime = Runtime::start().unwrap();
    let relay = Relay::start(&runtime, &[]).unwrap();
    let config = relay.folder().join("config.sock");
    for (socket, call) in [
        (runtime.socket(), "/runtime.v1.RuntimeService/Version"),
        (relay.socket(), "/runtime.v1.RuntimeService/Version"),
        (config, "/v1.Config/GetStatus"),
    ] {
        let path = socket.to_str().unwrap();
        let encoded = path.replace('/', "%2F");
        let names = [path, &encoded, &format!("unix://{path}"), "localhost"];
        let mut client = RawClient::connect(&socket).unwrap();
        for (index, name) in (0_u32..).zip(names) {
            // POST, http.
            let mut block = vec![0x83, 0x86];
            for (field, value) in [
                (":path", call),
                (":authority", name),
                ("content-type", "application/grpc"),
                ("te", "trailers"),
            ] {
                block.extend(remembered(field, value.as_bytes()));
            }
            let id = 2 * index + 1;
            let head = frame(1, 4, id, &block);
            client
                .send(&[head, frame(0, 1, id, &[0; 5])].concat())
                .unwrap();
            // DATA, or RST_STREAM, or GOAWAY.
            let answer = client.next_of(&[0, 3, 7]).unwrap();
            let answered = answer.as_ref().map(|(kind, stream, _)| (*kind, *stream));
            assert_eq!(answered, Some((0, id)), "{call} of {name}: {answer:?}");
        }
    }
}
