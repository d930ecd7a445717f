//! Reads YAML mappings key by key and collects everything wrong on the way.

use crate::{
    config::{Problem, Problems, origin::Origin},
    suggest, values,
};
use serde_yaml::{Mapping, Value};

/// Problems of a document, all from one origin.
#[derive(Debug)]
pub(in crate::config) struct Report {
    pub(in crate::config) origin: Origin,
    pub(in crate::config) problems: Vec<Problem>,
    /// What is accepted and has no effect.
    pub(in crate::config) notes: Vec<String>,
}

impl Report {
    pub(in crate::config) fn new(origin: Origin) -> Self {
        Self {
            origin,
            problems: Vec::new(),
            notes: Vec::new(),
        }
    }

    pub(in crate::config) fn problem(&mut self, key: &str, value: &str, message: &str) {
        self.problems.push(Problem {
            key: key.to_owned(),
            value: value.to_owned(),
            origin: self.origin.clone(),
            message: message.to_owned(),
        });
    }

    /// A YAML text that must be a mapping (or empty).
    pub(in crate::config) fn parse(&mut self, path: &str, text: &str) -> Option<Section> {
        match serde_yaml::from_str(text) {
            Ok(value) => Section::new(self, path, value),
            Err(error) => {
                self.problem(path, "", &format!("not YAML: {error}"));
                None
            }
        }
    }

    pub(in crate::config) fn result<T>(self, value: T) -> Result<T, Problems> {
        if self.problems.is_empty() {
            Ok(value)
        } else {
            Err(Problems(self.problems))
        }
    }
}

/// A mapping being read: keys are taken out until none may be left.
#[derive(Debug)]
pub(in crate::config) struct Section {
    path: String,
    map: Mapping,
}

impl Section {
    pub(in crate::config) fn new(report: &mut Report, path: &str, value: Value) -> Option<Self> {
        match value {
            Value::Mapping(map) => Some(Self {
                path: path.to_owned(),
                map,
            }),
            Value::Null => Some(Self {
                path: path.to_owned(),
                map: Mapping::new(),
            }),
            _ => {
                report.problem(path, "", "expected fields, NAME: VALUE");
                None
            }
        }
    }

    /// The path of a field.
    pub(in crate::config) fn at(&self, key: &str) -> String {
        if self.path.is_empty() {
            key.to_owned()
        } else {
            format!("{}.{key}", self.path)
        }
    }

    /// Adds a field that was written outside, with the fields within it behind dots (`ReservedResources.CPU`).
    pub(in crate::config) fn add(&mut self, report: &mut Report, dotted: &str, text: &str) {
        let mut value: Value = match serde_yaml::from_str(text) {
            Ok(value) => value,
            Err(error) => {
                report.problem(&self.at(dotted), "", &format!("not YAML: {error}"));
                return;
            }
        };
        let (field, within) = dotted.split_once('.').unwrap_or((dotted, ""));
        for name in within.rsplit('.').filter(|name| !name.is_empty()) {
            value = Value::Mapping([(name.into(), value)].into_iter().collect());
        }
        if self.find(field).is_some() {
            report.problem(&self.at(field), "", "is given twice; give it once");
        }
        self.map.insert(field.into(), value);
    }

    fn find(&self, key: &str) -> Option<&Value> {
        let mut names = self.map.keys();
        let same = |name: &&Value| {
            let name = name.as_str();
            name.is_some_and(|name| name.eq_ignore_ascii_case(key))
        };
        names.find(same)
    }

    /// Whether a field is there and has YAML's null as value.
    pub(in crate::config) fn is_null(&self, key: &str) -> bool {
        let value = self.find(key).and_then(|name| self.map.get(name));
        value.is_some_and(Value::is_null)
    }

    /// Takes a field out; capitals do not matter.
    pub(in crate::config) fn take(&mut self, key: &str) -> Option<Value> {
        let found = self.find(key)?.clone();
        self.map.shift_remove(&found)
    }

    /// Takes out a field that is a text, a number or a switch, as text.
    pub(in crate::config) fn text(&mut self, report: &mut Report, key: &str) -> Option<String> {
        match self.take(key)? {
            Value::String(text) => Some(text),
            Value::Number(number) => Some(number.to_string()),
            Value::Bool(on) => Some(on.to_string()),
            Value::Null => None,
            _ => {
                report.problem(&self.at(key), "", "expected a single value");
                None
            }
        }
    }

    /// Takes out a field that is a text or a list of them.
    pub(in crate::config) fn texts(
        &mut self,
        report: &mut Report,
        key: &str,
    ) -> Option<Vec<String>> {
        match self.take(key)? {
            Value::Null => None,
            Value::String(text) => Some(vec![text]),
            Value::Sequence(items) => {
                let texts: Vec<String> = items
                    .iter()
                    .filter_map(|item| item.as_str().map(str::to_owned))
                    .collect();
                if texts.len() < items.len() {
                    report.problem(&self.at(key), "", "expected a list of texts");
                }
                Some(texts)
            }
            _ => {
                report.problem(&self.at(key), "", "expected a text or a list of texts");
                None
            }
        }
    }

    /// Takes out a switch.
    pub(in crate::config) fn boolean(&mut self, report: &mut Report, key: &str) -> Option<bool> {
        self.parsed(report, key, values::boolean)
    }

    /// Takes out a single value and parses it.
    pub(in crate::config) fn parsed<T, E: std::fmt::Display>(
        &mut self,
        report: &mut Report,
        key: &str,
        parse: impl FnOnce(&str) -> Result<T, E>,
    ) -> Option<T> {
        let text = self.text(report, key)?;
        parse(&text)
            .map_err(|error| report.problem(&self.at(key), &text, &error.to_string()))
            .ok()
    }

    /// Takes out and notes fields that are known and have no effect; what has, stands beside each.
    pub(in crate::config) fn without_effect(
        &mut self,
        report: &mut Report,
        known: &[(&str, &str)],
    ) {
        for (key, option) in known {
            if self.take(key).is_some() {
                let instead = match *option {
                    "" => String::new(),
                    option => format!(": it can only be given at start, with {option}"),
                };
                let note = format!("{} has no effect{instead}", self.at(key));
                report.notes.push(note);
            }
        }
    }

    /// Refuses what is left.
    pub(in crate::config) fn finish(self, report: &mut Report, known: &[&str]) {
        for name in self.map.keys() {
            let typed = match name {
                Value::String(text) => text.clone(),
                name => format!("{name:?}"),
            };
            let fields = format!(" (fields: {})", known.join(", "));
            let hint = suggest::hint(&typed, known.iter().copied(), &fields);
            report.problem(&self.at(&typed), "", &format!("unknown field{hint}"));
        }
    }
}
