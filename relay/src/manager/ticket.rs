//! A reservation as a value: it holds a slot of the manager's mailbox, so that no ending is lost.

use super::{answer::ReservedPlace, event::ManagerEvent};
use resmgr_policy::ContainerId;
use tokio::sync::mpsc::OwnedPermit;

/// A place held for a container that the runtime is asked to create. Dropped before the request went
/// out, the place is given up; dropped later, without a word, the manager asks the runtime what became
/// of it.
#[derive(Debug)]
#[must_use = "a reservation ends by commit or abort"]
pub struct Ticket {
    id: ContainerId,
    reserved: ReservedPlace,
    permit: Option<OwnedPermit<ManagerEvent>>,
    sent: bool,
}

impl Ticket {
    /// Made before the manager is asked: whenever the caller goes away, the manager hears of it.
    pub(super) fn new(id: ContainerId, permit: OwnedPermit<ManagerEvent>) -> Self {
        Self {
            id,
            reserved: ReservedPlace::default(),
            permit: Some(permit),
            sent: false,
        }
    }

    pub(super) fn hold(&mut self, reserved: ReservedPlace) {
        self.reserved = reserved;
    }

    /// From now on the runtime may have seen the request.
    pub fn send(&mut self) {
        self.sent = true;
    }

    /// What was reserved.
    #[must_use]
    pub fn reserved(&self) -> &ReservedPlace {
        &self.reserved
    }

    /// The runtime has created it under this id.
    pub fn commit(mut self, id: &str) {
        let provisional = self.id.clone();
        let id = ContainerId(id.into());
        self.end(ManagerEvent::Commit { provisional, id });
    }

    /// The runtime said no: the others grow back.
    pub fn abort(mut self) {
        let provisional = self.id.clone();
        self.end(ManagerEvent::Abort { provisional });
    }

    fn end(&mut self, event: ManagerEvent) {
        if let Some(permit) = self.permit.take() {
            permit.send(event);
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let provisional = self.id.clone();
        self.end(if self.sent {
            ManagerEvent::Unknown { provisional }
        } else {
            ManagerEvent::Abort { provisional }
        });
    }
}
