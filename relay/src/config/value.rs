//! The value of an option: its text beside what it means, or what would be right.
//!
//! clap would stop at the first value it cannot use. [`ValueRecorder`] keeps the mistake beside the text
//! instead, so that [`super::resolve()`] reports all of them at once.

use crate::values;
use clap::{
    Arg, Command,
    builder::{PossibleValue, TypedValueParser, ValueParserFactory},
};
use std::{ffi::OsStr, net::SocketAddr, path::PathBuf, time::Duration};

/// A value as typed, and what it means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RawValue<T> {
    /// The option's name.
    pub option: String,
    /// The text.
    pub text: String,
    /// What the text means, or what would be right.
    pub parsed: Result<T, String>,
}

/// A type that values of options have.
pub trait FromText: Clone + Send + Sync + 'static {
    /// The value that a text stands for.
    ///
    /// # Errors
    /// What would be right.
    fn from_text(text: &str) -> Result<Self, String> {
        values::choice(text, &Self::words())
    }

    /// The words that a shell can complete, and what they stand for.
    #[must_use]
    fn words() -> Vec<(&'static str, Self)> {
        Vec::new()
    }
}

/// clap's parser of a value; it never fails.
#[derive(Clone, Debug)]
pub struct ValueRecorder<T> {
    parse: fn(&str) -> Result<T, String>,
    words: Vec<&'static str>,
}

/// Reads a value by `parse`.
pub fn parsed_by<T>(parse: fn(&str) -> Result<T, String>) -> ValueRecorder<T> {
    let words = Vec::new();
    ValueRecorder { parse, words }
}

impl<T: Clone + Send + Sync + 'static> TypedValueParser for ValueRecorder<T> {
    type Value = RawValue<T>;

    fn parse_ref(
        &self,
        _command: &Command,
        argument: Option<&Arg>,
        value: &OsStr,
    ) -> Result<Self::Value, clap::Error> {
        let text = value.to_string_lossy().into_owned();
        let name = argument.and_then(Arg::get_long).unwrap_or_default();
        Ok(RawValue {
            option: name.to_owned(),
            parsed: (self.parse)(&text),
            text,
        })
    }

    fn possible_values(&self) -> Option<Box<dyn Iterator<Item = PossibleValue> + '_>> {
        let words = self.words.iter().map(PossibleValue::new);
        (!self.words.is_empty()).then(|| Box::new(words) as _)
    }
}

impl<T: FromText> ValueParserFactory for RawValue<T> {
    type Parser = ValueRecorder<T>;

    fn value_parser() -> Self::Parser {
        ValueRecorder {
            parse: T::from_text,
            words: T::words().into_iter().map(|(word, _)| word).collect(),
        }
    }
}

impl FromText for bool {
    fn from_text(text: &str) -> Result<Self, String> {
        values::boolean(text)
    }

    fn words() -> Vec<(&'static str, Self)> {
        vec![("true", true), ("false", false)]
    }
}

impl FromText for String {
    fn from_text(text: &str) -> Result<Self, String> {
        Ok(text.to_owned())
    }
}

impl FromText for PathBuf {
    fn from_text(text: &str) -> Result<Self, String> {
        Ok(Self::from(text))
    }
}

/// A file; the empty text: none.
impl FromText for Option<PathBuf> {
    fn from_text(text: &str) -> Result<Self, String> {
        Ok((!text.is_empty()).then(|| text.into()))
    }
}

impl FromText for Duration {
    fn from_text(text: &str) -> Result<Self, String> {
        values::duration(text)
    }
}

impl FromText for Option<SocketAddr> {
    fn from_text(text: &str) -> Result<Self, String> {
        values::address(text)
    }
}
