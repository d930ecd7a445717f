//! The way of an intercepted call through a session.

use super::{
    Session, exhausted,
    flow::signed,
    intercepted::{InterceptPhase, PendingHook},
};
use crate::cri::{
    frame,
    held::HeldBody,
    hpack::Header,
    intercept::{After, Before, CallOutcome, Status},
    options::Limit,
    status,
    tap::{as_message, only_message},
};
use bytes::Bytes;
use std::sync::Arc;

impl Session {
    /// Part of the request of an intercepted call, `octets` long on the wire: kept; the client gets its
    /// window back from the relay.
    pub(super) fn hold(&mut self, id: u32, octets: usize, part: &[u8], end: bool) {
        let max = self.shared.options.max_message_bytes;
        let Some(stream) = self.streams.get_mut(id) else {
            return;
        };
        let Some(intercepted) = stream.intercepted.as_mut() else {
            return;
        };
        let InterceptPhase::Collecting(body) = &mut intercepted.phase else {
            return; // the end of the stream is behind it
        };
        stream.client_done = end;
        if body.len() + part.len() > max {
            let path = Arc::clone(&intercepted.call.path);
            let message =
                format!("request of {path} is larger than {max} octets, the most that is held");
            self.shared.limit_reached(Limit::Message);
            self.refuse(id, exhausted(message));
            return;
        }
        if let Err(no_room) = body.extend(part) {
            let message = format!("request of {}: {no_room}", intercepted.call.path);
            self.refuse(id, exhausted(message));
            return;
        }
        if !end {
            frame::put_window_update(&mut self.out.client, id, octets);
            stream.recv_window += signed(octets);
            self.flow.grant_client(&mut self.out);
            return;
        }
        let whole = HeldBody::new(&self.requests);
        let data = std::mem::replace(body, whole).freeze();
        let call = Arc::clone(&intercepted.call);
        match only_message(&data) {
            Some(message) => {
                intercepted.phase = InterceptPhase::Deciding(data);
                self.deciding += 1;
                self.hooks.push(PendingHook::Before(id, call, message));
            }
            None => {
                if !std::mem::replace(&mut self.compressed_logged, true) {
                    tracing::warn!(
                        path = &*call.path,
                        "request is compressed or not one message: forwarded unmodified"
                    );
                }
                self.send(id, data);
            }
        }
        self.flow.grant_client(&mut self.out);
    }

    /// The hook before stream `id` has run.
    pub(in crate::cri) fn decided(&mut self, id: u32, before: Before) {
        self.deciding = self.deciding.saturating_sub(1);
        let Some(stream) = self.streams.get_mut(id) else {
            if let Before::Forward { after, .. } = before {
                let message = "the call ended before its request was sent".to_owned();
                let code = status::CANCELLED;
                self.after_detached(after, CallOutcome::Failed(Status { code, message }));
            }
            return;
        };
        let Some(intercepted) = &mut stream.intercepted else {
            return;
        };
        match before {
            Before::Refuse(status) => self.refuse(id, status),
            Before::Forward { request, after } => {
                intercepted.after = after;
                let InterceptPhase::Deciding(data) = &mut intercepted.phase else {
                    return;
                };
                let mut data = std::mem::take(data);
                if let Some(body) = request {
                    match as_message(&body) {
                        Some(message) => {
                            data = HeldBody::in_place(message, &self.requests).freeze();
                        }
                        None => {
                            tracing::error!("a rewritten request is above 4 GiB: original sent");
                        }
                    }
                    if let Some(tap) = &mut stream.tap {
                        tap.rewritten(body);
                    }
                }
                if let Some(tap) = &mut stream.tap {
                    tap.sent();
                }
                self.send(id, data);
            }
        }
    }

    fn send(&mut self, id: u32, data: Bytes) {
        let Some(stream) = self.streams.get_mut(id) else {
            return;
        };
        if let Some(intercepted) = &mut stream.intercepted {
            intercepted.phase = InterceptPhase::Sending;
            stream.unsent.set(data);
            self.flow.send_unsent(id, stream, &mut self.out);
        }
    }

    /// The runtime has answered: true when the end of the reply waits for a hook now.
    pub(super) fn commit(&mut self, id: u32, trailers: &[Header]) -> bool {
        let stream = self.streams.get_mut(id).filter(|s| s.request_sent());
        let intercepted = stream.and_then(|stream| stream.intercepted.as_mut());
        let Some((after, outcome)) = intercepted.and_then(|call| call.commit(trailers)) else {
            return false;
        };
        self.hooks
            .push(PendingHook::After(Some(id), after, outcome));
        true
    }

    /// The hook at the end of stream `id` has run.
    pub(in crate::cri) fn committed(&mut self, id: u32) {
        let stream = self.streams.get_mut(id);
        let intercepted = stream.and_then(|stream| stream.intercepted.as_mut());
        let Some(InterceptPhase::Committing(trailers)) = intercepted.map(|call| &mut call.phase)
        else {
            return;
        };
        let trailers = std::mem::take(trailers);
        self.send_headers(id, &trailers, true);
        self.finish(id, &trailers);
    }

    /// A hook that no reply waits for.
    pub(super) fn after_detached(&mut self, after: Option<Box<dyn After>>, outcome: CallOutcome) {
        if let Some(after) = after {
            self.hooks.push(PendingHook::After(None, after, outcome));
        }
    }
}
