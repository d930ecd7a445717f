//! The effective configuration as YAML: every option with its value, its origin and what it means.

use super::{
    Raw,
    options::{self, CONFIG},
    origin::Origin,
};
use crate::values;
use clap::{Arg, ArgAction};

/// What `--print-config` prints. Options that add up are lists.
#[must_use]
pub fn yaml(raw: &Raw) -> String {
    let command = options::command();
    let options = command.get_arguments();
    options
        .filter(|option| options::name(option) != CONFIG)
        .map(|option| entry(option, raw))
        .collect()
}

/// An option that was given and is not as by default.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChangedOption {
    /// Its name, without dashes.
    pub name: String,
    /// Its value.
    pub value: String,
    /// Where it was typed.
    pub origin: Origin,
}

/// The options that are not as by default, in the order of the help; those that add up once for each time given.
#[must_use]
pub fn changed(raw: &Raw) -> Vec<ChangedOption> {
    let command = options::command();
    let options = command.get_arguments();
    let options = options.filter(|option| options::name(option) != CONFIG);
    options.flat_map(|option| changes(option, raw)).collect()
}

fn changes(option: &Arg, raw: &Raw) -> Vec<ChangedOption> {
    let name = options::name(option);
    let given = raw.given(name);
    let counting = match option.get_action() {
        ArgAction::Append => given,
        _ => given.last().map_or(&[][..], std::slice::from_ref),
    };
    let defaults = option.get_default_values();
    counting
        .iter()
        .map(|(text, origin)| ChangedOption {
            name: name.to_owned(),
            value: plain(option, text),
            origin: origin.clone(),
        })
        .filter(|changed| defaults.iter().all(|text| *text != *changed.value))
        .collect()
}

/// The text of a value; of a switch always `true` or `false`.
fn plain(option: &Arg, text: &str) -> String {
    match values::boolean(text) {
        Ok(on) if options::is_switch(option) => on.to_string(),
        _ => text.to_owned(),
    }
}

fn entry(option: &Arg, raw: &Raw) -> String {
    let name = options::name(option);
    let help = option.get_help().map(ToString::to_string);
    let mut text = format!("# {}\n", help.unwrap_or_default());
    let origin = raw.origin(name);
    if origin != Origin::Default {
        text += &format!("# from: {origin}\n");
    }
    let defaults = option.get_default_values().iter();
    let mut texts: Vec<String> = defaults
        .map(|default| default.to_string_lossy().into_owned())
        .collect();
    texts.extend(raw.given(name).iter().map(|(text, _)| text.clone()));
    let value = match option.get_action() {
        // What is given adds to the default.
        ArgAction::Append => {
            let texts: Vec<String> = texts.iter().map(|text| scalar(text)).collect();
            format!("[{}]", texts.join(", "))
        }
        _ => {
            let last = texts.last().map_or("", String::as_str);
            let plain = plain(option, last);
            if options::is_switch(option) {
                plain
            } else {
                scalar(&plain)
            }
        }
    };
    text + &format!("{name}: {value}\n")
}

/// Double-quoted, so that no text is taken for another type. JSON's strings are YAML's.
fn scalar(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli;
    use std::ffi::OsString;

    #[test]
    fn options_that_are_not_as_by_default_are_listed_with_their_origin() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("options.conf");
        std::fs::write(&file, "policy = static\npin-memory = yes\nrebalance = on\n").unwrap();
        let config = format!("--config={}", file.display());
        let words = [
            "cri-resmgr",
            &config,
            "--rebalance=off",
            "--fail-policy=batch=pass",
            "--fail-policy=*/BestEffort=pass",
            "--drain-timeout=10s",
        ];
        let raw = cli::parse(words.map(OsString::from)).unwrap().raw;
        let changed = changed(&raw);
        let lines = changed.iter().map(|option| {
            let origin = option.origin.to_string();
            let origin = origin.replace(&*file.to_string_lossy(), "FILE");
            format!("{}={} {origin}", option.name, option.value)
        });
        assert_eq!(
            lines.collect::<Vec<_>>(),
            [
                "policy=static FILE:1",
                "pin-memory=true FILE:2",
                "fail-policy=batch=pass command line",
                "fail-policy=*/BestEffort=pass command line",
            ]
        );
    }
}
