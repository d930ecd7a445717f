//! One value on its way into the text.

mod forms;

use super::{Field, Yaml, hide::Hide};
use crate::dump::{redact, text};
use serde::Serialize;
use std::fmt::{self, Display};

/// What stands before a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// Nothing.
    Top,
    /// The name of its field and a colon.
    Field,
    /// Nothing yet: it writes its dash itself.
    Item,
    /// It is no value but a name, and goes where names go.
    Name,
}

/// Where in the message a value is, as far as it matters who the message is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Trail {
    Root,
    Status,
    ContainerId,
    StatusId,
    Elsewhere,
}

impl Trail {
    fn field(self, name: &str) -> Self {
        match (self, name) {
            (Self::Root, "container_id") => Self::ContainerId,
            (Self::Root, "status") => Self::Status,
            (Self::Status, "id") => Self::StatusId,
            _ => Self::Elsewhere,
        }
    }
}

/// Writes one value. What comes of it is whether anything was written: an empty field is left out.
pub(super) struct Node<'a> {
    pub(super) yaml: &'a mut Yaml,
    /// Of the line that the value's field or dash is on.
    pub(super) indent: usize,
    pub(super) place: Place,
    pub(super) hide: Hide,
    /// It is written even when it is empty.
    pub(super) kept: bool,
    /// So is everything in it.
    pub(super) below_kept: bool,
    /// It is a map of the user's: empty, it says nothing.
    pub(super) map: bool,
    pub(super) trail: Trail,
}

/// Whether anything was written; an error is a form that no message of CRI has.
type Outcome = Result<bool, fmt::Error>;

impl<'a> Node<'a> {
    /// Writes a scalar that is not a text, `empty` when it is its type's empty value.
    fn plain(mut self, empty: bool, shown: impl Display) -> Outcome {
        if self.place == Place::Name {
            fmt::Write::write_fmt(&mut Out(&mut self.yaml.names), format_args!("{shown}"))?;
            return Ok(true);
        }
        if empty && !self.kept {
            return Ok(false);
        }
        if self.hide.scalar() {
            return self.hidden();
        }
        self.start();
        let mut out = Out(&mut self.yaml.text);
        fmt::Write::write_fmt(&mut out, format_args!("{shown}\n"))?;
        Ok(true)
    }

    fn text(mut self, text: &str) -> Outcome {
        if self.place == Place::Name {
            self.yaml.names.extend_from_slice(text.as_bytes());
            return Ok(true);
        }
        if text.is_empty() && !self.kept {
            return Ok(false);
        }
        if !text.is_empty() && self.hide.scalar() {
            return self.hidden();
        }
        match self.trail {
            Trail::ContainerId => self.yaml.container = Some(text.to_owned()),
            Trail::StatusId => self.yaml.status_id = Some(text.to_owned()),
            Trail::Root | Trail::Status | Trail::Elsewhere => {}
        }
        self.start();
        text::put_scalar(&mut self.yaml.text, text);
        self.yaml.text.push(b'\n');
        Ok(true)
    }

    /// Shown whatever is hidden: it says nothing.
    fn null(mut self) -> Outcome {
        if self.place == Place::Name {
            return Err(fmt::Error);
        }
        if !self.kept {
            return Ok(false);
        }
        self.start();
        self.yaml.text.extend_from_slice(b"null\n");
        Ok(true)
    }

    fn hidden(mut self) -> Outcome {
        self.start();
        text::put_scalar(&mut self.yaml.text, redact::HIDDEN);
        self.yaml.text.push(b'\n');
        Ok(true)
    }

    /// Writes what comes before a value on its own line.
    fn start(&mut self) {
        match self.place {
            Place::Top | Place::Name => {}
            Place::Field => self.yaml.text.push(b' '),
            Place::Item => {
                self.yaml.spaces(self.indent);
                self.yaml.text.extend_from_slice(b"- ");
            }
        }
    }

    fn list(self) -> Result<List<'a>, fmt::Error> {
        let begin = self.yaml.text.len();
        let indent = match self.place {
            Place::Name => return Err(fmt::Error),
            Place::Top => self.indent,
            Place::Field => {
                self.yaml.text.push(b'\n');
                self.indent
            }
            Place::Item => {
                self.yaml.spaces(self.indent);
                self.yaml.text.extend_from_slice(b"-\n");
                self.indent + 2
            }
        };
        Ok(List {
            node: self,
            begin,
            indent,
            count: 0,
        })
    }

    fn object(mut self) -> Result<Object<'a>, fmt::Error> {
        let begin = self.yaml.text.len();
        let indent = match self.place {
            Place::Name => return Err(fmt::Error),
            Place::Top => self.indent,
            Place::Field => {
                self.yaml.text.push(b'\n');
                self.indent + 2
            }
            Place::Item => self.indent + 2,
        };
        // Only lists of octets are output.
        if self.hide == Hide::Output {
            self.hide = Hide::Search;
        }
        Ok(Object {
            first: self.yaml.fields.len(),
            node: self,
            begin,
            indent,
            name: 0,
        })
    }
}

/// A list on its way.
pub(super) struct List<'a> {
    node: Node<'a>,
    begin: usize,
    indent: usize,
    count: usize,
}

impl List<'_> {
    fn item<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), fmt::Error> {
        self.count += 1;
        if self.node.hide.scalar() || self.node.hide == Hide::Output {
            return Ok(());
        }
        let item = Node {
            yaml: self.node.yaml,
            indent: self.indent,
            place: Place::Item,
            hide: self.node.hide.item(),
            kept: true,
            below_kept: self.node.below_kept,
            map: false,
            trail: Trail::Elsewhere,
        };
        value.serialize(item).map(|_written| ())
    }

    fn finish(mut self) -> Outcome {
        if self.count == 0 {
            self.node.yaml.text.truncate(self.begin);
            return if !self.node.kept {
                Ok(false)
            } else if self.node.hide.scalar() {
                self.node.hidden()
            } else {
                self.node.start();
                self.node.yaml.text.extend_from_slice(b"[]\n");
                Ok(true)
            };
        }
        if self.node.hide.scalar() {
            self.node.yaml.text.truncate(self.begin);
            return self.node.hidden();
        }
        if self.node.hide == Hide::Output {
            self.node.yaml.text.truncate(self.begin);
            self.node.start();
            let shown = redact::hidden_output(self.count);
            text::put_scalar(&mut self.node.yaml.text, &shown);
            self.node.yaml.text.push(b'\n');
        }
        Ok(true)
    }
}

/// A message or a map on its way.
pub(super) struct Object<'a> {
    node: Node<'a>,
    begin: usize,
    indent: usize,
    /// Its first field among all.
    first: usize,
    /// Where the name of a map's entry begins.
    name: usize,
}

impl Object<'_> {
    fn field<T: Serialize + ?Sized>(&mut self, name: &str, value: &T) -> Result<(), fmt::Error> {
        let at = self.node.yaml.names.len();
        self.node.yaml.names.extend_from_slice(name.as_bytes());
        self.value(at, name, value)
    }

    fn key<T: Serialize + ?Sized>(&mut self, name: &T) -> Result<(), fmt::Error> {
        self.name = self.node.yaml.names.len();
        self.node.yaml.read_name(name)
    }

    fn keyed<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), fmt::Error> {
        let at = self.name;
        let name = self.node.yaml.names.get(at..).unwrap_or_default();
        let name = String::from_utf8(name.to_vec()).map_err(|_not_text| fmt::Error)?;
        self.value(at, &name, value)
    }

    fn value<T: Serialize + ?Sized>(
        &mut self,
        at: usize,
        name: &str,
        value: &T,
    ) -> Result<(), fmt::Error> {
        let yaml = &mut *self.node.yaml;
        let begin = yaml.text.len();
        let name_end = yaml.names.len();
        if matches!(self.node.hide, Hide::EnvEntry(_)) && name == "key" {
            self.node.hide = Hide::EnvEntry(yaml.is_safe_env(value));
        }
        yaml.spaces(self.indent);
        text::put_scalar(&mut yaml.text, name);
        yaml.text.push(b':');
        let map = !self.node.below_kept && redact::is_users_map(name);
        let field = Node {
            yaml,
            indent: self.indent,
            place: Place::Field,
            hide: self.node.hide.field(name),
            kept: self.node.below_kept,
            below_kept: self.node.below_kept || map,
            map,
            trail: self.node.trail.field(name),
        };
        let written = value.serialize(field)?;
        let yaml = &mut *self.node.yaml;
        if written {
            let field = Field {
                name: (at, name_end),
                lines: (begin, yaml.text.len()),
            };
            yaml.fields.push(field);
        } else {
            yaml.text.truncate(begin);
            yaml.names.truncate(at);
        }
        Ok(())
    }

    /// The end of it.
    fn finish(mut self) -> Outcome {
        let any = self.node.yaml.in_order(self.first);
        if self.node.hide.scalar() && self.node.hide != Hide::Account {
            self.node.yaml.text.truncate(self.begin);
            return if !any && self.node.map {
                Ok(false)
            } else {
                self.node.hidden()
            };
        }
        if any {
            if self.node.place == Place::Item {
                // The first field stands on the line of the dash.
                let dash = self.begin + self.node.indent;
                if let Some(space) = self.node.yaml.text.get_mut(dash) {
                    *space = b'-';
                }
            }
            return Ok(true);
        }
        self.node.yaml.text.truncate(self.begin);
        if self.node.map {
            return Ok(false);
        }
        self.node.start();
        self.node.yaml.text.extend_from_slice(b"{}\n");
        Ok(true)
    }
}

impl Yaml {
    /// Whether an environment variable of this name may be shown.
    fn is_safe_env<T: Serialize + ?Sized>(&mut self, name: &T) -> bool {
        let begin = self.names.len();
        let read = self.read_name(name).is_ok();
        let name = self.names.get(begin..).unwrap_or_default();
        let safe = read && std::str::from_utf8(name).is_ok_and(redact::is_safe_env);
        self.names.truncate(begin);
        safe
    }

    /// Puts a name behind the others.
    fn read_name<T: Serialize + ?Sized>(&mut self, name: &T) -> Result<(), fmt::Error> {
        let node = Node {
            yaml: self,
            indent: 0,
            place: Place::Name,
            hide: Hide::Nothing,
            kept: true,
            below_kept: true,
            map: false,
            trail: Trail::Elsewhere,
        };
        name.serialize(node).map(|_written| ())
    }
}

/// Formats into octets.
struct Out<'a>(&'a mut Vec<u8>);

impl fmt::Write for Out<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.0.extend_from_slice(text.as_bytes());
        Ok(())
    }
}
