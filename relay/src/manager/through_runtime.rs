//! Containers without a cgroup on this host are moved by the runtime, if it will.

use super::{owner::Owner, presence::RuntimeAnswer};
use crate::enforce::{CgroupSettings, Step};
use resmgr_policy::ContainerId;
use std::{sync::Arc, time::Duration};
use tokio::time::timeout;

/// How long the runtime may take to answer: all other events wait for it.
const ANSWER_LIMIT: Duration = Duration::from_secs(2);

impl Owner {
    /// Has the runtime move those containers of the steps that have no cgroup here. With `undo`, the first that it
    /// refuses takes back those before.
    pub(super) async fn move_through_runtime(
        &mut self,
        steps: &[Step],
        undo: bool,
    ) -> Result<(), String> {
        let mut outcome = Ok(());
        for (index, step) in steps.iter().enumerate() {
            if !self.presence.unenforced().contains_key(&step.id) {
                continue;
            }
            if let Err(why) = self.ask_runtime(&step.id, &step.to).await {
                if undo {
                    self.move_back_through_runtime(steps.get(..index).unwrap_or_default())
                        .await;
                    return Err(why);
                }
                outcome = outcome.and(Err(why));
            }
        }
        outcome
    }

    /// Has the runtime take these steps back, the last one first.
    pub(super) async fn move_back_through_runtime(&mut self, steps: &[Step]) {
        for step in steps.iter().rev() {
            if self.presence.unenforced().contains_key(&step.id)
                && let Err(why) = self.ask_runtime(&step.id, &step.undo).await
            {
                tracing::error!(container = %step.id, %why, "container not moved back");
            }
        }
    }

    /// Has the runtime give a container without a cgroup what is wanted of it now.
    pub(super) async fn ask_runtime_to_keep(&mut self, id: &ContainerId) {
        let Some(wanted) = self.desired(id) else {
            return;
        };
        if let Err(why) = self.ask_runtime(id, &wanted).await {
            // At the next look it is asked again: the warning that the container has no cgroup was given once.
            tracing::debug!(container = %id, %why);
        }
    }

    async fn ask_runtime(
        &mut self,
        id: &ContainerId,
        wanted: &CgroupSettings,
    ) -> Result<(), String> {
        let cpuset = wanted.cpuset();
        if cpuset.is_nothing() {
            return Ok(());
        }
        let runtime = Arc::clone(&self.runtime);
        let answer = match timeout(ANSWER_LIMIT, runtime.update(&id.0, &cpuset)).await {
            Ok(Ok(())) => RuntimeAnswer::Took,
            Ok(Err(error)) => RuntimeAnswer::Refused(error.to_string().into()),
            Err(_elapsed) => {
                let seconds = ANSWER_LIMIT.as_secs();
                RuntimeAnswer::Refused(format!("no answer within {seconds} s").into())
            }
        };
        self.presence.answered(id, answer.clone());
        match answer {
            RuntimeAnswer::Refused(_) => Err(format!("container {id}: {answer}")),
            RuntimeAnswer::Took | RuntimeAnswer::Unasked => Ok(()),
        }
    }
}
