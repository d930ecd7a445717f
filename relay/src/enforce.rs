//! Writes cpusets, reads them back, repairs drift. The only module that writes under the cgroup mount.
//!
//! It decides nothing: it is handed [`CgroupSettings`] values and makes the kernel agree with them.
//!
//! ```text
//! before, after ──plan──▶ [Shrink…] [Move…] │ create in the runtime │ [Grow…]
//!                                 each Step knows its undo
//! ```
//!
//! It must never touch a cgroup other than those of containers it was told of, their children, (only to add CPUs a
//! container needs) their ancestors, and those that [`fence`] keeps off exclusive CPUs.

pub mod cgroup;
pub mod error;
pub mod fence;
pub mod files;
pub mod locate;
pub mod mount;
pub mod pods;
pub mod reconcile;
pub mod step;
pub mod watch;
pub mod weight;
pub mod writers;

pub use cgroup::{Actual, CgroupResources, Cgroups, Found};
pub use error::EnforceError;
pub use fence::{FenceEvent, FenceJournal, HostFence, pods_cgroups};
pub use files::{CgroupFiles, MountedFiles};
pub use locate::Place;
pub use mount::Hierarchy;
pub use pods::{PodsCgroups, WithheldCpus};
pub use reconcile::{Drift, Field};
pub use step::{CgroupSettings, Phase, Plan, SettingsChange, Step, plan};

#[cfg(test)]
pub(crate) mod test_support;
