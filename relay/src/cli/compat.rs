//! One form for all ways to type an option: `-opt value`, `-opt=value`, `--opt value`, `--opt=value`,
//! a switch alone or with `=BOOL`, and the options of a file where `--config` is met.

use super::{UsageError, is_switch, option_file, options};
use crate::config::{problem::nearest, raw::Origin};
use std::{ffi::OsString, io, path::Path};

/// An option in canonical form.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Word {
    pub(super) name: &'static str,
    pub(super) value: String,
    pub(super) origin: Origin,
}

impl Word {
    /// As clap shall see it.
    pub(super) fn text(&self) -> String {
        format!("--{}={}", self.name, self.value)
    }
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

/// `None` when help was asked for.
pub(super) fn canonical(
    argv: impl IntoIterator<Item = OsString>,
    read: Read<'_>,
) -> Result<Option<Words>, UsageError> {
    let mut words = Words::default();
    let mut rest = Vec::new();
    for word in argv {
        rest.push(word.into_string().map_err(|word| {
            UsageError(format!("argument {} is not UTF-8", word.to_string_lossy()))
        })?);
    }
    let mut rest = rest.into_iter();
    let definitions = options::command();
    let mut subcommand: Option<&clap::Command> = None;
    while let Some(word) = rest.next() {
        let Some(typed) = option_part(&word) else {
            if word == "--" {
                words.command.extend(rest);
                break;
            }
            if words.command.is_empty() {
                subcommand = definitions.find_subcommand(&word);
            }
            words.command.push(word);
            continue;
        };
        let (name, value) = match typed.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (typed, None),
        };
        if name == "h" || name == "help" {
            match subcommand {
                Some(_) => {
                    words.command.push("--help".to_owned());
                    continue;
                }
                None => return Ok(None),
            }
        }
        if let Some(subcommand) = subcommand
            && subcommand
                .get_arguments()
                .any(|argument| argument.get_long() == Some(name))
        {
            words.command.push(format!("--{typed}"));
            continue;
        }
        let Some(option) = options::find(name) else {
            return Err(unknown(name, "option"));
        };
        let value = match value {
            Some(value) => value,
            None if is_switch(option.name) || option.kind == options::Kind::Ask => {
                "true".to_owned()
            }
            None => rest
                .next()
                .ok_or_else(|| UsageError(format!("option --{name} needs a value")))?,
        };
        if option.name == "config" {
            words
                .options
                .extend(option_file::read(Path::new(&value), read)?);
        }
        words.options.push(Word {
            name: option.name,
            value,
            origin: Origin::CommandLine,
        });
    }
    Ok(Some(words))
}

/// The word without its dashes, when it is an option.
fn option_part(word: &str) -> Option<&str> {
    let typed = word.strip_prefix("--").or_else(|| word.strip_prefix('-'))?;
    (!typed.is_empty() && !typed.starts_with('-')).then_some(typed)
}

/// An option nobody knows, with the one that was probably meant.
pub(super) fn unknown(name: &str, what: &str) -> UsageError {
    let hint = nearest(name, options::names()).map_or_else(
        || " (see cri-resmgr --help)".to_owned(),
        |near| format!("; did you mean {near:?}?"),
    );
    UsageError(format!("unknown {what} {name:?}{hint}"))
}
