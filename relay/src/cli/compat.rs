//! One form for all ways to type an option: `-opt value`, `-opt=value`, `--opt value`, `--opt=value`,
//! a switch alone or with `=BOOL`, and the options of a file where `--config` is met.

use super::{
    UsageError, option_file,
    word::{Read, Word, Words, unknown},
};
use crate::config::{
    options::{self, CONFIG},
    origin::Origin,
};
use clap::Command;
use std::{ffi::OsString, path::Path};

/// `None` when help was asked for.
pub(super) fn canonical(
    definitions: &Command,
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
    let mut subcommand: Option<&Command> = None;
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
        let Some(option) = options::find(definitions, name) else {
            return Err(unknown(definitions, name));
        };
        let value = match value {
            Some(value) => value,
            None if options::is_switch(option) => "true".to_owned(),
            None => rest
                .next()
                .ok_or_else(|| UsageError(format!("option --{name} needs a value")))?,
        };
        let name = options::name(option);
        if name == CONFIG {
            let file = option_file::read(definitions, Path::new(&value), read)?;
            words.options.extend(file);
        }
        words.options.push(Word {
            text: format!("--{name}={value}"),
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
