//! `cri-resmgr install` and `uninstall`: puts the relay between a node's kubelet and its runtime, and takes it out.
//!
//! [`plan()`] and [`KubeletSetup`] are pure: files in, changes out. [`install`] and [`uninstall`] carry them out on a
//! [`Host`]. Each change is in the journal, on disk, before it is made; what the journal lists can be undone
//! at any time, also when the installation was killed between any two of its steps:
//!
//! ```text
//! Begin ─▶ folders, program, option file, units ─▶ units started ─▶ CRI answers through the relay?
//!                                                     ─▶ kubelet's files ─▶ kubelet restarted ─▶ still? ─▶ Done
//! ```
//!
//! The kubelet is told last and set right first. It must never be left pointing at a socket that nothing serves.

mod change;
mod error;
mod host;
mod journal;
mod kubelet;
mod plan;
mod run;

pub use change::FileChange;
pub use error::InstallError;
pub use host::{AskVersion, Files, Host, LocalFiles, RestoreCpus, Say, ThisHost};
pub use kubelet::{KubeletSetup, RELAY_SOCKET};
pub use plan::{InstallOptions, InstallPlan, OPTION_FILE, PACKAGED_PROGRAM, plan};
pub use run::{dry_run, install, uninstall};

#[cfg(test)]
mod tests;
