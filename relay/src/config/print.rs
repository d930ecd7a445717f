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
            match values::boolean(last) {
                Ok(on) if options::is_switch(option) => on.to_string(),
                _ => scalar(last),
            }
        }
    };
    text + &format!("{name}: {value}\n")
}

/// Double-quoted, so that no text is taken for another type. JSON's strings are YAML's.
fn scalar(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}
