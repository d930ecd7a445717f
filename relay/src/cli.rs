//! Words as typed: options, option files, subcommands. Nothing is decided here.
//!
//! One table ([`options::OPTIONS`]) defines every option: the command line, option files, `--help`,
//! `--print-config` and `docs/configuration.md` are all made from it.

pub mod help;
pub mod option_file;
pub mod options;
pub mod policies;

mod compat;

use crate::config::raw::{Origin, Raw};
use clap::error::{ContextKind, ContextValue, ErrorKind};
use options::{Kind, OPTIONS};
use std::{ffi::OsString, fmt, path::PathBuf};

/// What the user asked for.
#[derive(Clone, Debug)]
pub struct Invocation {
    /// What to do.
    pub command: Command,
    /// The options, as typed, with their origins.
    pub raw: Raw,
}

/// What to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Serve as a relay: no subcommand was given.
    Run,
    /// Print this text to standard output and exit 0 (`--help`, `--version`, the lists).
    Say(String),
    /// Print the effective configuration and exit.
    PrintConfig,
    /// Give every container back the CPUs the runtime was last asked for.
    Restore,
    /// Print the current placement.
    State {
        /// As JSON in place of a table.
        json: bool,
    },
    /// Say why a container sits where it sits.
    Explain {
        /// Id, unique prefix of an id, or `namespace/pod/container`.
        container: String,
    },
    /// Watch the scheduler's treatment of every container.
    Top {
        /// Print one table and end.
        once: bool,
        /// As JSON, an object a line.
        json: bool,
    },
    /// Check a run-time configuration without applying it.
    CheckConfig {
        /// A ConfigMap manifest, or its data.
        file: PathBuf,
    },
}

/// A mistake on the command line or in an option file: one line, exit code 2.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UsageError(pub(crate) String);

impl fmt::Display for UsageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for UsageError {}

/// Reads the command line (its first word is the program's name) and the option files it names.
///
/// # Errors
/// Unknown options, left-over words, missing values, unreadable option files. Values themselves are
/// judged later, by [`crate::config::resolve`].
pub fn parse(argv: impl IntoIterator<Item = OsString>) -> Result<Invocation, UsageError> {
    parse_with(argv, &|path| std::fs::read_to_string(path))
}

/// As [`parse`], with option files from `read`.
pub(crate) fn parse_with(
    argv: impl IntoIterator<Item = OsString>,
    read: compat::Read<'_>,
) -> Result<Invocation, UsageError> {
    let words = compat::canonical(argv.into_iter().skip(1), read)?;
    let Some(words) = words else {
        return Ok(Invocation {
            command: Command::Say(help::text()),
            raw: Raw::default(),
        });
    };
    let mut texts = vec!["cri-resmgr".to_owned()];
    texts.extend(words.options.iter().map(compat::Word::text));
    texts.extend(words.command.iter().cloned());
    let matches = match options::command().try_get_matches_from(&texts) {
        Ok(matches) => matches,
        Err(error) if error.kind() == ErrorKind::DisplayHelp => {
            return Ok(Invocation {
                command: Command::Say(error.render().to_string()),
                raw: Raw::default(),
            });
        }
        Err(error) => return Err(one_line(&error)),
    };
    let raw = collect(&matches, &words.options);
    let command = command_of(&matches, &raw)?;
    Ok(Invocation { command, raw })
}

/// Every value with its origin. Clap counts two indices for each `--name=value`, starting at 1.
fn collect(matches: &clap::ArgMatches, words: &[compat::Word]) -> Raw {
    let mut raw = Raw::default();
    for option in OPTIONS {
        let explicit =
            matches.value_source(option.name) == Some(clap::parser::ValueSource::CommandLine);
        if !explicit {
            continue;
        }
        let values = matches
            .get_many::<String>(option.name)
            .into_iter()
            .flatten();
        let indices = matches.indices_of(option.name).into_iter().flatten();
        for (value, index) in values.zip(indices) {
            let origin = (index / 2)
                .checked_sub(1)
                .and_then(|word| words.get(word))
                .map_or(Origin::CommandLine, |word| word.origin.clone());
            raw.push(option.name, value.clone(), origin);
        }
    }
    raw
}

fn command_of(matches: &clap::ArgMatches, raw: &Raw) -> Result<Command, UsageError> {
    let asked = |name: &str| {
        let value = raw.last(name);
        crate::config::values::boolean(&value.text)
            .map_err(|expected| UsageError(format!("--{name}: {:?}: {expected}", value.text)))
    };
    if asked("version")? {
        return Ok(Command::Say(help::version()));
    }
    if asked("list-policies")? {
        return Ok(Command::Say(policies::list()));
    }
    if asked("list-loggers")? {
        return Ok(Command::Say(help::loggers()));
    }
    if asked("print-config")? {
        return Ok(Command::PrintConfig);
    }
    Ok(match matches.subcommand() {
        Some(("restore", _)) => Command::Restore,
        Some(("state", words)) => Command::State {
            json: words.get_flag("json"),
        },
        Some(("explain", words)) => Command::Explain {
            container: words
                .get_one::<String>("container")
                .cloned()
                .unwrap_or_default(),
        },
        Some(("top", words)) => Command::Top {
            once: words.get_flag("once"),
            json: words.get_flag("json"),
        },
        Some(("check-config", words)) => Command::CheckConfig {
            file: words
                .get_one::<PathBuf>("file")
                .cloned()
                .unwrap_or_default(),
        },
        _ => Command::Run,
    })
}

/// Clap's report, which spans several lines, as one.
fn one_line(error: &clap::Error) -> UsageError {
    let context = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => Some(text.clone()),
        Some(ContextValue::Strings(texts)) => Some(texts.join(" ")),
        _ => None,
    };
    let what = context(ContextKind::InvalidArg).unwrap_or_default();
    UsageError(match error.kind() {
        ErrorKind::UnknownArgument => {
            format!("unknown command line argument {what:?} (see cri-resmgr --help)")
        }
        ErrorKind::InvalidSubcommand => {
            let word = context(ContextKind::InvalidSubcommand).unwrap_or_default();
            let names: Vec<String> = options::command()
                .get_subcommands()
                .map(|command| command.get_name().to_owned())
                .collect();
            let nearest = crate::config::problem::nearest(&word, names.iter().map(String::as_str))
                .map_or(String::new(), |name| format!("; did you mean {name:?}?"));
            format!(
                "unknown command {word:?}{nearest} (commands: {})",
                names.join(", ")
            )
        }
        ErrorKind::MissingRequiredArgument => missing(&what),
        _ => error
            .to_string()
            .lines()
            .find(|line| !line.trim().is_empty())
            .unwrap_or_default()
            .trim_start_matches("error: ")
            .to_owned(),
    })
}

/// Says which command lacks what, and what that is.
fn missing(what: &str) -> String {
    let commands = options::command();
    let found = commands.get_subcommands().find_map(|command| {
        let argument = command
            .get_positionals()
            .find(|argument| argument.to_string() == what)?;
        let help = argument.get_help().map(ToString::to_string)?;
        Some(format!("{} needs {what}: {help}", command.get_name()))
    });
    found.unwrap_or_else(|| format!("{what} is missing"))
}

/// Whether an option takes no value when it stands alone.
fn is_switch(name: &str) -> bool {
    options::find(name).is_some_and(|option| option.kind == Kind::Switch)
}

#[cfg(test)]
mod tests;
