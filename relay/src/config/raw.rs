//! Options as typed, with their origins.

use super::{
    options::{self, Options},
    origin::Origin,
};
use clap::{ArgMatches, parser::ValueSource};
use std::collections::BTreeMap;

/// The options of a command line and of the option files it names.
#[derive(Clone, Debug)]
pub struct Raw {
    /// The value of each option: the last one typed, or the default; of those that add up, all.
    pub options: Options,
    given: BTreeMap<String, Vec<(String, Origin)>>,
}

impl Raw {
    /// The options that `matches` hold; `origins` has an entry for each option given, in the order
    /// clap met them as `--name=value`.
    #[must_use]
    pub fn new(options: Options, matches: &ArgMatches, origins: &[Origin]) -> Self {
        let mut given = BTreeMap::new();
        for argument in options::command().get_arguments() {
            let id = argument.get_id().as_str();
            if matches.value_source(id) != Some(ValueSource::CommandLine) {
                continue;
            }
            let texts = matches.get_raw(id).into_iter().flatten();
            let indices = matches.indices_of(id).into_iter().flatten();
            let values = texts.zip(indices).map(|(text, index)| {
                // clap counts two for each `--name=value`, the value behind the name, from 1.
                let word = (index / 2).checked_sub(1);
                let origin = word.and_then(|word| origins.get(word));
                let text = text.to_string_lossy().into_owned();
                (text, origin.cloned().unwrap_or(Origin::CommandLine))
            });
            given.insert(options::name(argument).to_owned(), values.collect());
        }
        Self { options, given }
    }

    /// Texts of this option with their origins, in the order typed; none when it was not given.
    #[must_use]
    pub fn given(&self, option: &str) -> &[(String, Origin)] {
        self.given.get(option).map_or(&[], Vec::as_slice)
    }

    /// Where the value that counts was typed.
    #[must_use]
    pub fn origin(&self, option: &str) -> Origin {
        let last = self.given(option).last();
        last.map_or(Origin::Default, |(_, origin)| origin.clone())
    }
}

impl Default for Raw {
    /// Nothing typed.
    fn default() -> Self {
        let (options, matches) = options::defaults();
        Self::new(options, &matches, &[])
    }
}
