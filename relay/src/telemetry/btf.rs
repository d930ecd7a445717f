//! The kernel's own type information: where fields are, in the kernel that runs now.
//!
//! Format: Documentation/bpf/btf.rst of the kernel. Never panics, whatever the bytes.

use std::{collections::HashMap, str};
use thiserror::Error;

const MAGIC: u16 = 0xeb9f;
const KIND_PTR: u32 = 2;
const KIND_STRUCT: u32 = 4;
const KIND_UNION: u32 = 5;
const KIND_ENUM: u32 = 6;
const KIND_TYPEDEF: u32 = 8;
const KIND_FUNC_PROTO: u32 = 13;
/// Qualifiers (volatile, const, restrict) and type tags name the type they qualify.
const QUALIFIERS: [u32; 4] = [9, 10, 11, 18];
/// Structures within structures, and qualifiers upon qualifiers, followed at most this far.
const DEPTH: u32 = 16;

/// Why type information cannot be read.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum BtfError {
    /// Not BTF, or of the other endianness.
    #[error("this is not BTF of this machine's byte order")]
    Magic,
    /// It ends too early.
    #[error("BTF ends in the middle of {part} at byte {at}")]
    Truncated {
        /// What was being read.
        part: &'static str,
        /// Where.
        at: usize,
    },
    /// A kind of type this parser does not know, so that it cannot find the next one.
    #[error("BTF has a type of unknown kind {kind} at byte {at}")]
    Kind {
        /// The kind.
        kind: u32,
        /// Where.
        at: usize,
    },
}

/// Parsed type information.
#[derive(Clone, Debug)]
pub struct Btf {
    bytes: Vec<u8>,
    strings: usize,
    /// Byte offset of each type; type 0 is `void`.
    types: Vec<usize>,
    /// Structures, unions, enums and typedefs by name.
    named: HashMap<(u32, String), u32>,
}

#[derive(Clone, Copy)]
struct Type {
    at: usize,
    name: u32,
    kind: u32,
    count: usize,
    bitfields: bool,
    /// The type referred to, or the size.
    refers: u32,
}

impl Btf {
    /// Parses `/sys/kernel/btf/vmlinux` or the like.
    ///
    /// # Errors
    /// When the bytes are no BTF or end too early.
    pub fn parse(bytes: Vec<u8>) -> Result<Self, BtfError> {
        let magic = bytes
            .get(..2)
            .and_then(|m| m.try_into().ok())
            .map(u16::from_ne_bytes);
        if magic != Some(MAGIC) {
            return Err(BtfError::Magic);
        }
        let header = |at: usize| -> Result<usize, BtfError> {
            let value = word(&bytes, at).ok_or(BtfError::Truncated {
                part: "the header",
                at,
            })?;
            Ok(value as usize)
        };
        let start = header(4)?;
        let begin = start.saturating_add(header(8)?);
        let end = begin.saturating_add(header(12)?);
        let strings = start.saturating_add(header(16)?);
        if end > bytes.len() {
            return Err(BtfError::Truncated {
                part: "the types",
                at: bytes.len(),
            });
        }
        let mut btf = Self {
            bytes,
            strings,
            types: vec![0],
            named: HashMap::new(),
        };
        let mut at = begin;
        while at < end {
            let kind = btf
                .read(at)
                .ok_or(BtfError::Truncated { part: "a type", at })?;
            let size = extra(kind.kind, kind.count).ok_or(BtfError::Kind {
                kind: kind.kind,
                at,
            })?;
            let id = u32::try_from(btf.types.len()).unwrap_or(u32::MAX);
            btf.types.push(at);
            if matches!(
                kind.kind,
                KIND_STRUCT | KIND_UNION | KIND_ENUM | KIND_TYPEDEF
            ) {
                let name = btf.string(kind.name).to_owned();
                if !name.is_empty() {
                    btf.named.entry((kind.kind, name)).or_insert(id);
                }
            }
            at += 12 + size;
        }
        Ok(btf)
    }

    /// Byte offset of a member, `se.sum_exec_runtime` in `task_struct`. Looks through anonymous
    /// structures and unions; each name but the last must be an embedded structure.
    #[must_use]
    pub fn offset(&self, structure: &str, path: &str) -> Option<u32> {
        let mut id = *self.named.get(&(KIND_STRUCT, structure.to_owned()))?;
        let mut bits = 0;
        for name in path.split('.') {
            let (offset, member) = self.member(id, name, DEPTH)?;
            bits += offset;
            id = member;
        }
        (bits % 8 == 0).then_some(bits / 8)
    }

    /// Value of an enumerator.
    #[must_use]
    pub fn enumerator(&self, name: &str, value: &str) -> Option<u32> {
        let kind = self.resolve(*self.named.get(&(KIND_ENUM, name.to_owned()))?)?;
        (0..kind.count)
            .map(|index| kind.at + 12 + index * 8)
            .find(|at| word(&self.bytes, *at).is_some_and(|name| self.string(name) == value))
            .and_then(|at| word(&self.bytes, at + 4))
    }

    /// Number of parameters of the function type a typedef names, the hidden first one of a
    /// tracepoint included.
    #[must_use]
    pub fn parameters(&self, typedef: &str) -> Option<usize> {
        let mut kind = self.resolve(*self.named.get(&(KIND_TYPEDEF, typedef.to_owned()))?)?;
        for _ in 0..DEPTH {
            match kind.kind {
                KIND_FUNC_PROTO => return Some(kind.count),
                KIND_PTR | KIND_TYPEDEF => kind = self.resolve(kind.refers)?,
                _ => return None,
            }
        }
        None
    }

    fn member(&self, id: u32, wanted: &str, depth: u32) -> Option<(u32, u32)> {
        let kind = self.resolve(id)?;
        if !matches!(kind.kind, KIND_STRUCT | KIND_UNION) {
            return None;
        }
        let members = (0..kind.count).map(|index| kind.at + 12 + index * 12);
        for at in members {
            let name = self.string(word(&self.bytes, at)?);
            let inner = word(&self.bytes, at + 4)?;
            let mut offset = word(&self.bytes, at + 8)?;
            if kind.bitfields {
                offset &= 0x00ff_ffff;
            }
            if name == wanted {
                return Some((offset, inner));
            }
            if name.is_empty()
                && depth > 0
                && let Some((within, found)) = self.member(inner, wanted, depth - 1)
            {
                return Some((offset.checked_add(within)?, found));
            }
        }
        None
    }

    /// The type behind qualifiers.
    fn resolve(&self, id: u32) -> Option<Type> {
        let mut kind = self.read(*self.types.get(id as usize).filter(|at| **at != 0)?)?;
        for _ in 0..DEPTH {
            if !QUALIFIERS.contains(&kind.kind) {
                return Some(kind);
            }
            kind = self.read(
                *self
                    .types
                    .get(kind.refers as usize)
                    .filter(|at| **at != 0)?,
            )?;
        }
        None
    }

    fn read(&self, at: usize) -> Option<Type> {
        let info = word(&self.bytes, at.checked_add(4)?)?;
        Some(Type {
            at,
            name: word(&self.bytes, at)?,
            kind: (info >> 24) & 0x1f,
            count: (info & 0xffff) as usize,
            bitfields: info >> 31 != 0,
            refers: word(&self.bytes, at.checked_add(8)?)?,
        })
    }

    fn string(&self, offset: u32) -> &str {
        let rest = self
            .bytes
            .get(self.strings.saturating_add(offset as usize)..)
            .unwrap_or(&[]);
        let name = rest.split(|byte| *byte == 0).next().unwrap_or(&[]);
        str::from_utf8(name).unwrap_or("")
    }
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    let word = bytes.get(at..at.checked_add(4)?)?;
    Some(u32::from_ne_bytes(word.try_into().ok()?))
}

/// Bytes that follow a type's first twelve.
fn extra(kind: u32, count: usize) -> Option<usize> {
    Some(match kind {
        2 | 7..=12 | 16 | 18 => 0,
        1 | 14 | 17 => 4,
        3 => 12,
        6 | 13 => count * 8,
        4 | 5 | 15 | 19 => count * 12,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn sample() -> Vec<u8> {
        let strings = b"\0outer\0inner\0field\0colour\0red\0blue\0";
        let types: &[u32] = &[
            // 1: int, 4 bytes
            0,
            1 << 24,
            4,
            32, //
            // 2: anonymous struct { int; int field; }
            0,
            (4 << 24) | 2,
            8,
            0,
            1,
            0,
            13,
            1,
            32, //
            // 3: struct outer { int inner; struct { .. }; }
            1,
            (4 << 24) | 2,
            12,
            7,
            1,
            0,
            0,
            2,
            32, //
            // 4: enum colour { red = 3, blue = 5 }
            19,
            (6 << 24) | 2,
            4,
            26,
            3,
            30,
            5,
        ];
        let mut bytes = Vec::new();
        bytes.extend(MAGIC.to_ne_bytes());
        bytes.extend([1, 0]);
        let size = u32::try_from(types.len() * 4).unwrap();
        let length = u32::try_from(strings.len()).unwrap();
        for value in [24, 0, size, size, length].iter().chain(types) {
            bytes.extend(value.to_ne_bytes());
        }
        bytes.extend(strings);
        bytes
    }

    #[test]
    fn a_member_is_found_through_anonymous_structures() {
        let btf = Btf::parse(sample()).unwrap();
        assert_eq!(btf.offset("outer", "inner"), Some(0));
        assert_eq!(btf.offset("outer", "field"), Some(8));
        assert_eq!(btf.offset("outer", "absent"), None);
        assert_eq!(btf.offset("outer", "inner.field"), None);
        assert_eq!(btf.offset("absent", "field"), None);
    }

    #[test]
    fn an_enumerator_has_its_value() {
        let btf = Btf::parse(sample()).unwrap();
        assert_eq!(btf.enumerator("colour", "blue"), Some(5));
        assert_eq!(btf.enumerator("colour", "green"), None);
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_parser_panic(bytes: Vec<u8>) {
            drop(Btf::parse(bytes).map(|btf| btf.offset("outer", "field")));
        }

        #[test]
        fn no_damage_makes_the_parser_panic(at in 0usize..250, value: u8, cut in 0usize..250) {
            let mut bytes = sample();
            if let Some(byte) = bytes.get_mut(at) {
                *byte = value;
            }
            bytes.truncate(cut.max(30));
            let found = Btf::parse(bytes).map(|btf| {
                (btf.offset("outer", "field"), btf.enumerator("colour", "red"), btf.parameters("x"))
            });
            drop(found);
        }
    }
}
