//! Words as typed: options, option files, subcommands. Nothing is decided here.
//!
//! The options are defined in [`crate::config::options`]; here are the commands and the options that print
//! something and end. [`command()`] is all of it in clap's terms: the command line, option files, `--help`,
//! `docs/configuration.md`, shell completions and the manual page are made from it.

pub mod help;
pub mod option_file;

mod command;
mod compat;
mod error;
mod word;

pub use command::{Command, GatherArguments, InstallArguments, MakePoolsArguments, command};
pub use error::UsageError;

use crate::{
    config::{origin::Origin, policy_name, raw::Raw, value::RawValue},
    suggest,
};
use clap::{
    FromArgMatches as _,
    error::{ContextKind, ContextValue, ErrorKind},
};
use command::{Actions, CommandLine};
use std::ffi::OsString;

/// What the user asked for.
#[derive(Clone, Debug)]
pub struct Invocation {
    /// What to do.
    pub command: Command,
    /// The options, as typed, with their origins.
    pub raw: Raw,
}

/// Reads the command line (its first word is the program's name) and the option files it names.
///
/// # Errors
/// Unknown options, left-over words, missing values, unreadable option files. Mistakes in values are
/// reported later, by [`crate::config::resolve`].
pub fn parse(argv: impl IntoIterator<Item = OsString>) -> Result<Invocation, UsageError> {
    parse_with(argv, &|path| std::fs::read_to_string(path))
}

/// As [`parse`], with option files from `read`.
pub(crate) fn parse_with(
    argv: impl IntoIterator<Item = OsString>,
    read: word::Read<'_>,
) -> Result<Invocation, UsageError> {
    let print = |text: String| Invocation {
        command: Command::Print(text),
        raw: Raw::default(),
    };
    let mut definitions = command();
    let words = compat::canonical(&definitions, argv.into_iter().skip(1), read)?;
    let Some(words) = words else {
        return Ok(print(definitions.render_help().to_string()));
    };
    let mut texts = vec!["cri-resmgr".to_owned()];
    texts.extend(words.options.iter().map(|word| word.text.clone()));
    texts.extend(words.command);
    let matches = match definitions.try_get_matches_from_mut(&texts) {
        Ok(matches) => matches,
        Err(error) if error.kind() == ErrorKind::DisplayHelp => {
            return Ok(print(error.render().to_string()));
        }
        Err(error) => return Err(one_line(&error)),
    };
    let line = CommandLine::from_arg_matches(&matches).map_err(|error| one_line(&error))?;
    let origins: Vec<Origin> = words.options.into_iter().map(|word| word.origin).collect();
    Ok(Invocation {
        raw: Raw::new(line.options, &matches, &origins),
        command: command_of(&line.actions, line.command)?,
    })
}

fn command_of(actions: &Actions, command: Option<Command>) -> Result<Command, UsageError> {
    let asked = |action: &RawValue<bool>| {
        let RawValue {
            option,
            text,
            parsed,
        } = action;
        parsed
            .clone()
            .map_err(|expected| UsageError(format!("--{option}: {text:?}: {expected}")))
    };
    if asked(&actions.version)? {
        return Ok(Command::Print(help::version()));
    }
    if asked(&actions.list_policies)? {
        return Ok(Command::Print(policy_name::list()));
    }
    if asked(&actions.list_loggers)? {
        return Ok(Command::Print(help::loggers()));
    }
    if asked(&actions.print_config)? {
        return Ok(Command::PrintConfig);
    }
    Ok(command.unwrap_or(Command::Run))
}

/// Clap's report, which spans several lines, as one.
fn one_line(error: &clap::Error) -> UsageError {
    let context = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => Some(text.clone()),
        Some(ContextValue::Strings(texts)) => Some(texts.join(", ")),
        _ => None,
    };
    let argument = context(ContextKind::InvalidArg).unwrap_or_default();
    UsageError(match error.kind() {
        ErrorKind::UnknownArgument => {
            format!("unknown command line argument {argument:?} (see cri-resmgr --help)")
        }
        ErrorKind::InvalidSubcommand => {
            let word = context(ContextKind::InvalidSubcommand).unwrap_or_default();
            let names: Vec<String> = command()
                .get_subcommands()
                .map(|command| command.get_name().to_owned())
                .collect();
            let hint = suggest::hint(&word, names.iter().map(String::as_str), "");
            format!(
                "unknown command {word:?}{hint} (commands: {})",
                names.join(", ")
            )
        }
        ErrorKind::InvalidValue => {
            let value = context(ContextKind::InvalidValue).unwrap_or_default();
            let words = context(ContextKind::ValidValue).unwrap_or_default();
            format!("{argument} {value:?}: expected one of {words}")
        }
        ErrorKind::MissingRequiredArgument => missing(&argument),
        _ => error
            .to_string()
            .lines()
            .find(|line| !line.trim().is_empty())
            .unwrap_or_default()
            .trim_start_matches("error: ")
            .to_owned(),
    })
}

/// Says which command lacks the argument, and what that is.
fn missing(argument: &str) -> String {
    let commands = command();
    let found = commands.get_subcommands().find_map(|command| {
        let positional = command
            .get_positionals()
            .find(|positional| positional.to_string() == argument)?;
        let help = positional.get_help().map(ToString::to_string)?;
        Some(format!("{} needs {argument}: {help}", command.get_name()))
    });
    found.unwrap_or_else(|| format!("{argument} is missing"))
}

#[cfg(test)]
mod tests;
