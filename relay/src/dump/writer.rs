//! The slow side of the dumper: one thread that decodes, hides secrets and writes whole events.

mod bodies;
mod clock;
mod output;

use super::{
    json,
    record::{Body, Record, What},
    redact,
    rule::Target,
    sink::{DumpError, Measurements, Shared, body, is_json},
    text,
};
use crate::{
    config::DumpConfig,
    cri::{
        decode::{Side, to_json},
        intercept::Call,
        observe::{Event, Kind},
    },
    log::Level,
};
use bodies::Bodies;
use bytes::Bytes;
use clock::{Clock, put_latency};
use output::Output;
use rustix::process::setpriority_process;
use serde_json::Value;
use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::Ordering,
        mpsc::{Receiver, SyncSender},
    },
    time::{Duration, Instant},
};

/// How long the writer rests after it has emptied the queue, so that it is woken seldom and writes much
/// at once; waking it costs the caller more than queueing. Short enough for the queue to hold what comes
/// meanwhile, and for a log that is followed.
const REST: Duration = Duration::from_millis(10);

/// Messages after which the writer lets others have its CPU that wait for it: the kernel does not take it
/// from a thread that has just begun, not even for one of higher priority, and a call would wait for all that
/// came together.
const STRETCH: usize = 16;

/// The writer's nice value: where CPUs are short, calls go before what is told of them. Not the highest: it
/// keeps a tenth of a busy thread's share, so that little is dropped.
const NICE: i32 = 10;

/// Calls whose request is remembered until they end.
const REMEMBERED_CALLS: usize = 4096;

/// An event on its way to the writer.
#[derive(Debug)]
pub(super) struct Item {
    pub(super) call: Arc<Call>,
    pub(super) kind: Kind,
    pub(super) target: Target,
    pub(super) event: Event,
    pub(super) at: Instant,
}

/// Something the relay itself did, on its way to the writer.
#[derive(Debug)]
pub(super) struct Own {
    pub(super) name: &'static str,
    pub(super) seq: u64,
    pub(super) target: Target,
    pub(super) value: Value,
    pub(super) at: Instant,
}

/// What the queue holds.
#[derive(Debug)]
pub(super) enum Message {
    Item(Item),
    Own(Own),
    Reopen,
    Flush(SyncSender<()>),
    Stop,
}

/// Remembered of a call until it ends.
#[derive(Debug, Default)]
struct Pending {
    /// The request, when a rewrite may follow.
    request: Option<Bytes>,
    container: Option<String>,
}

#[derive(Debug)]
struct Counted {
    calls: u64,
    reported_calls: u64,
    reported: Instant,
}

#[derive(Debug)]
pub(super) struct Writer {
    output: Output,
    bodies: Bodies,
    json: bool,
    secrets: bool,
    count_period: Duration,
    measurements: Option<Arc<dyn Measurements>>,
    shared: Arc<Shared>,
    pending: HashMap<u64, Pending>,
    counts: HashMap<String, Counted>,
    all_counted: u64,
    dropped_said: u64,
    clock: Clock,
}

impl Writer {
    pub(super) fn open(
        config: &DumpConfig,
        measurements: Option<Arc<dyn Measurements>>,
        shared: Arc<Shared>,
    ) -> Result<Self, DumpError> {
        Ok(Self {
            output: Output::open(config)?,
            bodies: Bodies::default(),
            json: is_json(config),
            secrets: config.secrets,
            count_period: config.count_period,
            measurements,
            shared,
            pending: HashMap::new(),
            counts: HashMap::new(),
            all_counted: 0,
            dropped_said: 0,
            clock: Clock::now(),
        })
    }

    pub(super) fn run(mut self, queue: &Receiver<Message>) {
        // On Linux that of the calling thread alone.
        if let Err(error) = setpriority_process(None, NICE) {
            tracing::debug!(target: "message", "the dump's writer has the priority of all: {error}");
        }
        while let Ok(first) = queue.recv() {
            self.begin();
            let mut next = Some(first);
            let mut at_a_stretch = 0;
            while let Some(message) = next {
                at_a_stretch += 1;
                if at_a_stretch == STRETCH {
                    at_a_stretch = 0;
                    std::thread::yield_now();
                }
                match message {
                    Message::Item(item) => self.item(&item),
                    Message::Own(own) => self.own(own),
                    Message::Reopen => self.output.reopen(),
                    Message::Flush(done) => {
                        self.say_dropped();
                        self.output.write_out();
                        // Who asked may have stopped waiting.
                        done.try_send(()).ok();
                    }
                    Message::Stop => {
                        self.output.write_out();
                        return;
                    }
                }
                next = queue.try_recv().ok();
                if next.is_none() {
                    self.say_dropped();
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

    fn item(&mut self, item: &Item) {
        if let Some(body) = body(&item.event) {
            self.shared.bytes.fetch_sub(body.len(), Ordering::Relaxed);
        }
        if self.straight(item) {
            self.shared.written.fetch_add(1, Ordering::Relaxed);
        } else if let Some(record) = self.record(item) {
            self.shared.written.fetch_add(1, Ordering::Relaxed);
            self.put(&record, item.at);
        }
        self.output.settle();
    }

    /// An event that is no call: always in words, and as a body where bodies are wanted.
    fn own(&mut self, own: Own) {
        let what = match own.target {
            Target::Full => What::Told(Body::Decoded(text::yaml(&own.value))),
            Target::Off | Target::Name | Target::Count => What::Named { failed: false },
        };
        let record = Record {
            kind: Kind::Own,
            service: String::new(),
            method: own.name.to_owned(),
            seq: own.seq,
            what,
            value: Some(own.value),
            bytes: 0,
            code: None,
            latency: None,
            runtime: None,
        };
        self.shared.written.fetch_add(1, Ordering::Relaxed);
        self.put(&record, own.at);
        self.output.settle();
    }

    fn put(&mut self, record: &Record, at: Instant) {
        match record.what {
            What::Ended => {}
            What::Failed(_) | What::Named { failed: true } => {
                self.output.log(record, Level::Warn);
            }
            _ => self.output.log(record, Level::Info),
        }
        let Some(file) = self.output.file() else {
            return;
        };
        if self.json {
            let line = json::line(record, self.clock.epoch_s(at));
            return file.extend_from_slice(line.as_bytes());
        }
        let mut stamp = Vec::new();
        match (&record.what, record.latency) {
            (What::Reply(_) | What::Failed(_) | What::Named { failed: true }, Some(latency)) => {
                put_latency(&mut stamp, latency);
            }
            _ => self.clock.put_stamp(&mut stamp, at),
        }
        let lines = text::lines(record, Some(&String::from_utf8_lossy(&stamp)));
        file.extend_from_slice(lines.as_bytes());
    }

    /// What nearly every event takes: a body that goes to log and file as text, without a tree of it in
    /// between. False for what needs more; nothing has happened then.
    fn straight(&mut self, item: &Item) -> bool {
        let call = &item.call;
        let method = call.method();
        if item.target != Target::Full || (self.json && self.output.has_file()) {
            return false;
        }
        let (side, body) = match &item.event {
            Event::Request { body } if method != UPDATE => (Side::Request, body),
            Event::Reply { body } => (Side::Reply, body),
            Event::End { failed: None, .. } => {
                self.pending.remove(&call.seq);
                return true;
            }
            _ => return false,
        };
        let Some(shown) = self.bodies.show(&call.path, side, body, self.secrets) else {
            return false;
        };
        let mut block = text::Block {
            kind: item.kind,
            word: "REQUEST",
            method,
            seq: call.seq,
            arrow: "=>",
            yaml: shown.yaml,
            ends: shown.ends,
        };
        if side == Side::Request {
            if self.measurements.is_some() || item.kind == Kind::Intercepted {
                remember(&mut self.pending, item, body, shown.container);
            }
            let clock = &mut self.clock;
            self.output
                .block(&block, |out| clock.put_stamp(out, item.at));
            return true;
        }
        if let Some(measurements) = &self.measurements
            && let Some(pending) = self.pending.get_mut(&call.seq)
        {
            learn(pending, shown.container);
            if method != UPDATE
                && let Some(container) = &pending.container
                && let Some(measured) = measurements.since_last(container)
            {
                let value = self.decode(&call.path, side, body);
                let record = reply(item, body, with(value, measured));
                self.put(&record, item.at);
                return true;
            }
        }
        (block.word, block.arrow) = ("REPLY", "<=");
        let latency = item.at.saturating_duration_since(call.received);
        self.output.block(&block, |out| put_latency(out, latency));
        true
    }

    /// What is to be shown of an event, if anything.
    fn record(&mut self, item: &Item) -> Option<Record> {
        let call = &item.call;
        let mut record = blank(item);
        match &item.event {
            Event::Request { body } => {
                let value = self.decode(&call.path, Side::Request, body);
                let container = value.as_ref().and_then(container_of);
                remember(&mut self.pending, item, body, container);
                let value = if record.method == UPDATE {
                    self.with_measurements(value, call.seq)
                } else {
                    value
                };
                record.what = What::Request(as_yaml(value.as_ref(), body.len()));
                record.value = value;
            }
            Event::Rewritten { body } => {
                let value = self.decode(&call.path, Side::Request, body);
                let received = self
                    .pending
                    .get_mut(&call.seq)
                    .and_then(|pending| pending.request.take())
                    .and_then(|request| self.decode(&call.path, Side::Request, &request));
                record.what = What::Rewritten(match (&received, &value) {
                    (Some(received), Some(sent)) => Body::Decoded(text::difference(received, sent)),
                    _ => as_yaml(value.as_ref(), body.len()),
                });
                record.value = value;
            }
            Event::Reply { body } => {
                let value = self.decode(&call.path, Side::Reply, body);
                if let Some(pending) = self.pending.get_mut(&call.seq) {
                    learn(pending, value.as_ref().and_then(container_of));
                }
                let value = if record.method == UPDATE {
                    value
                } else {
                    self.with_measurements(value, call.seq)
                };
                return Some(reply(item, body, value));
            }
            Event::TooLong {
                side,
                octets,
                limit,
            } => {
                let (bytes, limit) = (*octets, *limit);
                record.bytes = bytes;
                let body = Body::TooLong { bytes, limit };
                record.what = match side {
                    Side::Request => What::Request(body),
                    Side::Reply => {
                        let latency = item.at.saturating_duration_since(call.received);
                        record.latency = Some(latency);
                        What::Reply(body)
                    }
                };
            }
            Event::End {
                failed,
                total,
                runtime,
            } => {
                self.pending.remove(&call.seq);
                record.latency = Some(*total);
                record.runtime = Some(*runtime);
                record.code = failed.as_ref().map(|status| status.code);
                record.what = match (item.target, failed) {
                    (Target::Count, _) => return self.count(item, record),
                    (Target::Full, Some(status)) => What::Failed(status.to_string()),
                    (Target::Full, None) => What::Ended,
                    (_, failed) => What::Named {
                        failed: failed.is_some(),
                    },
                };
            }
        }
        Some(record)
    }

    fn count(&mut self, item: &Item, mut record: Record) -> Option<Record> {
        self.all_counted += 1;
        let all = self.all_counted;
        let counted = self.counts.entry(record.method.clone()).or_insert(Counted {
            calls: 0,
            reported_calls: 0,
            reported: item.at,
        });
        counted.calls += 1;
        let period = item.at.saturating_duration_since(counted.reported);
        // Errors are shown at every level but off.
        if record.code.is_some() {
            record.what = What::Named { failed: true };
            return Some(record);
        }
        if period < self.count_period {
            return None;
        }
        #[expect(clippy::cast_precision_loss, reason = "a rate for people")]
        let calls = (counted.calls - counted.reported_calls) as f64;
        record.what = What::Count {
            calls: counted.calls,
            all,
            rate: calls / period.as_secs_f64(),
        };
        counted.reported = item.at;
        counted.reported_calls = counted.calls;
        Some(record)
    }

    fn decode(&self, path: &str, side: Side, body: &[u8]) -> Option<Value> {
        let mut value = to_json(path, side, body)?;
        redact::drop_empty(&mut value);
        if !self.secrets {
            redact::hide_secrets(&mut value);
        }
        Some(value)
    }

    fn with_measurements(&self, value: Option<Value>, seq: u64) -> Option<Value> {
        let measured = self.measurements.as_ref().and_then(|measurements| {
            let pending = self.pending.get(&seq)?;
            measurements.since_last(pending.container.as_deref()?)
        });
        match measured {
            Some(measured) => with(value, measured),
            None => value,
        }
    }

    fn say_dropped(&mut self) {
        let dropped = self.shared.dropped.load(Ordering::Relaxed);
        let new = dropped - self.dropped_said;
        if new == 0 {
            return;
        }
        self.dropped_said = dropped;
        tracing::warn!(target: "message", "{new} events dropped: the dump could not keep up");
        let now = Instant::now();
        let Some(file) = self.output.file() else {
            return;
        };
        if self.json {
            let line = json::dropped(new, self.clock.epoch_s(now));
            file.extend_from_slice(line.as_bytes());
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

fn remember(
    pending: &mut HashMap<u64, Pending>,
    item: &Item,
    body: &Bytes,
    container: Option<impl Into<String>>,
) {
    if pending.len() < REMEMBERED_CALLS {
        let new = Pending {
            request: (item.kind == Kind::Intercepted).then(|| body.clone()),
            container: container.map(Into::into),
        };
        pending.insert(item.call.seq, new);
    }
}

fn learn(pending: &mut Pending, container: Option<impl Into<String>>) {
    if let (None, Some(container)) = (&pending.container, container) {
        pending.container = Some(container.into());
    }
}

fn with(value: Option<Value>, measured: Value) -> Option<Value> {
    let mut value = value?;
    if let Some(fields) = value.as_object_mut() {
        fields.insert("measured".to_owned(), measured);
    }
    Some(value)
}

fn blank(item: &Item) -> Record {
    Record {
        kind: item.kind,
        service: item.call.service().to_owned(),
        method: item.call.method().to_owned(),
        seq: item.call.seq,
        what: What::Ended,
        value: None,
        bytes: body(&item.event).map_or(0, Bytes::len),
        code: None,
        latency: None,
        runtime: None,
    }
}

fn reply(item: &Item, body: &Bytes, value: Option<Value>) -> Record {
    Record {
        what: What::Reply(as_yaml(value.as_ref(), body.len())),
        value,
        latency: Some(item.at.saturating_duration_since(item.call.received)),
        ..blank(item)
    }
}

fn as_yaml(value: Option<&Value>, bytes: usize) -> Body {
    value.map_or(Body::Opaque(bytes), |value| {
        Body::Decoded(text::yaml(value))
    })
}

/// The container a message is about.
fn container_of(value: &Value) -> Option<String> {
    [value.get("container_id"), value.pointer("/status/id")]
        .into_iter()
        .flatten()
        .find_map(Value::as_str)
        .map(str::to_owned)
}
