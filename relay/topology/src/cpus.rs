//! CPU sets that are kept.

use crate::cpuset::CpuSet;
use alloc::sync::Arc;
use core::{fmt, ops::Deref};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A [`CpuSet`] to keep: a copy shares it and costs a counter, not its kilobyte. Thousands of containers
/// have the same CPUs, and get others all at once.
///
/// Reads as the set it holds, and is printed, written and compared as that. The empty one holds nothing.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Cpus(Option<Arc<CpuSet>>);

impl Cpus {
    /// No CPUs.
    pub const EMPTY: Self = Self(None);

    /// Whether there is no CPU.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_none()
    }
}

impl Deref for Cpus {
    type Target = CpuSet;

    fn deref(&self) -> &CpuSet {
        self.0.as_deref().unwrap_or(&CpuSet::EMPTY)
    }
}

impl From<CpuSet> for Cpus {
    fn from(cpus: CpuSet) -> Self {
        Self((!cpus.is_empty()).then(|| Arc::new(cpus)))
    }
}

impl PartialEq<CpuSet> for Cpus {
    fn eq(&self, other: &CpuSet) -> bool {
        **self == *other
    }
}

impl fmt::Display for Cpus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}

impl fmt::Debug for Cpus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}

impl Serialize for Cpus {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        (**self).serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Cpus {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        CpuSet::deserialize(deserializer).map(Self::from)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kept_cpus_are_written_and_compared_as_the_set() {
        for list in ["", "0", "0-3,8", "2047"] {
            let set: CpuSet = list.parse().unwrap();
            let kept = Cpus::from(set);
            assert_eq!(kept, set);
            assert_eq!(kept, Cpus::from(set), "equal by what it holds");
            assert_eq!(kept.is_empty(), set.is_empty());
            assert_eq!(kept == Cpus::EMPTY, set.is_empty());
            let text = serde_json::to_string(&kept).unwrap();
            assert_eq!(text, serde_json::to_string(&set).unwrap());
            assert_eq!(serde_json::from_str::<Cpus>(&text).unwrap(), kept);
        }
    }
}
