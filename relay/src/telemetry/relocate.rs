//! Writes this kernel's numbers into the program's instructions.
//!
//! The object is built with placeholders where a number is not known before it is loaded: see
//! [`resmgr_common::FieldReloc`] and [`resmgr_common::ConstReloc`]. Only instructions of the kinds that carry
//! placeholders are changed; a placeholder without a number is an error, never a load from somewhere else.
//!
//! Format of the instructions: Documentation/bpf/standardization of the kernel. Never panics, whatever the
//! bytes.

use object::{LittleEndian, Object as _, ObjectSection as _, SectionKind, read::elf::ElfFile64};
use resmgr_common::{CONST_PLACEHOLDER, ConstReloc, FIELD_PLACEHOLDER, FieldReloc};
use std::{collections::BTreeMap, ops::Range};
use thiserror::Error;

const INSTRUCTION: usize = 8;
/// Placeholders reserved of either kind, in use or not.
const RESERVED: usize = 0x100;

/// Why an object cannot be adapted to this kernel.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub(super) enum RelocateError {
    /// Not an object of BPF, or cut off.
    #[error("the object is damaged: {why}")]
    Damaged {
        /// What is wrong with it.
        why: String,
    },
    /// An instruction carries a placeholder for which there is no number.
    #[error("the object asks for something unknown at byte {at}")]
    Unknown {
        /// The instruction.
        at: usize,
    },
    /// An offset that no instruction can hold.
    #[error("{field:?} is {offset} bytes into its structure, further than a load reaches")]
    Far {
        /// Which field.
        field: FieldReloc,
        /// Where it is.
        offset: u32,
    },
    /// A number the program never uses, so it is not the program that was meant.
    #[error("the object does not ask for {name}")]
    Unused {
        /// Its name.
        name: String,
    },
}

/// Numbers for the placeholders.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct RelocationValues {
    /// Offsets of the fields in their structures, bytes.
    pub(super) offsets: BTreeMap<FieldReloc, u32>,
    pub(super) constants: BTreeMap<ConstReloc, u32>,
}

/// Writes `values` into the instructions of `object`; tells into how many.
///
/// # Errors
/// When the object and the values do not fit together; the object is spoilt then.
pub(super) fn relocate(
    object: &mut [u8],
    values: &RelocationValues,
) -> Result<usize, RelocateError> {
    let mut offsets: BTreeMap<FieldReloc, i16> = BTreeMap::new();
    for (field, offset) in &values.offsets {
        let near = i16::try_from(*offset)
            .ok()
            .filter(|near| *near < FIELD_PLACEHOLDER);
        let near = near.ok_or(RelocateError::Far {
            field: *field,
            offset: *offset,
        })?;
        offsets.insert(*field, near);
    }
    let (mut count, mut used_fields, mut used_constants) = (0, Vec::new(), Vec::new());
    for Range { start, end } in sections(object, SectionKind::Text)? {
        let mut at = start;
        while let Some(instruction) = object
            .get_mut(at..at.saturating_add(INSTRUCTION))
            .filter(|_| at < end)
        {
            let unknown = RelocateError::Unknown { at };
            match relocation(instruction) {
                Some(Relocation::Field(index)) => {
                    let field = FieldReloc::ALL.get(index).ok_or(unknown.clone())?;
                    let offset = offsets.get(field).ok_or(unknown)?;
                    instruction[2..4].copy_from_slice(&offset.to_le_bytes());
                    used_fields.push(*field);
                    count += 1;
                }
                Some(Relocation::Const(index)) => {
                    let constant = ConstReloc::ALL.get(index).ok_or(unknown.clone())?;
                    let value = values.constants.get(constant).ok_or(unknown)?;
                    instruction[4..8].copy_from_slice(&value.to_le_bytes());
                    used_constants.push(*constant);
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
            let Some(index) = const_index(i32::from_le_bytes(*word)) else {
                continue;
            };
            let unknown = RelocateError::Unknown { at };
            let constant = ConstReloc::ALL.get(index).ok_or(unknown.clone())?;
            *word = values.constants.get(constant).ok_or(unknown)?.to_le_bytes();
            used_constants.push(*constant);
            count += 1;
        }
    }
    let unused_field = offsets.keys().find(|field| !used_fields.contains(field));
    let unused_constant = values
        .constants
        .keys()
        .find(|constant| !used_constants.contains(constant));
    let unused = unused_field
        .map(|field| format!("{field:?}"))
        .or_else(|| unused_constant.map(|constant| format!("{constant:?}")));
    match unused {
        Some(name) => Err(RelocateError::Unused { name }),
        None => Ok(count),
    }
}

/// What an instruction needs, by the number of its placeholder.
enum Relocation {
    Field(usize),
    Const(usize),
}

/// The number of the constant whose placeholder this is.
fn const_index(operand: i32) -> Option<usize> {
    reserved(i64::from(operand) - i64::from(CONST_PLACEHOLDER))
}

fn reserved(distance: i64) -> Option<usize> {
    usize::try_from(distance)
        .ok()
        .filter(|index| *index < RESERVED)
}

/// The placeholder an instruction carries: a load, a store or an atomic operation in its offset; a move or an
/// addition of a constant in its operand.
fn relocation(instruction: &[u8]) -> Option<Relocation> {
    let operation = *instruction.first()?;
    match operation & 7 {
        1..=3 => {
            let offset = i16::from_le_bytes(instruction.get(2..4)?.try_into().ok()?);
            let index = reserved(i64::from(offset) - i64::from(FIELD_PLACEHOLDER))?;
            // Only loads of whole words are relocated; a placeholder in any other instruction has no number.
            let whole = matches!(operation, 0x61 | 0x79);
            Some(Relocation::Field(if whole { index } else { RESERVED }))
        }
        4 | 7 => {
            let operand = i32::from_le_bytes(instruction.get(4..8)?.try_into().ok()?);
            let index = const_index(operand)?;
            let plain = matches!(operation, 0xb7 | 0xb4 | 0x07);
            Some(Relocation::Const(if plain { index } else { RESERVED }))
        }
        _ => None,
    }
}

/// Where each section of this kind is.
fn sections(object: &[u8], kind: SectionKind) -> Result<Vec<Range<usize>>, RelocateError> {
    let damaged = |why: object::Error| RelocateError::Damaged {
        why: why.to_string(),
    };
    let file = ElfFile64::<LittleEndian>::parse(object).map_err(damaged)?;
    let mut sections = Vec::new();
    for section in file.sections() {
        if section.kind() != kind {
            continue;
        }
        // A section that is cut off is refused.
        let length = section.data().map_err(damaged)?.len();
        let (start, _) = section.file_range().unwrap_or_default();
        let start = usize::try_from(start).unwrap_or(usize::MAX);
        if kind == SectionKind::Text && length % INSTRUCTION != 0 {
            let why = format!("half an instruction at the end of {length} bytes of code");
            return Err(RelocateError::Damaged { why });
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

    fn values() -> RelocationValues {
        RelocationValues {
            offsets: [(FieldReloc::TaskPid, 1264)].into(),
            constants: [(ConstReloc::Slots, 252)].into(),
        }
    }

    #[test]
    fn each_placeholder_gets_its_number_and_nothing_else_is_touched() {
        let with = |pid: i16, slots: i32| {
            object(&[
                instruction(0x61, pid, 0),
                instruction(0x79, 16, 0),
                instruction(0xb7, 0, slots),
                // A wide constant whose halves look like placeholders; a jump as far as such a number.
                instruction(0x18, 0, ConstReloc::Slots.placeholder()),
                instruction(0x61, FieldReloc::TaskPid.placeholder(), 0),
                instruction(0x05, FieldReloc::TaskPid.placeholder(), 0),
                instruction(0x07, 0, slots),
                instruction(0x61, pid, 0),
            ])
        };
        let mut object_bytes = with(
            FieldReloc::TaskPid.placeholder(),
            ConstReloc::Slots.placeholder(),
        );
        assert_eq!(relocate(&mut object_bytes, &values()), Ok(4));
        assert_eq!(object_bytes, with(1264, 252));
    }

    #[test]
    fn the_definition_of_a_map_gets_its_number() {
        let values = RelocationValues {
            constants: [(ConstReloc::RowBytes, 48_576)].into(),
            ..RelocationValues::default()
        };
        let with = |bytes: i32| {
            let warnings = [2, 4, bytes, 8, 1 << 10, 0, 0];
            let warnings: Vec<u8> = warnings.into_iter().flat_map(i32::to_le_bytes).collect();
            object_of(StandardSection::Data, &warnings)
        };
        let mut object_bytes = with(ConstReloc::RowBytes.placeholder());
        assert_eq!(relocate(&mut object_bytes, &values), Ok(1));
        assert_eq!(object_bytes, with(48_576));
        let refused = Err(RelocateError::Unknown { at: 0x48 });
        assert_eq!(
            relocate(&mut with(ConstReloc::Slots.placeholder()), &values),
            refused
        );
    }

    #[test]
    fn what_has_no_number_is_refused() {
        let pid = || instruction(0x61, FieldReloc::TaskPid.placeholder(), 0);
        let slots = || instruction(0xb7, 0, ConstReloc::Slots.placeholder());
        // The code follows the header of the file.
        let first = 0x40;
        for unknown in [
            instruction(0x79, FieldReloc::CssId.placeholder(), 0),
            instruction(0x79, FIELD_PLACEHOLDER + 0xff, 0),
            instruction(0x7b, FieldReloc::TaskPid.placeholder(), 0),
            instruction(0xdb, FieldReloc::TaskPid.placeholder(), 0),
            instruction(0x69, FieldReloc::TaskPid.placeholder(), 0),
            instruction(0xb7, 0, ConstReloc::Nodes.placeholder()),
            instruction(0x27, 0, ConstReloc::Slots.placeholder()),
        ] {
            let mut object_bytes = object(&[unknown, pid(), slots()]);
            let refused = Err(RelocateError::Unknown { at: first });
            assert_eq!(relocate(&mut object_bytes, &values()), refused);
        }
        let unused = |name: &str| {
            Err(RelocateError::Unused {
                name: name.to_owned(),
            })
        };
        assert_eq!(
            relocate(&mut object(&[slots()]), &values()),
            unused("TaskPid")
        );
        assert_eq!(relocate(&mut object(&[pid()]), &values()), unused("Slots"));
        let mut far = values();
        far.offsets.insert(FieldReloc::TaskPid, 40_000);
        let refused = relocate(&mut object(&[pid(), slots()]), &far);
        assert!(
            matches!(refused, Err(RelocateError::Far { .. })),
            "{refused:?}"
        );
    }

    proptest! {
        #[test]
        fn no_damage_makes_it_panic(at in 0usize..600, value: u8, cut in 0usize..600) {
            let mut bytes = object(&[instruction(0x61, FieldReloc::TaskPid.placeholder(), 0)]);
            if let Some(byte) = bytes.get_mut(at) {
                *byte = value;
            }
            bytes.truncate(cut);
            let outcome = relocate(&mut bytes, &values());
            drop(outcome);
        }
    }
}
