//! Options as typed, each value with its origin.

use crate::cli::options::{self, Kind, OPTIONS, Opt};
use std::{collections::BTreeMap, fmt, path::Path, sync::Arc};

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
        /// Its line, from 1.
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
            Self::File { path, line } => write!(f, "{}:{line}", path.display()),
            Self::Document { source, key } => write!(f, "{source}, {key}"),
        }
    }
}

/// A value as typed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Valued {
    /// The text.
    pub text: String,
    /// Where it was typed.
    pub origin: Origin,
}

/// All options as typed, by name, in the order met.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Raw {
    values: BTreeMap<&'static str, Vec<Valued>>,
}

impl Raw {
    /// Adds a value. Options that hold one value forget the earlier one.
    pub fn push(&mut self, name: &'static str, text: String, origin: Origin) {
        let values = self.values.entry(name).or_default();
        if options::find(name).is_none_or(|option| option.kind != Kind::Many) {
            values.clear();
        }
        values.push(Valued { text, origin });
    }

    /// The value that counts: the last one typed, else the default.
    #[must_use]
    pub fn last(&self, name: &str) -> Valued {
        self.values
            .get(name)
            .and_then(|values| values.last())
            .cloned()
            .unwrap_or_else(|| Valued {
                text: options::find(name)
                    .map_or("", |option| option.default)
                    .to_owned(),
                origin: Origin::Default,
            })
    }

    /// All values typed, in order; none when it was never given.
    #[must_use]
    pub fn all(&self, name: &str) -> &[Valued] {
        self.values.get(name).map_or(&[], Vec::as_slice)
    }

    /// Whether the option was given.
    #[must_use]
    pub fn given(&self, name: &str) -> bool {
        self.values.contains_key(name)
    }

    /// Options that are part of the configuration, in the order of the help.
    pub fn options() -> impl Iterator<Item = &'static Opt> {
        OPTIONS
            .iter()
            .filter(|option| option.kind != Kind::Ask && option.name != "config")
    }
}
