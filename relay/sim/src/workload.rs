//! Mixes of containers to try policies with.

use resmgr_policy::{
    ContainerId, PodRef, QosClass, Request, Requirements,
    trace::{Behaviour, Class, Line, TraceEvent},
};
use resmgr_topology::{MilliCpu, Topology};
use std::sync::Arc;

/// A request as the daemon would see it.
#[must_use]
pub fn request(name: &str, qos: QosClass, cpu: MilliCpu, limit: Option<MilliCpu>) -> Request {
    let name: Arc<str> = name.into();
    Request {
        id: ContainerId(name.clone()),
        pod: PodRef {
            sandbox: name.clone(),
            uid: name.clone(),
            name: name.clone(),
            namespace: "default".into(),
        },
        name,
        qos,
        requirements: Requirements {
            cpu_request: cpu,
            cpu_limit: limit,
            ..Requirements::default()
        },
        init: false,
        annotations: std::collections::BTreeMap::new(),
        env: Vec::new(),
        command: Vec::new(),
        args: Vec::new(),
    }
}

/// The standard mix: chatty, latency-bound, batch and bursty containers together, that ask for about
/// three quarters of the machine and arrive within the first second.
#[must_use]
pub fn standard_mix(topology: &Topology) -> Vec<Line> {
    let cpus = u32::try_from(topology.online.len()).unwrap_or(u32::MAX);
    let wide = (cpus / 4).clamp(1, 8);
    let rounds = (cpus / 16).max(1);
    let mut lines = Vec::new();
    for round in 0..rounds {
        for (class, threads, milli) in [
            (Class::Chatty, wide, 500),
            (Class::Batch, wide, 600),
            (Class::Latency, wide, 300),
            (Class::Bursty, wide, 500),
            (Class::Chatty, wide, 500),
        ] {
            let number = lines.len();
            let name = format!("{class:?}-{round}-{number}").to_lowercase();
            let cpu = MilliCpu(threads * milli);
            lines.push(Line {
                at_ms: u64::from(round) * 7 + 31 * u64::try_from(number % 5).unwrap_or(0),
                event: TraceEvent::Create {
                    request: Box::new(request(&name, QosClass::Burstable, cpu, None)),
                    behaviour: Some(Behaviour::of(class, threads)),
                },
            });
        }
    }
    lines.sort_by_key(|line| line.at_ms);
    lines
}
