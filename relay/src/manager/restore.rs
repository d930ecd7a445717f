//! Gives every container back what it would have had without us.

use crate::{
    enforce::{Cgroups, Place},
    ledger::{Book, Stage},
};
use resmgr_policy::ContainerId;

/// What was given back.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Containers that have the runtime's own last request again.
    pub restored: Vec<ContainerId>,
    /// Containers without a cgroup: not started, or ended.
    pub absent: Vec<ContainerId>,
    /// Containers that could not be restored, and why.
    pub failed: Vec<(ContainerId, String)>,
}

/// Restores every container of the book; works without a running daemon, from the ledger.
#[must_use]
pub fn restore(book: &Book, cgroups: &Cgroups) -> Report {
    let mut report = Report::default();
    for (id, entry) in &book.entries {
        if entry.stage == Stage::Reserved {
            continue; // the runtime never told its id
        }
        let place = Place {
            id: &id.0,
            parent: &entry.cgroup_parent,
        };
        match cgroups
            .search(&place)
            .and_then(|_found| cgroups.restore(&place, &entry.asked))
        {
            Ok(()) => report.restored.push(id.clone()),
            Err(error) if error.is_absent() => report.absent.push(id.clone()),
            Err(error) => report.failed.push((id.clone(), error.to_string())),
        }
    }
    report
}
