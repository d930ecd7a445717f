//! Every task of the daemon: named, tracked, under one cancellation token.
//!
//! A task that ends by itself, fails or panics is logged by name and stops the daemon: half a relay is
//! worse than one that systemd or the kubelet restarts.

use std::{future::Future, sync::Arc, sync::Mutex, sync::PoisonError, time::Duration};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// Spawns and tracks the daemon's tasks.
#[derive(Clone, Debug)]
pub struct Tasks {
    tracker: TaskTracker,
    stop: CancellationToken,
    failure: Arc<Mutex<Option<String>>>,
}

impl Tasks {
    /// Tasks that end when `stop` is cancelled; a task that ends early cancels it.
    #[must_use]
    pub fn new(stop: CancellationToken) -> Self {
        Self {
            tracker: TaskTracker::new(),
            stop,
            failure: Arc::default(),
        }
    }

    /// The token that asks every task to end.
    #[must_use]
    pub fn stop(&self) -> &CancellationToken {
        &self.stop
    }

    /// Runs a task that lives as long as the daemon. Its error or early end stops the daemon.
    pub fn spawn<F>(&self, name: &'static str, task: F)
    where
        F: Future<Output = anyhow::Result<()>> + Send + 'static,
    {
        let stop = self.stop.clone();
        let failure = Arc::clone(&self.failure);
        self.tracker.spawn(async move {
            // The inner task turns a panic into an error that can be reported by name.
            let ended = tokio::spawn(task).await;
            let problem = match ended {
                Ok(Ok(())) if stop.is_cancelled() => return,
                Ok(Ok(())) => "ended by itself".to_owned(),
                Ok(Err(error)) => format!("failed: {error:#}"),
                Err(error) => format!("panicked: {error}"),
            };
            tracing::error!(target: "resource-manager", "task {name} {problem}; stopping");
            failure
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .get_or_insert_with(|| format!("task {name} {problem}"));
            stop.cancel();
        });
    }

    /// Waits until every task has ended, at most `limit`; then says why the daemon stopped, if a task
    /// was the cause.
    ///
    /// # Errors
    /// The first task failure, or that tasks were still running at the limit.
    pub async fn join(self, limit: Duration) -> anyhow::Result<()> {
        self.tracker.close();
        let late = tokio::time::timeout(limit, self.tracker.wait())
            .await
            .is_err();
        if let Some(problem) = self
            .failure
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take()
        {
            anyhow::bail!("{problem}");
        }
        anyhow::ensure!(
            !late,
            "tasks still running {} s after the stop",
            limit.as_secs()
        );
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_task_that_fails_stops_the_others_and_is_named() {
        let tasks = Tasks::new(CancellationToken::new());
        let stop = tasks.stop().clone();
        tasks.spawn("waiting", async move {
            stop.cancelled().await;
            Ok(())
        });
        tasks.spawn("failing", async { anyhow::bail!("the disk is full") });
        let error = tasks.join(Duration::from_secs(10)).await.unwrap_err();
        assert_eq!(error.to_string(), "task failing failed: the disk is full");
    }

    #[tokio::test]
    async fn a_panic_is_reported_as_a_failure_of_its_task() {
        let tasks = Tasks::new(CancellationToken::new());
        tasks.spawn("shaky", async { panic!("boom") });
        let error = tasks.join(Duration::from_secs(10)).await.unwrap_err();
        assert!(
            error.to_string().starts_with("task shaky panicked"),
            "{error}"
        );
    }
}
