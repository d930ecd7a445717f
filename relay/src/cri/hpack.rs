//! Header blocks (RFC 7541): a decoder and an encoder with their dynamic tables, and one that has none.
//!
//! Blocks of [`encode`] change no state of the peer's decoder, so the relay may hold them back or drop
//! them at any time; those of an [`Encoder`] must all go out, in the order they were written. Never
//! panics, whatever the bytes.

mod huffman;
mod statics;

use bytes::{BufMut, Bytes, BytesMut};
use statics::STATIC;
use std::collections::VecDeque;

/// One header field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// Lower-case name; pseudo headers with their colon.
    pub name: Bytes,
    /// The value's octets.
    pub value: Bytes,
    /// The sender asked that no one on the way put it into a table.
    pub sensitive: bool,
}

impl Header {
    /// A field of static text.
    #[must_use]
    pub fn new(name: &'static str, value: impl Into<Bytes>) -> Self {
        Self {
            name: Bytes::from_static(name.as_bytes()),
            value: value.into(),
            sensitive: false,
        }
    }
}

/// The value of the first field called `name`.
#[must_use]
pub fn find<'a>(headers: &'a [Header], name: &str) -> Option<&'a [u8]> {
    headers
        .iter()
        .find(|h| h.name == name.as_bytes())
        .map(|h| &h.value[..])
}

/// Why a block cannot be decoded; the connection is lost then (RFC 9113, 4.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HpackError {
    /// The block ends within a field.
    #[error("header block ends within a field")]
    Truncated,
    /// A number above 2^28.
    #[error("header block has a number that is too large")]
    Number,
    /// An index beyond both tables.
    #[error("header block names table entry {0}, which does not exist")]
    Index(usize),
    /// Not Huffman code, or badly padded.
    #[error("header block has invalid Huffman code")]
    Huffman,
    /// The table would grow above what its owner announced, or is resized amid fields.
    #[error("header block resizes the table to {0} octets, which is not allowed there")]
    Resize(usize),
    /// More than the relay takes.
    #[error("header list is larger than {0} octets")]
    TooLarge(usize),
}

/// Decodes the blocks of one direction of one connection.
#[derive(Debug)]
pub struct Decoder {
    table: VecDeque<(Bytes, Bytes)>,
    size: usize,
    limit: usize,
    announced: usize,
    max_list: usize,
}

/// The table's size until a receiver announces another (RFC 9113, 6.5.2).
const DEFAULT_TABLE: usize = 4096;

/// Octets counted for an entry on top of name and value (RFC 7541, 4.1).
const ENTRY: usize = 32;

impl Decoder {
    /// A decoder that refuses header lists above `max_list` octets.
    #[must_use]
    pub fn new(max_list: usize) -> Self {
        Self {
            table: VecDeque::new(),
            size: 0,
            limit: DEFAULT_TABLE,
            announced: DEFAULT_TABLE,
            max_list,
        }
    }

    /// The receiver of these blocks announced this SETTINGS_HEADER_TABLE_SIZE.
    pub fn announce(&mut self, octets: usize) {
        // What the sender uses may be the old size until it has seen the settings: keep the larger.
        self.announced = self.announced.max(octets);
    }

    /// Decodes a whole block.
    ///
    /// # Errors
    /// [`HpackError`]; the table is out of step then and the connection must end.
    pub fn decode(&mut self, block: &Bytes) -> Result<Vec<Header>, HpackError> {
        let mut at = Cursor { block, at: 0 };
        let mut list = Vec::with_capacity(12);
        let mut total = 0;
        while let Some(&first) = block.get(at.at) {
            let header = if first & 0x80 != 0 {
                let index = at.number(7)?;
                let (name, value) = self.entry(index)?;
                Header {
                    name,
                    value,
                    sensitive: false,
                }
            } else if first & 0x40 != 0 {
                let header = self.literal(&mut at, 6)?;
                self.insert(header.name.clone(), header.value.clone());
                header
            } else if first & 0x20 != 0 {
                let size = at.number(5)?;
                if size > self.announced || !list.is_empty() {
                    return Err(HpackError::Resize(size));
                }
                self.limit = size;
                self.evict(0);
                continue;
            } else {
                let mut header = self.literal(&mut at, 4)?;
                header.sensitive = first & 0x10 != 0;
                header
            };
            total += header.name.len() + header.value.len() + ENTRY;
            if total > self.max_list {
                return Err(HpackError::TooLarge(self.max_list));
            }
            list.push(header);
        }
        Ok(list)
    }

    fn literal(&self, at: &mut Cursor<'_>, prefix: u8) -> Result<Header, HpackError> {
        let index = at.number(prefix)?;
        let name = if index == 0 {
            at.string()?
        } else {
            self.entry(index)?.0
        };
        Ok(Header {
            name,
            value: at.string()?,
            sensitive: false,
        })
    }

    fn entry(&self, index: usize) -> Result<(Bytes, Bytes), HpackError> {
        let missing = HpackError::Index(index);
        let index = index.checked_sub(1).ok_or(missing)?;
        if let Some((name, value)) = STATIC.get(index) {
            return Ok((
                Bytes::from_static(name.as_bytes()),
                Bytes::from_static(value.as_bytes()),
            ));
        }
        self.table.get(index - STATIC.len()).cloned().ok_or(missing)
    }

    fn insert(&mut self, name: Bytes, value: Bytes) {
        let size = name.len() + value.len() + ENTRY;
        self.evict(size);
        if size <= self.limit {
            self.size += size;
            // Entries outlive the read buffer the block is a slice of: do not pin it.
            self.table.push_front((
                Bytes::copy_from_slice(&name),
                Bytes::copy_from_slice(&value),
            ));
        }
    }

    fn evict(&mut self, room: usize) {
        while self.size + room > self.limit {
            let Some((name, value)) = self.table.pop_back() else {
                break;
            };
            self.size -= name.len() + value.len() + ENTRY;
        }
    }
}

struct Cursor<'a> {
    block: &'a Bytes,
    at: usize,
}

impl Cursor<'_> {
    fn octet(&mut self) -> Result<u8, HpackError> {
        let octet = *self.block.get(self.at).ok_or(HpackError::Truncated)?;
        self.at += 1;
        Ok(octet)
    }

    fn number(&mut self, prefix: u8) -> Result<usize, HpackError> {
        let mask = 0xff_u8 >> (8 - prefix);
        let first = self.octet()? & mask;
        let mut value = usize::from(first);
        if first < mask {
            return Ok(value);
        }
        for shift in [0, 7, 14, 21] {
            let octet = self.octet()?;
            value += usize::from(octet & 0x7f) << shift;
            if octet & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(HpackError::Number)
    }

    fn string(&mut self) -> Result<Bytes, HpackError> {
        let coded = self.block.get(self.at).ok_or(HpackError::Truncated)? & 0x80 != 0;
        let len = self.number(7)?;
        let end = self.at.checked_add(len).ok_or(HpackError::Number)?;
        if end > self.block.len() {
            return Err(HpackError::Truncated);
        }
        let raw = self.block.slice(self.at..end);
        self.at = end;
        if coded {
            huffman::decode(&raw)
                .map(Bytes::from)
                .ok_or(HpackError::Huffman)
        } else {
            Ok(raw)
        }
    }
}

/// Encodes a block that touches no dynamic table.
pub fn encode(headers: &[Header], out: &mut BytesMut) {
    for header in headers {
        match statics::exact(&header.name, &header.value) {
            Some(index) if !header.sensitive => put_number(out, INDEXED, 7, index),
            _ => put_literal(header, if header.sensitive { NEVER } else { PLAIN }, out),
        }
    }
}

/// Encodes the blocks of one direction of one connection, so that what was said before costs an octet or two.
#[derive(Debug)]
pub struct Encoder {
    /// The newest entries of the peer's table, newest first. It may hold older ones besides.
    table: VecDeque<Header>,
    size: usize,
    limit: usize,
    /// The limit has shrunk and the peer is to be told.
    resized: bool,
}

/// Entries that an encoder remembers: a call has about ten fields that are the same every time.
const REMEMBERED: usize = 32;

/// Fields that are different in every call, and would only push others out of the table.
const PASSING: [&str; 8] = [
    "grpc-timeout",
    "grpc-message",
    "grpc-status-details-bin",
    "grpc-trace-bin",
    "traceparent",
    "tracestate",
    "content-length",
    "date",
];

impl Default for Encoder {
    fn default() -> Self {
        Self {
            table: VecDeque::with_capacity(REMEMBERED),
            size: 0,
            limit: DEFAULT_TABLE,
            resized: false,
        }
    }
}

impl Encoder {
    /// The receiver of these blocks announced this SETTINGS_HEADER_TABLE_SIZE. More than the default is not used.
    pub fn announce(&mut self, octets: usize) {
        if octets < self.limit {
            self.limit = octets;
            self.resized = true;
            self.evict(0);
        }
    }

    /// Writes the block that goes out next.
    pub fn encode(&mut self, headers: &[Header], out: &mut BytesMut) {
        if std::mem::take(&mut self.resized) {
            put_number(out, 0x20, 5, self.limit);
        }
        for header in headers {
            self.put(header, out);
        }
    }

    fn put(&mut self, header: &Header, out: &mut BytesMut) {
        if header.sensitive {
            return put_literal(header, NEVER, out);
        }
        if let Some(index) = statics::exact(&header.name, &header.value) {
            return put_number(out, INDEXED, 7, index);
        }
        if let Some(at) = self.table.iter().position(|known| known == header) {
            return put_number(out, INDEXED, 7, STATIC.len() + 1 + at);
        }
        let size = header.name.len() + header.value.len() + ENTRY;
        if size > self.limit / 4 || PASSING.iter().any(|name| name.as_bytes() == header.name) {
            return put_literal(header, PLAIN, out);
        }
        put_literal(header, REMEMBER, out);
        self.evict(size);
        self.size += size;
        // Entries outlive the read buffer they are slices of: do not pin it.
        self.table.push_front(Header {
            name: Bytes::copy_from_slice(&header.name),
            value: Bytes::copy_from_slice(&header.value),
            sensitive: false,
        });
    }

    /// Makes room for `room` octets, and for one entry.
    fn evict(&mut self, room: usize) {
        while self.size + room > self.limit || self.table.len() >= REMEMBERED {
            let Some(oldest) = self.table.pop_back() else {
                break;
            };
            self.size -= oldest.name.len() + oldest.value.len() + ENTRY;
        }
    }
}

/// First octets (RFC 7541, 6): the high bits say what follows.
const INDEXED: u8 = 0x80;
const REMEMBER: u8 = 0x40;
const NEVER: u8 = 0x10;
const PLAIN: u8 = 0;

/// Writes a field out, its name by the static table where that has it.
fn put_literal(header: &Header, tag: u8, out: &mut BytesMut) {
    let prefix = if tag == REMEMBER { 6 } else { 4 };
    let named = statics::named(&header.name);
    put_number(out, tag, prefix, named.unwrap_or(0));
    if named.is_none() {
        put_number(out, 0, 7, header.name.len());
        out.put_slice(&header.name);
    }
    put_number(out, 0, 7, header.value.len());
    out.put_slice(&header.value);
}

fn put_number(out: &mut BytesMut, tag: u8, prefix: u8, value: usize) {
    let mask = 0xff_u8 >> (8 - prefix);
    if let Some(small) = u8::try_from(value).ok().filter(|v| *v < mask) {
        out.put_u8(tag | small);
        return;
    }
    out.put_u8(tag | mask);
    let mut rest = value - usize::from(mask);
    while rest >= 0x80 {
        out.put_u8(low7(rest) | 0x80);
        rest >>= 7;
    }
    out.put_u8(low7(rest));
}

fn low7(value: usize) -> u8 {
    (value & 0x7f).to_le_bytes()[0]
}

#[cfg(test)]
mod tests;
