//! A message as YAML straight from its fields, without a tree in between: what almost every record of a
//! full dump takes.
//!
//! The same text that [`text::yaml`](super::text::yaml) makes of the message's JSON form after
//! [`redact`](super::redact): fields sorted by name, empty ones left out, secrets hidden. Fields are
//! written as they come and put in order when their message is complete.

mod hide;
mod node;
mod wire;

use super::text;
use crate::cri::decode::Show;
use hide::Hide;
use node::{Node, Place, Trail};
use serde::Serialize;

/// Writes messages as YAML, one after the other, and keeps its buffers.
#[derive(Debug, Default)]
pub(super) struct Yaml {
    /// The text; lines end with a newline.
    pub(super) text: Vec<u8>,
    /// Where its lines end.
    pub(super) ends: Vec<usize>,
    /// The container that the message is about: `container_id`, else `status.id`.
    container: Option<String>,
    status_id: Option<String>,
    /// Fields of the messages being written, innermost last.
    fields: Vec<Field>,
    /// Their names.
    names: Vec<u8>,
    /// Where fields are put in order.
    scratch: Vec<u8>,
    /// Fields of the messages that are read from the wire, innermost last.
    found: Vec<wire::Found>,
    /// Entries of the map that is.
    entries: Vec<wire::Entry>,
}

/// One field of a message, by where its lines are.
#[derive(Clone, Copy, Debug)]
struct Field {
    name: (usize, usize),
    lines: (usize, usize),
}

impl Yaml {
    /// The container the last message is about.
    pub(super) fn container(&mut self) -> Option<String> {
        self.container.take().or(self.status_id.take())
    }

    fn begin(&mut self) {
        self.text.clear();
        self.ends.clear();
        self.fields.clear();
        self.names.clear();
        self.container = None;
        self.status_id = None;
    }

    fn spaces(&mut self, count: usize) {
        const FEW: [u8; 16] = [b' '; 16];
        if count <= FEW.len() {
            text::put_start::<16>(&mut self.text, &FEW, count);
        } else {
            self.text.resize(self.text.len() + count, b' ');
        }
    }

    /// Puts the fields from the `first` on in the order of their names; `true` if there are any.
    fn in_order(&mut self, first: usize) -> bool {
        let names = &self.names;
        let name = |field: &Field| names.get(field.name.0..field.name.1).unwrap_or_default();
        let Some(fields) = self.fields.get_mut(first..) else {
            return false;
        };
        let Some(&Field {
            lines: (begin, _),
            name: (names_begin, _),
        }) = fields.first()
        else {
            return false;
        };
        if !fields.is_sorted_by(|a, b| name(a) <= name(b)) {
            fields.sort_by(|a, b| name(a).cmp(name(b)));
            self.scratch.clear();
            for field in &*fields {
                let lines = self.text.get(field.lines.0..field.lines.1);
                self.scratch.extend_from_slice(lines.unwrap_or_default());
            }
            self.text.truncate(begin);
            self.text.extend_from_slice(&self.scratch);
        }
        self.fields.truncate(first);
        self.names.truncate(names_begin);
        true
    }
}

/// Shows a message into a [`Yaml`].
#[derive(Debug)]
pub(super) struct Into<'a> {
    pub(super) yaml: &'a mut Yaml,
    pub(super) secrets: bool,
}

impl Show for Into<'_> {
    type Shown = ();

    fn show(self, message: &impl Serialize) -> Option<()> {
        self.yaml.begin();
        let root = Node {
            yaml: self.yaml,
            indent: 0,
            place: Place::Top,
            hide: if self.secrets {
                Hide::Nothing
            } else {
                Hide::Search
            },
            kept: true,
            below_kept: false,
            map: false,
            trail: Trail::Root,
        };
        message.serialize(root).ok()?;
        let ends = memchr::memchr_iter(b'\n', &self.yaml.text).map(|end| end + 1);
        self.yaml.ends.extend(ends);
        Some(())
    }
}

#[cfg(test)]
mod tests;
