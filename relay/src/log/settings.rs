//! What is logged, and how.

use super::source::{Switches, is_library};
use std::str::FromStr;

/// Lowest severity shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Everything that is switched on.
    Debug,
    /// No debug messages.
    #[default]
    Info,
    /// Warnings and errors.
    Warn,
    /// Errors.
    Error,
}

impl FromStr for Level {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.to_ascii_lowercase().as_str() {
            "debug" => Ok(Self::Debug),
            "info" => Ok(Self::Info),
            "warn" | "warning" => Ok(Self::Warn),
            "error" => Ok(Self::Error),
            _ => Err("expected debug, info, warn or error".to_owned()),
        }
    }
}

/// The form of log lines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// Lines for people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// What is logged, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogSettings {
    /// Lowest severity shown.
    pub level: Level,
    /// Sources whose info messages are shown.
    pub info: Switches,
    /// Sources whose debug messages are shown, whatever the level.
    pub debug: Switches,
    /// Whether the source is shown.
    pub prefix: bool,
    /// The form of the lines.
    pub format: Format,
}

impl Default for LogSettings {
    fn default() -> Self {
        Self {
            level: Level::Info,
            info: Switches::all(),
            debug: Switches::none(),
            prefix: true,
            format: Format::Text,
        }
    }
}

impl LogSettings {
    /// Whether a message of this severity from this source is shown. Warnings and errors cannot be
    /// switched off by source; libraries are debugged only when they are named.
    #[must_use]
    pub fn shows(&self, level: Level, source: &str) -> bool {
        match level {
            Level::Debug if is_library(source) => self.debug.names(source),
            Level::Debug => self.debug.on(source),
            Level::Info => self.level <= Level::Info && self.info.on(source),
            Level::Warn | Level::Error => self.level <= level,
        }
    }
}
