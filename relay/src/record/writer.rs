//! The thread that writes the trace.

use super::error::RecordError;
use resmgr_io::file::open_output;
use resmgr_policy::{
    ContainerId, Measured, Request, State,
    trace::{Line, TraceEvent},
};
use resmgr_topology::Topology;
use std::{
    collections::{BTreeMap, BTreeSet},
    fs::File,
    io::Write as _,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc::{Receiver, SyncSender},
    },
    time::Instant,
};

/// Bytes that are written at once at most.
const BATCH_BYTES: usize = 256 << 10;

/// What happened.
#[derive(Debug)]
pub(super) enum Observation {
    Placed {
        state: Arc<State>,
        topology: Arc<Topology>,
        reserved: BTreeSet<ContainerId>,
    },
    Measured(Arc<Measured>),
}

/// What the queue holds.
#[derive(Debug)]
pub(super) enum TraceMessage {
    Observation {
        at: Instant,
        observation: Observation,
    },
    Reopen,
    Stop(SyncSender<()>),
}

/// A container as it stands in the trace.
#[derive(Debug)]
struct TracedContainer {
    /// When it was placed.
    at_ms: u64,
    /// As it was written; nothing while the runtime has not created it.
    request: Option<Request>,
}

#[derive(Debug)]
pub(super) struct TraceWriter {
    path: PathBuf,
    file: Option<File>,
    batch: Vec<u8>,
    start: Instant,
    /// The time of the last placement: no two are noted for the same millisecond, so that their order is
    /// plain.
    last_ms: u64,
    topology: Arc<Topology>,
    /// What is placed, by the order of arrival, which is a container's identity while its id changes.
    live: BTreeMap<u64, TracedContainer>,
    dropped: Arc<AtomicU64>,
    dropped_logged: u64,
}

impl TraceWriter {
    pub(super) fn open(
        path: &Path,
        topology: Arc<Topology>,
        dropped: Arc<AtomicU64>,
    ) -> Result<Self, RecordError> {
        let file = open_output(path, true).map_err(|source| RecordError::Open {
            path: path.to_owned(),
            source,
        })?;
        let mut writer = Self {
            path: path.to_owned(),
            file: Some(file),
            batch: Vec::new(),
            start: Instant::now(),
            last_ms: 0,
            topology,
            live: BTreeMap::new(),
            dropped,
            dropped_logged: 0,
        };
        writer.begin(0);
        Ok(writer)
    }

    pub(super) fn run(mut self, queue: &Receiver<TraceMessage>) {
        self.write_out();
        while let Ok(first) = queue.recv() {
            let mut next = Some(first);
            while let Some(message) = next {
                match message {
                    TraceMessage::Observation { at, observation } => {
                        self.observation(at, observation)
                    }
                    TraceMessage::Reopen => self.reopen(),
                    TraceMessage::Stop(done) => {
                        self.log_dropped();
                        self.write_out();
                        // The caller may have stopped waiting.
                        done.try_send(()).ok();
                        return;
                    }
                }
                next = queue.try_recv().ok();
            }
            self.log_dropped();
            self.write_out();
        }
        self.write_out();
    }

    fn observation(&mut self, at: Instant, observation: Observation) {
        let at_ms = at.saturating_duration_since(self.start).as_millis();
        let at_ms = u64::try_from(at_ms).unwrap_or(u64::MAX);
        match observation {
            Observation::Placed {
                state,
                topology,
                reserved,
            } => {
                if topology != self.topology {
                    self.topology = topology;
                    self.begin(at_ms);
                }
                self.placed(at_ms, &state, &reserved);
            }
            Observation::Measured(measured) => {
                // Never before what was placed before.
                let at_ms = at_ms.max(self.last_ms);
                let measured = Box::new(Measured::clone(&measured));
                self.line(at_ms, TraceEvent::Measured { measured });
            }
        }
    }

    /// Notes what came and went since the last state. The policy places a container anew whose requirements
    /// changed: it goes and comes.
    fn placed(&mut self, at_ms: u64, state: &State, reserved: &BTreeSet<ContainerId>) {
        let now: BTreeMap<u64, &Request> = state
            .containers
            .values()
            .map(|placed| (placed.arrival, &*placed.request))
            .collect();
        let stays = |arrival: &u64, traced: &TracedContainer| {
            now.get(arrival).is_some_and(|request| {
                let known = traced.request.as_ref();
                known.is_none_or(|known| known.requirements == request.requirements)
            })
        };
        let mut gone = Vec::new();
        self.live.retain(|arrival, traced| {
            let stays = stays(arrival, traced);
            if !stays {
                gone.extend(traced.request.take());
            }
            stays
        });
        for request in gone {
            let at_ms = self.next_ms(at_ms);
            let id = request.id;
            self.line(at_ms, TraceEvent::Exit { id });
        }
        for (arrival, request) in now {
            let at_ms = match self.live.get(&arrival) {
                Some(traced) if traced.request.is_some() => continue,
                Some(traced) => traced.at_ms,
                None => self.next_ms(at_ms),
            };
            let exists = !reserved.contains(&request.id);
            if exists {
                self.create(at_ms, request);
            }
            let request = exists.then(|| request.clone());
            self.live
                .insert(arrival, TracedContainer { at_ms, request });
        }
    }

    fn create(&mut self, at_ms: u64, request: &Request) {
        let event = TraceEvent::Create {
            request: Box::new(request.clone()),
            behaviour: None,
        };
        self.line(at_ms, event);
    }

    fn next_ms(&mut self, at_ms: u64) -> u64 {
        self.last_ms = at_ms.max(self.last_ms.saturating_add(1));
        self.last_ms
    }

    fn begin(&mut self, at_ms: u64) {
        let topology = Box::new(Topology::clone(&self.topology));
        self.line(at_ms, TraceEvent::Topology { topology });
    }

    fn line(&mut self, at_ms: u64, event: TraceEvent) {
        match serde_json::to_vec(&Line { at_ms, event }) {
            Ok(line) => {
                self.batch.extend_from_slice(&line);
                self.batch.push(b'\n');
            }
            Err(error) => {
                tracing::error!(target: "resource-manager", "an event was not recorded: {error}");
            }
        }
        if self.batch.len() >= BATCH_BYTES {
            self.write_out();
        }
    }

    fn write_out(&mut self) {
        let batch = std::mem::take(&mut self.batch);
        let Some(file) = &mut self.file else { return };
        if let Err(error) = file.write_all(&batch) {
            tracing::error!(
                target: "resource-manager",
                "cannot record to {}: {error}; nothing is recorded until it is reopened (SIGHUP)",
                self.path.display()
            );
            self.file = None;
        }
    }

    fn log_dropped(&mut self) {
        let dropped = self.dropped.load(Ordering::Relaxed);
        if dropped > self.dropped_logged {
            tracing::warn!(
                target: "resource-manager",
                "{} events were not recorded: the file cannot keep up",
                dropped - self.dropped_logged
            );
            self.dropped_logged = dropped;
        }
    }

    /// Begins the file anew if a log rotation moved it away: with the machine and with what runs.
    fn reopen(&mut self) {
        self.write_out();
        if self
            .file
            .as_ref()
            .is_some_and(|file| is_at(file, &self.path))
        {
            return;
        }
        match open_output(&self.path, true) {
            Ok(file) => self.file = Some(file),
            Err(error) => {
                tracing::error!(
                    target: "resource-manager",
                    "cannot reopen {} to record: {error}; going on with the old file",
                    self.path.display()
                );
                return;
            }
        }
        self.start = Instant::now();
        self.last_ms = 0;
        self.begin(0);
        let mut live = std::mem::take(&mut self.live);
        for traced in live.values_mut() {
            traced.at_ms = self.next_ms(0);
            if let Some(request) = &traced.request {
                self.create(traced.at_ms, request);
            }
        }
        self.live = live;
        self.write_out();
    }
}

/// Whether the path still leads to this file.
fn is_at(file: &File, path: &Path) -> bool {
    let both = file.metadata().ok().zip(std::fs::metadata(path).ok());
    both.is_some_and(|(ours, theirs)| (ours.dev(), ours.ino()) == (theirs.dev(), theirs.ino()))
}
