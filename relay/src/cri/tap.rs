//! What observers get of one call: message bodies put together from DATA frames, and its end.

use crate::cri::{
    held::{HeldBody, HeldBudget},
    intercept::{Call, Status},
    observe::{Event, Interest, Kind, Observer},
    schema::Side,
};
use bytes::{Buf, Bytes, BytesMut};
use std::{sync::Arc, time::Instant};

/// The observers of one call.
#[derive(Debug)]
pub(super) struct ObserverTap {
    observers: Vec<(Arc<dyn Observer>, bool)>,
    call: Arc<Call>,
    kind: Kind,
    max_body: usize,
    request: Option<Deframer>,
    reply: Option<Deframer>,
    sent: Option<Instant>,
    answered: Option<Instant>,
}

impl ObserverTap {
    /// `None` when no observer is interested.
    pub(super) fn new(
        observers: &[Arc<dyn Observer>],
        call: &Arc<Call>,
        kind: Kind,
        max_body: usize,
        copies: &Arc<HeldBudget>,
    ) -> Option<Box<Self>> {
        let observers: Vec<_> = observers
            .iter()
            .filter_map(|o| match o.interest(&call.path) {
                Interest::None => None,
                Interest::Ends => Some((Arc::clone(o), false)),
                Interest::Bodies => Some((Arc::clone(o), true)),
            })
            .collect();
        if observers.is_empty() {
            return None;
        }
        let bodies = observers.iter().any(|(_, bodies)| *bodies);
        Some(Box::new(Self {
            observers,
            call: Arc::clone(call),
            kind,
            max_body,
            request: bodies.then(|| Deframer::new(max_body, copies)),
            reply: bodies.then(|| Deframer::new(max_body, copies)),
            sent: None,
            answered: None,
        }))
    }

    /// DATA from the client.
    pub(super) fn request(&mut self, data: &[u8], end: bool) {
        if let Some(mut messages) = self.request.take() {
            messages.push(data, |message| {
                self.notify(true, self.event(Side::Request, message));
            });
            self.request = Some(messages);
        }
        if end {
            self.sent = Some(Instant::now());
        }
    }

    /// A hook put `body` in the request's place.
    pub(super) fn rewritten(&mut self, body: Bytes) {
        self.notify(true, Event::Rewritten { body });
    }

    /// The request goes to the runtime now.
    pub(super) fn sent(&mut self) {
        self.sent = Some(Instant::now());
    }

    /// DATA from the runtime.
    pub(super) fn reply(&mut self, data: &[u8]) {
        if let Some(mut messages) = self.reply.take() {
            messages.push(data, |message| {
                self.notify(true, self.event(Side::Reply, message));
            });
            self.reply = Some(messages);
        }
    }

    /// The runtime has said all.
    pub(super) fn answered(&mut self) {
        self.answered = Some(Instant::now());
    }

    /// The call is over.
    pub(super) fn end(self, failed: Option<Status>) {
        let now = Instant::now();
        let runtime = self
            .sent
            .map(|sent| self.answered.unwrap_or(now).saturating_duration_since(sent));
        let total = now.saturating_duration_since(self.call.received);
        let runtime = runtime.unwrap_or_default();
        self.notify(
            false,
            Event::End {
                failed,
                total,
                runtime,
            },
        );
    }

    fn event(&self, side: Side, message: GrpcMessage) -> Event {
        match (message, side) {
            (GrpcMessage::Whole(body), Side::Request) => Event::Request { body },
            (GrpcMessage::Whole(body), Side::Reply) => Event::Reply { body },
            (GrpcMessage::TooLong(octets), side) => Event::TooLong {
                side,
                octets,
                limit: self.max_body,
            },
        }
    }

    fn notify(&self, body: bool, event: Event) {
        let mut interested = self.observers.iter().filter(|(_, bodies)| !body || *bodies);
        let Some((last, _)) = interested.next_back() else {
            return;
        };
        for (observer, _) in interested {
            observer.observe(&self.call, self.kind, event.clone());
        }
        last.observe(&self.call, self.kind, event);
    }
}

/// A gRPC message that went by.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum GrpcMessage {
    /// Its body.
    Whole(Bytes),
    /// The length of a body that is longer than what is kept.
    TooLong(usize),
}

/// Cuts a stream of DATA into gRPC messages (5-byte prefix: compressed flag, length).
#[derive(Debug)]
pub(super) struct Deframer {
    head: BytesMut,
    body: HeldBody,
    /// There was no room for the current body.
    cut: bool,
    /// Octets of the current body still to come.
    left: usize,
    max_body: usize,
}

const PREFIX: usize = 5;

impl Deframer {
    /// Nothing is kept of bodies longer than `max_body` octets, or for which `copies` has no room.
    pub(super) fn new(max_body: usize, copies: &Arc<HeldBudget>) -> Self {
        Self {
            head: BytesMut::new(),
            body: HeldBody::new(copies),
            cut: false,
            left: 0,
            max_body,
        }
    }

    /// Takes `data` in; complete messages go to `out`.
    pub(super) fn push(&mut self, mut data: &[u8], mut out: impl FnMut(GrpcMessage)) {
        while !data.is_empty() {
            // Nearly always one frame holds one whole message.
            if self.head.is_empty()
                && let Some((head, rest)) = data.split_at_checked(PREFIX)
                && let Some(body) = rest
                    .get(..length(head))
                    .filter(|b| b.len() <= self.max_body)
            {
                out(GrpcMessage::Whole(Bytes::copy_from_slice(body)));
                data.advance(PREFIX + body.len());
                continue;
            }
            if self.head.len() < PREFIX {
                let n = data.len().min(PREFIX - self.head.len());
                self.head.extend_from_slice(&data[..n]);
                data.advance(n);
                if self.head.len() < PREFIX {
                    return;
                }
                self.left = length(&self.head);
            }
            let whole = length(&self.head);
            let n = data.len().min(self.left);
            if whole > self.max_body {
                self.cut = true;
            } else if !self.cut && self.body.extend(&data[..n]).is_err() {
                self.cut = true;
                self.body.take();
            }
            data.advance(n);
            self.left -= n;
            if self.left == 0 {
                self.head.clear();
                out(if std::mem::take(&mut self.cut) {
                    GrpcMessage::TooLong(whole)
                } else {
                    GrpcMessage::Whole(self.body.take())
                });
            }
        }
    }
}

fn length(head: &[u8]) -> usize {
    head.get(1..PREFIX)
        .and_then(|h| h.try_into().ok())
        .map(u32::from_be_bytes)
        .and_then(|n| usize::try_from(n).ok())
        .unwrap_or(0)
}

/// The body of a stream's only message; `None` when it is compressed, cut short or not alone.
pub(super) fn only_message(data: &Bytes) -> Option<Bytes> {
    let whole = data.len() >= PREFIX && data[0] == 0 && data.len() - PREFIX == length(data);
    whole.then(|| data.slice(PREFIX..))
}

/// `body` as a gRPC message; `None` when it is longer than 4 GiB.
pub(super) fn as_message(body: &[u8]) -> Option<Bytes> {
    let len = u32::try_from(body.len()).ok()?;
    let mut out = BytesMut::with_capacity(PREFIX + body.len());
    out.extend_from_slice(&[0]);
    out.extend_from_slice(&len.to_be_bytes());
    out.extend_from_slice(body);
    Some(out.freeze())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cri::{held::HeldUse, options::ServerOptions, shared::ConnectionContext};
    use proptest::prelude::*;

    fn copies() -> Arc<HeldBudget> {
        let options = ServerOptions {
            max_kept_bytes: 1000,
            ..ServerOptions::default()
        };
        let shared = Arc::new(ConnectionContext::for_tests(options));
        HeldBudget::new(&shared, HeldUse::Copies)
    }

    #[test]
    fn a_body_without_room_is_told_by_its_length_and_gives_its_room_back() {
        let copies = copies();
        let (mut deframer, mut out) = (Deframer::new(1 << 20, &copies), Vec::new());
        let wire = [
            as_message(&[b'a'; 1001]).unwrap(),
            as_message(b"xyz").unwrap(),
        ];
        for part in wire.concat().chunks(100) {
            deframer.push(part, |message| out.push(message));
        }
        assert_eq!(
            out,
            [GrpcMessage::TooLong(1001), GrpcMessage::Whole("xyz".into())]
        );
        assert_eq!(copies.octets(), 0);
    }

    proptest! {
        #[test]
        fn messages_come_out_whole_however_the_frames_are_cut(
            bodies in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..50), 0..6),
            cut in 1_usize..20,
        ) {
            let mut wire = Vec::new();
            for body in &bodies {
                wire.extend_from_slice(&as_message(body).unwrap());
            }
            let (mut deframer, mut out) = (Deframer::new(1 << 20, &copies()), Vec::new());
            for part in wire.chunks(cut) {
                deframer.push(part, |message| out.push(message));
            }
            let expected: Vec<_> = bodies.into_iter().map(|b| GrpcMessage::Whole(b.into())).collect();
            prop_assert_eq!(out, expected);
        }
    }

    #[test]
    fn a_body_above_the_limit_is_told_by_its_length_and_the_next_one_is_whole() {
        for cut in [1, 2, 100] {
            let (mut deframer, mut out) = (Deframer::new(3, &copies()), Vec::new());
            let wire = [as_message(b"abcdef").unwrap(), as_message(b"xyz").unwrap()].concat();
            for part in wire.chunks(cut) {
                deframer.push(part, |message| out.push(message));
            }
            assert_eq!(
                out,
                [GrpcMessage::TooLong(6), GrpcMessage::Whole("xyz".into())]
            );
        }
    }
}
