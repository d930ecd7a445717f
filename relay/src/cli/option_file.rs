//! Option files: the command line's options, one a line, without dashes.
//!
//! ```text
//! # comment
//! policy = static              name = value, split at the first `=`
//! reserved-resources = cpu=1   so a value may hold a `=` (and a `#`)
//! restore-on-stop              a switch alone is true
//! logger                       a heading: it need not be an option itself
//!   debug = policy             indented: logger-debug
//! ```

use super::{
    UsageError,
    word::{Read, Word, unknown},
};
use crate::config::{
    options::{self, CONFIG},
    origin::Origin,
};
use clap::Command;
use std::{path::Path, sync::Arc};

/// Reads an option file.
pub(super) fn read(
    definitions: &Command,
    path: &Path,
    read: Read<'_>,
) -> Result<Vec<Word>, UsageError> {
    let text = read(path).map_err(|error| {
        UsageError(format!(
            "cannot read option file {}: {error}",
            path.display()
        ))
    })?;
    parse(definitions, &text, path)
}

/// Parses the text of an option file; `path` only names it in errors and origins.
pub(super) fn parse(
    definitions: &Command,
    text: &str,
    path: &Path,
) -> Result<Vec<Word>, UsageError> {
    let path: Arc<Path> = path.into();
    let mut words = Vec::new();
    let mut heading: Option<&str> = None;
    let mut lines = text
        .lines()
        .zip(1u32..)
        .filter(|(line, _)| !line.trim().is_empty() && !line.trim().starts_with('#'))
        .peekable();
    while let Some((line, number)) = lines.next() {
        let trimmed = line.trim();
        let heads = lines.peek().is_some_and(|(next, _)| is_indented(next));
        let at = |message: String| UsageError(format!("{}:{number}: {message}", path.display()));
        let (typed, value) = match trimmed.split_once('=') {
            Some((name, value)) => (name.trim(), Some(value.trim())),
            None => (trimmed, None),
        };
        let indented = is_indented(line);
        let name = if indented {
            let heading = heading.ok_or_else(|| {
                at(format!(
                    "{typed:?} is indented, but no option stands before it"
                ))
            })?;
            format!("{heading}-{typed}")
        } else {
            heading = Some(typed);
            typed.to_owned()
        };
        if typed.starts_with('-') {
            return Err(at(format!(
                "{typed:?}: options are written without dashes here"
            )));
        }
        if name == CONFIG {
            return Err(at("option files cannot be nested (\"config\")".to_owned()));
        }
        let heads = heads && is_heading(definitions, &name);
        let option = match options::find(definitions, &name) {
            Some(option) => option,
            None if value.is_none() && heads => continue,
            None => return Err(at(unknown(definitions, &name).0)),
        };
        let value = match value {
            Some(value) => value,
            None if options::is_switch(option) => "true",
            // A valued option alone on its line: only the heading of what follows.
            None if !indented && heads => continue,
            None => return Err(at(format!("option {name:?} needs a value"))),
        };
        words.push(Word {
            text: format!("--{}={value}", options::name(option)),
            origin: Origin::File {
                path: Arc::clone(&path),
                line: number,
            },
        });
    }
    Ok(words)
}

fn is_indented(line: &str) -> bool {
    line.starts_with([' ', '\t'])
}

/// Whether options exist whose names begin with this word and a dash.
fn is_heading(definitions: &Command, word: &str) -> bool {
    options::names(definitions).any(|name| {
        name.strip_prefix(word)
            .is_some_and(|rest| rest.starts_with('-'))
    })
}
