//! Records what the policy is asked and what was measured, for replay in the simulator.
//!
//! Reporting never waits: events go through a bounded queue to a thread that writes them, one JSON
//! object a line as [`resmgr_policy::trace`] reads them. What does not fit is dropped, counted and logged.
//! Must never hold more of a container than its [`Request`](resmgr_policy::Request) does: no environment but what concerns
//! placement, no command line.

mod error;
mod writer;

pub use error::RecordError;

use resmgr_policy::{ContainerId, Measured, State};
use resmgr_topology::Topology;
use std::{
    collections::BTreeSet,
    path::Path,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
        mpsc::{self, SyncSender, TrySendError},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};
use writer::{Observation, TraceMessage, TraceWriter};

/// Events that may wait for the writer.
const QUEUE: usize = 4096;

/// Writes a trace: cheap to report to, from any thread.
#[derive(Debug)]
pub struct Recorder {
    queue: SyncSender<TraceMessage>,
    dropped: Arc<AtomicU64>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Recorder {
    /// Opens the file (emptied, mode 0600), notes the machine, and starts the writer.
    ///
    /// # Errors
    /// [`RecordError`] when the file cannot be opened or no thread can be had.
    pub fn start(path: &Path, topology: &Arc<Topology>) -> Result<Self, RecordError> {
        let dropped = Arc::new(AtomicU64::new(0));
        let (queue, receiver) = mpsc::sync_channel(QUEUE);
        let writer = TraceWriter::open(path, Arc::clone(topology), Arc::clone(&dropped))?;
        let thread = std::thread::Builder::new()
            .name("record".to_owned())
            .spawn(move || writer.run(&receiver))
            .map_err(RecordError::Thread)?;
        Ok(Self {
            queue,
            dropped,
            thread: Mutex::new(Some(thread)),
        })
    }

    /// What is placed now, and which of it the runtime has not created yet. A state that is missed is
    /// made good by the next.
    pub fn placed(
        &self,
        state: &Arc<State>,
        topology: &Arc<Topology>,
        reserved: BTreeSet<ContainerId>,
    ) {
        self.observe(Observation::Placed {
            state: Arc::clone(state),
            topology: Arc::clone(topology),
            reserved,
        });
    }

    /// What the scheduler did.
    pub fn measured(&self, measured: &Arc<Measured>) {
        self.observe(Observation::Measured(Arc::clone(measured)));
    }

    /// Opens the file by its name again, after a log rotation moved it away: it begins with the machine and with
    /// what runs, so that it can be replayed by itself. Waits for nothing but room in the queue.
    pub fn reopen(&self) {
        self.control(TraceMessage::Reopen);
    }

    /// Events that were not recorded because the writer could not keep up.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    /// Writes what is queued and ends the writer, within the limit. Later events are lost.
    pub fn stop(&self, limit: Duration) {
        let (done, wait) = mpsc::sync_channel(1);
        let stopped = self.control(TraceMessage::Stop(done)) && wait.recv_timeout(limit).is_ok();
        let thread = self
            .thread
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if stopped && thread.is_some_and(|thread| thread.join().is_err()) {
            tracing::error!(target: "resource-manager", "the thread that records panicked");
        }
    }

    fn observe(&self, observation: Observation) {
        let at = Instant::now();
        if self
            .queue
            .try_send(TraceMessage::Observation { at, observation })
            .is_err()
        {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Queues what must not be dropped, but not for ever.
    fn control(&self, mut message: TraceMessage) -> bool {
        let end = Instant::now() + Duration::from_secs(1);
        loop {
            match self.queue.try_send(message) {
                Ok(()) => return true,
                Err(TrySendError::Full(back)) if Instant::now() < end => {
                    message = back;
                    std::thread::sleep(Duration::from_millis(1));
                }
                Err(_) => return false,
            }
        }
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        self.stop(Duration::from_secs(1));
    }
}

#[cfg(test)]
mod tests;
