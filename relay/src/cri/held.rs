//! Octets that the relay holds for its clients: counted for each client and for all, until the last copy is dropped.

use crate::cri::{options::Limit, shared::ConnectionContext};
use bytes::{Bytes, BytesMut};
use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

/// What the octets are for. Each use has a budget of its own: a dump must not take a creation's room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum HeldUse {
    /// Requests on their way to the runtime.
    Requests,
    /// Unfinished messages for observers and hooks.
    Copies,
}

/// The octets that one client may have held.
#[derive(Debug)]
pub(super) struct HeldBudget {
    shared: Arc<ConnectionContext>,
    held_use: HeldUse,
    octets: AtomicUsize,
}

/// There is no room for further octets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the relay holds {most} octets of requests {of} at most")]
pub(super) struct NoRoom {
    most: usize,
    of: &'static str,
}

impl HeldBudget {
    pub(super) fn new(shared: &Arc<ConnectionContext>, held_use: HeldUse) -> Arc<Self> {
        Arc::new(Self {
            shared: Arc::clone(shared),
            held_use,
            octets: AtomicUsize::new(0),
        })
    }

    fn take(&self, octets: usize) -> Result<(), NoRoom> {
        let options = &self.shared.options;
        let (most, most_of_all, limit, limit_of_all) = match self.held_use {
            HeldUse::Requests => (
                options.max_held_bytes,
                options.max_held_bytes_of_all,
                Limit::HeldOctets,
                Limit::HeldOctetsOfAll,
            ),
            HeldUse::Copies => (
                options.max_kept_bytes,
                options.max_kept_bytes_of_all,
                Limit::KeptOctets,
                Limit::KeptOctetsOfAll,
            ),
        };
        let (own, of_all) = self.count(octets);
        let (limit, most, of) = if own > most {
            (limit, most, "of a client")
        } else if of_all > most_of_all {
            (limit_of_all, most_of_all, "of all clients")
        } else {
            return Ok(());
        };
        self.give_back(octets);
        self.shared.limit_reached(limit);
        Err(NoRoom { most, of })
    }

    /// Counts octets; how many there are of this client, and of all where this client has more than its free share.
    fn count(&self, octets: usize) -> (usize, usize) {
        let before = self.octets.fetch_add(octets, Ordering::Relaxed);
        let shared = self.shared_part(before + octets) - self.shared_part(before);
        let of_all = match shared {
            0 => 0,
            _ => self.total().fetch_add(shared, Ordering::Relaxed) + shared,
        };
        (before + octets, of_all)
    }

    fn give_back(&self, octets: usize) {
        let before = self.octets.fetch_sub(octets, Ordering::Relaxed);
        let shared = self.shared_part(before) - self.shared_part(before - octets);
        self.total().fetch_sub(shared, Ordering::Relaxed);
    }

    fn shared_part(&self, octets: usize) -> usize {
        octets.saturating_sub(self.shared.options.free_held_bytes)
    }

    fn total(&self) -> &AtomicUsize {
        match self.held_use {
            HeldUse::Requests => &self.shared.held,
            HeldUse::Copies => &self.shared.kept,
        }
    }

    /// The octets that are held.
    #[cfg(any(test, feature = "fuzz"))]
    pub(super) fn octets(&self) -> usize {
        self.octets.load(Ordering::Relaxed)
    }
}

/// A body that is held, and counted.
#[derive(Debug)]
pub(super) struct HeldBody {
    octets: BytesMut,
    budget: Arc<HeldBudget>,
}

impl HeldBody {
    /// A body without octets.
    pub(super) fn new(budget: &Arc<HeldBudget>) -> Self {
        Self {
            octets: BytesMut::new(),
            budget: Arc::clone(budget),
        }
    }

    /// Octets that take the place of others that were held: counted, and held in any case.
    pub(super) fn in_place(octets: Bytes, budget: &Arc<HeldBudget>) -> Self {
        budget.count(octets.len());
        Self {
            octets: BytesMut::from(octets),
            budget: Arc::clone(budget),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.octets.len()
    }

    /// Adds `part`, if there is room for it.
    pub(super) fn extend(&mut self, part: &[u8]) -> Result<(), NoRoom> {
        self.budget.take(part.len())?;
        self.octets.extend_from_slice(part);
        Ok(())
    }

    /// The octets, counted until their last copy is dropped.
    pub(super) fn freeze(self) -> Bytes {
        if self.octets.is_empty() {
            return Bytes::new();
        }
        Bytes::from_owner(self)
    }

    /// Takes the octets out; they are not counted any more.
    pub(super) fn take(&mut self) -> Bytes {
        let octets = std::mem::take(&mut self.octets);
        self.budget.give_back(octets.len());
        octets.freeze()
    }
}

impl AsRef<[u8]> for HeldBody {
    fn as_ref(&self) -> &[u8] {
        &self.octets
    }
}

impl Drop for HeldBody {
    fn drop(&mut self) {
        self.budget.give_back(self.octets.len());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cri::options::ServerOptions;

    fn budgets() -> [Arc<HeldBudget>; 2] {
        let options = ServerOptions {
            max_held_bytes: 100,
            max_held_bytes_of_all: 120,
            free_held_bytes: 10,
            ..ServerOptions::default()
        };
        let shared = Arc::new(ConnectionContext::for_tests(options));
        [(); 2].map(|()| HeldBudget::new(&shared, HeldUse::Requests))
    }

    #[test]
    fn a_client_and_all_clients_have_their_bounds_and_a_little_is_free() {
        let [first, second] = budgets();
        let mut body = HeldBody::new(&first);
        body.extend(&[0; 100]).unwrap();
        let beyond = HeldBody::new(&first).extend(&[0]).unwrap_err();
        let text = "the relay holds 100 octets of requests of a client at most";
        assert_eq!(beyond.to_string(), text);
        let mut of_second = HeldBody::new(&second);
        of_second.extend(&[0; 40]).unwrap();
        let text = "the relay holds 120 octets of requests of all clients at most";
        let beyond = of_second.extend(&[0]).unwrap_err();
        assert_eq!(beyond.to_string(), text);
        drop(of_second);
        HeldBody::new(&second).extend(&[0; 10]).unwrap();
    }

    #[test]
    fn what_is_dropped_is_given_back_with_the_last_copy() {
        let [first, _] = budgets();
        let mut body = HeldBody::new(&first);
        body.extend(b"abcdef").unwrap();
        let octets = body.freeze();
        let part = octets.slice(2..4);
        drop(octets);
        assert_eq!((first.octets(), &part[..]), (6, &b"cd"[..]));
        drop(part);
        let mut body = HeldBody::in_place(Bytes::from_static(&[0; 200]), &first);
        assert_eq!(first.octets(), 200);
        body.take();
        assert_eq!(first.octets(), 0);
        assert_eq!(first.total().load(Ordering::Relaxed), 0);
    }
}
