//! Writes the latest book whenever it changed: many changes, one fsync.

use super::{Book, Ledger};
use std::sync::Arc;
use tokio::sync::watch;

/// How the file fares.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Health {
    /// The latest generation tried.
    pub tried: u64,
    /// The latest generation that is safe on disk.
    pub durable: u64,
    /// Why the last attempt failed, if it did.
    pub problem: Option<Arc<str>>,
    /// Files written since start.
    pub writes: u64,
    /// Attempts that failed since start.
    pub failures: u64,
}

/// The end that hands books over and waits for them to be safe.
#[derive(Clone, Debug)]
pub struct Durable {
    books: watch::Sender<(u64, Arc<Book>)>,
    health: watch::Receiver<Health>,
}

/// The end that writes.
#[derive(Debug)]
pub struct Writer {
    ledger: Arc<Ledger>,
    books: watch::Receiver<(u64, Arc<Book>)>,
    health: watch::Sender<Health>,
}

impl Writer {
    /// A writer and its handle.
    #[must_use]
    pub fn new(ledger: Ledger) -> (Self, Durable) {
        let (books, books_in) = watch::channel(Default::default());
        let (health_out, health) = watch::channel(Health::default());
        let writer = Self {
            ledger: Arc::new(ledger),
            books: books_in,
            health: health_out,
        };
        (writer, Durable { books, health })
    }

    /// Writes until every handle is dropped; what was handed over last is written first.
    pub async fn run(mut self) {
        let mut health = Health::default();
        while self.books.changed().await.is_ok() {
            let (generation, book) = self.books.borrow_and_update().clone();
            let ledger = Arc::clone(&self.ledger);
            let stored = tokio::task::spawn_blocking(move || ledger.store(&book)).await;
            let problem = match stored {
                Ok(Ok(())) => None,
                Ok(Err(error)) => Some(super::file_problem(&error)),
                Err(panic) => Some(panic.to_string()),
            };
            health.tried = generation;
            match problem {
                None => {
                    health.durable = generation;
                    health.writes += 1;
                    health.problem = None;
                }
                Some(problem) => {
                    tracing::error!(%problem, "the placement state could not be saved");
                    health.failures += 1;
                    health.problem = Some(problem.into());
                }
            }
            self.health.send_replace(health.clone());
        }
    }
}

impl Durable {
    /// Hands over the book of a generation; a later one replaces an earlier one not yet written.
    pub fn hand_over(&self, generation: u64, book: Arc<Book>) {
        self.books.send_replace((generation, book));
    }

    /// Waits until this generation (or a later one) is on disk.
    ///
    /// # Errors
    /// The reason it is not, for people.
    pub async fn wait(&self, generation: u64) -> Result<(), String> {
        let mut health = self.health.clone();
        let health = health
            .wait_for(|health| health.tried >= generation)
            .await
            .map_err(|_closed| "the ledger's writer has ended".to_owned())?;
        match &health.problem {
            Some(problem) if health.durable < generation => Err(problem.to_string()),
            _ => Ok(()),
        }
    }

    /// Waits until what was handed over last is on disk.
    ///
    /// # Errors
    /// The reason it is not, for people.
    pub async fn flushed(&self) -> Result<(), String> {
        let latest = self.books.borrow().0;
        self.wait(latest).await
    }

    /// How the file fares now.
    #[must_use]
    pub fn health(&self) -> Health {
        self.health.borrow().clone()
    }
}
