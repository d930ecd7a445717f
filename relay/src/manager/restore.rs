//! Gives every container back what it would have had without us.

use super::{Runtime, RuntimeError};
use crate::{
    enforce::{Cgroups, Place},
    ledger::{Book, Stage},
};
use resmgr_policy::ContainerId;
use std::sync::Arc;

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

/// What to restore when the ledger is lost: all that runs, as the runtime and the marks on the containers
/// say. `None` when no container was created through us.
///
/// # Errors
/// When the runtime does not answer.
pub async fn learn(runtime: &dyn Runtime) -> Result<Option<Book>, RuntimeError> {
    let mut book = Book::default();
    let mut marked = false;
    for listed in runtime.list().await?.containers {
        match runtime.learn(&listed).await {
            Ok(ask) => {
                marked |= ask.marked;
                let mut entry = ask.entry(0);
                entry.stage = listed.stage;
                book.entries.insert(ContainerId(listed.id), Arc::new(entry));
            }
            // It may have ended between the list and the question.
            Err(error) => tracing::warn!(%error, container = %listed.id, "not learnt"),
        }
    }
    Ok(marked.then_some(book))
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
