//! Gives every container back what it would have had without us.

use super::{
    answer::RestoreReport,
    book::Book,
    containers::{Containers, Stage},
    runtime::{Runtime, RuntimeError},
};
use crate::enforce::{Cgroups, Place};

/// What to restore when the ledger is lost: all that runs, as the runtime and the annotations of the
/// containers say. `None` when no container was created through us.
///
/// # Errors
/// When the runtime does not answer.
pub async fn learn(runtime: &dyn Runtime) -> Result<Option<Book>, RuntimeError> {
    let mut book = Book::default();
    let mut created_by_us = false;
    for listed in runtime.list().await?.containers {
        match runtime.learn(&listed).await {
            Ok(spec) => {
                created_by_us |= spec.created_by_us;
                book.containers.insert(&spec);
                book.containers.set_stage(&spec.request.id, listed.stage);
            }
            // It may have ended between the list and the question.
            Err(error) => {
                tracing::warn!(%error, container = %listed.id, "container not restored: unknown");
            }
        }
    }
    Ok(created_by_us.then_some(book))
}

/// Restores every container; works without a running daemon, from the ledger.
#[must_use]
pub fn restore(containers: &Containers, cgroups: &Cgroups) -> RestoreReport {
    let mut report = RestoreReport::default();
    for container in containers.iter() {
        if container.stage() == Stage::Reserved {
            continue; // the runtime never told its id
        }
        let id = container.id;
        let place = Place {
            id: &id.0,
            parent: &container.record.cgroup_parent,
        };
        match cgroups
            .search(&place)
            .and_then(|_found| cgroups.restore(&place, &container.record.requested))
        {
            Ok(()) => report.restored.push(id.clone()),
            Err(error) if error.is_absent() => report.absent.push(id.clone()),
            Err(error) => report.failed.push((id.clone(), error.to_string())),
        }
    }
    report
}
