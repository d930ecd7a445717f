//! An update of a container's resources as a value: whatever becomes of it, the manager is told.

use super::{answer::UpdateEnd, event::ManagerEvent};
use crate::enforce::CgroupSettings;
use resmgr_policy::ContainerId;
use tokio::sync::{mpsc, oneshot};

/// Other resources that the runtime is asked to give a container. Dropped without a word, its end is
/// unknown.
#[derive(Debug)]
#[must_use = "an update ends by done or refused"]
pub struct Resize {
    events: mpsc::Sender<ManagerEvent>,
    id: ContainerId,
    desired: CgroupSettings,
    open: bool,
}

impl Resize {
    pub(super) fn new(
        events: mpsc::Sender<ManagerEvent>,
        id: ContainerId,
        desired: CgroupSettings,
    ) -> Self {
        Self {
            events,
            id,
            desired,
            open: true,
        }
    }

    /// What the kernel shall have.
    #[must_use]
    pub fn desired(&self) -> &CgroupSettings {
        &self.desired
    }

    /// The runtime has done it. Returns when the kernel has what the policy wants.
    pub async fn done(self) {
        self.end(UpdateEnd::Done).await;
    }

    /// The runtime said no: the container keeps what it had.
    pub async fn refused(self) {
        self.end(UpdateEnd::Refused).await;
    }

    /// The runtime's answer is lost.
    pub async fn unknown(self) {
        self.end(UpdateEnd::Unknown).await;
    }

    async fn end(mut self, end: UpdateEnd) {
        self.open = false;
        let (reply, ended) = oneshot::channel();
        let event = ManagerEvent::UpdateEnded {
            id: self.id.clone(),
            end,
            reply: Some(reply),
        };
        // A manager that has ended learns the rest from the runtime when it starts again.
        drop(self.events.send(event).await);
        let _ended = ended.await;
    }
}

impl Drop for Resize {
    fn drop(&mut self) {
        if self.open {
            let id = self.id.clone();
            // A full mailbox: the next list and the reconciliation set it right.
            let event = ManagerEvent::UpdateEnded {
                id,
                end: UpdateEnd::Unknown,
                reply: None,
            };
            drop(self.events.try_send(event));
        }
    }
}
