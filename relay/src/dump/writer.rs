//! The slow side of the dumper: one thread that decodes, hides secrets and writes whole events.

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
};
use serde_json::Value;
use std::{
    collections::HashMap,
    fs::{File, OpenOptions, Permissions},
    io::{self, Write as _},
    os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::Ordering,
        mpsc::{Receiver, SyncSender},
    },
    time::{Duration, Instant, SystemTime},
};

/// How long the writer rests after it has emptied the queue, so that it is woken seldom and writes much
/// at once; waking it costs the caller more than queueing.
const REST: Duration = Duration::from_millis(1);

/// Calls whose request is remembered until they end.
const REMEMBERED_CALLS: usize = 4096;

/// Bytes written to the file at once.
const BATCH_BYTES: usize = 256 << 10;

/// An event on its way to the writer.
#[derive(Debug)]
pub(super) struct Item {
    pub(super) call: Arc<Call>,
    pub(super) kind: Kind,
    pub(super) target: Target,
    pub(super) event: Event,
    pub(super) at: Instant,
}

/// What the queue holds.
#[derive(Debug)]
pub(super) enum Message {
    Item(Item),
    Reopen,
    Flush(SyncSender<()>),
    Stop,
}

/// Remembered of a call until it ends.
#[derive(Debug, Default)]
struct Pending {
    /// The request, when a rewrite may follow.
    request: Option<bytes::Bytes>,
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
    path: Option<PathBuf>,
    file: Option<File>,
    /// Text or JSON for the file, not yet written.
    batch: Vec<u8>,
    json: bool,
    secrets: bool,
    count_period: Duration,
    measurements: Option<Arc<dyn Measurements>>,
    shared: Arc<Shared>,
    pending: HashMap<u64, Pending>,
    counts: HashMap<String, Counted>,
    all_counted: u64,
    dropped_said: u64,
    file_failed: bool,
    clock: Clock,
}

impl Writer {
    pub(super) fn open(
        config: &DumpConfig,
        measurements: Option<Arc<dyn Measurements>>,
        shared: Arc<Shared>,
    ) -> Result<Self, DumpError> {
        let file = match &config.file {
            None => None,
            Some(path) => Some(open(path, true).map_err(|source| DumpError::Open {
                path: path.clone(),
                source,
            })?),
        };
        Ok(Self {
            path: config.file.clone(),
            file,
            batch: Vec::new(),
            json: is_json(config),
            secrets: config.secrets,
            count_period: config.count_period,
            measurements,
            shared,
            pending: HashMap::new(),
            counts: HashMap::new(),
            all_counted: 0,
            dropped_said: 0,
            file_failed: false,
            clock: Clock::now(),
        })
    }

    pub(super) fn run(mut self, queue: &Receiver<Message>) {
        while let Ok(first) = queue.recv() {
            self.clock = Clock::now();
            let mut next = Some(first);
            while let Some(message) = next {
                match message {
                    Message::Item(item) => self.item(&item),
                    Message::Reopen => self.reopen(),
                    Message::Flush(done) => {
                        self.say_dropped();
                        self.write_out();
                        // Who asked may have stopped waiting.
                        done.try_send(()).ok();
                    }
                    Message::Stop => {
                        self.write_out();
                        return;
                    }
                }
                next = queue.try_recv().ok();
                if next.is_none() {
                    self.say_dropped();
                    self.write_out();
                    std::thread::sleep(REST);
                    next = queue.try_recv().ok();
                    self.clock = Clock::now();
                }
            }
        }
        self.write_out();
    }

    fn item(&mut self, item: &Item) {
        if let Some(body) = body(&item.event) {
            self.shared.bytes.fetch_sub(body.len(), Ordering::Relaxed);
        }
        let Some(record) = self.record(item) else {
            return;
        };
        self.shared.written.fetch_add(1, Ordering::Relaxed);
        let failed = matches!(record.what, What::Failed(_) | What::Named { failed: true });
        if failed {
            if tracing::enabled!(target: "message", tracing::Level::WARN) {
                let lines = text::lines(&record, None);
                tracing::warn!(target: "message", "{}", lines.trim_end());
            }
        } else if !matches!(record.what, What::Ended)
            && tracing::enabled!(target: "message", tracing::Level::INFO)
        {
            let lines = text::lines(&record, None);
            tracing::info!(target: "message", "{}", lines.trim_end());
        }
        if self.file.is_none() {
            return;
        }
        let line = if self.json {
            json::line(&record, self.clock.epoch_s(item.at))
        } else {
            let stamp = match (&record.what, record.latency) {
                (
                    What::Reply(_) | What::Failed(_) | What::Named { failed: true },
                    Some(latency),
                ) => {
                    format!("{:>24}", format!("+{:.6}", latency.as_secs_f64()))
                }
                _ => self.clock.stamp(item.at),
            };
            text::lines(&record, Some(&stamp))
        };
        self.batch.extend_from_slice(line.as_bytes());
        if self.batch.len() >= BATCH_BYTES {
            self.write_out();
        }
    }

    /// What is to be shown of an event, if anything.
    fn record(&mut self, item: &Item) -> Option<Record> {
        let call = &item.call;
        let mut record = Record {
            kind: item.kind,
            service: call.service().to_owned(),
            method: call.method().to_owned(),
            seq: call.seq,
            what: What::Ended,
            value: None,
            bytes: body(&item.event).map_or(0, bytes::Bytes::len),
            code: None,
            latency: None,
            runtime: None,
        };
        match &item.event {
            Event::Request { body } => {
                let value = self.decode(&call.path, Side::Request, body);
                self.remember(item, body, value.as_ref());
                let value = if record.method == "UpdateContainerResources" {
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
                if let Some(id) = value.as_ref().and_then(container_of)
                    && let Some(pending) = self.pending.get_mut(&call.seq)
                {
                    pending.container.get_or_insert(id);
                }
                let value = if record.method == "UpdateContainerResources" {
                    value
                } else {
                    self.with_measurements(value, call.seq)
                };
                record.latency = Some(item.at.saturating_duration_since(call.received));
                record.what = What::Reply(as_yaml(value.as_ref(), body.len()));
                record.value = value;
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

    fn remember(&mut self, item: &Item, body: &bytes::Bytes, value: Option<&Value>) {
        let container = value.and_then(container_of);
        let may_change = item.kind == Kind::Intercepted;
        if (container.is_some() || may_change || self.measurements.is_some())
            && self.pending.len() < REMEMBERED_CALLS
        {
            self.pending.insert(
                item.call.seq,
                Pending {
                    request: may_change.then(|| body.clone()),
                    container,
                },
            );
        }
    }

    fn with_measurements(&self, value: Option<Value>, seq: u64) -> Option<Value> {
        let mut value = value?;
        if let Some(measurements) = &self.measurements
            && let Some(container) = self
                .pending
                .get(&seq)
                .and_then(|pending| pending.container.as_deref())
            && let Some(measured) = measurements.since_last(container)
            && let Some(fields) = value.as_object_mut()
        {
            fields.insert("measured".to_owned(), measured);
        }
        Some(value)
    }

    fn say_dropped(&mut self) {
        let dropped = self.shared.dropped.load(Ordering::Relaxed);
        let new = dropped - self.dropped_said;
        if new == 0 {
            return;
        }
        self.dropped_said = dropped;
        tracing::warn!(target: "message", "{new} events dropped: the dump could not keep up");
        if self.file.is_some() {
            let now = Instant::now();
            let line = if self.json {
                json::dropped(new, self.clock.epoch_s(now))
            } else {
                format!(
                    "[{}] {new} events dropped: the dump could not keep up\n",
                    self.clock.stamp(now)
                )
            };
            self.batch.extend_from_slice(line.as_bytes());
        }
    }

    fn write_out(&mut self) {
        if let Some(file) = &mut self.file
            && !self.batch.is_empty()
        {
            match file.write_all(&self.batch) {
                Ok(()) => self.file_failed = false,
                Err(error) if !self.file_failed => {
                    self.file_failed = true;
                    tracing::error!(
                        target: "message",
                        "cannot write to dump file {}: {error}; what does not fit is lost",
                        self.path.as_deref().unwrap_or(Path::new("")).display()
                    );
                }
                Err(_) => {}
            }
        }
        self.batch.clear();
        self.batch.shrink_to(2 * BATCH_BYTES);
    }

    fn reopen(&mut self) {
        self.write_out();
        let Some(path) = &self.path else { return };
        match open(path, false) {
            Ok(file) => self.file = Some(file),
            Err(error) => tracing::error!(
                target: "message",
                "cannot reopen dump file {}: {error}; going on with the old one",
                path.display()
            ),
        }
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

/// Opens the dump file for appending, mode 0600 even when it was there before.
fn open(path: &Path, truncate: bool) -> io::Result<File> {
    let file = OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o600)
        .open(path)?;
    if file.metadata()?.is_file() {
        file.set_permissions(Permissions::from_mode(0o600))?;
        if truncate {
            file.set_len(0)?;
        }
    }
    Ok(file)
}

/// Ties the monotonic clock to the wall's; taken anew for each batch, so that a stepped wall clock is
/// followed.
#[derive(Debug)]
struct Clock {
    instant: Instant,
    wall: SystemTime,
    zone: jiff::tz::TimeZone,
}

impl Clock {
    fn now() -> Self {
        Self {
            instant: Instant::now(),
            wall: SystemTime::now(),
            zone: jiff::tz::TimeZone::system(),
        }
    }

    fn wall(&self, at: Instant) -> SystemTime {
        if at >= self.instant {
            self.wall + (at - self.instant)
        } else {
            self.wall - (self.instant - at)
        }
    }

    fn epoch_s(&self, at: Instant) -> f64 {
        self.wall(at)
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or_default()
            .as_secs_f64()
    }

    /// `2019-Oct-07 13:45:01.123`, local time.
    fn stamp(&self, at: Instant) -> String {
        const MONTHS: [&str; 12] = [
            "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
        ];
        let time = jiff::Timestamp::try_from(self.wall(at)).unwrap_or_default();
        let local = self.zone.to_datetime(time);
        let month = usize::try_from(local.month() - 1)
            .ok()
            .and_then(|index| MONTHS.get(index))
            .unwrap_or(&"???");
        format!(
            "{:04}-{month}-{:02} {:02}:{:02}:{:02}.{:03}",
            local.year(),
            local.day(),
            local.hour(),
            local.minute(),
            local.second(),
            local.millisecond()
        )
    }
}
