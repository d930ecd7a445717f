//! YAML in block style: the one form of bodies for people.
//!
//! A JSON value is a YAML value; what differs is how it is laid out. So this is a formatter of `serde_json`'s
//! serializer: whatever serializes can be written.

use serde::Serialize;
use serde_json::{
    Serializer,
    ser::{CharEscape, CompactFormatter, Formatter},
};
use std::io;

/// Writes a value, each line ended by a newline, in place of what is in `out`.
///
/// # Errors
/// That of the value, when it cannot be serialized.
pub(super) fn write(out: &mut Vec<u8>, value: &impl Serialize) -> serde_json::Result<()> {
    out.clear();
    let block = Block {
        out,
        indent: 0,
        behind: Behind::Nothing,
        outer: Vec::new(),
        empty: false,
        name: false,
        text: 0,
        escaped: false,
    };
    value.serialize(&mut Serializer::with_formatter(io::sink(), block))
}

/// Lays out one value. It writes into its own buffer and nothing to the serializer's writer, for whether a text
/// needs quotes is known only when all of it is there.
#[derive(Debug)]
struct Block<'a> {
    out: &'a mut Vec<u8>,
    /// Of the lines of the innermost list or map.
    indent: usize,
    /// What stands on the line before the value to come.
    behind: Behind,
    /// The same two of the maps and lists that are not complete.
    outer: Vec<(usize, Behind)>,
    /// Whether nothing of the innermost list or map is written yet.
    empty: bool,
    /// Whether the text to come is the name of an entry.
    name: bool,
    /// Where the text being written begins, and whether anything in it had to be escaped.
    text: usize,
    escaped: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Behind {
    #[default]
    Nothing,
    /// `name:`
    Name,
    /// `-`
    Dash,
}

impl Block<'_> {
    /// What stands between the beginning of a line and a value on it.
    fn begin_scalar(&mut self) {
        if self.behind != Behind::Nothing {
            self.out.push(b' ');
        }
    }

    fn begin(&mut self) {
        self.outer.push((self.indent, self.behind));
        self.empty = true;
    }

    fn end(&mut self, nothing: &[u8]) {
        (self.indent, self.behind) = self.outer.pop().unwrap_or_default();
        if std::mem::take(&mut self.empty) {
            self.begin_scalar();
            self.out.extend_from_slice(nothing);
        }
    }

    fn indent(&mut self) {
        self.out.resize(self.out.len() + self.indent, b' ');
    }
}

/// Scalars but texts are as in JSON.
macro_rules! as_in_json {
    ($($write:ident($($value:ident: $type:ty)?),)*) => {
        $(fn $write<W: ?Sized>(&mut self, _: &mut W $(, $value: $type)?) -> io::Result<()> {
            self.begin_scalar();
            CompactFormatter.$write(self.out $(, $value)?)?;
            self.out.push(b'\n');
            Ok(())
        })*
    };
}

impl Formatter for Block<'_> {
    as_in_json! {
        write_null(),
        write_bool(value: bool),
        write_i8(value: i8),
        write_i16(value: i16),
        write_i32(value: i32),
        write_i64(value: i64),
        write_u8(value: u8),
        write_u16(value: u16),
        write_u32(value: u32),
        write_u64(value: u64),
        write_f32(value: f32),
        write_f64(value: f64),
    }

    fn begin_object<W: ?Sized>(&mut self, _: &mut W) -> io::Result<()> {
        self.begin();
        Ok(())
    }

    fn begin_object_key<W: ?Sized>(&mut self, _: &mut W, first: bool) -> io::Result<()> {
        self.name = true;
        if first {
            self.empty = false;
            match self.behind {
                Behind::Nothing => {}
                Behind::Name => {
                    self.indent += 2;
                    self.out.push(b'\n');
                }
                // The first entry stands on the line of the dash.
                Behind::Dash => {
                    self.indent += 2;
                    self.out.push(b' ');
                    return Ok(());
                }
            }
        }
        self.indent();
        Ok(())
    }

    fn end_object_key<W: ?Sized>(&mut self, _: &mut W) -> io::Result<()> {
        self.name = false;
        self.out.push(b':');
        Ok(())
    }

    fn begin_object_value<W: ?Sized>(&mut self, _: &mut W) -> io::Result<()> {
        self.behind = Behind::Name;
        Ok(())
    }

    fn end_object<W: ?Sized>(&mut self, _: &mut W) -> io::Result<()> {
        self.end(b"{}\n");
        Ok(())
    }

    fn begin_array<W: ?Sized>(&mut self, _: &mut W) -> io::Result<()> {
        self.begin();
        Ok(())
    }

    fn begin_array_value<W: ?Sized>(&mut self, _: &mut W, first: bool) -> io::Result<()> {
        if first {
            self.empty = false;
            if self.behind == Behind::Dash {
                self.indent += 2;
            }
            if self.behind != Behind::Nothing {
                self.out.push(b'\n');
            }
        }
        self.indent();
        self.behind = Behind::Dash;
        self.out.push(b'-');
        Ok(())
    }

    fn end_array<W: ?Sized>(&mut self, _: &mut W) -> io::Result<()> {
        self.end(b"[]\n");
        Ok(())
    }

    fn begin_string<W: ?Sized>(&mut self, _: &mut W) -> io::Result<()> {
        if !self.name {
            self.begin_scalar();
        }
        self.text = self.out.len();
        self.escaped = false;
        Ok(())
    }

    fn write_string_fragment<W: ?Sized>(&mut self, _: &mut W, fragment: &str) -> io::Result<()> {
        self.out.extend_from_slice(fragment.as_bytes());
        Ok(())
    }

    fn write_char_escape<W: ?Sized>(&mut self, _: &mut W, escape: CharEscape) -> io::Result<()> {
        self.escaped = true;
        CompactFormatter.write_char_escape(self.out, escape)
    }

    fn end_string<W: ?Sized>(&mut self, _: &mut W) -> io::Result<()> {
        let text = self.out.get(self.text..).unwrap_or_default();
        if self.escaped || !is_plain(text) {
            // A JSON string is a YAML string.
            self.out.insert(self.text, b'"');
            self.out.push(b'"');
        }
        if !self.name {
            self.out.push(b'\n');
        }
        Ok(())
    }
}

/// Whether YAML takes the text for a text as it stands.
fn is_plain(text: &[u8]) -> bool {
    const WORDS: [&[u8]; 9] = [
        b"true", b"false", b"null", b"yes", b"no", b"on", b"off", b"y", b"n",
    ];
    text.first()
        .is_some_and(|first| first.is_ascii_alphabetic() || matches!(first, b'/' | b'_'))
        && text.iter().all(|octet| {
            // `_-./@+=,`, letters and digits mean nothing to YAML.
            matches!(octet, b'+'..=b'9' | b'@'..=b'Z' | b'a'..=b'z' | b'_' | b'=')
        })
        && !(text.len() <= 5 && WORDS.iter().any(|word| text.eq_ignore_ascii_case(word)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::{Value, json};

    fn yaml(value: &Value) -> String {
        let mut out = b"gone".to_vec();
        write(&mut out, value).unwrap();
        String::from_utf8(out).unwrap()
    }

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
             empty: {}\nenvs:\n- key: A\n  value: \"true\"\n- key: B\n  value: \"\"\nnested:\n-\n  - 1\n  - 2\nnone: []\n"
        );
        assert_eq!(yaml(&json!({})), "{}\n");
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
