//! The effective configuration as YAML: every option with its value, its origin and what it means.

use super::{Raw, raw::Origin};
use crate::cli::options::Kind;

/// What `--print-config` prints. Options that add up are lists.
#[must_use]
pub fn yaml(raw: &Raw) -> String {
    let mut text = String::new();
    for option in Raw::options() {
        text += &format!("# {}\n", option.help);
        let last = raw.last(option.name);
        if last.origin != Origin::Default {
            text += &format!("# from: {}\n", last.origin);
        }
        let value = match option.kind {
            Kind::Many => {
                // What is given adds to the default.
                let built_in = Some(option.default).filter(|text| !text.is_empty());
                let given = raw.all(option.name).iter().map(|value| value.text.as_str());
                scalar_list(built_in.into_iter().chain(given))
            }
            Kind::Switch if super::values::boolean(&last.text).is_ok() => {
                super::values::boolean(&last.text)
                    .unwrap_or_default()
                    .to_string()
            }
            _ => scalar(&last.text),
        };
        text += &format!("{}: {value}\n", option.name);
    }
    text
}

/// Double-quoted, so that no text is taken for another type. JSON's strings are YAML's.
fn scalar(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

fn scalar_list<'a>(texts: impl Iterator<Item = &'a str>) -> String {
    format!("[{}]", texts.map(scalar).collect::<Vec<_>>().join(", "))
}
