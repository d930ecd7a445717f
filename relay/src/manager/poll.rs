//! Asks the runtime what runs: at start, every interval, on demand, and at once when a cgroup vanishes; and
//! listens to its exit events.

use super::{
    event::ManagerEvent,
    handle::ManagerHandle,
    runtime::{ExitEventsUnavailable, Listing, Runtime},
};
use resmgr_policy::ContainerId;
use std::{iter::repeat_n, sync::Arc, time::Duration};
use tokio::{
    sync::{Notify, mpsc},
    time::Instant,
};

/// Exit events that may wait to be handled; beyond it the runtime waits.
const EXIT_EVENTS: usize = 128;

/// Between two attempts to listen to a runtime that broke off; doubled up to the second.
const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));

/// Before a runtime that sends no exit events is asked again: it may have been replaced by a newer one.
const ASK_AGAIN: Duration = Duration::from_secs(300);

/// After a start the runtime is asked this often, for so long: calls that were under way when the process
/// before this one was killed go on in the runtime, and only the list tells how they end.
const AT_FIRST: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(10));

/// A container whose cgroup is gone has ended; runtimes say so this much later. On a busy machine they take
/// longer, and are asked so often again.
const SETTLES: [Duration; 5] = [
    Duration::ZERO,
    Duration::from_millis(20),
    Duration::from_millis(50),
    Duration::from_millis(130),
    Duration::from_millis(300),
];
const SETTLES_LATE: (Duration, usize) = (Duration::from_millis(300), 30);

#[derive(Debug)]
pub(super) struct Poller {
    pub(super) runtime: Arc<dyn Runtime>,
    pub(super) interval: Duration,
    pub(super) poll: Arc<Notify>,
    /// Containers whose cgroup has vanished.
    pub(super) vanished: mpsc::Receiver<ContainerId>,
    pub(super) handle: ManagerHandle,
}

impl Poller {
    pub(super) async fn run(self) {
        let listen = listen(
            Arc::clone(&self.runtime),
            Arc::clone(&self.poll),
            self.handle.clone(),
        );
        futures::future::join(self.list(), listen).await;
    }

    async fn list(mut self) {
        let mut well = true;
        let start = Instant::now();
        loop {
            match self.runtime.list().await {
                Ok(listing) => {
                    if !well {
                        tracing::info!("the runtime answers again");
                    }
                    well = true;
                    self.handle.take_listing(listing).await;
                }
                Err(error) => {
                    if well {
                        tracing::warn!(%error, "the runtime does not say what runs; trying again");
                    }
                    well = false;
                }
            }
            let pause = match start.elapsed() < AT_FIRST.1 {
                true => self.interval.min(AT_FIRST.0),
                false => self.interval,
            };
            tokio::select! {
                biased;
                Some(id) = self.vanished.recv() => self.until_gone(&id).await,
                () = self.poll.notified() => {}
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    /// Lists until the runtime has noticed, too, that a container has ended.
    async fn until_gone(&self, id: &ContainerId) {
        let (late, times) = SETTLES_LATE;
        for pause in SETTLES.into_iter().chain(repeat_n(late, times)) {
            tokio::time::sleep(pause).await;
            if !self.handle.knows(id) {
                return;
            }
            let Ok(listing) = self.runtime.list().await else {
                return; // the next regular list says so
            };
            let gone = !listing.containers.iter().any(|listed| listed.id == id.0);
            self.handle.take_listing(listing).await;
            if gone {
                return;
            }
        }
    }
}

/// Follows the runtime's exit events, for as long as it sends them.
async fn listen(runtime: Arc<dyn Runtime>, poll: Arc<Notify>, handle: ManagerHandle) {
    let mut pause = RETRY.0;
    loop {
        let (exits, mut exited) = mpsc::channel::<Arc<str>>(EXIT_EVENTS);
        let mut any = false;
        let follow = async {
            while let Some(id) = exited.recv().await {
                any = true;
                let id = ContainerId(id);
                if handle.knows(&id) {
                    handle.gone(id).await;
                }
            }
        };
        let (why, ()) = futures::future::join(runtime.exit_events(exits), follow).await;
        if any {
            pause = RETRY.0;
        }
        match why {
            ExitEventsUnavailable::NotOffered => tokio::time::sleep(ASK_AGAIN).await,
            ExitEventsUnavailable::Broken(error) => {
                tracing::debug!(%error, "exit events ended; listening again");
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(RETRY.1);
                poll.notify_one(); // exits in between were not sent
            }
        }
    }
}

impl ManagerHandle {
    /// Hands a fresh list to the owner, with all about the containers that it does not know.
    pub(super) async fn take_listing(&self, listing: Listing) {
        let mut unknown = Vec::new();
        for container in &listing.containers {
            if self.knows(&ContainerId(Arc::clone(&container.id))) {
                continue;
            }
            match self.runtime.learn(container).await {
                Ok(spec) => unknown.push(spec),
                // It may have ended between the list and the question; else the next list has it again.
                Err(error) => {
                    tracing::debug!(%error, container = %container.id, "container not learnt")
                }
            }
        }
        self.notify(ManagerEvent::Listed { listing, unknown }).await;
    }
}
