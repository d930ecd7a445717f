//! CPU topology, CPU sets and the CPU allocator.
//!
//! Pure values: nothing here opens a file, reads a clock or holds a global. The daemon's `discover`
//! module builds a [`Topology`] from the machine; tests and the simulator build one from a synthetic
//! description.
#![cfg_attr(not(test), no_std)]

extern crate alloc;

mod allocate;
mod cpus;
mod cpuset;
mod distance;
mod ids;
mod mend;
mod model;
mod nodes;
mod parts;
mod synthetic;

pub use allocate::{Preference, allocate, keep};
pub use cpus::Cpus;
pub use cpuset::{CpuSet, CpuSetError, MAX_CPUS};
pub use distance::DistanceClass;
pub use ids::{CoreId, CpuId, DieId, L2Id, LlcId, MilliCpu, Nanos, NodeId, PackageId};
pub use model::{CoreKind, Cpu, Group, Node, Topology};
pub use nodes::{NodeListError, format_nodes, parse_nodes};
pub use parts::{Parts, TopologyError};
pub use synthetic::SyntheticError;
