//! Identifiers and units: no bare integer crosses a module boundary.

use core::fmt;
use serde::{Deserialize, Serialize};

macro_rules! id {
    ($(#[$meta:meta])* $name:ident) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub u32);
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

id! {
    /// A logical CPU (hardware thread), by the kernel's number. May be sparse.
    CpuId
}
id! {
    /// A physical core. Our own dense number over the whole machine, in order of its lowest CPU.
    CoreId
}
id! {
    /// A level-2 cache domain. Our own dense number over the whole machine.
    L2Id
}
id! {
    /// A last-level-cache domain. Our own dense number over the whole machine.
    LlcId
}
id! {
    /// A die. Our own dense number over the whole machine.
    DieId
}
id! {
    /// A NUMA node, by the kernel's number. May be sparse.
    NodeId
}
id! {
    /// A package (socket), by the kernel's number. May be sparse.
    PackageId
}
id! {
    /// Thousandths of a CPU, Kubernetes' `m` unit.
    MilliCpu
}

/// Nanoseconds on a clock named by the context.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Nanos(pub u64);
