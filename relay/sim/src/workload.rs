//! How threads behave, and mixes of containers to try policies with.

use crate::trace::{Event, Line};
use resmgr_policy::{ContainerId, PodRef, QosClass, Request, Requirements};
use resmgr_topology::{MilliCpu, Topology};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// The kinds of workload of the standard mix.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Class {
    /// Threads that wake each other all the time.
    Chatty,
    /// Short work at short intervals, which should not wait.
    Latency,
    /// Computes without end.
    Batch,
    /// Computes for a while, then rests.
    Bursty,
}

/// What each thread of a container does, over and over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Behaviour {
    /// What kind this is, for reports.
    pub class: Class,
    /// Threads.
    pub threads: u32,
    /// CPU time of one piece of work, nanoseconds on a core of its own: half to one and a half of it.
    pub work_ns: u64,
    /// Sleep between two pieces, nanoseconds, unless woken.
    pub sleep_ns: u64,
    /// Whether a thread wakes another one of its container when it has done a piece.
    pub talks: bool,
    /// Of the threads those that only call: they are bound, in turn, to the first and to the last CPU the
    /// container may run on, as those are that serve the queues of a network card. Then only they talk, and
    /// the other threads sleep until they are called.
    #[serde(default, skip_serializing_if = "none")]
    pub callers: u32,
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde passes a reference"
)]
fn none(callers: &u32) -> bool {
    *callers == 0
}

impl Behaviour {
    /// The standard behaviour of a class.
    #[must_use]
    pub fn of(class: Class, threads: u32) -> Self {
        let (work_ns, sleep_ns, talks) = match class {
            Class::Chatty => (400_000, 900_000, true),
            Class::Latency => (200_000, 1_300_000, false),
            Class::Batch => (50_000_000, 0, false),
            Class::Bursty => (150_000_000, 250_000_000, false),
        };
        Self {
            class,
            threads,
            work_ns,
            sleep_ns,
            talks,
            callers: 0,
        }
    }

    /// What a container of a recorded trace, of which only the request is known, is taken to do.
    #[must_use]
    pub fn guess(request: &Request) -> Self {
        let threads = request.requirements.cpu_request.0.div_ceil(1000).max(1);
        Self::of(Class::Latency, threads)
    }
}

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
        for (class, threads, each) in [
            (Class::Chatty, wide, 500),
            (Class::Batch, wide, 600),
            (Class::Latency, wide, 300),
            (Class::Bursty, wide, 500),
            (Class::Chatty, wide, 500),
        ] {
            let number = lines.len();
            let name = format!("{class:?}-{round}-{number}").to_lowercase();
            let cpu = MilliCpu(threads * each);
            lines.push(Line {
                at_ms: u64::from(round) * 7 + 31 * u64::try_from(number % 5).unwrap_or(0),
                event: Event::Create {
                    request: Box::new(request(&name, QosClass::Burstable, cpu, None)),
                    behaviour: Some(Behaviour::of(class, threads)),
                },
            });
        }
    }
    lines.sort_by_key(|line| line.at_ms);
    lines
}
