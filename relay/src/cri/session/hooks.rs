//! The way of an intercepted call through a session.

use super::{
    Session,
    error::ConnectionError,
    flow::signed,
    intercepted::{InterceptPhase, PendingHook},
};
use crate::cri::{
    frame,
    hpack::Header,
    intercept::{After, Before, CallOutcome, Status},
    status,
    tap::{as_message, only_message},
};
use bytes::{Bytes, BytesMut};
use std::sync::Arc;

impl Session {
    /// Part of the request of an intercepted call, `octets` long on the wire: kept; the client gets its
    /// window back from the relay.
    pub(super) fn hold(
        &mut self,
        id: u32,
        octets: usize,
        part: &[u8],
        end: bool,
    ) -> Result<(), ConnectionError> {
        let max = self.shared.options.max_message_bytes;
        let Some(stream) = self.streams.get_mut(id) else {
            return Ok(());
        };
        let Some(intercepted) = stream.intercepted.as_mut() else {
            return Ok(());
        };
        let InterceptPhase::Collecting(body) = &mut intercepted.phase else {
            let text = "DATA after the end of the stream";
            return Err(ConnectionError::new(frame::PROTOCOL_ERROR, text));
        };
        stream.client_done = end;
        if body.len() + part.len() > max {
            let path = Arc::clone(&intercepted.call.path);
            let message =
                format!("request of {path} is larger than {max} octets, the most that is held");
            let code = status::RESOURCE_EXHAUSTED;
            self.refuse(id, Status { code, message });
            return Ok(());
        }
        body.extend_from_slice(part);
        if !end {
            frame::put_window_update(&mut self.out.client, id, octets);
            stream.recv_window += signed(octets);
            self.flow.grant_client(&mut self.out);
            return Ok(());
        }
        let data = std::mem::take(body).freeze();
        let call = Arc::clone(&intercepted.call);
        match only_message(&data) {
            Some(message) => {
                intercepted.phase = InterceptPhase::Deciding(data);
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
        Ok(())
    }

    /// The hook before stream `id` has run.
    pub(in crate::cri) fn decided(&mut self, id: u32, before: Before) {
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
                        Some(message) => data = message,
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
        let stream = self.streams.get_mut(id);
        if let Some(intercepted) = stream.and_then(|s| s.intercepted.as_mut()) {
            intercepted.phase = InterceptPhase::Sending(data);
            self.sending.push(id);
            self.send_intercepted();
        }
    }

    /// Sends what the windows allow of the requests that hooks let go.
    pub(super) fn send_intercepted(&mut self) {
        let mut ids = std::mem::take(&mut self.sending);
        ids.retain(|id| !self.send_request(*id));
        ids.append(&mut self.sending);
        self.sending = ids;
    }

    /// True when nothing of it is left.
    fn send_request(&mut self, id: u32) -> bool {
        let Some(stream) = self.streams.get_mut(id) else {
            return true;
        };
        let intercepted = stream.intercepted.as_mut().map(|call| &mut call.phase);
        let Some(InterceptPhase::Sending(rest)) = intercepted else {
            return true;
        };
        let mut rest = std::mem::take(rest);
        let max_frame = self.settings.max_frame_to_upstream(stream.route);
        loop {
            let n = self
                .flow
                .take_send_window(stream, rest.len().min(max_frame));
            if n == 0 && !rest.is_empty() {
                break;
            }
            let part = rest.split_to(n);
            let last = rest.is_empty();
            let mut octets = BytesMut::with_capacity(frame::HEAD + n);
            let flags = if last { frame::END_STREAM } else { 0 };
            frame::put_head(&mut octets, n, frame::DATA, flags, id);
            octets.extend_from_slice(&part);
            self.out.upstream(stream.route).forward(id, &octets);
            if last {
                break;
            }
        }
        let sent = rest.is_empty();
        if let Some(intercepted) = stream.intercepted.as_mut() {
            intercepted.phase = if sent {
                InterceptPhase::Sent
            } else {
                InterceptPhase::Sending(rest)
            };
        }
        sent
    }

    /// The runtime has answered: true when the end of the reply waits for a hook now.
    pub(super) fn commit(&mut self, id: u32, trailers: &[Header]) -> bool {
        let stream = self.streams.get_mut(id);
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
