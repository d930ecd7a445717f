//! The hot side of the dumper: decides in nanoseconds, clones, queues.

use super::{
    rule::{Rules, Target},
    writer::{Item, Message, Own, Writer},
};
use crate::{
    config::{DumpConfig, DumpFormat},
    cri::{
        intercept::Call,
        observe::{Event, Interest, Kind, Observer},
    },
};
use bytes::Bytes;
use std::{
    collections::HashMap,
    fmt, io,
    path::PathBuf,
    sync::{
        Arc, Mutex, RwLock,
        atomic::{AtomicU64, AtomicUsize, Ordering},
        mpsc::{self, SyncSender, TrySendError},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

/// Events that may wait for the writer.
const QUEUE_EVENTS: usize = 8192;

/// Bytes of message bodies that may wait for the writer.
const QUEUE_BYTES: usize = 16 << 20;

/// Paths whose target is remembered; others are judged anew each time.
const REMEMBERED_PATHS: usize = 1024;

/// Scheduler measurements of a container, for its records in a full dump.
pub trait Measurements: fmt::Debug + Send + Sync + 'static {
    /// What was measured since the last record about this container; `None` when nothing is known.
    fn since_last(&self, container: &str) -> Option<serde_json::Value>;
}

/// Dumps messages: an [`Observer`] with a writer thread behind it.
#[derive(Debug)]
pub struct Dumper {
    rules: RwLock<Judged>,
    queue: SyncSender<Message>,
    shared: Arc<Shared>,
    /// Whether the writer needs to hear of every call's end.
    ends: bool,
    thread: Mutex<Option<JoinHandle<()>>>,
}

/// What both sides of the queue count.
#[derive(Debug, Default)]
pub(super) struct Shared {
    /// Bytes of bodies in the queue.
    pub(super) bytes: AtomicUsize,
    /// Events that did not fit.
    pub(super) dropped: AtomicU64,
    /// Events written.
    pub(super) written: AtomicU64,
}

#[derive(Debug)]
struct Judged {
    rules: Rules,
    targets: HashMap<Box<str>, Target>,
}

/// Why dumping cannot start.
#[derive(Debug, thiserror::Error)]
pub enum DumpError {
    /// The file cannot be opened.
    #[error("cannot open dump file {}", path.display())]
    Open {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The thread cannot be started.
    #[error("cannot start the dump's writer thread")]
    Thread(#[source] io::Error),
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
        let shared = Arc::new(Shared::default());
        let (queue, receiver) = mpsc::sync_channel(QUEUE_EVENTS);
        let ends = is_json(config) || measurements.is_some();
        let writer = Writer::open(config, measurements, Arc::clone(&shared))?;
        let thread = std::thread::Builder::new()
            .name("dump".to_owned())
            .spawn(move || writer.run(&receiver))
            .map_err(DumpError::Thread)?;
        Ok(Self {
            rules: RwLock::new(Judged {
                rules: config.rules.clone(),
                targets: HashMap::new(),
            }),
            queue,
            shared,
            ends,
            thread: Mutex::new(Some(thread)),
        })
    }

    /// Puts other rules in force, for calls from now on.
    pub fn set_rules(&self, rules: Rules) {
        let mut judged = self
            .rules
            .write()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        *judged = Judged {
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
        let own = Own {
            name,
            seq,
            target,
            value,
            at: Instant::now(),
        };
        if self.queue.try_send(Message::Own(own)).is_err() {
            self.shared.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Opens the file by its name again, after someone moved it away. Waits for nothing.
    pub fn reopen(&self) {
        self.control(Message::Reopen);
    }

    /// Events dropped because the writer could not keep up.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.shared.dropped.load(Ordering::Relaxed)
    }

    /// Events written.
    #[must_use]
    pub fn written(&self) -> u64 {
        self.shared.written.load(Ordering::Relaxed)
    }

    /// Waits until everything queued so far is written, or the time is up; `true` when it is written.
    #[must_use]
    pub fn flush(&self, limit: Duration) -> bool {
        let (done, wait) = mpsc::sync_channel(1);
        self.control(Message::Flush(done)) && wait.recv_timeout(limit).is_ok()
    }

    /// Writes what is queued and ends the writer, within the limit. Later events are lost.
    pub fn stop(&self, limit: Duration) {
        let flushed = self.flush(limit);
        let stopped = flushed && self.control(Message::Stop);
        let thread = self
            .thread
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
            .take();
        if stopped && thread.is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the dump's writer thread panicked");
        }
    }

    /// Queues a message that must not be dropped, but not for ever: the queue moves while the writer
    /// lives.
    fn control(&self, mut message: Message) -> bool {
        let deadline = Instant::now() + Duration::from_secs(1);
        loop {
            match self.queue.try_send(message) {
                Ok(()) => return true,
                Err(TrySendError::Full(back)) if Instant::now() < deadline => {
                    message = back;
                    std::thread::sleep(Duration::from_millis(1));
                }
                Err(_) => return false,
            }
        }
    }

    fn target(&self, path: &str) -> Target {
        let known = {
            let judged = self
                .rules
                .read()
                .unwrap_or_else(std::sync::PoisonError::into_inner);
            judged.targets.get(path).copied()
        };
        known.unwrap_or_else(|| {
            let mut judged = self
                .rules
                .write()
                .unwrap_or_else(std::sync::PoisonError::into_inner);
            let method = path.rsplit('/').next().unwrap_or_default();
            let target = judged.rules.target(method);
            if judged.targets.len() < REMEMBERED_PATHS {
                judged.targets.insert(path.into(), target);
            }
            target
        })
    }

    /// Takes room in the queue for a body; one larger than the whole queue may go alone.
    fn room_for(&self, bytes: usize) -> bool {
        let before = self.shared.bytes.fetch_add(bytes, Ordering::Relaxed);
        let fits = before == 0 || before + bytes <= QUEUE_BYTES;
        if !fits {
            self.shared.bytes.fetch_sub(bytes, Ordering::Relaxed);
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
            // Who is told of a call wanted to know of it when it began: all of it, whatever the rules are by now.
            Event::End { failed, .. } => match self.target(&call.path) {
                Target::Off | Target::Full => {
                    if failed.is_none() && !self.ends && kind != Kind::Intercepted {
                        return;
                    }
                    Target::Full
                }
                other => other,
            },
            _ => Target::Full,
        };
        let bytes = body(&event).map_or(0, Bytes::len);
        let queued = self.room_for(bytes) && {
            let item = Item {
                call: Arc::clone(call),
                kind,
                target,
                event,
                at: Instant::now(),
            };
            let sent = self.queue.try_send(Message::Item(item)).is_ok();
            if !sent {
                self.shared.bytes.fetch_sub(bytes, Ordering::Relaxed);
            }
            sent
        };
        if !queued {
            self.shared.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// The body an event carries.
pub(super) fn body(event: &Event) -> Option<&Bytes> {
    match event {
        Event::Request { body } | Event::Rewritten { body } | Event::Reply { body } => Some(body),
        Event::TooLong { .. } | Event::End { .. } => None,
    }
}

impl Drop for Dumper {
    fn drop(&mut self) {
        self.stop(Duration::from_secs(1));
    }
}

/// Whether the file holds JSON.
pub(super) fn is_json(config: &DumpConfig) -> bool {
    config.format == DumpFormat::Json
}

#[cfg(test)]
mod tests;
