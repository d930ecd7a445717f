//! Options in the one form that clap sees, wherever and however they were typed.

use super::UsageError;
use crate::{
    config::{options, origin::Origin},
    suggest,
};
use std::{io, path::Path};

/// An option in canonical form.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Word {
    /// `--name=value`.
    pub(super) text: String,
    pub(super) origin: Origin,
}

/// The command line taken apart.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Words {
    /// Options in the order met, those of option files in place.
    pub(super) options: Vec<Word>,
    /// The subcommand and its own words.
    pub(super) command: Vec<String>,
}

/// Reads a file; an argument, so that tests need none.
pub(crate) type Read<'a> = &'a dyn Fn(&Path) -> io::Result<String>;

/// An option that does not exist, with the one that was probably meant.
pub(super) fn unknown(command: &clap::Command, name: &str) -> UsageError {
    let otherwise = " (see cri-resmgr --help)";
    let hint = suggest::hint(name, options::names(command), otherwise);
    UsageError(format!("unknown option {name:?}{hint}"))
}
