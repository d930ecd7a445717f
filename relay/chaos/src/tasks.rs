//! Runs tasks one poll at a time, in an order that the seed decides. Time passes (Tokio's paused clock) only
//! when no task can go on.

use crate::world::World;
use futures::future::BoxFuture;
use std::{
    collections::{BTreeMap, BTreeSet},
    future::poll_fn,
    pin::pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll, Wake, Waker},
    time::Duration,
};

/// What a task ends with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lifetime {
    /// The daemon, and the calls that go through it.
    Daemon,
    /// The machine.
    Machine,
}

/// A task to be run.
pub(crate) struct Task {
    pub(crate) lifetime: Lifetime,
    pub(crate) future: BoxFuture<'static, ()>,
}

/// Tasks that can go on.
#[derive(Debug, Default)]
struct Ready(Mutex<(BTreeSet<u64>, Option<Waker>)>);

impl Ready {
    fn add(&self, task: u64) {
        let mut ready = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        ready.0.insert(task);
        if let Some(waker) = ready.1.take() {
            waker.wake();
        }
    }

    fn take(&self, choose: impl FnOnce(u64) -> u64) -> Option<u64> {
        let mut ready = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = ready.0.len();
        let index = usize::try_from(choose(count as u64)).unwrap_or_default();
        let task = ready.0.iter().nth(index).copied()?;
        ready.0.remove(&task);
        Some(task)
    }

    fn wake_when_filled(&self, context: &Context<'_>) {
        let mut ready = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if ready.0.is_empty() {
            ready.1 = Some(context.waker().clone());
        } else {
            context.waker().wake_by_ref();
        }
    }
}

struct TaskWaker {
    task: u64,
    ready: Arc<Ready>,
}

impl Wake for TaskWaker {
    fn wake(self: Arc<Self>) {
        self.ready.add(self.task);
    }
}

/// All tasks of a simulated node.
#[derive(Default)]
pub(crate) struct Tasks {
    tasks: BTreeMap<u64, Task>,
    next: u64,
    ready: Arc<Ready>,
}

impl Tasks {
    pub(crate) fn spawn(&mut self, task: Task) {
        self.next += 1;
        self.tasks.insert(self.next, task);
        self.ready.add(self.next);
    }

    /// Ends the daemon where it stands, and with it all calls that go through it.
    pub(crate) fn kill_daemon(&mut self) {
        self.tasks
            .retain(|_number, task| task.lifetime != Lifetime::Daemon);
    }

    /// Runs until so many polls are over, or so much simulated time, or the world has ended the run or the
    /// daemon.
    pub(crate) async fn run(&mut self, world: &World, mut polls: u64, time: Duration) {
        let mut over = pin!(tokio::time::sleep(time));
        poll_fn(|context| {
            for task in world.lock().spawned.drain(..) {
                self.spawn(task);
            }
            if polls == 0 || world.lock().is_interrupted() {
                return Poll::Ready(());
            }
            let task = self.ready.take(|count| world.lock().random.below(count));
            if let Some(number) = task {
                polls -= 1;
                self.poll(number);
                context.waker().wake_by_ref();
                return Poll::Pending;
            }
            self.ready.wake_when_filled(context);
            over.as_mut().poll(context)
        })
        .await;
    }

    fn poll(&mut self, number: u64) {
        let Some(task) = self.tasks.get_mut(&number) else {
            return;
        };
        let ready = Arc::clone(&self.ready);
        let waker = Waker::from(Arc::new(TaskWaker {
            task: number,
            ready,
        }));
        let polled = task.future.as_mut().poll(&mut Context::from_waker(&waker));
        if polled.is_ready() {
            self.tasks.remove(&number);
        }
    }
}
