//! Where work runs that waits for the disk or the kernel, or thinks for long.

use tokio::task::{JoinError, spawn_blocking, yield_now};

/// Where such work runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Blocking {
    /// On Tokio's threads for it.
    #[default]
    Threads,
    /// In the task itself: in a simulation nothing waits, and threads would make two runs differ.
    InPlace,
}

impl Blocking {
    /// Does the work.
    ///
    /// # Errors
    /// When it panics on its thread.
    pub async fn run<T: Send + 'static>(
        self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, JoinError> {
        match self {
            Self::Threads => spawn_blocking(work).await,
            Self::InPlace => {
                yield_now().await; // others run before, as they may while a thread works
                let done = work();
                yield_now().await; // and before what came of it is heard
                Ok(done)
            }
        }
    }
}
