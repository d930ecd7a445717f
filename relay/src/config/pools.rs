//! Pools of the static-pools policy, as written in a document or a file.
//!
//! ```yaml
//! pools:
//!   exclusive:
//!     exclusive: true
//!     cpuLists:
//!     - { Socket: 0, Cpuset: "2,18" }
//! ```

use resmgr_topology::CpuSet;

/// One list of CPUs: the unit in which an exclusive pool is given out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CpuList {
    /// Package the CPUs are on; `--socket-id` selects by it.
    pub socket: u32,
    /// The CPUs.
    pub cpus: CpuSet,
}

/// One pool.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pool {
    /// Its name.
    pub name: String,
    /// Whether a list belongs to one container at a time.
    pub exclusive: bool,
    /// Its lists, in the order written.
    pub lists: Vec<CpuList>,
}

/// All pools, in the order of their names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pools(pub Vec<Pool>);
