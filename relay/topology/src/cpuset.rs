//! A set of logical CPUs, in the kernel's terms and text format.

use crate::ids::CpuId;
use alloc::string::{String, ToString};
use core::{fmt, str::FromStr};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// As many as kernels are built for (`NR_CPUS` of 8192).
const WORDS: usize = 128;
/// Words of a chunk; [`WORDS`] is a multiple of it.
const CHUNK: usize = 8;
const _: () = assert!(WORDS.is_multiple_of(CHUNK));

/// CPU numbers from 0 to this minus one can be represented.
#[expect(clippy::cast_possible_truncation, reason = "a small constant")]
pub const MAX_CPUS: u32 = (WORDS * 64) as u32;

/// A set of logical CPUs: a fixed bitset, printed and parsed in the kernel's list format (`0-3,8`).
///
/// Format: `Documentation/admin-guide/cputopology.rst` and `bitmap_parselist()` of the kernel,
/// without its `:used/group` extension. The empty set prints as the empty string.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CpuSet([u64; WORDS]);

/// Why a text is not a CPU list.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CpuSetError {
    /// An element is neither a number nor a range.
    #[error("{element:?} is not a CPU number or range (expected a list such as 0-3,8)")]
    Element {
        /// The element as typed.
        element: String,
    },
    /// A range runs backwards.
    #[error("range {element:?} runs backwards")]
    Backwards {
        /// The element as typed.
        element: String,
    },
    /// A CPU number that no machine we support has.
    #[error("CPU {cpu} is beyond the largest supported number {}", MAX_CPUS - 1)]
    TooLarge {
        /// The number as typed.
        cpu: u64,
    },
}

impl Default for CpuSet {
    fn default() -> Self {
        Self::EMPTY
    }
}

impl CpuSet {
    /// The set without CPUs.
    pub const EMPTY: Self = Self([0; WORDS]);

    /// The set of one CPU. Numbers from [`MAX_CPUS`] on give the empty set.
    #[must_use]
    pub fn single(cpu: CpuId) -> Self {
        let mut set = Self::EMPTY;
        set.insert(cpu);
        set
    }

    /// Adds a CPU; `false` when it was there already, or its number is not below [`MAX_CPUS`].
    pub fn insert(&mut self, cpu: CpuId) -> bool {
        let Some(word) = self.0.get_mut(cpu.0 as usize / 64) else {
            return false;
        };
        let bit = 1u64 << (cpu.0 % 64);
        let new = *word & bit == 0;
        *word |= bit;
        new
    }

    /// Takes a CPU out; `false` when it was not there.
    pub fn remove(&mut self, cpu: CpuId) -> bool {
        let Some(word) = self.0.get_mut(cpu.0 as usize / 64) else {
            return false;
        };
        let bit = 1u64 << (cpu.0 % 64);
        let was = *word & bit != 0;
        *word &= !bit;
        was
    }

    /// Whether the CPU is in the set.
    #[must_use]
    pub fn contains(&self, cpu: CpuId) -> bool {
        self.0
            .get(cpu.0 as usize / 64)
            .is_some_and(|word| word & (1u64 << (cpu.0 % 64)) != 0)
    }

    /// Number of CPUs in the set.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.iter().map(|word| word.count_ones() as usize).sum()
    }

    /// Whether the set has no CPU.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.iter().all(|word| *word == 0)
    }

    /// The lowest CPU of the set.
    #[must_use]
    pub fn first(&self) -> Option<CpuId> {
        let mut words = (0u32..).zip(&self.0);
        let (index, word) = words.find(|(_, word)| **word != 0)?;
        Some(CpuId(index * 64 + word.trailing_zeros()))
    }

    /// The CPUs of the set, ascending.
    pub fn iter(&self) -> impl Iterator<Item = CpuId> + '_ {
        (0u32..).zip(self.0.iter()).flat_map(|(index, word)| {
            let mut rest = *word;
            core::iter::from_fn(move || {
                (rest != 0).then(|| {
                    let bit = rest.trailing_zeros();
                    rest &= rest - 1;
                    CpuId(index * 64 + bit)
                })
            })
        })
    }

    fn zip(&self, other: &Self, f: impl Fn(u64, u64) -> u64) -> Self {
        let mut out = *self;
        for (a, b) in out.0.iter_mut().zip(&other.0) {
            *a = f(*a, *b);
        }
        out
    }

    /// Whether `f` of the words is zero everywhere. Words are looked at by the chunk: one branch for each.
    fn none(&self, other: &Self, f: impl Fn(u64, u64) -> u64) -> bool {
        let (ours, _) = self.0.as_chunks::<CHUNK>();
        let (theirs, _) = other.0.as_chunks::<CHUNK>();
        ours.iter().zip(theirs).all(|(ours, theirs)| {
            let words = ours.iter().zip(theirs);
            words.fold(0, |any, (a, b)| any | f(*a, *b)) == 0
        })
    }

    /// CPUs in either set.
    #[must_use]
    pub fn union(&self, other: &Self) -> Self {
        self.zip(other, |a, b| a | b)
    }

    /// CPUs in both sets.
    #[must_use]
    pub fn intersection(&self, other: &Self) -> Self {
        self.zip(other, |a, b| a & b)
    }

    /// CPUs in this set and not in the other.
    #[must_use]
    pub fn difference(&self, other: &Self) -> Self {
        self.zip(other, |a, b| a & !b)
    }

    /// Whether every CPU of this set is in the other.
    #[must_use]
    pub fn is_subset(&self, other: &Self) -> bool {
        self.none(other, |a, b| a & !b)
    }

    /// Whether the sets have no CPU in common.
    #[must_use]
    pub fn is_disjoint(&self, other: &Self) -> bool {
        self.none(other, |a, b| a & b)
    }
}

impl FromIterator<CpuId> for CpuSet {
    fn from_iter<I: IntoIterator<Item = CpuId>>(cpus: I) -> Self {
        let mut set = Self::EMPTY;
        for cpu in cpus {
            set.insert(cpu);
        }
        set
    }
}

impl fmt::Display for CpuSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut cpus = self.iter().map(|cpu| cpu.0).peekable();
        let mut separator = "";
        while let Some(start) = cpus.next() {
            let mut end = start;
            while cpus.next_if_eq(&(end + 1)).is_some() {
                end += 1;
            }
            f.write_str(separator)?;
            separator = ",";
            if end == start {
                write!(f, "{start}")?;
            } else {
                write!(f, "{start}-{end}")?;
            }
        }
        Ok(())
    }
}

impl fmt::Debug for CpuSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{{{self}}}")
    }
}

impl FromStr for CpuSet {
    type Err = CpuSetError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut set = Self::EMPTY;
        let text = text.trim();
        if text.is_empty() {
            return Ok(set);
        }
        for element in text.split(',') {
            let element = element.trim();
            let bad = || CpuSetError::Element {
                element: element.to_string(),
            };
            let number = |text: &str| -> Result<u64, CpuSetError> {
                let text = text.trim();
                if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
                    return Err(bad());
                }
                text.parse().map_err(|_overflow| bad())
            };
            let (start, end) = match element.split_once('-') {
                Some((start, end)) => (number(start)?, number(end)?),
                None => (number(element)?, number(element)?),
            };
            if start > end {
                return Err(CpuSetError::Backwards {
                    element: element.to_string(),
                });
            }
            if end >= u64::from(MAX_CPUS) {
                return Err(CpuSetError::TooLarge { cpu: end });
            }
            for cpu in start..=end {
                set.insert(CpuId(u32::try_from(cpu).map_err(|_overflow| bad())?));
            }
        }
        Ok(set)
    }
}

impl Serialize for CpuSet {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for CpuSet {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <alloc::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        text.parse().map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_print_as_the_kernel_prints_them() {
        for (typed, printed) in [
            ("", ""),
            ("3", "3"),
            ("0-3,8", "0-3,8"),
            ("8,0,1,2", "0-2,8"),
            (" 1 , 3-3 ", "1,3"),
        ] {
            assert_eq!(typed.parse::<CpuSet>().unwrap().to_string(), printed);
        }
    }

    #[test]
    fn bad_lists_are_refused_with_the_culprit() {
        assert_eq!(
            "3-1".parse::<CpuSet>(),
            Err(CpuSetError::Backwards {
                element: "3-1".into()
            })
        );
        assert_eq!(
            "1,x".parse::<CpuSet>(),
            Err(CpuSetError::Element {
                element: "x".into()
            })
        );
        assert_eq!(
            "99999".parse::<CpuSet>(),
            Err(CpuSetError::TooLarge { cpu: 99999 })
        );
        assert!("+1".parse::<CpuSet>().is_err());
        assert!("1,".parse::<CpuSet>().is_err());
    }
}
