//! What a full dump costs: on the way of a call, and in the writer.
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
    dump::{Dumper, rule::Rules},
};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use k8s_cri::v1;
use prost::Message as _;
use std::{
    hint::black_box,
    sync::Arc,
    time::{Duration, Instant},
};

/// Calls that fit into the queue at once.
const CALLS: u64 = 2000;

fn dumper(spec: &str, file: &tempfile::NamedTempFile) -> Dumper {
    let mut rules = Rules::default();
    rules.add(spec).unwrap();
    let config = DumpConfig {
        rules,
        file: Some(file.path().to_owned()),
        format: DumpFormat::Text,
        secrets: false,
        count_period: Duration::from_secs(60),
    };
    Dumper::start(&config, None).unwrap()
}

/// Orders in which the runtime lists the same containers: Go shuffles its maps, so that a list is seldom
/// the same twice.
const ORDERS: usize = 20;

/// Path, request and replies, in turn, of a small call and of a large one.
fn calls() -> [(&'static str, &'static str, Bytes, Vec<Bytes>); 2] {
    let version = v1::VersionResponse {
        version: "0.1.0".to_owned(),
        runtime_name: "containerd".to_owned(),
        runtime_version: "1.7.0".to_owned(),
        runtime_api_version: "v1".to_owned(),
    };
    let containers = (0..20).map(|index| v1::Container {
        id: format!("{index:064x}"),
        pod_sandbox_id: format!("{index:064x}"),
        image_ref: "sha256:0123".to_owned(),
        labels: (0..4)
            .map(|n| (format!("label{n}"), "value".to_owned()))
            .collect(),
        ..v1::Container::default()
    });
    let mut containers: Vec<_> = containers.collect();
    let lists = (0..ORDERS).map(|_| {
        containers.rotate_left(1);
        let containers = containers.clone();
        Bytes::from(v1::ListContainersResponse { containers }.encode_to_vec())
    });
    [
        (
            "version",
            "/runtime.v1.RuntimeService/Version",
            v1::VersionRequest::default().encode_to_vec().into(),
            vec![version.encode_to_vec().into()],
        ),
        (
            "list of 20",
            "/runtime.v1.RuntimeService/ListContainers",
            v1::ListContainersRequest::default().encode_to_vec().into(),
            lists.collect(),
        ),
    ]
}

fn one_call(dumper: &Dumper, seq: u64, path: &str, request: &Bytes, replies: &[Bytes]) {
    let turn = usize::try_from(seq).unwrap_or_default() % replies.len();
    let reply = &replies[turn];
    let call = Arc::new(Call {
        seq,
        path: path.into(),
        received: Instant::now(),
        deadline: None,
    });
    if dumper.interest(path) == Interest::None {
        return;
    }
    for event in [
        Event::Request {
            body: request.clone(),
        },
        Event::Reply {
            body: reply.clone(),
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

fn dump(criterion: &mut Criterion) {
    let file = tempfile::NamedTempFile::new().unwrap();
    for (name, path, request, replies) in calls() {
        let mut group = criterion.benchmark_group(name);
        group.throughput(Throughput::Elements(1));
        for (what, spec) in [("off", "off"), ("full", "reset,full:.*")] {
            let dumper = dumper(spec, &file);
            group.bench_function(format!("{what}: on the way of a call"), |bencher| {
                bencher.iter_custom(|calls| {
                    let mut total = Duration::ZERO;
                    let mut seq = 0;
                    while seq < calls {
                        let end = calls.min(seq + CALLS);
                        let start = Instant::now();
                        while seq < end {
                            one_call(&dumper, seq, path, black_box(&request), &replies);
                            seq += 1;
                        }
                        total += start.elapsed();
                        assert!(dumper.flush(Duration::from_secs(60)));
                    }
                    total
                });
            });
        }
        group.bench_function("full: until it is written", |bencher| {
            let dumper = dumper("reset,full:.*", &file);
            bencher.iter_custom(|calls| {
                let start = Instant::now();
                let mut seq = 0;
                while seq < calls {
                    let end = calls.min(seq + CALLS);
                    while seq < end {
                        one_call(&dumper, seq, path, &request, &replies);
                        seq += 1;
                    }
                    assert!(dumper.flush(Duration::from_secs(60)));
                }
                start.elapsed()
            });
        });
        group.finish();
    }
}

criterion_group!(benches, dump);
criterion_main!(benches);
