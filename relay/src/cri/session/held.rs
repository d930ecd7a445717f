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
    pub(super) fn new(call: Arc<Call>) -> Self {
        Self {
            call,
            phase: Phase::Collecting(BytesMut::new()),
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
    /// Part of the request of an intercepted call, `octets` long on the wire: kept; the client gets its
    /// window back from the relay.
    pub(super) fn hold(
        &mut self,
        id: u32,
        octets: usize,
        part: Bytes,
        end: bool,
    ) -> Result<(), Fault> {
        let max = self.shared.options.max_message_bytes;
        let Some(stream) = self.streams.get_mut(&id) else {
            return Ok(());
        };
        let Some(held) = stream.held.as_mut() else {
            return Ok(());
        };
        let Phase::Collecting(body) = &mut held.phase else {
            return Err(fault(
                frame::PROTOCOL_ERROR,
                "DATA after the end of the stream",
            ));
        };
        stream.client_done = end;
        if body.len() + part.len() > max {
            let path = Arc::clone(&held.call.path);
            let message =
                format!("request of {path} is larger than {max} octets, the most that is held");
            self.refuse(
                id,
                Status {
                    code: status::RESOURCE_EXHAUSTED,
                    message,
                },
            );
            return Ok(());
        }
        body.extend_from_slice(&part);
        if !end {
            frame::put_window_update(&mut self.to_client, id, octets);
            stream.granted += signed(octets);
            self.grant_client();
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
        self.grant_client();
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
                self.refuse(id, status);
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
            let Some(stream) = self.streams.get_mut(&id) else {
                return true;
            };
            let Some(Phase::Sending(rest)) = stream.held.as_mut().map(|held| &mut held.phase)
            else {
                return true;
            };
            let link = &mut self.links[stream.route.index()];
            let window = usize::try_from(stream.window.min(link.window)).unwrap_or(0);
            let n = rest.len().min(link.settings.max_frame).min(window);
            if n == 0 && !rest.is_empty() {
                return false;
            }
            let part = rest.split_to(n);
            let last = rest.is_empty();
            stream.window -= signed(n);
            link.window -= signed(n);
            let mut octets = BytesMut::with_capacity(frame::HEAD + n);
            let flags = if last { frame::END_STREAM } else { 0 };
            frame::put_head(&mut octets, n, frame::DATA, flags, id);
            octets.extend_from_slice(&part);
            link.forward(id, &octets);
            if last {
                if let Some(held) = stream.held.as_mut() {
                    held.phase = Phase::Sent;
                }
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
        self.reply_block(id, &trailers, true);
        self.finish(id, &trailers);
    }
}
