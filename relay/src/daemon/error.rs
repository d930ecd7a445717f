//! Why the program ends without success, and with which exit code.

use std::{fmt, process::ExitCode};

/// Why the program ends without success.
#[derive(Debug)]
pub enum ExitError {
    /// A mistake in what the user typed or wrote; nothing was started.
    Usage(String),
    /// Something failed while starting or running.
    Run(anyhow::Error),
}

impl ExitError {
    /// The documented exit code.
    #[must_use]
    pub fn exit_code(&self) -> ExitCode {
        ExitCode::from(match self {
            Self::Usage(_) => 2,
            Self::Run(_) => 1,
        })
    }
}

impl fmt::Display for ExitError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Usage(mistake) => f.write_str(mistake),
            Self::Run(error) => write!(f, "{error:#}"),
        }
    }
}

impl From<anyhow::Error> for ExitError {
    fn from(error: anyhow::Error) -> Self {
        Self::Run(error)
    }
}
