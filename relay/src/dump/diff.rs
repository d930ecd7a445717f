//! What a hook changed in a request.

use serde_json::Value;

/// Differences of two messages, a line each: `path: old -> new`.
pub(super) fn changes(before: &Value, after: &Value) -> String {
    let mut lines = Vec::new();
    compare(&mut lines, String::new(), Some(before), Some(after));
    lines.join("\n")
}

fn compare(lines: &mut Vec<String>, path: String, before: Option<&Value>, after: Option<&Value>) {
    let below = |name: &str| {
        if path.is_empty() {
            name.to_owned()
        } else {
            format!("{path}.{name}")
        }
    };
    match (before, after) {
        (before, after) if before == after => {}
        (Some(Value::Object(old)), Some(Value::Object(new))) => {
            for name in old.keys() {
                compare(lines, below(name), old.get(name), new.get(name));
            }
            for name in new.keys().filter(|name| !old.contains_key(*name)) {
                compare(lines, below(name), None, new.get(name));
            }
        }
        (None, Some(Value::Object(new))) if !new.is_empty() => {
            for name in new.keys() {
                compare(lines, below(name), None, new.get(name));
            }
        }
        (Some(Value::Array(old)), Some(Value::Array(new))) => {
            for index in 0..old.len().max(new.len()) {
                compare(
                    lines,
                    format!("{path}[{index}]"),
                    old.get(index),
                    new.get(index),
                );
            }
        }
        (before, after) => {
            let print = |value: Option<&Value>| value.map_or("-".to_owned(), Value::to_string);
            lines.push(format!("{path}: {} -> {}", print(before), print(after)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_rewrite_is_shown_as_what_changed() {
        let before = json!({"a": {"b": "", "c": 1}, "l": [1]});
        let after = json!({"a": {"b": "0-1", "c": 1, "d": {"e": 2}}, "l": [1, 2]});
        assert_eq!(
            changes(&before, &after),
            "a.b: \"\" -> \"0-1\"\na.d.e: - -> 2\nl[1]: - -> 2"
        );
    }
}
