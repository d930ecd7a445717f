//! Writes the latest value of a record whenever it has changed: many changes, one fsync.

use super::{
    blocking::Blocking,
    file::{LedgerError, StateFile, StateRecord},
};
use std::{sync::Arc, time::Duration};
use tokio::sync::watch;

/// How long after a failure the same is tried again.
const RETRY: Duration = Duration::from_secs(1);

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

/// The end that hands values over and waits until they are safe.
#[derive(Debug)]
pub struct Durable<R> {
    values: watch::Sender<(u64, Arc<R>)>,
    health: watch::Receiver<Health>,
}

/// The end that writes.
#[derive(Debug)]
pub struct StateWriter<R> {
    file: Arc<StateFile<R>>,
    blocking: Blocking,
    values: watch::Receiver<(u64, Arc<R>)>,
    health: watch::Sender<Health>,
}

impl<R: StateRecord + Default + Send + Sync + 'static> StateWriter<R> {
    /// A writer and its handle.
    #[must_use]
    pub fn new(file: StateFile<R>, blocking: Blocking) -> (Self, Durable<R>) {
        let (values, values_in) = watch::channel(Default::default());
        let (health_out, health) = watch::channel(Health::default());
        let writer = Self {
            file: Arc::new(file),
            blocking,
            values: values_in,
            health: health_out,
        };
        (writer, Durable { values, health })
    }

    /// Writes until every handle is dropped; what was handed over last is written first. What could not
    /// be written is tried again, also when nothing newer comes.
    pub async fn run(mut self) {
        let mut health = Health::default();
        loop {
            let lost = tokio::select! {
                biased;
                changed = self.values.changed() => changed.is_err(),
                // The disk may have room again, and nothing else may ever change.
                () = tokio::time::sleep(RETRY), if health.problem.is_some() => false,
            };
            if lost {
                return;
            }
            let (generation, value) = self.values.borrow_and_update().clone();
            let file = Arc::clone(&self.file);
            let stored = self.blocking.run(move || file.store(&value)).await;
            let problem = match stored {
                Ok(Ok(())) => None,
                Ok(Err(error)) => Some(one_line(&error)),
                Err(panic) => Some(panic.to_string()),
            };
            health.tried = generation;
            match problem {
                None => {
                    if health.problem.is_some() {
                        tracing::info!("the placement state is saved again");
                    }
                    health.durable = generation;
                    health.writes += 1;
                    health.problem = None;
                }
                Some(problem) => {
                    if health.problem.as_deref() != Some(&problem) {
                        tracing::error!(%problem, "the placement state could not be saved");
                    }
                    health.failures += 1;
                    health.problem = Some(problem.into());
                }
            }
            self.health.send_replace(health.clone());
        }
    }
}

impl<R> Clone for Durable<R> {
    fn clone(&self) -> Self {
        Self {
            values: self.values.clone(),
            health: self.health.clone(),
        }
    }
}

impl<R> Durable<R> {
    /// Hands over the value of a generation; a later one replaces an earlier one not yet written.
    pub fn hand_over(&self, generation: u64, value: Arc<R>) {
        self.values.send_replace((generation, value));
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
        let latest = self.values.borrow().0;
        self.wait(latest).await
    }

    /// How the file fares now.
    #[must_use]
    pub fn health(&self) -> Health {
        self.health.borrow().clone()
    }
}

/// An error with its causes, on one line.
fn one_line(error: &LedgerError) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::Marks;

    #[tokio::test]
    async fn what_could_not_be_saved_is_saved_as_soon_as_it_can_be() {
        let directory = tempfile::tempdir().unwrap();
        let file = StateFile::open(directory.path()).unwrap();
        let obstacle = directory.path().join("node-marks.a");
        std::fs::create_dir(&obstacle).unwrap();
        let (writer, durable) = StateWriter::new(file, Blocking::Threads);
        let writing = tokio::spawn(writer.run());
        durable.hand_over(1, Arc::new(Marks::default()));
        durable.wait(1).await.unwrap_err();
        std::fs::remove_dir(&obstacle).unwrap();
        let mut health = durable.health.clone();
        let saved = health.wait_for(|health| health.durable == 1);
        tokio::time::timeout(Duration::from_secs(30), saved)
            .await
            .expect("the state is saved without being asked again")
            .unwrap();
        assert!(durable.health().problem.is_none());
        drop(durable);
        writing.await.unwrap();
    }
}
