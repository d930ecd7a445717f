//! YAML of a message as it is on the wire: neither decoded nor put into a tree.
//!
//! Only for messages with a [`Shape`], and only while they look as every encoder makes them. A field that
//! the shape does not have or that comes in another form, one that comes twice, octets that are no text:
//! the message is then left to the way that decodes, whatever that makes of it.

use super::{Yaml, hide::Hide};
use crate::{
    cri::shape::{Field, Form, Shape},
    dump::{redact, text},
};
use prost::encoding::{WireType, decode_key, decode_varint};
use std::ops::Range;

/// One field of a message on the wire. Small, for they are put in order.
#[derive(Clone, Copy, Debug)]
pub(super) struct Found {
    /// Its place in the shape.
    place: u32,
    /// Where its octets begin, of a field that has octets.
    begin: u32,
    /// How many they are; its value otherwise.
    number: u64,
}

impl Found {
    fn octets(self) -> Option<Range<usize>> {
        let begin = usize::try_from(self.begin).ok()?;
        Some(begin..begin + usize::try_from(self.number).ok()?)
    }
}

/// One entry of a map: where name and value are.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    name: Range<usize>,
    value: Range<usize>,
}

/// A message on its way.
struct Walk<'a> {
    yaml: &'a mut Yaml,
    body: &'a [u8],
}

impl Yaml {
    /// Writes the message; `None` when it is not for this way. What was written is void then.
    pub(in crate::dump) fn read(
        &mut self,
        shape: &Shape,
        body: &[u8],
        secrets: bool,
    ) -> Option<()> {
        self.begin();
        self.found.clear();
        let hide = if secrets { Hide::Nothing } else { Hide::Search };
        let mut walk = Walk { yaml: self, body };
        if !walk.message(shape, 0..body.len(), 0, hide)? {
            walk.yaml.text.extend_from_slice(b"{}");
            walk.newline();
        }
        Some(())
    }
}

impl Walk<'_> {
    /// Writes the fields of a message; whether there were any.
    fn message(
        &mut self,
        shape: &Shape,
        octets: Range<usize>,
        indent: usize,
        hide: Hide,
    ) -> Option<bool> {
        let first = self.yaml.found.len();
        self.find(shape, octets)?;
        let end = self.yaml.found.len();
        let written = self.yaml.text.len();
        let mut at = first;
        while let Some((found, others)) = self.yaml.found.get(at..end)?.split_first() {
            let found = *found;
            let field = shape.fields().get(usize::try_from(found.place).ok()?)?;
            let alike = others.iter().take_while(|next| next.place == found.place);
            let next = at + 1 + alike.count();
            let hide = hide.field(field.name);
            match field.form {
                Form::Texts | Form::Messages(_) => self.list(field, at..next, indent, hide)?,
                Form::Map => self.map(field, at..next, indent, hide)?,
                _ if next > at + 1 => return None,
                _ => self.field(field, found, indent, hide)?,
            }
            at = next;
        }
        self.yaml.found.truncate(first);
        Some(self.yaml.text.len() > written)
    }

    /// Puts the fields of a message behind those that were found, in the order of their names.
    fn find(&mut self, shape: &Shape, octets: Range<usize>) -> Option<()> {
        let first = self.yaml.found.len();
        let mut rest = self.body.get(octets.clone())?;
        while !rest.is_empty() {
            let (number, wire_type) = decode_key(&mut rest).ok()?;
            let place = shape.place(number)?;
            if wire_type != wire_type_of(shape.fields().get(place)?.form) {
                return None;
            }
            let number = decode_varint(&mut rest).ok()?;
            self.yaml.found.push(Found {
                place: u32::try_from(place).ok()?,
                begin: u32::try_from(octets.end - rest.len()).ok()?,
                number,
            });
            if wire_type == WireType::LengthDelimited {
                rest = rest.get(usize::try_from(number).ok()?..)?;
            }
        }
        let found = self.yaml.found.get_mut(first..)?;
        if !found.is_sorted_by_key(|found| found.place) {
            found.sort_by_key(|found| found.place);
        }
        Some(())
    }

    /// Writes a field that a message has at most once.
    fn field(&mut self, field: &Field, found: Found, indent: usize, hide: Hide) -> Option<()> {
        if !hide.searches() {
            return None;
        }
        // The decoded form is truncated likewise.
        let number = match field.form {
            Form::Int32 | Form::Uint32 => found.number & u64::from(u32::MAX),
            _ => found.number,
        };
        if number == 0 && !matches!(field.form, Form::Message(_)) {
            return Some(());
        }
        self.name(field, indent);
        match field.form {
            Form::Message(shape) => {
                self.newline();
                let below = self.yaml.text.len();
                if self.message(shape, found.octets()?, indent + 2, hide)? {
                    return Some(());
                }
                self.yaml.text.truncate(below - 1);
                self.yaml.ends.pop();
                self.yaml.text.extend_from_slice(b" {}");
            }
            Form::Text => {
                self.yaml.text.push(b' ');
                self.text(found.octets()?)?;
            }
            Form::Bool => self.yaml.text.extend_from_slice(b" true"),
            Form::Int32 => self.number(u32::try_from(number).ok()?.cast_signed())?,
            Form::Int64 => self.number(number.cast_signed())?,
            Form::Uint32 | Form::Uint64 => self.number(number)?,
            Form::Texts | Form::Messages(_) | Form::Map => return None,
        }
        self.newline();
        Some(())
    }

    /// Writes a list, of the fields found in `items`.
    fn list(
        &mut self,
        field: &Field,
        items: Range<usize>,
        indent: usize,
        hide: Hide,
    ) -> Option<()> {
        if !hide.searches() {
            return None;
        }
        self.name(field, indent);
        self.newline();
        for item in items {
            let octets = self.yaml.found.get(item)?.octets()?;
            let begin = self.yaml.text.len();
            if let Form::Messages(shape) = field.form
                && self.message(shape, octets.clone(), indent + 2, hide.item())?
            {
                // The first field stands on the line of the dash.
                *self.yaml.text.get_mut(begin + indent)? = b'-';
                continue;
            }
            self.yaml.spaces(indent);
            self.yaml.text.extend_from_slice(b"- ");
            match field.form {
                Form::Texts => self.text(octets)?,
                _ => self.yaml.text.extend_from_slice(b"{}"),
            }
            self.newline();
        }
        Some(())
    }

    /// Writes a map, of the entries found in `items`.
    fn map(&mut self, field: &Field, items: Range<usize>, indent: usize, hide: Hide) -> Option<()> {
        let secret = match hide {
            Hide::Nothing | Hide::Search => None,
            Hide::Entries(safe) => Some(safe),
            _ => return None,
        };
        let body = self.body;
        let mut entries = std::mem::take(&mut self.yaml.entries);
        entries.clear();
        for found in self.yaml.found.get(items)? {
            entries.push(entry(body, found.octets()?)?);
        }
        entries.sort_unstable_by(|a, b| body.get(a.name.clone()).cmp(&body.get(b.name.clone())));
        self.name(field, indent);
        self.newline();
        let mut last = None;
        for entry in &entries {
            let name = body.get(entry.name.clone());
            if last.replace(name) == Some(name) {
                return None;
            }
            self.yaml.spaces(indent + 2);
            self.text(entry.name.clone())?;
            self.yaml.text.extend_from_slice(b": ");
            let begin = self.yaml.text.len();
            self.text(entry.value.clone())?;
            let known = |safe| name.is_some_and(|name| redact::starts_with_any(name, safe));
            if !entry.value.is_empty() && secret.is_some_and(|safe| !known(safe)) {
                self.yaml.text.truncate(begin);
                text::put_scalar(&mut self.yaml.text, redact::HIDDEN);
            }
            self.newline();
        }
        self.yaml.entries = entries;
        Some(())
    }

    fn newline(&mut self) {
        self.yaml.text.push(b'\n');
        self.yaml.ends.push(self.yaml.text.len());
    }

    fn name(&mut self, field: &Field, indent: usize) {
        self.yaml.spaces(indent);
        let label = field.padded.as_bytes();
        text::put_start::<32>(&mut self.yaml.text, label, field.name.len() + 1);
    }

    fn text(&mut self, octets: Range<usize>) -> Option<()> {
        text::put_octets(&mut self.yaml.text, self.body.get(octets)?)
    }

    fn number(&mut self, number: impl serde::Serialize) -> Option<()> {
        self.yaml.text.push(b' ');
        serde_json::to_writer(&mut self.yaml.text, &number).ok()
    }
}

/// How a field of this form begins on the wire. Lists of numbers, which may be packed, have no form.
fn wire_type_of(form: Form) -> WireType {
    match form {
        Form::Bool | Form::Int32 | Form::Int64 | Form::Uint32 | Form::Uint64 => WireType::Varint,
        Form::Text | Form::Texts | Form::Message(_) | Form::Messages(_) | Form::Map => {
            WireType::LengthDelimited
        }
    }
}

/// Reads an entry of a map of texts: the name is field 1, the value field 2.
fn entry(body: &[u8], octets: Range<usize>) -> Option<Entry> {
    let mut parts = [None, None];
    let mut rest = body.get(octets.clone())?;
    while !rest.is_empty() {
        let (number, wire_type) = decode_key(&mut rest).ok()?;
        let part = match number {
            1 => &mut parts[0],
            2 => &mut parts[1],
            _ => return None,
        };
        if wire_type != WireType::LengthDelimited || part.is_some() {
            return None;
        }
        let length = usize::try_from(decode_varint(&mut rest).ok()?).ok()?;
        let begin = octets.end - rest.len();
        rest = rest.get(length..)?;
        *part = Some(begin..begin + length);
    }
    let [name, value] = parts;
    Some(Entry {
        name: name.unwrap_or(0..0),
        value: value.unwrap_or(0..0),
    })
}

#[cfg(test)]
mod tests;
