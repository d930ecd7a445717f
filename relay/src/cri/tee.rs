//! What onlookers get of one call: message bodies put together from DATA frames, and its end.

use crate::cri::{
    intercept::{Call, Status},
    observe::{Event, Interest, Kind, Observer},
};
use bytes::{Buf, Bytes, BytesMut};
use std::{sync::Arc, time::Instant};

/// The onlookers of one call.
#[derive(Debug)]
pub(super) struct Tee {
    onlookers: Vec<(Arc<dyn Observer>, bool)>,
    call: Arc<Call>,
    kind: Kind,
    request: Option<Messages>,
    reply: Option<Messages>,
    sent: Option<Instant>,
    answered: Option<Instant>,
}

impl Tee {
    /// `None` when nobody is interested.
    pub(super) fn new(
        observers: &[Arc<dyn Observer>],
        call: &Arc<Call>,
        kind: Kind,
        max_body: usize,
    ) -> Option<Box<Self>> {
        let onlookers: Vec<_> = observers
            .iter()
            .filter_map(|o| match o.interest(&call.path) {
                Interest::None => None,
                Interest::Ends => Some((Arc::clone(o), false)),
                Interest::Bodies => Some((Arc::clone(o), true)),
            })
            .collect();
        if onlookers.is_empty() {
            return None;
        }
        let bodies = onlookers.iter().any(|(_, bodies)| *bodies);
        Some(Box::new(Self {
            onlookers,
            call: Arc::clone(call),
            kind,
            request: bodies.then(|| Messages::new(max_body)),
            reply: bodies.then(|| Messages::new(max_body)),
            sent: None,
            answered: None,
        }))
    }

    /// DATA from the client.
    pub(super) fn request(&mut self, data: &[u8], end: bool) {
        let mut bodies = Vec::new();
        if let Some(messages) = &mut self.request {
            messages.push(data, &mut bodies);
        }
        for body in bodies {
            self.tell(true, &Event::Request { body });
        }
        if end {
            self.sent = Some(Instant::now());
        }
    }

    /// A hook put `body` in the request's place.
    pub(super) fn rewritten(&mut self, body: Bytes) {
        self.tell(true, &Event::Rewritten { body });
    }

    /// The request goes to the runtime now.
    pub(super) fn sent(&mut self) {
        self.sent = Some(Instant::now());
    }

    /// DATA from the runtime.
    pub(super) fn reply(&mut self, data: &[u8]) {
        let mut bodies = Vec::new();
        if let Some(messages) = &mut self.reply {
            messages.push(data, &mut bodies);
        }
        for body in bodies {
            self.tell(true, &Event::Reply { body });
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
        self.tell(
            false,
            &Event::End {
                failed,
                total,
                runtime,
            },
        );
    }

    fn tell(&self, body: bool, event: &Event) {
        for (onlooker, bodies) in &self.onlookers {
            if !body || *bodies {
                onlooker.observe(&self.call, self.kind, event.clone());
            }
        }
    }
}

/// Cuts a stream of DATA into gRPC messages (5-byte prefix: compressed flag, length).
#[derive(Debug)]
pub(super) struct Messages {
    head: BytesMut,
    body: BytesMut,
    /// Octets of the current body still to come, and of those, to be kept.
    left: usize,
    max_body: usize,
}

const PREFIX: usize = 5;

impl Messages {
    /// Bodies are cut off after `max_body` octets.
    pub(super) fn new(max_body: usize) -> Self {
        Self {
            head: BytesMut::new(),
            body: BytesMut::new(),
            left: 0,
            max_body,
        }
    }

    /// Takes `data` in; complete bodies go to `out`.
    pub(super) fn push(&mut self, mut data: &[u8], out: &mut Vec<Bytes>) {
        while !data.is_empty() {
            if self.head.len() < PREFIX {
                let n = data.len().min(PREFIX - self.head.len());
                self.head.extend_from_slice(&data[..n]);
                data.advance(n);
                if self.head.len() < PREFIX {
                    return;
                }
                self.left = length(&self.head);
            }
            let n = data.len().min(self.left);
            let keep = n.min(self.max_body - self.body.len());
            self.body.extend_from_slice(&data[..keep]);
            data.advance(n);
            self.left -= n;
            if self.left == 0 {
                self.head.clear();
                out.push(self.body.split().freeze());
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
    use proptest::prelude::*;

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
            let (mut messages, mut out) = (Messages::new(1 << 20), Vec::new());
            for part in wire.chunks(cut) {
                messages.push(part, &mut out);
            }
            let seen: Vec<Vec<u8>> = out.iter().map(|b| b.to_vec()).collect();
            prop_assert_eq!(seen, bodies);
        }
    }

    #[test]
    fn a_body_is_cut_at_the_limit_and_the_next_one_is_whole() {
        let (mut messages, mut out) = (Messages::new(3), Vec::new());
        messages.push(&as_message(b"abcdef").unwrap(), &mut out);
        messages.push(&as_message(b"xyz").unwrap(), &mut out);
        assert_eq!(out, [Bytes::from("abc"), Bytes::from("xyz")]);
    }
}
