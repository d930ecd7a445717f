//! Intercepted calls: the request waits for its hook, the end of the reply for the other.
//!
//! ```text
//! Collecting ─ last DATA ─▶ Deciding ─ decided ─▶ Sending ─ all sent ─▶ Sent ─ trailers ─▶ Committing
//! ```

use super::*;
use crate::cri::tee::{as_message, only_message};

#[derive(Debug)]
pub(super) enum Phase {
    Collecting(BytesMut),
    /// The data as received.
    Deciding(Bytes),
    Sending(Bytes),
    Sent,
    /// The trailers wait for the hook.
    Committing(Vec<Header>),
}

pub(super) struct Held {
    call: Arc<Call>,
    pub(super) phase: Phase,
    /// The runtime's window for this stream.
    pub(super) window: i64,
    pub(super) after: Option<Box<dyn After>>,
    reply: BytesMut,
    reply_cut: bool,
}

impl std::fmt::Debug for Held {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Held")
            .field("call", &self.call)
            .finish_non_exhaustive()
    }
}

impl Held {
    pub(super) fn new(call: Arc<Call>, window: i64) -> Self {
        Self {
            call,
            phase: Phase::Collecting(BytesMut::new()),
            window,
            after: None,
            reply: BytesMut::new(),
            reply_cut: false,
        }
    }

    /// Whether the runtime may have the whole request.
    pub(super) fn was_sent(&self) -> bool {
        matches!(self.phase, Phase::Sent | Phase::Committing(_))
    }

    pub(super) fn collect_reply(&mut self, data: &[u8], max: usize) {
        if self.after.is_none() || self.reply.len() + data.len() > max {
            self.reply_cut = true;
        } else {
            self.reply.extend_from_slice(data);
        }
    }

    fn outcome(&mut self, trailers: &[Header]) -> Outcome {
        if let Some(status) = status::of(trailers) {
            return Outcome::Failed(status);
        }
        let data = std::mem::take(&mut self.reply).freeze();
        match only_message(&data) {
            Some(body) if !self.reply_cut => Outcome::Reply(body),
            _ => Outcome::Unknown("the reply is compressed, too large or not one message".into()),
        }
    }
}

impl Session {
    /// DATA of an intercepted call: kept; the client gets its window back from the relay.
    pub(super) fn hold(&mut self, head: Head, octets: &Bytes) -> Result<(), Fault> {
        let (id, end) = (head.stream, head.has(frame::END_STREAM));
        let payload = octets.slice(frame::HEAD..);
        let range = frame::content(head, &payload)
            .ok_or_else(|| fault(frame::PROTOCOL_ERROR, "DATA is all padding"))?;
        let max = self.shared.options.max_message_bytes;
        let Some(held) = self.streams.get_mut(&id).and_then(|s| s.held.as_mut()) else {
            return Ok(());
        };
        frame::put_window_update(&mut self.to_client, 0, head.len);
        let Phase::Collecting(body) = &mut held.phase else {
            return Err(fault(
                frame::PROTOCOL_ERROR,
                "DATA after the end of the stream",
            ));
        };
        if body.len() + range.len() > max {
            let path = Arc::clone(&held.call.path);
            let message =
                format!("request of {path} is larger than {max} octets, the most that is held");
            self.fail(
                id,
                Status {
                    code: status::RESOURCE_EXHAUSTED,
                    message,
                },
            );
            self.cancel_upstream(id);
            return Ok(());
        }
        body.extend_from_slice(&payload[range]);
        if !end {
            frame::put_window_update(&mut self.to_client, id, head.len);
            return Ok(());
        }
        let data = std::mem::take(body).freeze();
        let call = Arc::clone(&held.call);
        match only_message(&data) {
            Some(message) => {
                held.phase = Phase::Deciding(data);
                self.todo.push(Todo::Before(id, call, message));
            }
            None => {
                if !std::mem::replace(&mut self.compressed_logged, true) {
                    tracing::warn!(
                        path = &*call.path,
                        "request is compressed or not one message: forwarded without a look"
                    );
                }
                self.send(id, data);
            }
        }
        Ok(())
    }

    /// A hook has looked at the request of stream `id`.
    pub(in crate::cri) fn decided(&mut self, id: u32, before: Before) {
        let Some(stream) = self.streams.get_mut(&id) else {
            if let Before::Forward { after, .. } = before {
                let message = "the call ended before its request was sent".to_owned();
                self.after_detached(
                    after,
                    Outcome::Failed(Status {
                        code: status::CANCELLED,
                        message,
                    }),
                );
            }
            return;
        };
        let Some(held) = &mut stream.held else { return };
        match before {
            Before::Refuse(status) => {
                self.fail(id, status);
                self.cancel_upstream(id);
            }
            Before::Forward { request, after } => {
                held.after = after;
                let Phase::Deciding(data) = &mut held.phase else {
                    return;
                };
                let mut data = std::mem::take(data);
                if let Some(body) = request {
                    match as_message(&body) {
                        Some(message) => data = message,
                        None => {
                            tracing::error!("a rewritten request is above 4 GiB: original sent")
                        }
                    }
                    if let Some(tee) = &mut stream.tee {
                        tee.rewritten(body);
                    }
                }
                if let Some(tee) = &mut stream.tee {
                    tee.sent();
                }
                self.send(id, data);
            }
        }
    }

    fn send(&mut self, id: u32, data: Bytes) {
        if let Some(held) = self.streams.get_mut(&id).and_then(|s| s.held.as_mut()) {
            held.phase = Phase::Sending(data);
            self.sending.push(id);
            self.send_held();
        }
    }

    /// Sends what the windows allow of the requests that hooks let go.
    pub(super) fn send_held(&mut self) {
        let mut ids = std::mem::take(&mut self.sending);
        ids.retain(|id| !self.send_one(*id));
        ids.append(&mut self.sending);
        self.sending = ids;
    }

    /// True when nothing of it is left.
    fn send_one(&mut self, id: u32) -> bool {
        loop {
            let Some(held) = self.streams.get_mut(&id).and_then(|s| s.held.as_mut()) else {
                return true;
            };
            let Phase::Sending(rest) = &mut held.phase else {
                return true;
            };
            let window = held.window.min(self.upstream_window).max(0);
            let window = usize::try_from(window).unwrap_or(0);
            let n = rest.len().min(self.upstream_max_frame).min(window);
            if n == 0 && !rest.is_empty() {
                return false;
            }
            let part = rest.split_to(n);
            let last = rest.is_empty();
            held.window -= signed(n);
            self.upstream_window -= signed(n);
            self.debt += n;
            let mut octets = BytesMut::with_capacity(frame::HEAD + n);
            let flags = if last { frame::END_STREAM } else { 0 };
            frame::put_head(&mut octets, n, frame::DATA, flags, id);
            octets.extend_from_slice(&part);
            if last {
                held.phase = Phase::Sent;
            }
            self.forward_up(id, &octets);
            if last {
                return true;
            }
        }
    }

    /// The runtime has answered: true when the end of the reply waits for a hook now.
    pub(super) fn commit(&mut self, id: u32, trailers: &[Header]) -> bool {
        let Some(held) = self.streams.get_mut(&id).and_then(|s| s.held.as_mut()) else {
            return false;
        };
        if !held.was_sent() {
            return false;
        }
        let Some(after) = held.after.take() else {
            return false;
        };
        let outcome = held.outcome(trailers);
        held.phase = Phase::Committing(trailers.to_vec());
        self.todo.push(Todo::After(Some(id), after, outcome));
        true
    }

    /// The hook at the end of stream `id` has run.
    pub(in crate::cri) fn committed(&mut self, id: u32) {
        let phase = self
            .streams
            .get_mut(&id)
            .and_then(|s| s.held.as_mut())
            .map(|h| &mut h.phase);
        let Some(Phase::Committing(trailers)) = phase else {
            return;
        };
        let trailers = std::mem::take(trailers);
        self.send_trailers(id, &trailers);
        self.finish(id, &trailers);
    }
}
