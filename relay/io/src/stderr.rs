//! Standard error, which may be a pipe that is read slowly or not at all: its writers never wait for it.
//!
//! ```text
//!  threads ──push──▶ queue (bounded) ──▶ thread ──▶ standard error
//! ```
//!
//! What does not fit into the queue is dropped and counted; when lines flow again, a line says how many are missing.

use std::{
    fs::File,
    io::{self, Write as _},
    os::fd::AsFd as _,
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

/// Octets that may wait; as many may be on their way besides.
const MAX_BYTES: usize = 1 << 20;

/// After this long without progress, a writer that may wait does so no longer.
const STALL: Duration = Duration::from_secs(1);

/// The wait before standard error is tried again that another process has made non-blocking.
const RETRY: Duration = Duration::from_millis(10);

/// How long the end of a process waits for the last lines to be written.
const LAST_LINES: Duration = Duration::from_secs(1);

/// A report for [`StderrQueue::start`] that says how many lines were dropped, and no more.
#[must_use]
pub fn report_dropped(lines: u64) -> String {
    dropped_note(lines).map_or(String::new(), |note| note + "\n")
}

/// What to say when lines were dropped.
#[must_use]
pub fn dropped_note(lines: u64) -> Option<String> {
    let note =
        || format!("{lines} lines of the log were dropped: standard error did not take them");
    (lines > 0).then(note)
}

/// The queue in front of standard error.
#[derive(Clone, Debug)]
pub struct StderrQueue(Arc<QueueShared>);

#[derive(Debug)]
struct QueueShared {
    state: Mutex<QueueState>,
    /// The thread has something to do.
    filled: Condvar,
    /// The thread took what waited, or has written it.
    moved: Condvar,
    /// Lines that were dropped since the start.
    dropped: AtomicU64,
}

#[derive(Debug, Default)]
struct QueueState {
    waiting: Vec<u8>,
    writing: bool,
    /// A patient writer has waited in vain, and nothing has moved since.
    stalled: bool,
    /// Lines dropped that no line has told of yet.
    untold: u64,
    /// When the report is asked for a text although nothing waits.
    due: Option<Instant>,
}

impl StderrQueue {
    /// Starts the thread. It asks `report` for a text to write, after lines were dropped (how many) and
    /// when it is due ([`StderrQueue::report_at`]).
    ///
    /// # Errors
    /// When there is no standard error, or no thread can be had.
    pub fn start(report: impl FnMut(u64) -> String + Send + 'static) -> io::Result<Self> {
        // A descriptor of our own: code that prints without the queue does not wait for the thread.
        let out = File::from(io::stderr().as_fd().try_clone_to_owned()?);
        Self::to(out, report)
    }

    fn to(
        mut out: File,
        mut report: impl FnMut(u64) -> String + Send + 'static,
    ) -> io::Result<Self> {
        let shared = Arc::new(QueueShared {
            state: Mutex::default(),
            filled: Condvar::new(),
            moved: Condvar::new(),
            dropped: AtomicU64::new(0),
        });
        let queue = Self(Arc::clone(&shared));
        std::thread::Builder::new()
            .name("log".to_owned())
            .spawn(move || {
                loop {
                    let (text, dropped) = shared.next();
                    let written = write(&mut out, &text)
                        .and_then(|()| write(&mut out, report(dropped).as_bytes()));
                    let mut state = shared.lock();
                    if written.is_err() {
                        // Told of when lines flow again.
                        state.untold += dropped;
                        shared.drop_lines(&mut state, &text);
                    }
                    state.writing = false;
                    shared.moved.notify_all();
                }
            })?;
        Ok(queue)
    }

    /// Queues whole lines, or drops them. Never waits.
    pub fn push(&self, lines: &[u8]) {
        self.0.push(self.0.lock(), lines);
    }

    /// Queues whole lines, and waits for room while lines flow: for a thread that no call waits for.
    pub fn push_patiently(&self, lines: &[u8]) {
        let mut state = self.0.lock();
        while !state.fits(lines) && !state.stalled {
            let waited = self.0.moved.wait_timeout(state, STALL);
            let (now, result) = waited.unwrap_or_else(PoisonError::into_inner);
            state = now;
            state.stalled = result.timed_out();
        }
        self.0.push(state, lines);
    }

    /// Has the report asked for a text at this time, or before.
    pub fn report_at(&self, at: Instant) {
        let mut state = self.0.lock();
        state.due = Some(state.due.map_or(at, |due| due.min(at)));
        self.0.filled.notify_one();
    }

    /// Waits until everything queued so far is written, or the time is up; `true` when it is written.
    #[must_use]
    fn flush(&self, limit: Duration) -> bool {
        let busy = |state: &mut QueueState| state.writing || !state.waiting.is_empty();
        let waited = self.0.moved.wait_timeout_while(self.0.lock(), limit, busy);
        !waited.unwrap_or_else(PoisonError::into_inner).1.timed_out()
    }

    /// Waits until everything queued so far is written, for a second at most: the end of a process does not wait
    /// for a reader.
    pub fn flush_at_end(&self) {
        let _written = self.flush(LAST_LINES);
    }

    /// Lines that were dropped because standard error did not take them.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.0.dropped.load(Ordering::Relaxed)
    }
}

/// For libraries that write each event by itself.
impl io::Write for StderrQueue {
    fn write(&mut self, lines: &[u8]) -> io::Result<usize> {
        self.push(lines);
        Ok(lines.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl QueueState {
    /// A text that is larger than the whole queue may go alone.
    fn fits(&self, lines: &[u8]) -> bool {
        self.waiting.is_empty() || self.waiting.len() + lines.len() <= MAX_BYTES
    }
}

impl QueueShared {
    fn lock(&self) -> MutexGuard<'_, QueueState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&self, mut state: MutexGuard<'_, QueueState>, lines: &[u8]) {
        if state.fits(lines) {
            state.waiting.extend_from_slice(lines);
            self.filled.notify_one();
        } else {
            self.drop_lines(&mut state, lines);
        }
    }

    fn drop_lines(&self, state: &mut QueueState, text: &[u8]) {
        let lines = text.iter().filter(|octet| **octet == b'\n').count();
        let lines = u64::try_from(lines).unwrap_or(u64::MAX);
        state.untold += lines;
        self.dropped.fetch_add(lines, Ordering::Relaxed);
    }

    /// Waits until there is a text to write, or a report is due. Gives the text, and how many lines were dropped
    /// behind it.
    fn next(&self) -> (Vec<u8>, u64) {
        let mut state = self.lock();
        loop {
            let now = Instant::now();
            let due = state.due.is_some_and(|due| due <= now);
            if due || !state.waiting.is_empty() {
                if due {
                    state.due = None;
                }
                state.writing = true;
                state.stalled = false;
                let text = std::mem::take(&mut state.waiting);
                self.moved.notify_all();
                return (text, std::mem::take(&mut state.untold));
            }
            state = match state.due {
                Some(due) => {
                    let waited = self.filled.wait_timeout(state, due - now);
                    waited.unwrap_or_else(PoisonError::into_inner).0
                }
                None => self
                    .filled
                    .wait(state)
                    .unwrap_or_else(PoisonError::into_inner),
            };
        }
    }
}

/// Writes all, also to what another process has made non-blocking.
fn write(out: &mut File, mut text: &[u8]) -> io::Result<()> {
    while !text.is_empty() {
        match out.write(text) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => text = text.get(written..).unwrap_or_default(),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => std::thread::sleep(RETRY),
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read as _;

    const LIMIT: Duration = Duration::from_secs(60);

    fn queue() -> (File, StderrQueue) {
        let (reader, writer) = nix::unistd::pipe().unwrap();
        let queue = StderrQueue::to(File::from(writer), report_dropped).unwrap();
        (File::from(reader), queue)
    }

    fn read_until(reader: &mut File, text: &mut String, end: &str) {
        let mut buffer = [0; 64 << 10];
        while !text.ends_with(end) {
            let read = reader.read(&mut buffer).unwrap();
            text.push_str(std::str::from_utf8(&buffer[..read]).unwrap());
        }
    }

    #[test]
    fn lines_of_a_pipe_that_is_not_read_are_dropped_counted_and_told_of_when_it_is() {
        let (mut reader, queue) = queue();
        // The thread takes more than a pipe holds, and is stuck with it from then on.
        let first = "y".repeat(256 << 10) + "\n";
        queue.push(first.as_bytes());
        while !queue.0.lock().waiting.is_empty() {
            std::thread::sleep(Duration::from_millis(1));
        }
        let line = "x".repeat(99) + "\n";
        let lines = 4 * MAX_BYTES / line.len();
        for _ in 0..lines {
            queue.push(line.as_bytes());
        }
        assert!(!queue.flush(Duration::from_millis(1)));
        let dropped = queue.dropped();
        assert!(dropped > 0);
        queue.push_patiently(line.as_bytes());
        assert_eq!(queue.dropped(), dropped + 1);
        let mut text = String::new();
        read_until(&mut reader, &mut text, "did not take them\n");
        assert!(queue.flush(LIMIT));
        let told = format!("{} lines of the log were dropped", dropped + 1);
        assert!(text.contains(&told), "no {told:?} in the text");
        let came = u64::try_from(text.lines().filter(|text| text.len() == 99).count()).unwrap();
        assert_eq!(came + dropped, u64::try_from(lines).unwrap());
        queue.push(b"again\n");
        read_until(&mut reader, &mut text, "again\n");
    }

    #[test]
    fn a_patient_writer_waits_while_lines_flow() {
        let (mut reader, queue) = queue();
        let text = "x".repeat(MAX_BYTES / 2 - 1) + "\n";
        let patient = {
            let (queue, text) = (queue.clone(), text.clone());
            std::thread::spawn(move || {
                for _ in 0..8 {
                    queue.push_patiently(text.as_bytes());
                }
            })
        };
        let mut all = Vec::new();
        let mut buffer = vec![0; 64 << 10];
        while all.len() < 8 * text.len() {
            let read = reader.read(&mut buffer).unwrap();
            all.extend_from_slice(&buffer[..read]);
        }
        patient.join().unwrap();
        assert_eq!(queue.dropped(), 0);
    }

    #[test]
    fn a_report_comes_when_it_is_due_and_nothing_waits() {
        let (reader, writer) = nix::unistd::pipe().unwrap();
        let queue = StderrQueue::to(File::from(writer), |_dropped| "due\n".to_owned()).unwrap();
        queue.report_at(Instant::now());
        let mut text = String::new();
        read_until(&mut File::from(reader), &mut text, "due\n");
    }
}
