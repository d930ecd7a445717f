//! The clients that are connected: no more than a limit, and which of them makes room for the next.

use std::{
    sync::{
        Arc, Weak,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};
use tokio_util::sync::{CancellationToken, DropGuard};

/// What the relay's listener and the task of one client share.
#[derive(Debug)]
pub(super) struct Client {
    /// The start of the relay.
    epoch: Instant,
    /// When octets last passed, in nanoseconds since `epoch`.
    passed: AtomicU64,
    /// The client makes room for another one.
    pub(super) evicted: CancellationToken,
    ended: CancellationToken,
    _end: DropGuard,
}

impl Client {
    /// Octets pass.
    pub(super) fn pass(&self) {
        let passed = u64::try_from(self.epoch.elapsed().as_nanos()).unwrap_or(u64::MAX);
        self.passed.store(passed, Ordering::Relaxed);
    }

    fn passed(&self) -> u64 {
        self.passed.load(Ordering::Relaxed)
    }
}

/// The clients that are connected.
#[derive(Debug)]
pub(super) struct Clients {
    epoch: Instant,
    max: usize,
    /// No more than `max`; some may have ended.
    connected: Vec<Weak<Client>>,
}

impl Clients {
    /// At most `max` at once, and at least one.
    pub(super) fn new(max: usize) -> Self {
        Self {
            epoch: Instant::now(),
            max: max.max(1),
            connected: Vec::new(),
        }
    }

    /// A new client, and whether another one had to make room: the one for which no octet has passed for longest,
    /// whose task has ended when this returns. So a client that makes calls keeps its connection, however many
    /// silent ones there are.
    pub(super) async fn add(&mut self) -> (Arc<Client>, bool) {
        let mut full = false;
        if self.connected.len() >= self.max {
            self.connected.retain(|client| client.strong_count() > 0);
            if self.connected.len() >= self.max {
                full = true;
                self.evict().await;
            }
        }
        let ended = CancellationToken::new();
        let client = Arc::new(Client {
            epoch: self.epoch,
            passed: AtomicU64::new(0),
            evicted: CancellationToken::new(),
            _end: ended.clone().drop_guard(),
            ended,
        });
        client.pass();
        self.connected.push(Arc::downgrade(&client));
        (client, full)
    }

    async fn evict(&mut self) {
        let passed = |client: &Weak<Client>| client.upgrade().map_or(0, |client| client.passed());
        let silent = (0..self.connected.len()).min_by_key(|at| passed(&self.connected[*at]));
        let Some(at) = silent else {
            return;
        };
        if let Some(client) = self.connected.swap_remove(at).upgrade() {
            client.evicted.cancel();
            let ended = client.ended.clone();
            drop(client);
            ended.cancelled().await;
        }
    }
}
