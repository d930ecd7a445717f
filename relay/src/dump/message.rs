//! A message as it is on the wire, ready to be printed: the one reader of bodies, and the one place that leaves out
//! what is secret or says nothing.
//!
//! It serializes as a map of CRI's field names in alphabetical order, so that any serializer prints it: JSON, YAML
//! ([`yaml`](super::yaml)), a tree to compare. Nothing is decoded into structures in between: for a list of the
//! containers of a node they would be hundreds of texts and hash tables.
//!
//! Left out are fields that hold their type's empty value, as in protobuf's JSON form, and fields that the table
//! ([`schema`](crate::cri::schema)) does not know. Of a field that is there more than once protobuf's rule
//! counts: the last scalar, all messages together, the last map entry of a name.
//!
//! Wire format: <https://protobuf.dev/programming-guides/encoding/>.

use super::redact::{HIDDEN, Redaction, hidden_output};
use crate::cri::schema::{FieldKind, MessageField, MessageType};
use prost::encoding::{DecodeContext, WireType, decode_key, decode_varint, skip_field};
use serde::{
    Serialize, Serializer,
    ser::{Error as _, SerializeMap as _},
};

/// A message on the wire. It cannot be serialized when the bytes are no message of this type.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Message<'a> {
    of: &'static MessageType,
    body: &'a [u8],
    redaction: Redaction,
}

/// One time that a field is in a message.
#[derive(Clone, Copy, Debug)]
struct Occurrence<'a> {
    /// The index of the field in its message type.
    place: u8,
    value: Wire<'a>,
}

/// A value as the wire has it.
#[derive(Clone, Copy, Debug)]
enum Wire<'a> {
    /// Of any number: what the varint says, or the eight bytes.
    Number(u64),
    Text(&'a str),
    /// Bytes, a message, an entry of a map, or packed numbers.
    Bytes(&'a [u8]),
}

/// The bytes are no message of their type.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the bytes are no message of this type")]
struct MalformedMessage;

impl From<prost::DecodeError> for MalformedMessage {
    fn from(_: prost::DecodeError) -> Self {
        Self
    }
}

impl<'a> Message<'a> {
    /// A message of this type, with its secrets shown or hidden.
    pub(crate) fn new(of: &'static MessageType, body: &'a [u8], secrets: bool) -> Self {
        let redaction = if secrets {
            Redaction::Nothing
        } else {
            Redaction::Secrets
        };
        Self {
            of,
            body,
            redaction,
        }
    }

    /// The container that the message is about: `container_id`, else `status.id`.
    pub(super) fn container(&self) -> Option<String> {
        let id = self
            .text("container_id")
            .or_else(|| self.messages("status").last()?.text("id"))?;
        Some(id.to_owned())
    }

    /// The containers that the message lists: `containers.id`, else `stats.attributes.id`.
    pub(super) fn listed_containers(&self) -> Vec<String> {
        let mut listed = self.messages("containers");
        if listed.is_empty() {
            let stats = self.messages("stats").into_iter();
            listed = stats
                .flat_map(|stats| stats.messages("attributes"))
                .collect();
        }
        let ids = listed.iter().filter_map(|listed| listed.text("id"));
        ids.map(str::to_owned).collect()
    }

    /// The messages in field `name`.
    fn messages(&self, name: &str) -> Vec<Self> {
        let Some((field, found)) = self.find(name) else {
            return Vec::new();
        };
        let messages = found
            .iter()
            .filter_map(|found| match (field.kind, found.value) {
                (FieldKind::Message(of), Wire::Bytes(body)) => Some(Self { of, body, ..*self }),
                _ => None,
            });
        messages.collect()
    }

    /// The text in field `name`, if there is one.
    fn text(&self, name: &str) -> Option<&'a str> {
        let (_, found) = self.find(name)?;
        match found.last()?.value {
            Wire::Text(text) if !text.is_empty() => Some(text),
            _ => None,
        }
    }

    fn find(&self, name: &str) -> Option<(&'static MessageField, Vec<Occurrence<'a>>)> {
        let place = self.of.fields.iter().position(|field| field.name == name)?;
        let mut found = self.occurrences().ok()?;
        found.retain(|occurrence| usize::from(occurrence.place) == place);
        Some((self.of.fields.get(place)?, found))
    }

    /// Everything that is in the message, in the order of the fields' names.
    fn occurrences(&self) -> Result<Vec<Occurrence<'a>>, MalformedMessage> {
        let mut found = Vec::with_capacity(self.of.fields.len());
        let mut rest = self.body;
        while !rest.is_empty() {
            let (number, wire_type) = decode_key(&mut rest)?;
            let Some(place) = self.of.place(number) else {
                skip_field(wire_type, number, &mut rest, DecodeContext::default())?;
                continue;
            };
            let field = self
                .of
                .fields
                .get(usize::from(place))
                .ok_or(MalformedMessage)?;
            let value = read(field, wire_type, &mut rest)?;
            found.push(Occurrence { place, value });
        }
        found.sort_by_key(|occurrence| occurrence.place);
        Ok(found)
    }
}

/// Reads the value of a field, as far as it goes without knowing what is in it.
fn read<'a>(
    field: &MessageField,
    wire_type: WireType,
    rest: &mut &'a [u8],
) -> Result<Wire<'a>, MalformedMessage> {
    match (field.kind, wire_type) {
        (FieldKind::Text, WireType::LengthDelimited) => read_text(rest).map(Wire::Text),
        (FieldKind::Bytes | FieldKind::Message(_) | FieldKind::Map, WireType::LengthDelimited) => {
            read_bytes(rest).map(Wire::Bytes)
        }
        (FieldKind::Double, WireType::SixtyFourBit) => {
            let (number, behind) = rest.split_first_chunk().ok_or(MalformedMessage)?;
            *rest = behind;
            Ok(Wire::Number(u64::from_le_bytes(*number)))
        }
        (
            FieldKind::Bool
            | FieldKind::Int32
            | FieldKind::Int64
            | FieldKind::Uint32
            | FieldKind::Uint64,
            _,
        ) => match wire_type {
            WireType::Varint => Ok(Wire::Number(decode_varint(rest)?)),
            WireType::LengthDelimited if field.repeated => read_bytes(rest).map(Wire::Bytes),
            _ => Err(MalformedMessage),
        },
        _ => Err(MalformedMessage),
    }
}

fn read_bytes<'a>(rest: &mut &'a [u8]) -> Result<&'a [u8], MalformedMessage> {
    let length = usize::try_from(decode_varint(rest)?).map_err(|_too_long| MalformedMessage)?;
    let (bytes, behind) = rest.split_at_checked(length).ok_or(MalformedMessage)?;
    *rest = behind;
    Ok(bytes)
}

fn read_text<'a>(rest: &mut &'a [u8]) -> Result<&'a str, MalformedMessage> {
    std::str::from_utf8(read_bytes(rest)?).map_err(|_no_text| MalformedMessage)
}

impl Serialize for Message<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let occurrences = self.occurrences().map_err(S::Error::custom)?;
        let mut redaction = self.redaction;
        let mut map = serializer.serialize_map(None)?;
        for found in occurrences.chunk_by(|a, b| a.place == b.place) {
            let Some(last) = found.last() else { continue };
            let Some(field) = self.of.fields.get(usize::from(last.place)) else {
                continue;
            };
            if let Wire::Text(name) = last.value
                && field.name == "key"
            {
                redaction = redaction.of_variable(name);
            }
            let content = content(field, found, last.value, redaction.field(field.name));
            if let Some(content) = content.map_err(S::Error::custom)? {
                map.serialize_entry(field.name, &content)?;
            }
        }
        map.end()
    }
}

/// What is shown of a field.
enum Content<'a, 'f> {
    Hidden,
    /// So many bytes that a command printed.
    HiddenOutput(usize),
    Element(Element<'a>),
    /// One message, in several pieces on the wire.
    Merged(&'static MessageType, Vec<u8>, Redaction),
    List(FieldKind, &'f [Occurrence<'a>], Redaction),
    Numbers(FieldKind, Vec<u64>),
    Map(Vec<(&'a str, &'a str)>, Redaction),
}

/// A single value, or one of a list.
struct Element<'a> {
    kind: FieldKind,
    value: Wire<'a>,
    redaction: Redaction,
}

/// What is shown of the occurrences of a field; `None` when it is its type's empty value. A message that is there
/// but empty differs from one that is not.
fn content<'a, 'f>(
    field: &MessageField,
    found: &'f [Occurrence<'a>],
    last: Wire<'a>,
    redaction: Redaction,
) -> Result<Option<Content<'a, 'f>>, MalformedMessage> {
    let kind = field.kind;
    if redaction == Redaction::Output
        && let Wire::Bytes(printed) = last
        && !printed.is_empty()
    {
        return Ok(Some(Content::HiddenOutput(printed.len())));
    }
    let content = match kind {
        FieldKind::Map => Content::Map(entries(found)?, redaction),
        FieldKind::Message(of) if !field.repeated => {
            if redaction == Redaction::All {
                return Ok(Some(Content::Hidden));
            }
            return Ok(Some(match found {
                [_] => Content::Element(Element {
                    kind,
                    value: last,
                    redaction,
                }),
                _ => Content::Merged(of, concatenated(found), redaction),
            }));
        }
        _ if !field.repeated => {
            let item = Element {
                kind,
                value: last,
                redaction,
            };
            if item.is_empty() {
                return Ok(None);
            }
            Content::Element(item)
        }
        FieldKind::Text | FieldKind::Bytes | FieldKind::Message(_) => {
            Content::List(kind, found, redaction.item())
        }
        _ => {
            let numbers = numbers(found)?;
            if numbers.is_empty() {
                return Ok(None);
            }
            Content::Numbers(kind, numbers)
        }
    };
    Ok(Some(if redaction.hides() {
        Content::Hidden
    } else {
        content
    }))
}

/// Messages one behind the other are the message that they make together.
fn concatenated(found: &[Occurrence<'_>]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for occurrence in found {
        if let Wire::Bytes(part) = occurrence.value {
            bytes.extend_from_slice(part);
        }
    }
    bytes
}

/// A list of numbers: packed, one by one, or both.
fn numbers(found: &[Occurrence<'_>]) -> Result<Vec<u64>, MalformedMessage> {
    let mut numbers = Vec::new();
    for occurrence in found {
        match occurrence.value {
            Wire::Number(bits) => numbers.push(bits),
            Wire::Bytes(mut packed) => {
                while !packed.is_empty() {
                    numbers.push(decode_varint(&mut packed)?);
                }
            }
            Wire::Text(_) => return Err(MalformedMessage),
        }
    }
    Ok(numbers)
}

/// The entries of a map, sorted by name.
fn entries<'a>(found: &[Occurrence<'a>]) -> Result<Vec<(&'a str, &'a str)>, MalformedMessage> {
    let mut entries = Vec::with_capacity(found.len());
    for occurrence in found {
        let Wire::Bytes(mut rest) = occurrence.value else {
            return Err(MalformedMessage);
        };
        let (mut name, mut value) = ("", "");
        while !rest.is_empty() {
            match decode_key(&mut rest)? {
                (1, WireType::LengthDelimited) => name = read_text(&mut rest)?,
                (2, WireType::LengthDelimited) => value = read_text(&mut rest)?,
                (1 | 2, _) => return Err(MalformedMessage),
                (number, wire_type) => {
                    skip_field(wire_type, number, &mut rest, DecodeContext::default())?;
                }
            }
        }
        entries.push((name, value));
    }
    // The sort is stable, so that the last entry of a name is behind the others.
    entries.sort_by_key(|(name, _)| *name);
    entries.dedup_by(|later, earlier| {
        let same = later.0 == earlier.0;
        if same {
            earlier.1 = later.1;
        }
        same
    });
    Ok(entries)
}

impl Serialize for Content<'_, '_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Hidden => serializer.serialize_str(HIDDEN),
            Self::HiddenOutput(bytes) => serializer.serialize_str(&hidden_output(*bytes)),
            Self::Element(item) => item.serialize(serializer),
            Self::Merged(of, body, redaction) => Element {
                kind: FieldKind::Message(of),
                value: Wire::Bytes(body),
                redaction: *redaction,
            }
            .serialize(serializer),
            Self::List(kind, found, redaction) => {
                serializer.collect_seq(found.iter().map(|occurrence| Element {
                    kind: *kind,
                    value: occurrence.value,
                    redaction: *redaction,
                }))
            }
            Self::Numbers(kind, numbers) => {
                serializer.collect_seq(numbers.iter().map(|bits| Element {
                    kind: *kind,
                    value: Wire::Number(*bits),
                    redaction: Redaction::Nothing,
                }))
            }
            Self::Map(entries, redaction) => {
                serializer.collect_map(entries.iter().map(|(name, value)| {
                    let hidden = !value.is_empty() && redaction.field(name).hides();
                    (name, if hidden { HIDDEN } else { value })
                }))
            }
        }
    }
}

impl Element<'_> {
    fn is_empty(&self) -> bool {
        match self.value {
            Wire::Text(text) => text.is_empty(),
            Wire::Bytes(bytes) => bytes.is_empty(),
            Wire::Number(bits) => match self.kind {
                FieldKind::Int32 | FieldKind::Uint32 => low_half(bits) == 0,
                FieldKind::Double => f64::from_bits(bits) == 0.0,
                _ => bits == 0,
            },
        }
    }
}

impl Serialize for Element<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match (self.kind, self.value) {
            (FieldKind::Message(of), Wire::Bytes(body)) => Message {
                of,
                body,
                redaction: self.redaction,
            }
            .serialize(serializer),
            (_, Wire::Text(text)) => serializer.serialize_str(text),
            (_, Wire::Bytes(bytes)) => serializer.collect_seq(bytes),
            (FieldKind::Bool, Wire::Number(bits)) => serializer.serialize_bool(bits != 0),
            (FieldKind::Int32, Wire::Number(bits)) => {
                serializer.serialize_i32(low_half(bits).cast_signed())
            }
            (FieldKind::Uint32, Wire::Number(bits)) => serializer.serialize_u32(low_half(bits)),
            (FieldKind::Int64, Wire::Number(bits)) => serializer.serialize_i64(bits.cast_signed()),
            (FieldKind::Double, Wire::Number(bits)) => {
                serializer.serialize_f64(f64::from_bits(bits))
            }
            (_, Wire::Number(bits)) => serializer.serialize_u64(bits),
        }
    }
}

/// What protobuf takes of a varint for a type of 32 bits.
fn low_half(bits: u64) -> u32 {
    let [a, b, c, d, ..] = bits.to_le_bytes();
    u32::from_le_bytes([a, b, c, d])
}

#[cfg(test)]
mod tests;
