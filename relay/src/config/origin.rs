//! Where a value of the configuration was written.

use std::{fmt, path::Path, sync::Arc};

/// Where a value was typed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Origin {
    /// Nowhere: the built-in default.
    #[default]
    Default,
    /// On the command line.
    CommandLine,
    /// In an option file.
    File {
        /// Which.
        path: Arc<Path>,
        /// Its line, from 1; 0 where none is meant.
        line: u32,
    },
    /// In a pushed configuration.
    Document {
        /// Where that came from, for people: `ConfigMap cri-resmgr-config`.
        source: Arc<str>,
        /// Its key.
        key: Arc<str>,
    },
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::CommandLine => f.write_str("command line"),
            Self::File { path, line: 0 } => write!(f, "{}", path.display()),
            Self::File { path, line } => write!(f, "{}:{line}", path.display()),
            Self::Document { source, key } => write!(f, "{source}, {key}"),
        }
    }
}
