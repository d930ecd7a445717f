//! What a full dump costs: on the way of a call, and in CPU time of the writer's thread.
//!
//! A message's cost to the writer is its own CPU time, as the kernel accounts it: what it rests, and what others
//! take from it, does not count. With `/dev/null` for a file it is decoding, hiding and printing alone.
#![expect(
    clippy::unwrap_used,
    reason = "a bench that cannot set itself up must stop"
)]

use bytes::Bytes;
use cri_resmgr::{
    config::{DumpConfig, DumpFormat},
    cri::{
        intercept::Call,
        observe::{Event, Interest, Kind, Observer as _},
    },
    dump::{Dumper, rule::DumpRules},
};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use k8s_cri::v1;
use prost::Message as _;
use std::{
    collections::HashMap,
    fs,
    hint::black_box,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

/// Events that fit into the queue at once, and the bytes that do.
const BATCH_EVENTS: usize = 4000;
const BATCH_BYTES: usize = 8 << 20;

/// Orders in which the runtime lists the same containers: Go shuffles its maps, so that a list is seldom
/// the same twice.
const ORDERS: usize = 20;

fn dumper(spec: &str, format: DumpFormat) -> Dumper {
    let mut rules = DumpRules::default();
    rules.add(spec).unwrap();
    let config = DumpConfig {
        rules,
        file: Some("/dev/null".into()),
        format,
        measured_lists: false,
        secrets: false,
        count_period: Duration::from_secs(60),
    };
    let dumper = Dumper::start(&config, None).unwrap();
    // Its thread has its name by then.
    assert!(dumper.flush(Duration::from_secs(60)));
    dumper
}

/// A call and the messages it may have, in turn.
struct Sample {
    name: &'static str,
    path: &'static str,
    request: Bytes,
    replies: Vec<Bytes>,
}

fn sample(
    name: &'static str,
    path: &'static str,
    request: &impl prost::Message,
    replies: impl IntoIterator<Item = Vec<u8>>,
) -> Sample {
    Sample {
        name,
        path,
        request: request.encode_to_vec().into(),
        replies: replies.into_iter().map(Bytes::from).collect(),
    }
}

/// Labels that the kubelet gives a container of pod `index`.
fn labels(index: usize) -> HashMap<String, String> {
    [
        ("io.kubernetes.container.name", "server".to_owned()),
        ("io.kubernetes.pod.name", format!("web-{index:05}-x7k2p")),
        ("io.kubernetes.pod.namespace", "default".to_owned()),
        (
            "io.kubernetes.pod.uid",
            format!("{index:08x}-89ab-cdef-0123-456789abcdef"),
        ),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .into()
}

/// Annotations that the kubelet gives a container.
fn annotations() -> HashMap<String, String> {
    [
        ("io.kubernetes.container.hash", "5e2a9c1f"),
        ("io.kubernetes.container.restartCount", "0"),
        (
            "io.kubernetes.container.terminationMessagePath",
            "/dev/termination-log",
        ),
        ("io.kubernetes.container.terminationMessagePolicy", "File"),
        ("io.kubernetes.pod.terminationGracePeriod", "30"),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .into()
}

fn image() -> v1::ImageSpec {
    v1::ImageSpec {
        image: "sha256:4873874c08efc72e9729683a83ffbb7502ee729e9a5ac097723806ea7fa13517".to_owned(),
        ..Default::default()
    }
}

fn container(index: usize) -> v1::Container {
    v1::Container {
        id: format!("{index:064x}"),
        pod_sandbox_id: format!("{:064x}", index + 1000),
        metadata: Some(v1::ContainerMetadata {
            name: "server".to_owned(),
            attempt: 0,
        }),
        image: Some(image()),
        image_ref: image().image,
        state: 1,
        created_at: 1_732_000_000_123_456_789,
        labels: labels(index),
        annotations: annotations(),
        ..Default::default()
    }
}

fn sandbox(index: usize) -> v1::PodSandbox {
    v1::PodSandbox {
        id: format!("{index:064x}"),
        metadata: Some(v1::PodSandboxMetadata {
            name: format!("web-{index:05}-x7k2p"),
            uid: format!("{index:08x}-89ab-cdef-0123-456789abcdef"),
            namespace: "default".to_owned(),
            attempt: 0,
        }),
        created_at: 1_732_000_000_123_456_789,
        labels: labels(index),
        annotations: annotations(),
        ..Default::default()
    }
}

fn create() -> v1::CreateContainerRequest {
    let text = |text: &str| text.to_owned();
    v1::CreateContainerRequest {
        pod_sandbox_id: format!("{:064x}", 1000),
        config: Some(v1::ContainerConfig {
            metadata: Some(v1::ContainerMetadata {
                name: text("server"),
                attempt: 0,
            }),
            image: Some(image()),
            command: vec![text("/bin/server")],
            args: vec![text("--listen"), text("0.0.0.0:8080")],
            envs: (0..12)
                .map(|index| v1::KeyValue {
                    key: format!("SERVICE_{index}_PORT"),
                    value: format!("tcp://10.0.0.{index}:443"),
                })
                .collect(),
            mounts: (0..4)
                .map(|index| v1::Mount {
                    container_path: format!("/var/run/volume-{index}"),
                    host_path: format!("/var/lib/kubelet/pods/uid/volumes/volume-{index}"),
                    readonly: index % 2 == 0,
                    ..Default::default()
                })
                .collect(),
            labels: labels(0),
            annotations: annotations(),
            log_path: text("server/0.log"),
            linux: Some(v1::LinuxContainerConfig {
                resources: Some(v1::LinuxContainerResources {
                    cpu_period: 100_000,
                    cpu_quota: 200_000,
                    cpu_shares: 2048,
                    memory_limit_in_bytes: 1 << 30,
                    oom_score_adj: -997,
                    ..Default::default()
                }),
                security_context: Some(v1::LinuxContainerSecurityContext {
                    namespace_options: Some(v1::NamespaceOption {
                        pid: 1,
                        ..Default::default()
                    }),
                    masked_paths: vec![text("/proc/kcore"), text("/proc/keys")],
                    ..Default::default()
                }),
            }),
            ..Default::default()
        }),
        sandbox_config: Some(v1::PodSandboxConfig {
            hostname: text("web-00000-x7k2p"),
            log_directory: text("/var/log/pods/default_web-00000-x7k2p_uid"),
            labels: labels(0),
            annotations: annotations(),
            ..Default::default()
        }),
    }
}

fn containers(count: usize) -> Vec<Vec<u8>> {
    let mut containers: Vec<_> = (0..count).map(container).collect();
    let mut lists = Vec::new();
    for _ in 0..ORDERS {
        containers.rotate_left(1);
        let list = v1::ListContainersResponse {
            containers: containers.clone(),
        };
        lists.push(list.encode_to_vec());
    }
    lists
}

fn samples() -> Vec<Sample> {
    const LIST: &str = "/runtime.v1.RuntimeService/ListContainers";
    let list = v1::ListContainersRequest::default();
    let version = v1::VersionResponse {
        version: "0.1.0".to_owned(),
        runtime_name: "containerd".to_owned(),
        runtime_version: "1.7.0".to_owned(),
        runtime_api_version: "v1".to_owned(),
    };
    let created = v1::CreateContainerResponse {
        container_id: format!("{:064x}", 1),
    };
    let sandboxes = v1::ListPodSandboxResponse {
        items: (0..20).map(sandbox).collect(),
    };
    vec![
        sample(
            "Version",
            "/runtime.v1.RuntimeService/Version",
            &v1::VersionRequest::default(),
            [version.encode_to_vec()],
        ),
        sample(
            "CreateContainer",
            "/runtime.v1.RuntimeService/CreateContainer",
            &create(),
            [created.encode_to_vec()],
        ),
        sample("ListContainers of 5", LIST, &list, containers(5)),
        sample("ListContainers of 100", LIST, &list, containers(100)),
        sample(
            "ListPodSandbox of 20",
            "/runtime.v1.RuntimeService/ListPodSandbox",
            &v1::ListPodSandboxRequest::default(),
            [sandboxes.encode_to_vec()],
        ),
    ]
}

fn one_call(dumper: &Dumper, seq: u64, sample: &Sample) {
    let turn = usize::try_from(seq).unwrap_or_default() % sample.replies.len();
    let call = Arc::new(Call {
        seq,
        path: sample.path.into(),
        received: Instant::now(),
        deadline: None,
    });
    if dumper.interest(sample.path) == Interest::None {
        return;
    }
    for event in [
        Event::Request {
            body: sample.request.clone(),
        },
        Event::Reply {
            body: sample.replies[turn].clone(),
        },
        Event::End {
            failed: None,
            total: Duration::from_micros(100),
            runtime: Duration::from_micros(90),
        },
    ] {
        dumper.observe(&call, Kind::Passthrough, event);
    }
}

/// Makes `calls` calls, as many at once as fit into the queue; the time they took on their way.
fn make_calls(dumper: &Dumper, calls: u64, sample: &Sample) -> Duration {
    let bytes = sample.request.len() + sample.replies[0].len();
    let batch = (BATCH_BYTES / bytes).clamp(1, BATCH_EVENTS / 3) as u64;
    let mut total = Duration::ZERO;
    let mut seq = 0;
    while seq < calls {
        let end = calls.min(seq + batch);
        let start = Instant::now();
        while seq < end {
            one_call(dumper, seq, black_box(sample));
            seq += 1;
        }
        total += start.elapsed();
        assert!(dumper.flush(Duration::from_secs(60)));
    }
    assert_eq!(dumper.dropped(), 0);
    total
}

/// CPU time that this process's thread named `dump` has taken.
fn writer_cpu() -> Duration {
    let thread = fs::read_dir("/proc/self/task")
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .find(|path| has_name(path, "dump"))
        .unwrap();
    let text = fs::read_to_string(thread.join("schedstat")).unwrap();
    let ns = text.split(' ').next().unwrap().parse().unwrap();
    Duration::from_nanos(ns)
}

fn has_name(thread: &Path, name: &str) -> bool {
    fs::read_to_string(thread.join("comm")).is_ok_and(|comm| comm.trim_end() == name)
}

fn dump(criterion: &mut Criterion) {
    const FULL: &str = "reset,full:.*";
    for sample in samples() {
        let mut group = criterion.benchmark_group(sample.name);
        group.throughput(Throughput::Elements(1));
        for (switch, spec) in [("off", "off"), ("full", FULL)] {
            let dumper = dumper(spec, DumpFormat::Text);
            group.bench_function(format!("{switch}: on the way of a call"), |bencher| {
                bencher.iter_custom(|calls| make_calls(&dumper, calls, &sample));
            });
        }
        for (name, format) in [("text", DumpFormat::Text), ("json", DumpFormat::Json)] {
            let dumper = dumper(FULL, format);
            group.bench_function(format!("{name}: the writer's CPU time"), |bencher| {
                bencher.iter_custom(|calls| {
                    let before = writer_cpu();
                    make_calls(&dumper, calls, &sample);
                    writer_cpu() - before
                });
            });
        }
        group.finish();
    }
}

criterion_group!(benches, dump);
criterion_main!(benches);
