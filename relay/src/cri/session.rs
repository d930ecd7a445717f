//! One client connection and its connection to the runtime, as a state machine without any I/O.
//!
//! Frames pass verbatim in both directions under the same stream ids, so that flow control,
//! cancellation and half-close are end to end. Only header blocks are written anew, and only the
//! messages of intercepted calls wait here. What must be sent piles up in `to_client` and
//! `to_upstream`; hooks to run are in `todo`. Nothing here blocks, and no octets make it panic.
//!
//! ```text
//!  client ─ client in ──▶ ┌─────────┐ ─ to_upstream ─▶ runtime
//!  client ◀─── to_client ─ │ Session │ ◀─ from_upstream ─ runtime
//!                          └─────────┘ ─ todo ─▶ hooks ─ decided, committed ─▶ Session
//! ```

mod client;
mod held;
mod upstream;

use crate::cri::{
    frame::{self, Head},
    hpack::{self, Decoder, Header},
    intercept::{After, Before, Call, Interceptor, Outcome, Status},
    observe::Observer,
    outage::Outages,
    server::{Options, Route, Upstreams},
    status,
    tee::Tee,
};
use bytes::{Buf, Bytes, BytesMut};
use held::Held;
use std::{
    collections::{HashMap, HashSet, VecDeque},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};

/// What all connections share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) upstreams: Upstreams,
    pub(super) options: Options,
    pub(super) interceptor: Option<Arc<dyn Interceptor>>,
    pub(super) observers: Vec<Arc<dyn Observer>>,
    pub(super) seq: AtomicU64,
    pub(super) outages: Outages,
}

/// The connection cannot go on: an HTTP/2 error code and why.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text}")]
pub(super) struct Fault {
    pub(super) code: u32,
    pub(super) text: String,
}

fn fault(code: u32, text: impl Into<String>) -> Fault {
    Fault {
        code,
        text: text.into(),
    }
}

/// A hook to be run; its answer comes back by stream id.
pub(super) enum Todo {
    Before(u32, Arc<Call>, Bytes),
    /// `None`: nobody waits for it any more.
    After(Option<u32>, Box<dyn After>, Outcome),
}

impl std::fmt::Debug for Todo {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Before(id, call, _) => write!(f, "Before({id}, {})", call.path),
            Self::After(id, _, outcome) => write!(f, "After({id:?}, {outcome:?})"),
        }
    }
}

#[derive(Debug)]
struct Stream {
    received: Instant,
    deadline: Option<Instant>,
    /// A server stream that lives as long as the client.
    endless: bool,
    client_done: bool,
    /// The response's header block went to the client.
    replied: bool,
    held: Option<Box<Held>>,
    tee: Option<Box<Tee>>,
}

/// A header block that is being collected.
#[derive(Debug)]
struct Block {
    stream: u32,
    end_stream: bool,
    octets: BytesMut,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Session {
    shared: Arc<Shared>,
    pub(super) to_client: BytesMut,
    pub(super) to_upstream: BytesMut,
    pub(super) todo: Vec<Todo>,
    streams: HashMap<u32, Stream>,
    /// Streams that are over for the relay, though the client has not ended them yet.
    dead: HashSet<u32>,
    connected: bool,
    /// Frames that wait for the runtime's connection, with their stream.
    pending: Vec<(u32, Bytes)>,
    /// DATA frames that wait for the runtime's connection window.
    blocked: VecDeque<(u32, Bytes)>,
    /// Held streams whose request is being sent.
    sending: Vec<u32>,
    route: Option<Route>,
    preface_seen: bool,
    own_settings_acked: bool,
    client_headers: Decoder,
    upstream_headers: Decoder,
    client_block: Option<Block>,
    upstream_block: Option<Block>,
    /// Largest frame each side takes.
    client_max_frame: usize,
    upstream_max_frame: usize,
    /// The runtime's windows: of a new stream, and what is left of the connection's.
    upstream_initial_window: i64,
    upstream_window: i64,
    /// Window granted to the client in the runtime's name, to be kept from later updates.
    debt: usize,
    last_stream: u32,
    /// New streams above this are ignored; the client was told.
    going_away: Option<u32>,
    compressed_logged: bool,
}

impl Session {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        let max_list = shared.options.max_header_list_bytes;
        let route = shared.upstreams.only_route();
        let mut session = Self {
            shared,
            to_client: BytesMut::new(),
            to_upstream: BytesMut::new(),
            todo: Vec::new(),
            streams: HashMap::new(),
            dead: HashSet::new(),
            connected: false,
            pending: Vec::new(),
            blocked: VecDeque::new(),
            sending: Vec::new(),
            route,
            preface_seen: false,
            own_settings_acked: false,
            client_headers: Decoder::new(max_list),
            upstream_headers: Decoder::new(max_list),
            client_block: None,
            upstream_block: None,
            client_max_frame: frame::DEFAULT_MAX_FRAME,
            upstream_max_frame: frame::DEFAULT_MAX_FRAME,
            upstream_initial_window: frame::DEFAULT_WINDOW,
            upstream_window: frame::DEFAULT_WINDOW,
            debt: 0,
            last_stream: 0,
            going_away: None,
            compressed_logged: false,
        };
        frame::put_head(&mut session.to_client, 0, frame::SETTINGS, 0, 0);
        session
    }

    /// Where this connection's calls go, once that is known.
    pub(super) fn route(&self) -> Option<Route> {
        self.route
    }

    /// Whether any call waits for the runtime's connection.
    pub(super) fn waiting(&self) -> bool {
        !self.connected && !self.streams.is_empty()
    }

    /// No call is open and the client was told to go: the connection can be closed.
    pub(super) fn finished(&self) -> bool {
        self.going_away
            .is_some_and(|last| last != frame::MAX_STREAM)
            && self.streams.is_empty()
    }

    /// The runtime's connection is there: what waited goes out.
    pub(super) fn connected(&mut self) {
        self.connected = true;
        for (_, octets) in self.pending.drain(..) {
            self.to_upstream.extend_from_slice(&octets);
        }
        for stream in self.streams.values_mut() {
            if let Some(tee) = stream.tee.as_mut().filter(|_| stream.client_done) {
                tee.sent();
            }
        }
    }

    /// Fails calls whose own deadline, or the limit for those without one, is near while the runtime
    /// is away for the reason `why`.
    pub(super) fn expire(&mut self, now: Instant, why: &str) {
        let options = &self.shared.options;
        let (margin, limit) = (options.deadline_margin, options.connect_limit);
        let due = |s: &Stream| match s.deadline {
            Some(deadline) => deadline <= now + margin,
            None => s.received + limit <= now,
        };
        let late: Vec<u32> = self
            .streams
            .iter()
            .filter(|(_, s)| due(s))
            .map(|(id, _)| *id)
            .collect();
        for id in late {
            self.fail(id, unavailable(why));
        }
    }

    /// The runtime's connection is gone: every call fails, the client is sent away.
    pub(super) fn upstream_lost(&mut self, why: &str) {
        let ids: Vec<u32> = self.streams.keys().copied().collect();
        for id in ids {
            self.fail(id, unavailable(why));
        }
        self.go_away(self.last_stream, frame::NO_ERROR, why);
    }

    /// The client is gone.
    pub(super) fn client_lost(&mut self) {
        for (_, stream) in std::mem::take(&mut self.streams) {
            self.abandon(stream, "the client's connection ended");
        }
    }

    /// Begins to drain: endless streams end, and the client is told to open no more calls.
    pub(super) fn drain(&mut self, why: &str) {
        let endless: Vec<u32> = self
            .streams
            .iter()
            .filter(|(_, s)| s.endless)
            .map(|(id, _)| *id)
            .collect();
        for id in endless {
            self.fail(id, unavailable(why));
            self.cancel_upstream(id);
        }
        if self.going_away.is_none() {
            self.go_away(frame::MAX_STREAM, frame::NO_ERROR, why);
        }
    }

    /// After the client had time to hear of [`Self::drain`]: later streams are not served.
    pub(super) fn close_intake(&mut self) {
        self.go_away(self.last_stream, frame::NO_ERROR, "");
    }

    pub(super) fn go_away(&mut self, last: u32, code: u32, why: &str) {
        self.going_away = Some(last);
        let text: String = why.chars().take(200).collect();
        frame::put_goaway(&mut self.to_client, last, code, &text);
    }

    /// Ends a call towards the client with `status`, whatever has happened to it.
    fn fail(&mut self, id: u32, status: Status) {
        let Some(mut stream) = self.streams.remove(&id) else {
            return;
        };
        self.unqueue(id, stream.held.is_some());
        self.send_trailers(id, &status::trailers(&status, !stream.replied));
        if !stream.client_done {
            self.dead.insert(id);
            frame::put_reset(&mut self.to_client, id, frame::NO_ERROR);
        }
        if let Some(tee) = stream.tee.take() {
            tee.end(Some(status.clone()));
        }
        if let Some(held) = stream.held.take() {
            let unknown = self.connected && held.was_sent();
            let outcome = if unknown {
                Outcome::Unknown(status.message)
            } else {
                Outcome::Failed(status)
            };
            self.after_detached(held.after, outcome);
        }
    }

    /// A call that nobody waits for any more.
    fn abandon(&mut self, mut stream: Stream, why: &str) {
        let status = Status {
            code: status::CANCELLED,
            message: why.to_owned(),
        };
        if let Some(held) = stream.held.take() {
            let outcome = if self.connected && held.was_sent() {
                Outcome::Unknown(why.to_owned())
            } else {
                Outcome::Failed(status.clone())
            };
            self.after_detached(held.after, outcome);
        }
        if let Some(tee) = stream.tee.take() {
            tee.end(Some(status));
        }
    }

    fn after_detached(&mut self, after: Option<Box<dyn After>>, outcome: Outcome) {
        if let Some(after) = after {
            self.todo.push(Todo::After(None, after, outcome));
        }
    }

    /// Takes back what of stream `id` has not left yet.
    fn unqueue(&mut self, id: u32, held: bool) {
        self.sending.retain(|s| *s != id);
        let mut unsent = 0;
        self.pending.retain(|(stream, octets)| {
            let drop = *stream == id;
            if drop {
                unsent += data_len(octets);
            }
            !drop
        });
        self.upstream_window += signed(unsent);
        if held {
            self.debt = self.debt.saturating_sub(unsent);
            unsent = 0;
        }
        self.blocked.retain(|(stream, octets)| {
            let drop = *stream == id;
            if drop {
                unsent += data_len(octets);
            }
            !drop
        });
        // The runtime will never give this window back, so it is given back in its name.
        frame::put_window_update(&mut self.to_client, 0, unsent);
    }

    fn cancel_upstream(&mut self, id: u32) {
        if self.connected {
            frame::put_reset(&mut self.to_upstream, id, frame::CANCEL);
        }
    }

    fn send_trailers(&mut self, id: u32, trailers: &[Header]) {
        let mut block = BytesMut::with_capacity(128);
        hpack::encode(trailers, &mut block);
        frame::put_block(&mut self.to_client, id, &block, true, self.client_max_frame);
    }

    /// Sends a frame on, or keeps it until the runtime's connection is there.
    fn forward_up(&mut self, id: u32, octets: &[u8]) {
        if self.connected {
            self.to_upstream.extend_from_slice(octets);
        } else {
            self.pending.push((id, Bytes::copy_from_slice(octets)));
        }
    }
}

fn unavailable(why: &str) -> Status {
    Status {
        code: status::UNAVAILABLE,
        message: why.to_owned(),
    }
}

/// What a frame counts in flow control.
fn data_len(octets: &[u8]) -> usize {
    Head::read(octets)
        .filter(|h| h.kind == frame::DATA)
        .map_or(0, |h| h.len)
}

fn signed(octets: usize) -> i64 {
    i64::try_from(octets).unwrap_or(i64::MAX)
}

/// Takes the next whole frame off `input`.
fn next_frame(input: &mut BytesMut, max: usize) -> Result<Option<(Head, Bytes)>, Fault> {
    let Some(head) = Head::read(input) else {
        return Ok(None);
    };
    if head.len > max {
        let text = format!("frame of {} octets, above the limit of {max}", head.len);
        return Err(fault(frame::FRAME_SIZE_ERROR, text));
    }
    if input.len() < frame::HEAD + head.len {
        return Ok(None);
    }
    Ok(Some((
        head,
        input.split_to(frame::HEAD + head.len).freeze(),
    )))
}

/// Collects a header block; the whole one comes back when its last part is in.
fn collect(
    slot: &mut Option<Block>,
    head: Head,
    octets: &Bytes,
    max: usize,
) -> Result<Option<(u32, bool, Bytes)>, Fault> {
    let payload = octets.slice(frame::HEAD..);
    let bad = |text: &str| fault(frame::PROTOCOL_ERROR, text);
    if head.kind == frame::HEADERS {
        let range = frame::content(head, &payload).ok_or_else(|| bad("HEADERS is all padding"))?;
        let part = payload.slice(range);
        let end_stream = head.has(frame::END_STREAM);
        if head.has(frame::END_HEADERS) {
            return Ok(Some((head.stream, end_stream, part)));
        }
        *slot = Some(Block {
            stream: head.stream,
            end_stream,
            octets: BytesMut::from(&part[..]),
        });
        return Ok(None);
    }
    let block = slot
        .as_mut()
        .ok_or_else(|| bad("CONTINUATION without HEADERS"))?;
    if block.octets.len() + payload.len() > max {
        return Err(bad("header block is too large"));
    }
    block.octets.extend_from_slice(&payload);
    if !head.has(frame::END_HEADERS) {
        return Ok(None);
    }
    Ok(slot
        .take()
        .map(|b| (b.stream, b.end_stream, b.octets.freeze())))
}

/// Between HEADERS and their last CONTINUATION nothing else may come.
fn check_order(slot: Option<&Block>, head: Head) -> Result<(), Fault> {
    let fits = match slot {
        Some(block) => head.kind == frame::CONTINUATION && head.stream == block.stream,
        None => head.kind != frame::CONTINUATION,
    };
    let text = "frames of a header block are not together";
    if fits {
        Ok(())
    } else {
        Err(fault(frame::PROTOCOL_ERROR, text))
    }
}

fn number(octets: &[u8]) -> Option<u32> {
    octets
        .get(frame::HEAD..)?
        .first_chunk()
        .map(|n| u32::from_be_bytes(*n))
}

#[cfg(test)]
mod tests;
