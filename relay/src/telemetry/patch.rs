//! Writes this kernel's numbers into the program's instructions.
//!
//! The object is built with marks where a number is not known before it is loaded: see
//! [`resmgr_common::Field`] and [`resmgr_common::Value`]. Only instructions are looked at, and of them only
//! the kinds that carry marks; a mark without a number is an error, never a load from somewhere else.
//!
//! Format of the instructions: Documentation/bpf/standardization of the kernel. Never panics, whatever the
//! bytes.

use object::{LittleEndian, Object as _, ObjectSection as _, SectionKind, read::elf::ElfFile64};
use resmgr_common::{FIELD_MARK, Field, VALUE_MARK, Value};
use std::{collections::BTreeMap, ops::Range};
use thiserror::Error;

const INSTRUCTION: usize = 8;
/// Marks reserved of either kind, in use or not.
const MARKS: usize = 0x100;

/// Why an object cannot be adapted to this kernel.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub(super) enum PatchError {
    /// Not an object of BPF, or cut off.
    #[error("the object is damaged: {why}")]
    Damaged {
        /// What is wrong with it.
        why: String,
    },
    /// An instruction carries a mark nobody has a number for.
    #[error("the object asks for something unknown at byte {at}")]
    Unknown {
        /// The instruction.
        at: usize,
    },
    /// An offset that no instruction can hold.
    #[error("{field:?} is {offset} bytes into its structure, further than a load reaches")]
    Far {
        /// Which field.
        field: Field,
        /// Where it is.
        offset: u32,
    },
    /// A number the program never uses, so it is not the program that was meant.
    #[error("the object does not ask for {what}")]
    Unused {
        /// Its name.
        what: String,
    },
}

/// Numbers for the marks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Numbers {
    pub(super) fields: BTreeMap<Field, u32>,
    pub(super) values: BTreeMap<Value, u32>,
}

/// Writes `numbers` into the instructions of `object`; tells into how many.
///
/// # Errors
/// When the object and the numbers do not fit together; the object is spoilt then.
pub(super) fn patch(object: &mut [u8], numbers: &Numbers) -> Result<usize, PatchError> {
    let mut fields: BTreeMap<Field, i16> = BTreeMap::new();
    for (field, offset) in &numbers.fields {
        let near = i16::try_from(*offset)
            .ok()
            .filter(|near| *near < FIELD_MARK);
        let near = near.ok_or(PatchError::Far {
            field: *field,
            offset: *offset,
        })?;
        fields.insert(*field, near);
    }
    let (mut count, mut used_fields, mut used_values) = (0, Vec::new(), Vec::new());
    for Range { start, end } in sections(object, SectionKind::Text)? {
        let mut at = start;
        while let Some(instruction) = object
            .get_mut(at..at.saturating_add(INSTRUCTION))
            .filter(|_| at < end)
        {
            let unknown = PatchError::Unknown { at };
            match mark(instruction) {
                Some(Mark::Field(index)) => {
                    let field = Field::ALL.get(index).ok_or(unknown.clone())?;
                    let offset = fields.get(field).ok_or(unknown)?;
                    instruction[2..4].copy_from_slice(&offset.to_le_bytes());
                    used_fields.push(*field);
                    count += 1;
                }
                Some(Mark::Value(index)) => {
                    let value = Value::ALL.get(index).ok_or(unknown.clone())?;
                    let number = numbers.values.get(value).ok_or(unknown)?;
                    instruction[4..8].copy_from_slice(&number.to_le_bytes());
                    used_values.push(*value);
                    count += 1;
                }
                None => {}
            }
            // A load of 64 bits takes two places; the second holds no instruction.
            at += if instruction[0] == 0x18 {
                2 * INSTRUCTION
            } else {
                INSTRUCTION
            };
        }
    }
    // The definitions of maps: words of 32 bits.
    for section in sections(object, SectionKind::Data)? {
        let start = section.start;
        let (words, _) = object.get_mut(section).unwrap_or_default().as_chunks_mut();
        for (at, word) in (start..).step_by(4).zip(words) {
            let Some(index) = value_index(i32::from_le_bytes(*word)) else {
                continue;
            };
            let unknown = PatchError::Unknown { at };
            let value = Value::ALL.get(index).ok_or(unknown.clone())?;
            *word = numbers.values.get(value).ok_or(unknown)?.to_le_bytes();
            used_values.push(*value);
            count += 1;
        }
    }
    let idle_field = fields.keys().find(|field| !used_fields.contains(field));
    let idle_value = numbers
        .values
        .keys()
        .find(|value| !used_values.contains(value));
    let unused = idle_field
        .map(|field| format!("{field:?}"))
        .or_else(|| idle_value.map(|value| format!("{value:?}")));
    match unused {
        Some(what) => Err(PatchError::Unused { what }),
        None => Ok(count),
    }
}

enum Mark {
    Field(usize),
    Value(usize),
}

/// The number of the value whose mark this is.
fn value_index(operand: i32) -> Option<usize> {
    within(i64::from(operand) - i64::from(VALUE_MARK))
}

fn within(distance: i64) -> Option<usize> {
    usize::try_from(distance)
        .ok()
        .filter(|index| *index < MARKS)
}

/// The mark an instruction carries: a load, a store or an atomic operation in its offset; a move or an
/// addition of a constant in its operand.
fn mark(instruction: &[u8]) -> Option<Mark> {
    let operation = *instruction.first()?;
    match operation & 7 {
        1..=3 => {
            let offset = i16::from_le_bytes(instruction.get(2..4)?.try_into().ok()?);
            let index = within(i64::from(offset) - i64::from(FIELD_MARK))?;
            // Only whole words are loaded; whatever else carries a mark has no number.
            let whole = matches!(operation, 0x61 | 0x79);
            Some(Mark::Field(if whole { index } else { MARKS }))
        }
        4 | 7 => {
            let operand = i32::from_le_bytes(instruction.get(4..8)?.try_into().ok()?);
            let index = value_index(operand)?;
            let plain = matches!(operation, 0xb7 | 0xb4 | 0x07);
            Some(Mark::Value(if plain { index } else { MARKS }))
        }
        _ => None,
    }
}

/// Where each section of this kind is.
fn sections(object: &[u8], kind: SectionKind) -> Result<Vec<Range<usize>>, PatchError> {
    let damaged = |why: object::Error| PatchError::Damaged {
        why: why.to_string(),
    };
    let file = ElfFile64::<LittleEndian>::parse(object).map_err(damaged)?;
    let mut sections = Vec::new();
    for section in file.sections() {
        if section.kind() != kind {
            continue;
        }
        // What is not all there is refused.
        let length = section.data().map_err(damaged)?.len();
        let (start, _) = section.file_range().unwrap_or_default();
        let start = usize::try_from(start).unwrap_or(usize::MAX);
        if kind == SectionKind::Text && length % INSTRUCTION != 0 {
            let why = format!("half an instruction at the end of {length} bytes of code");
            return Err(PatchError::Damaged { why });
        }
        sections.push(start..start.saturating_add(length));
    }
    Ok(sections)
}

#[cfg(test)]
mod tests {
    use super::*;
    use object::{
        Architecture, BinaryFormat, Endianness,
        write::{Object, StandardSection},
    };
    use proptest::prelude::*;

    fn instruction(operation: u8, offset: i16, operand: i32) -> Vec<u8> {
        let mut bytes = vec![operation, 0x21];
        bytes.extend(offset.to_le_bytes());
        bytes.extend(operand.to_le_bytes());
        bytes
    }

    /// An object with one section of these instructions.
    fn object(code: &[Vec<u8>]) -> Vec<u8> {
        object_of(StandardSection::Text, &code.concat())
    }

    fn object_of(section: StandardSection, content: &[u8]) -> Vec<u8> {
        let mut object = Object::new(BinaryFormat::Elf, Architecture::Bpf, Endianness::Little);
        let section = object.section_id(section);
        object.append_section_data(section, content, 8);
        object.write().unwrap()
    }

    fn numbers() -> Numbers {
        Numbers {
            fields: [(Field::TaskPid, 1264)].into(),
            values: [(Value::Slots, 252)].into(),
        }
    }

    #[test]
    fn each_mark_gets_its_number_and_nothing_else_is_touched() {
        let with = |pid: i16, slots: i32| {
            object(&[
                instruction(0x61, pid, 0),
                instruction(0x79, 16, 0),
                instruction(0xb7, 0, slots),
                // A wide constant whose halves look like marks; a jump as far as one.
                instruction(0x18, 0, Value::Slots.mark()),
                instruction(0x61, Field::TaskPid.mark(), 0),
                instruction(0x05, Field::TaskPid.mark(), 0),
                instruction(0x07, 0, slots),
                instruction(0x61, pid, 0),
            ])
        };
        let mut marked = with(Field::TaskPid.mark(), Value::Slots.mark());
        assert_eq!(patch(&mut marked, &numbers()), Ok(4));
        assert_eq!(marked, with(1264, 252));
    }

    #[test]
    fn the_definition_of_a_map_gets_its_number() {
        let numbers = Numbers {
            values: [(Value::RowBytes, 48_576)].into(),
            ..Numbers::default()
        };
        let with = |bytes: i32| {
            let words = [2, 4, bytes, 8, 1 << 10, 0, 0];
            let words: Vec<u8> = words.into_iter().flat_map(i32::to_le_bytes).collect();
            object_of(StandardSection::Data, &words)
        };
        let mut marked = with(Value::RowBytes.mark());
        assert_eq!(patch(&mut marked, &numbers), Ok(1));
        assert_eq!(marked, with(48_576));
        let refused = Err(PatchError::Unknown { at: 0x48 });
        assert_eq!(patch(&mut with(Value::Slots.mark()), &numbers), refused);
    }

    #[test]
    fn what_has_no_number_is_refused() {
        let pid = || instruction(0x61, Field::TaskPid.mark(), 0);
        let slots = || instruction(0xb7, 0, Value::Slots.mark());
        // The code follows the header of the file.
        let first = 0x40;
        for odd in [
            instruction(0x79, Field::CssId.mark(), 0),
            instruction(0x79, FIELD_MARK + 0xff, 0),
            instruction(0x7b, Field::TaskPid.mark(), 0),
            instruction(0xdb, Field::TaskPid.mark(), 0),
            instruction(0x69, Field::TaskPid.mark(), 0),
            instruction(0xb7, 0, Value::Nodes.mark()),
            instruction(0x27, 0, Value::Slots.mark()),
        ] {
            let mut marked = object(&[odd, pid(), slots()]);
            let refused = Err(PatchError::Unknown { at: first });
            assert_eq!(patch(&mut marked, &numbers()), refused);
        }
        let unused = |what: &str| {
            Err(PatchError::Unused {
                what: what.to_owned(),
            })
        };
        assert_eq!(
            patch(&mut object(&[slots()]), &numbers()),
            unused("TaskPid")
        );
        assert_eq!(patch(&mut object(&[pid()]), &numbers()), unused("Slots"));
        let mut far = numbers();
        far.fields.insert(Field::TaskPid, 40_000);
        let refused = patch(&mut object(&[pid(), slots()]), &far);
        assert!(
            matches!(refused, Err(PatchError::Far { .. })),
            "{refused:?}"
        );
    }

    proptest! {
        #[test]
        fn no_damage_makes_it_panic(at in 0usize..600, value: u8, cut in 0usize..600) {
            let mut bytes = object(&[instruction(0x61, Field::TaskPid.mark(), 0)]);
            if let Some(byte) = bytes.get_mut(at) {
                *byte = value;
            }
            bytes.truncate(cut);
            let outcome = patch(&mut bytes, &numbers());
            drop(outcome);
        }
    }
}
