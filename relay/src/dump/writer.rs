//! The slow side of the dumper: one thread that decodes, hides secrets and writes whole events.

mod clock;
mod output;

use super::{
    diff,
    error::DumpError,
    json,
    message::Message,
    queue::{CallEvent, DumpCounters, Measurements, OwnEvent, QueueItem, body_bytes},
    record::{Body, Record, RecordEvent},
    rule::Target,
    yaml,
};
use crate::{
    config::{DumpConfig, DumpFormat},
    cri::{
        observe::{self, Kind},
        schema::{Side, message_type},
    },
    log::Level,
};
use bytes::Bytes;
use clock::{Clock, put_latency};
use output::Output;
use rustix::process::setpriority_process;
use serde_json::Value;
use std::{
    collections::HashMap,
    sync::{Arc, atomic::Ordering, mpsc::Receiver},
    time::{Duration, Instant},
};

/// How long the writer rests after it has emptied the queue, so that it is woken seldom and writes much
/// at once: waking it costs the caller more than queueing. Short enough for the queue to hold what comes
/// meanwhile, and for a log that is followed.
const REST: Duration = Duration::from_millis(10);

/// Items after which the writer yields its CPU to threads that wait for it: the kernel does not take the CPU
/// from a thread that has just begun, not even for a thread of higher priority, and a call would wait for the
/// whole batch.
const ITEMS_PER_YIELD: usize = 16;

/// The writer's nice value: where CPUs are short, calls go before their dump. Not the highest: the writer
/// keeps a tenth of a busy thread's share, so that little is dropped.
const NICE: i32 = 10;

/// Calls whose request is remembered until they end.
const REMEMBERED_CALLS: usize = 4096;

/// Remembered of a call until it ends.
#[derive(Debug, Default)]
struct Pending {
    /// The request, when a rewrite may follow.
    request: Option<Bytes>,
    container: Option<String>,
}

#[derive(Debug)]
struct Count {
    calls: u64,
    reported_calls: u64,
    reported: Instant,
}

#[derive(Debug)]
pub(super) struct Writer {
    output: Output,
    /// The body being written, in YAML or as changes.
    text: Vec<u8>,
    json: bool,
    secrets: bool,
    measured_lists: bool,
    count_period: Duration,
    measurements: Option<Arc<dyn Measurements>>,
    counters: Arc<DumpCounters>,
    pending: HashMap<u64, Pending>,
    counts: HashMap<String, Count>,
    all_counted: u64,
    dropped_reported: u64,
    clock: Clock,
}

impl Writer {
    pub(super) fn open(
        config: &DumpConfig,
        measurements: Option<Arc<dyn Measurements>>,
        counters: Arc<DumpCounters>,
    ) -> Result<Self, DumpError> {
        Ok(Self {
            output: Output::open(config)?,
            text: Vec::new(),
            json: config.format == DumpFormat::Json,
            secrets: config.secrets,
            measured_lists: config.measured_lists,
            count_period: config.count_period,
            measurements,
            counters,
            pending: HashMap::new(),
            counts: HashMap::new(),
            all_counted: 0,
            dropped_reported: 0,
            clock: Clock::now(),
        })
    }

    pub(super) fn run(mut self, queue: &Receiver<QueueItem>) {
        // On Linux that of the calling thread alone.
        if let Err(error) = setpriority_process(None, NICE) {
            tracing::debug!(target: "message", "the dump's writer has the priority of all: {error}");
        }
        while let Ok(first) = queue.recv() {
            self.begin();
            let mut next = Some(first);
            let mut since_yield = 0;
            while let Some(item) = next {
                since_yield += 1;
                if since_yield == ITEMS_PER_YIELD {
                    since_yield = 0;
                    std::thread::yield_now();
                }
                match item {
                    QueueItem::Call(event) => self.call(&event),
                    QueueItem::Own(event) => self.own(&event),
                    QueueItem::Reopen => self.output.reopen(),
                    QueueItem::Flush(done) => {
                        self.report_dropped();
                        self.output.write_out();
                        // The caller may have stopped waiting.
                        done.try_send(()).ok();
                    }
                    QueueItem::Stop => {
                        self.output.write_out();
                        return;
                    }
                }
                next = queue.try_recv().ok();
                if next.is_none() {
                    self.report_dropped();
                    self.output.write_out();
                    std::thread::sleep(REST);
                    next = queue.try_recv().ok();
                    self.begin();
                }
            }
        }
        self.output.write_out();
    }

    fn begin(&mut self) {
        self.clock = Clock::now();
        self.output.begin();
    }

    fn call(&mut self, event: &CallEvent) {
        let bytes = body_bytes(&event.event);
        self.counters.bytes.fetch_sub(bytes, Ordering::Relaxed);
        if let Some(mut record) = self.record(event) {
            self.put(&mut record, event.at);
        }
        if let Some(measured) = self.measured(event) {
            let mut record = Record {
                kind: Kind::Own,
                service: event.call.service(),
                method: event.call.method(),
                seq: event.call.seq,
                event: RecordEvent::Measured(Body::Value(&measured)),
                bytes: 0,
                code: None,
                latency: None,
                runtime: None,
            };
            self.put(&mut record, event.at);
        }
    }

    /// An event that is no call: always in words, and as a body where bodies are wanted.
    fn own(&mut self, event: &OwnEvent) {
        let mut record = Record {
            kind: Kind::Own,
            service: "",
            method: event.name,
            seq: event.seq,
            event: match event.target {
                Target::Full => RecordEvent::Own(Body::Value(&event.value)),
                Target::Off | Target::Name | Target::Count => RecordEvent::Named { failed: false },
            },
            bytes: 0,
            code: None,
            latency: None,
            runtime: None,
        };
        self.put(&mut record, event.at);
    }

    /// Prints a record into log and file.
    fn put(&mut self, record: &mut Record<'_>, at: Instant) {
        self.counters.written.fetch_add(1, Ordering::Relaxed);
        let level = match record.event {
            RecordEvent::Failed(_) | RecordEvent::Named { failed: true } => Level::Warn,
            _ => Level::Info,
        };
        let in_log = self.output.shows(level) && !matches!(record.event, RecordEvent::Ended);
        let in_file = self.output.file().is_some();
        if in_log || (in_file && !self.json) {
            self.print_text(record);
        }
        if in_log {
            self.output.log(level, record, &self.text);
        }
        if in_file && self.json {
            self.put_json(record, at);
        } else if in_file {
            let clock = &mut self.clock;
            self.output.stamped(record, &self.text, |out| {
                match (&record.event, record.latency) {
                    (
                        RecordEvent::Reply(_)
                        | RecordEvent::Failed(_)
                        | RecordEvent::Named { failed: true },
                        Some(latency),
                    ) => put_latency(out, latency),
                    _ => clock.put_stamp(out, at),
                }
            });
        }
        self.output.write_if_much();
    }

    /// Puts the body of a record into `text`: in YAML or, when it is known, as what changed.
    fn print_text(&mut self, record: &mut Record<'_>) {
        self.text.clear();
        match &record.event {
            RecordEvent::Rewritten {
                changes: Some(changes),
                ..
            } => self.text.extend_from_slice(changes.as_bytes()),
            event => {
                if let Some(body @ (Body::Message(_) | Body::Value(_))) = event.body()
                    && yaml::write(&mut self.text, body).is_err()
                {
                    record.event.set_unknown();
                }
            }
        }
    }

    fn put_json(&mut self, record: &mut Record<'_>, at: Instant) {
        let time = self.clock.epoch_s(at);
        let Some(file) = self.output.file() else {
            return;
        };
        let begin = file.len();
        if json::put(file, record, time).is_err() {
            file.truncate(begin);
            record.event.set_unknown();
            if let Err(error) = json::put(file, record, time) {
                file.truncate(begin);
                tracing::error!(target: "message", "cannot dump an event as JSON: {error}");
            }
        }
    }

    /// What is to be shown of an event, if anything.
    fn record<'a>(&mut self, event: &'a CallEvent) -> Option<Record<'a>> {
        let call = &event.call;
        let latency = event.at.saturating_duration_since(call.received);
        let mut record = Record {
            kind: event.kind,
            service: call.service(),
            method: call.method(),
            seq: call.seq,
            event: RecordEvent::Ended,
            bytes: body_bytes(&event.event),
            code: None,
            latency: None,
            runtime: None,
        };
        match &event.event {
            observe::Event::Request { body } => {
                let message = self.message(&call.path, Side::Request, body);
                self.remember(event, body, message.as_ref());
                record.event = RecordEvent::Request(message_body(message));
            }
            observe::Event::Rewritten { body } => {
                let message = self.message(&call.path, Side::Request, body);
                let received = self
                    .pending
                    .get_mut(&call.seq)
                    .and_then(|pending| pending.request.take());
                let received = received
                    .as_ref()
                    .and_then(|request| self.message(&call.path, Side::Request, request));
                record.event = RecordEvent::Rewritten {
                    changes: changes(received, message),
                    body: message_body(message),
                };
            }
            observe::Event::Reply { body } => {
                let message = self.message(&call.path, Side::Reply, body);
                record.latency = Some(latency);
                record.event = RecordEvent::Reply(message_body(message));
            }
            observe::Event::TooLong {
                side,
                octets,
                limit,
            } => {
                record.bytes = *octets;
                let body = Body::TooLong { limit: *limit };
                record.event = match side {
                    Side::Request => RecordEvent::Request(body),
                    Side::Reply => {
                        record.latency = Some(latency);
                        RecordEvent::Reply(body)
                    }
                };
            }
            observe::Event::End {
                failed,
                total,
                runtime,
            } => {
                self.pending.remove(&call.seq);
                record.latency = Some(*total);
                record.runtime = Some(*runtime);
                record.code = failed.as_ref().map(|status| status.code);
                record.event = match (event.target, failed) {
                    (Target::Count, _) => return self.count(event, record),
                    (Target::Full, Some(status)) => RecordEvent::Failed(status.to_string()),
                    (Target::Full, None) => RecordEvent::Ended,
                    (_, failed) => RecordEvent::Named {
                        failed: failed.is_some(),
                    },
                };
            }
        }
        Some(record)
    }

    fn message<'a>(&self, path: &str, side: Side, body: &'a [u8]) -> Option<Message<'a>> {
        let message_type = message_type(path, side)?;
        Some(Message::new(message_type, body, self.secrets))
    }

    fn count<'a>(&mut self, event: &CallEvent, mut record: Record<'a>) -> Option<Record<'a>> {
        self.all_counted += 1;
        let all = self.all_counted;
        let counted = self
            .counts
            .entry(record.method.to_owned())
            .or_insert(Count {
                calls: 0,
                reported_calls: 0,
                reported: event.at,
            });
        counted.calls += 1;
        let period = event.at.saturating_duration_since(counted.reported);
        // Errors are shown at every level but off.
        if record.code.is_some() {
            record.event = RecordEvent::Named { failed: true };
            return Some(record);
        }
        if period < self.count_period {
            return None;
        }
        #[expect(clippy::cast_precision_loss, reason = "a rate for people")]
        let calls = (counted.calls - counted.reported_calls) as f64;
        record.event = RecordEvent::Count {
            calls: counted.calls,
            all,
            rate: calls / period.as_secs_f64(),
        };
        counted.reported = event.at;
        counted.reported_calls = counted.calls;
        Some(record)
    }

    /// Keeps what later events of the call need.
    fn remember(&mut self, event: &CallEvent, request: &Bytes, message: Option<&Message<'_>>) {
        let rewritable = event.kind == Kind::Intercepted;
        if (rewritable || self.measurements.is_some()) && self.pending.len() < REMEMBERED_CALLS {
            let pending = Pending {
                request: rewritable.then(|| request.clone()),
                container: self.container(message),
            };
            self.pending.insert(event.call.seq, pending);
        }
    }

    /// The container that a message is about, when it is known what was measured of containers.
    fn container(&self, message: Option<&Message<'_>>) -> Option<String> {
        self.measurements.as_ref()?;
        message?.container()
    }

    /// What was measured of the containers of a call until now: an update asks before it changes anything, any other
    /// call when its reply is there.
    fn measured(&self, event: &CallEvent) -> Option<Value> {
        let measurements = self.measurements.as_ref()?;
        let call = &event.call;
        let known = || self.pending.get(&call.seq)?.container.clone();
        let is_update = call.method() == UPDATE;
        let containers = match &event.event {
            observe::Event::Request { .. } if is_update => known().into_iter().collect(),
            observe::Event::Reply { body } if !is_update => {
                let reply = self.message(&call.path, Side::Reply, body);
                // A reply may name the container that the request could not.
                match known().or_else(|| reply.as_ref()?.container()) {
                    Some(container) => vec![container],
                    None if self.measured_lists => reply?.listed_containers(),
                    None => Vec::new(),
                }
            }
            _ => return None,
        };
        let measured = measurements.since_last(&containers);
        (!measured.is_empty()).then_some(Value::Array(measured))
    }

    fn report_dropped(&mut self) {
        let dropped = self.counters.dropped.load(Ordering::Relaxed);
        let new = dropped - self.dropped_reported;
        if new == 0 {
            return;
        }
        self.dropped_reported = dropped;
        tracing::warn!(target: "message", "{new} events dropped: the dump could not keep up");
        let now = Instant::now();
        let Some(file) = self.output.file() else {
            return;
        };
        if self.json {
            let time = self.clock.epoch_s(now);
            if let Err(error) = json::put_dropped(file, new, time) {
                tracing::error!(target: "message", "cannot dump a number as JSON: {error}");
            }
        } else {
            file.push(b'[');
            self.clock.put_stamp(file, now);
            let line = format!("] {new} events dropped: the dump could not keep up\n");
            file.extend_from_slice(line.as_bytes());
        }
    }
}

/// The call whose request is not recorded before something was measured for it.
const UPDATE: &str = "UpdateContainerResources";

fn message_body(message: Option<Message<'_>>) -> Body<'_> {
    message.map_or(Body::Unknown, Body::Message)
}

/// How two requests differ; `None` when one of them is unknown.
fn changes(received: Option<Message<'_>>, sent: Option<Message<'_>>) -> Option<String> {
    let received = serde_json::to_value(received?).ok()?;
    let sent = serde_json::to_value(sent?).ok()?;
    Some(diff::changes(&received, &sent))
}
