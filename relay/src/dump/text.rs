//! Lines for people: JSON values as YAML, and the head lines of each event.

use super::record::{Body, Kinded, Record, What};
use serde_json::Value;

/// Writes a value as YAML in block style, without a newline at the end.
#[must_use]
pub fn yaml(value: &Value) -> String {
    let mut out = String::new();
    block(&mut out, value, 0);
    while out.ends_with('\n') {
        out.pop();
    }
    out
}

fn block(out: &mut String, value: &Value, indent: usize) {
    match value {
        Value::Object(fields) if !fields.is_empty() => {
            for (name, field) in fields {
                spaces(out, indent);
                scalar_text(out, name);
                out.push(':');
                nested(out, field, indent, false);
            }
        }
        Value::Array(items) if !items.is_empty() => {
            for item in items {
                spaces(out, indent);
                out.push('-');
                nested(out, item, indent, true);
            }
        }
        other => {
            scalar(out, other);
            out.push('\n');
        }
    }
}

/// What comes behind `name:` or `-`.
fn nested(out: &mut String, value: &Value, indent: usize, in_list: bool) {
    match value {
        Value::Object(fields) if !fields.is_empty() => {
            if in_list {
                // The first field goes on the line of the dash.
                let start = out.len();
                block(out, value, indent + 2);
                out.replace_range(start..start + indent + 2, " ");
            } else {
                out.push('\n');
                block(out, value, indent + 2);
            }
        }
        Value::Array(items) if !items.is_empty() => {
            out.push('\n');
            block(out, value, if in_list { indent + 2 } else { indent });
        }
        other => {
            out.push(' ');
            scalar(out, other);
            out.push('\n');
        }
    }
}

fn spaces(out: &mut String, count: usize) {
    out.extend(std::iter::repeat_n(' ', count));
}

fn scalar(out: &mut String, value: &Value) {
    match value {
        Value::String(text) => scalar_text(out, text),
        Value::Null => out.push_str("null"),
        other => *out += &other.to_string(),
    }
}

/// A text, quoted when YAML would take it for something else.
fn scalar_text(out: &mut String, text: &str) {
    if is_plain(text.as_bytes()) {
        out.push_str(text);
    } else {
        // A JSON string is a YAML string.
        *out += &Value::from(text).to_string();
    }
}

/// As the scalar texts of [`yaml`].
pub(super) fn put_scalar(out: &mut Vec<u8>, text: &str) {
    if is_plain(text.as_bytes()) {
        out.extend_from_slice(text.as_bytes());
    } else {
        // A text is always valid JSON, and memory takes all of it.
        serde_json::to_writer(out, text).ok();
    }
}

/// As [`put_scalar`]; `None` when the octets are no text.
pub(super) fn put_octets(out: &mut Vec<u8>, octets: &[u8]) -> Option<()> {
    if is_plain(octets) {
        out.extend_from_slice(octets);
    } else if octets
        .iter()
        .fold(true, |all, octet| all & needs_no_escape(*octet))
    {
        out.push(b'"');
        out.extend_from_slice(octets);
        out.push(b'"');
    } else {
        serde_json::to_writer(out, std::str::from_utf8(octets).ok()?).ok()?;
    }
    Some(())
}

/// Whether JSON has the octet as it stands. Rather no than yes: the slow way knows better.
fn needs_no_escape(octet: u8) -> bool {
    matches!(octet, b' '..=b'~') & (octet != b'"') & (octet != b'\\')
}

/// Puts the first `len` octets of `from`. Short ones that are followed by enough others go by a copy of
/// fixed length, whose surplus is taken back: far quicker, and most lines and names are short.
#[inline]
pub(super) fn put_start<const N: usize>(out: &mut Vec<u8>, from: &[u8], len: usize) {
    match from.first_chunk::<N>() {
        Some(chunk) if len <= N => {
            let end = out.len() + len;
            out.extend_from_slice(chunk);
            out.truncate(end);
        }
        _ => out.extend_from_slice(from.get(..len).unwrap_or_default()),
    }
}

/// Whether YAML takes the text for a text as it stands.
fn is_plain(text: &[u8]) -> bool {
    const WORDS: [&[u8]; 9] = [
        b"true", b"false", b"null", b"yes", b"no", b"on", b"off", b"y", b"n",
    ];
    text.first()
        .is_some_and(|first| first.is_ascii_alphabetic() || matches!(first, b'/' | b'_'))
        && text
            .iter()
            .fold(true, |all, octet| all & means_nothing(*octet))
        && !(text.len() <= 5 && WORDS.iter().any(|word| text.eq_ignore_ascii_case(word)))
}

/// Whether the octet means nothing to YAML: letters, digits and `_-./@+=,`. Without branches, so that many
/// are judged at once.
fn means_nothing(octet: u8) -> bool {
    matches!(octet, b'+'..=b'9')
        | matches!(octet, b'@'..=b'Z')
        | octet.is_ascii_lowercase()
        | (octet == b'_')
        | (octet == b'=')
}

/// An event as lines, each ended by a newline: for the log without stamps, for the file with.
pub(super) fn lines(record: &Record, stamp: Option<&str>) -> String {
    let mut out = String::new();
    let prefix = stamp.map_or(String::new(), |stamp| format!("[{stamp}] "));
    let pad = if stamp.is_some() { "   " } else { "    " };
    let kind = record.kind.word();
    let method = &record.method;
    let seq = record.seq;
    let head = |word: &str| format!("{prefix}({kind}) {word} {method} #{seq}");
    match &record.what {
        What::Request(body) => blocks(
            &mut out,
            &head("REQUEST"),
            &prefix,
            pad,
            method,
            "=>",
            body,
            "",
        ),
        What::Rewritten(body) => {
            blocks(
                &mut out,
                &head("REWRITTEN"),
                &prefix,
                pad,
                method,
                "~>",
                body,
                "",
            );
        }
        What::Reply(body) => {
            let size = match (stamp, body) {
                (Some(_), Body::Decoded(text)) => format!(" ({} bytes as yaml)", text.len()),
                _ => String::new(),
            };
            blocks(
                &mut out,
                &head("REPLY"),
                &prefix,
                pad,
                method,
                "<=",
                body,
                &size,
            );
        }
        What::Failed(error) => {
            out += &format!("{}\n", head("FAILED"));
            let pad = if stamp.is_some() { " " } else { "  " };
            for line in error.lines() {
                out += &format!("{prefix}{pad}{method} <= {line}\n");
            }
        }
        What::Named { failed: false } => out += &format!("{}\n", head("REQUEST")),
        What::Named { failed: true } => out += &format!("{}\n", head("FAILED")),
        What::Count { calls, all, rate } => {
            out += &format!(
                "{prefix}({kind}) REQUEST: {method} #{calls}, {all} total, {rate:.2}/s calls\n"
            );
        }
        What::Told(body) => blocks(
            &mut out,
            &head("EVENT"),
            &prefix,
            pad,
            method,
            "::",
            body,
            "",
        ),
        What::Ended => {}
    }
    out
}

#[expect(
    clippy::too_many_arguments,
    reason = "the pieces of one line, in order"
)]
fn blocks(
    out: &mut String,
    head: &str,
    prefix: &str,
    pad: &str,
    method: &str,
    arrow: &str,
    body: &Body,
    size: &str,
) {
    let text = match body {
        Body::Decoded(text) => text.as_str(),
        Body::Opaque(bytes) => {
            return *out += &format!("{head} {arrow} ({bytes} bytes, not decoded)\n");
        }
        Body::TooLong { bytes, limit } => {
            return *out +=
                &format!("{head} {arrow} ({bytes} bytes, left out: more than {limit} bytes)\n");
        }
    };
    if !text.contains('\n') {
        *out += &format!("{head} {arrow} {text}{size}\n");
        return;
    }
    out.reserve(text.len() * 2);
    *out += &format!("{head}{size}\n");
    for line in text.split('\n') {
        for part in [prefix, pad, method, " ", arrow, " ", line, "\n"] {
            out.push_str(part);
        }
    }
}

/// An event with a body, to be written as [`lines`] would.
#[derive(Debug)]
pub(super) struct Block<'a> {
    pub(super) kind: crate::cri::observe::Kind,
    pub(super) word: &'static str,
    pub(super) method: &'a str,
    pub(super) seq: u64,
    pub(super) arrow: &'static str,
    /// The body; ends with a newline.
    pub(super) yaml: &'a [u8],
    /// Where its lines end.
    pub(super) ends: &'a [usize],
}

impl Block<'_> {
    /// Writes it, `prefix` in front of each line: for the file or for the log.
    pub(super) fn put(&self, out: &mut Vec<u8>, prefix: &[u8], file: bool) {
        let yaml = self.yaml.strip_suffix(b"\n").unwrap_or(self.yaml);
        let seq = self.seq.to_string();
        let words = [
            "(",
            self.kind.word(),
            ") ",
            self.word,
            " ",
            self.method,
            " #",
            &seq,
        ];
        out.extend_from_slice(prefix);
        for word in words {
            out.extend_from_slice(word.as_bytes());
        }
        let size = if file && self.word == "REPLY" {
            format!(" ({} bytes as yaml)\n", yaml.len())
        } else {
            "\n".to_owned()
        };
        if self.ends.len() < 2 {
            for part in [b" ", self.arrow.as_bytes(), b" ", yaml, size.as_bytes()] {
                out.extend_from_slice(part);
            }
            return;
        }
        out.extend_from_slice(size.as_bytes());
        let pad: &[u8] = if file { b"   " } else { b"    " };
        let parts = [
            prefix,
            pad,
            self.method.as_bytes(),
            b" ",
            self.arrow.as_bytes(),
            b" ",
        ];
        let mut head = parts.concat();
        let length = head.len();
        head.resize(length.max(SHORT), 0);
        out.reserve(self.yaml.len() + self.ends.len() * length + SHORT);
        let mut begin = 0;
        for &end in self.ends {
            put_start::<SHORT>(out, &head, length);
            let rest = self.yaml.get(begin..).unwrap_or_default();
            put_start::<SHORT>(out, rest, end - begin);
            begin = end;
        }
    }
}

/// Octets that most lines, and most beginnings of lines, do not exceed.
const SHORT: usize = 64;

/// Differences of two messages, a line each: `path: old -> new`.
#[must_use]
pub fn difference(before: &Value, after: &Value) -> String {
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
            let show = |value: Option<&Value>| value.map_or("-".to_owned(), Value::to_string);
            lines.push(format!("{path}: {} -> {}", show(before), show(after)));
        }
    }
}

impl Kinded for crate::cri::observe::Kind {
    fn word(self) -> &'static str {
        match self {
            Self::Intercepted => "intercepted",
            Self::Passthrough => "passthrough",
            Self::Own => "own",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cri::observe::Kind;
    use proptest::prelude::*;
    use serde_json::json;

    #[test]
    fn values_are_written_as_yaml() {
        let value = json!({
            "config": {"metadata": {"name": "db", "attempt": 1}, "args": ["-c", "sleep 1"]},
            "envs": [{"key": "A", "value": "true"}, {"key": "B", "value": ""}],
            "empty": {}, "none": [], "nested": [[1, 2]]
        });
        assert_eq!(
            yaml(&value),
            "config:\n  args:\n  - \"-c\"\n  - \"sleep 1\"\n  metadata:\n    attempt: 1\n    name: db\n\
             empty: {}\nenvs:\n- key: A\n  value: \"true\"\n- key: B\n  value: \"\"\nnested:\n-\n  - 1\n  - 2\nnone: []"
        );
        assert_eq!(yaml(&json!({})), "{}");
    }

    fn record(what: What) -> Record {
        Record::test(Kind::Intercepted, "CreateContainer", 7, what)
    }

    #[test]
    fn log_lines_have_the_documented_form() {
        let body = |text: &str| Body::Decoded(text.to_owned());
        for (what, expected) in [
            (
                What::Request(body("a: 1\nb: 2")),
                "(intercepted) REQUEST CreateContainer #7\n    CreateContainer => a: 1\n    CreateContainer => b: 2\n",
            ),
            (
                What::Request(body("{}")),
                "(intercepted) REQUEST CreateContainer #7 => {}\n",
            ),
            (
                What::Rewritten(body("a: 1 -> 2")),
                "(intercepted) REWRITTEN CreateContainer #7 ~> a: 1 -> 2\n",
            ),
            (
                What::Reply(body("a: 1\nb: 2")),
                "(intercepted) REPLY CreateContainer #7\n    CreateContainer <= a: 1\n    CreateContainer <= b: 2\n",
            ),
            (
                What::Reply(Body::Opaque(3)),
                "(intercepted) REPLY CreateContainer #7 <= (3 bytes, not decoded)\n",
            ),
            (
                What::Request(Body::TooLong { bytes: 9, limit: 4 }),
                "(intercepted) REQUEST CreateContainer #7 => (9 bytes, left out: more than 4 bytes)\n",
            ),
            (
                What::Failed("no".to_owned()),
                "(intercepted) FAILED CreateContainer #7\n  CreateContainer <= no\n",
            ),
            (
                What::Named { failed: false },
                "(intercepted) REQUEST CreateContainer #7\n",
            ),
            (
                What::Count {
                    calls: 3,
                    all: 5,
                    rate: 1.5,
                },
                "(intercepted) REQUEST: CreateContainer #3, 5 total, 1.50/s calls\n",
            ),
        ] {
            assert_eq!(lines(&record(what), None), expected);
        }
    }

    #[test]
    fn file_lines_carry_the_stamp_on_each_line() {
        let reply = record(What::Reply(Body::Decoded("a: 1\nb: 2".to_owned())));
        assert_eq!(
            lines(&reply, Some("+0.1")),
            "[+0.1] (intercepted) REPLY CreateContainer #7 (9 bytes as yaml)\n\
             [+0.1]    CreateContainer <= a: 1\n[+0.1]    CreateContainer <= b: 2\n"
        );
        let failed = record(What::Failed("no".to_owned()));
        assert_eq!(
            lines(&failed, Some("+0.1")),
            "[+0.1] (intercepted) FAILED CreateContainer #7\n[+0.1]  CreateContainer <= no\n"
        );
    }

    #[test]
    fn a_block_is_written_as_its_record_is() {
        let long = format!(
            "a: {}\nb: {}\nc: 3",
            "x".repeat(SHORT - 4),
            "y".repeat(SHORT)
        );
        for yaml in ["{}", "a: 1\nb: 2", "a:\n- 1\n- 2", &long] {
            let text = format!("{yaml}\n");
            let body = Body::Decoded(yaml.to_owned());
            for (what, word, arrow) in [
                (What::Request(body.clone()), "REQUEST", "=>"),
                (What::Reply(body), "REPLY", "<="),
            ] {
                let record = record(what);
                let block = Block {
                    kind: record.kind,
                    word,
                    method: &record.method,
                    seq: record.seq,
                    arrow,
                    yaml: text.as_bytes(),
                    ends: &memchr::memchr_iter(b'\n', text.as_bytes())
                        .map(|end| end + 1)
                        .collect::<Vec<_>>(),
                };
                for stamp in [None, Some("+0.1")] {
                    let mut out = Vec::new();
                    let prefix = stamp.map_or(String::new(), |stamp| format!("[{stamp}] "));
                    block.put(&mut out, prefix.as_bytes(), stamp.is_some());
                    assert_eq!(String::from_utf8(out).unwrap(), lines(&record, stamp));
                }
            }
        }
    }

    #[test]
    fn a_rewrite_is_shown_as_what_changed() {
        let before = json!({"a": {"b": "", "c": 1}, "l": [1]});
        let after = json!({"a": {"b": "0-1", "c": 1, "d": {"e": 2}}, "l": [1, 2]});
        assert_eq!(
            difference(&before, &after),
            "a.b: \"\" -> \"0-1\"\na.d.e: - -> 2\nl[1]: - -> 2"
        );
    }

    fn any_json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            "\\PC{0,8}".prop_map(Value::from),
            "[a-z:#' -]{0,6}\n?[a-z]{0,2}".prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 32, 4, |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                proptest::collection::btree_map("[a-z0-9:. -]{1,6}", inner, 0..4)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn what_is_written_reads_back_as_the_same_value(value in any_json()) {
            let read: Value = serde_yaml::from_str(&yaml(&value)).unwrap();
            prop_assert_eq!(read, value);
        }
    }
}
