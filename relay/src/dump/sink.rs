//! The hot side of the dumper: decides in nanoseconds, clones, queues.

use super::{
    error::DumpError,
    queue::{CallEvent, DumpCounters, Measurements, OwnEvent, QueueItem, body_bytes},
    rule::{DumpRules, Target},
    writer::Writer,
};
use crate::{
    config::{DumpConfig, DumpFormat},
    cri::{
        intercept::Call,
        observe::{Event, Interest, Kind, Observer},
    },
};
use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, RwLock,
        atomic::Ordering,
        mpsc::{self, SyncSender, TrySendError},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

/// Events that may wait for the writer.
const QUEUE_EVENTS: usize = 8192;

/// Bytes of message bodies that may wait for the writer.
const QUEUE_BYTES: usize = 16 << 20;

/// Paths whose target is remembered; of all others the rules are asked each time.
const REMEMBERED_PATHS: usize = 1024;

/// Dumps messages: an [`Observer`] with a writer thread behind it.
#[derive(Debug)]
pub struct Dumper {
    rules: RwLock<RuleTable>,
    queue: SyncSender<QueueItem>,
    counters: Arc<DumpCounters>,
    /// Whether the writer needs to hear of every call's end.
    ends: bool,
    thread: Mutex<Option<JoinHandle<()>>>,
}

/// The rules in force, and the targets they gave the paths of calls.
#[derive(Debug)]
struct RuleTable {
    rules: DumpRules,
    targets: HashMap<Box<str>, Target>,
}

impl Dumper {
    /// Opens the file, if any (emptied, mode 0600), and starts the writer.
    ///
    /// # Errors
    /// [`DumpError`] when the file cannot be opened or no thread can be had.
    pub fn start(
        config: &DumpConfig,
        measurements: Option<Arc<dyn Measurements>>,
    ) -> Result<Self, DumpError> {
        let counters = Arc::new(DumpCounters::default());
        let (queue, receiver) = mpsc::sync_channel(QUEUE_EVENTS);
        let ends = config.format == DumpFormat::Json || measurements.is_some();
        let writer = Writer::open(config, measurements, Arc::clone(&counters))?;
        let thread = std::thread::Builder::new()
            .name("dump".to_owned())
            .spawn(move || writer.run(&receiver))
            .map_err(DumpError::Thread)?;
        Ok(Self {
            rules: RwLock::new(RuleTable {
                rules: config.rules.clone(),
                targets: HashMap::new(),
            }),
            queue,
            counters,
            ends,
            thread: Mutex::new(Some(thread)),
        })
    }

    /// Puts other rules in force, for calls from now on.
    pub fn set_rules(&self, rules: DumpRules) {
        let mut table = self
            .rules
            .write()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        *table = RuleTable {
            rules,
            targets: HashMap::new(),
        };
    }

    /// Records something the relay itself did; it is dumped as a message of this name would be. Waits for
    /// nothing: what the queue has no room for is counted and dropped.
    pub fn tell(&self, name: &'static str, seq: u64, value: serde_json::Value) {
        let target = self.target(name);
        if target == Target::Off {
            return;
        }
        let own = OwnEvent {
            name,
            seq,
            target,
            value,
            at: Instant::now(),
        };
        if self.queue.try_send(QueueItem::Own(own)).is_err() {
            self.counters.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Opens the file by its name again, after a log rotation moved it away. Waits for nothing.
    pub fn reopen(&self) {
        self.control(QueueItem::Reopen);
    }

    /// Events dropped because the writer could not keep up.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.counters.dropped.load(Ordering::Relaxed)
    }

    /// Events written.
    #[must_use]
    pub fn written(&self) -> u64 {
        self.counters.written.load(Ordering::Relaxed)
    }

    /// Waits until everything queued so far is written, or the time is up; `true` when it is written.
    #[must_use]
    pub fn flush(&self, limit: Duration) -> bool {
        let (done, wait) = mpsc::sync_channel(1);
        self.control(QueueItem::Flush(done)) && wait.recv_timeout(limit).is_ok()
    }

    /// Writes what is queued and ends the writer, within the limit. Later events are lost.
    pub fn stop(&self, limit: Duration) {
        let flushed = self.flush(limit);
        let stopped = flushed && self.control(QueueItem::Stop);
        let thread = self
            .thread
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
            .take();
        if stopped && thread.is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the dump's writer thread panicked");
        }
    }

    /// Queues an item that must not be dropped, but not for ever: the queue moves while the writer
    /// lives.
    fn control(&self, mut item: QueueItem) -> bool {
        let deadline = Instant::now() + Duration::from_secs(1);
        loop {
            match self.queue.try_send(item) {
                Ok(()) => return true,
                Err(TrySendError::Full(back)) if Instant::now() < deadline => {
                    item = back;
                    std::thread::sleep(Duration::from_millis(1));
                }
                Err(_) => return false,
            }
        }
    }

    fn target(&self, path: &str) -> Target {
        let known = {
            let table = self
                .rules
                .read()
                .unwrap_or_else(std::sync::PoisonError::into_inner);
            table.targets.get(path).copied()
        };
        known.unwrap_or_else(|| {
            let mut table = self
                .rules
                .write()
                .unwrap_or_else(std::sync::PoisonError::into_inner);
            let method = path.rsplit('/').next().unwrap_or_default();
            let target = table.rules.target(method);
            if table.targets.len() < REMEMBERED_PATHS {
                table.targets.insert(path.into(), target);
            }
            target
        })
    }

    /// Takes room in the queue for a body; one larger than the whole queue may go alone.
    fn room_for(&self, bytes: usize) -> bool {
        let before = self.counters.bytes.fetch_add(bytes, Ordering::Relaxed);
        let fits = before == 0 || before + bytes <= QUEUE_BYTES;
        if !fits {
            self.counters.bytes.fetch_sub(bytes, Ordering::Relaxed);
        }
        fits
    }
}

impl Observer for Dumper {
    fn interest(&self, path: &str) -> Interest {
        match self.target(path) {
            Target::Off => Interest::None,
            Target::Name | Target::Count => Interest::Ends,
            Target::Full => Interest::Bodies,
        }
    }

    fn observe(&self, call: &Arc<Call>, kind: Kind, event: Event) {
        let target = match &event {
            // The dumper hears only of calls that it wanted when they began: it dumps all of them, whatever the rules
            // are by now.
            Event::End { failed, .. } => match self.target(&call.path) {
                Target::Off | Target::Full => {
                    if failed.is_none() && !self.ends && kind != Kind::Intercepted {
                        return;
                    }
                    Target::Full
                }
                target => target,
            },
            _ => Target::Full,
        };
        let bytes = body_bytes(&event);
        let queued = self.room_for(bytes) && {
            let event = CallEvent {
                call: Arc::clone(call),
                kind,
                target,
                event,
                at: Instant::now(),
            };
            let sent = self.queue.try_send(QueueItem::Call(event)).is_ok();
            if !sent {
                self.counters.bytes.fetch_sub(bytes, Ordering::Relaxed);
            }
            sent
        };
        if !queued {
            self.counters.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl Drop for Dumper {
    fn drop(&mut self) {
        self.stop(Duration::from_secs(1));
    }
}

#[cfg(test)]
mod tests;
