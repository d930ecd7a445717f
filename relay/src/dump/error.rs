//! Why dumping cannot start.

use std::{io, path::PathBuf};

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
