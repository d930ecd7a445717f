//! One client connection and its connections to the runtime, as a state machine without any I/O.
//!
//! Frames of calls pass verbatim in both directions under the same stream ids, so that flow control,
//! cancellation and half-close are end to end. Only header blocks are written anew, and only the
//! messages of intercepted calls wait here. What must be sent piles up in `to_client` and in the links;
//! hooks to run are in `todo`. Nothing here blocks, and no octets make it panic.
//!
//! ```text
//!  client ─ take_from_client ─▶ ┌─────────┐ ─ links[Runtime].out ─▶ runtime.sock
//!  client ◀──────── to_client ─ │ Session │ ─ links[Image].out ───▶ image.sock, where it is another one
//!                               └─────────┘ ◀─ take_from_upstream ─ both
//!                                    └─ todo ─▶ hooks ─ decided, committed ─▶ Session
//! ```
//!
//! A link is connected when a call needs it. When its connection breaks, its calls fail, and the
//! client's connection lives on: the next call connects again.

mod client;
mod control;
mod flow;
mod held;
mod link;
mod upstream;

use crate::cri::{
    frame::{self, Head},
    hpack::{self, Decoder, Encoder, Header},
    intercept::{After, Before, Call, Outcome, Status},
    route::Route,
    shared::Shared,
    status,
    tee::Tee,
};
use bytes::{Buf, Bytes, BytesMut};
use control::Ping;
use flow::signed;
use held::Held;
use link::{Link, Settings};
use std::{
    collections::{HashMap, HashSet, VecDeque},
    sync::{Arc, atomic::Ordering},
    time::Instant,
};

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
    /// The link it uses.
    route: Route,
    /// A server stream that lives as long as the client.
    endless: bool,
    client_done: bool,
    /// The response's header block went to the client.
    replied: bool,
    /// What the runtime takes on this stream.
    window: i64,
    /// Granted to the client beyond the initial window, less what it has sent.
    granted: i64,
    /// Octets of it that wait for a window of the runtime.
    blocked: i64,
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
    pub(super) todo: Vec<Todo>,
    links: [Link; 2],
    streams: HashMap<u32, Stream>,
    /// Octets in the links' `blocked`.
    blocked_octets: i64,
    /// Frames that wait for the client's window, with their stream, and their octets of DATA.
    queued: VecDeque<(u32, Bytes)>,
    queued_octets: i64,
    /// Held streams whose request is being sent.
    sending: Vec<u32>,
    preface_seen: bool,
    client_headers: Decoder,
    client_encoder: Encoder,
    client_block: Option<Block>,
    /// The client's settings, how many frames of them there were, and how many it knows to be heard.
    client_settings: Vec<(u16, u32)>,
    settings_seen: u64,
    settings_acked: u64,
    /// Largest frame the client takes.
    client_max_frame: usize,
    /// The settings that the client was told, and whose socket learns of each acknowledgement to come.
    announced: Settings,
    announces: VecDeque<Option<Route>>,
    /// What the client may send on the whole connection, and what it takes.
    client_credit: i64,
    client_room: i64,
    /// PINGs on their way, by the socket they go to or came from.
    client_pings: VecDeque<(Route, Ping)>,
    upstream_pings: VecDeque<(Route, Ping)>,
    last_stream: u32,
    /// New streams above this are ignored; the client was told.
    going_away: Option<u32>,
    compressed_logged: bool,
}

impl Session {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        let max_list = shared.options.max_header_list_bytes;
        let mut session = Self {
            shared,
            to_client: BytesMut::new(),
            todo: Vec::new(),
            links: [Link::new(max_list), Link::new(max_list)],
            streams: HashMap::new(),
            blocked_octets: 0,
            queued: VecDeque::new(),
            queued_octets: 0,
            sending: Vec::new(),
            preface_seen: false,
            client_headers: Decoder::new(max_list),
            client_encoder: Encoder::default(),
            client_block: None,
            client_settings: Vec::new(),
            settings_seen: 0,
            settings_acked: 0,
            client_max_frame: frame::DEFAULT_MAX_FRAME,
            announced: Settings::DEFAULT,
            announces: VecDeque::from([None]),
            client_credit: frame::DEFAULT_WINDOW,
            client_room: frame::DEFAULT_WINDOW,
            client_pings: VecDeque::new(),
            upstream_pings: VecDeque::new(),
            last_stream: 0,
            going_away: None,
            compressed_logged: false,
        };
        frame::put_head(&mut session.to_client, 0, frame::SETTINGS, 0, 0);
        session
    }

    /// What is to be sent to the socket of `route`.
    pub(super) fn upstream_out(&mut self, route: Route) -> &mut BytesMut {
        &mut self.links[route.index()].out
    }

    /// Whether a call waits for a connection to the socket of `route`.
    pub(super) fn waits_for(&self, route: Route) -> bool {
        let link = &self.links[route.index()];
        !link.connected && !link.pending.is_empty()
    }

    /// No call is open and the client was told to go: the connection can be closed.
    pub(super) fn finished(&self) -> bool {
        self.going_away
            .is_some_and(|last| last != frame::MAX_STREAM)
            && self.streams.is_empty()
            && self.queued.is_empty()
    }

    /// The open calls of which `holds` is true, in the order in which they were opened.
    fn calls(&self, holds: impl Fn(&Stream) -> bool) -> Vec<u32> {
        let streams = self.streams.iter().filter(|(_, stream)| holds(stream));
        let mut ids: Vec<u32> = streams.map(|(id, _)| *id).collect();
        ids.sort_unstable();
        ids
    }

    /// Fails calls of `route` whose own deadline, or the limit for those without one, is near while the
    /// runtime is away for the reason `why`.
    pub(super) fn expire(&mut self, route: Route, now: Instant, why: &str) {
        let options = &self.shared.options;
        let (margin, limit) = (options.deadline_margin, options.connect_limit);
        let due = |s: &Stream| match s.deadline {
            Some(deadline) => deadline <= now + margin,
            None => s.received + limit <= now,
        };
        for id in self.calls(|s| s.route == route && due(s)) {
            self.fail(id, unavailable(why));
        }
    }

    /// Ends every call and sends the client away.
    pub(super) fn cut(&mut self, why: &str) {
        for id in self.calls(|_| true) {
            self.refuse(id, unavailable(why));
        }
        self.queued.clear();
        self.queued_octets = 0;
        self.close_intake();
    }

    /// The client is gone.
    pub(super) fn client_lost(&mut self) {
        for id in self.calls(|_| true) {
            if let Some(stream) = self.streams.remove(&id) {
                self.abandon(stream, "the client's connection ended");
            }
        }
    }

    /// Begins to drain: endless streams end, and the client is told to open no more calls.
    pub(super) fn drain(&mut self, why: &str) {
        for id in self.calls(|s| s.endless) {
            self.refuse(id, unavailable(why));
        }
        if self.going_away.is_none() {
            self.go_away(frame::MAX_STREAM, frame::NO_ERROR, why);
        }
    }

    /// After the client had time to hear of [`Self::drain`]: later streams are not served.
    pub(super) fn close_intake(&mut self) {
        let served = self.going_away.unwrap_or(frame::MAX_STREAM);
        self.go_away(self.last_stream.min(served), frame::NO_ERROR, "");
    }

    pub(super) fn go_away(&mut self, last: u32, code: u32, why: &str) {
        self.going_away = Some(last);
        let text: String = why.chars().take(200).collect();
        frame::put_goaway(&mut self.to_client, last, code, &text);
    }

    /// Ends a call towards both sides.
    fn refuse(&mut self, id: u32, status: Status) {
        let route = self.streams.get(&id).map(|stream| stream.route);
        self.fail(id, status);
        if let Some(route) = route {
            self.links[route.index()].reset(id, frame::CANCEL);
        }
    }

    /// Ends a call towards the client with `status`, whatever has happened to it.
    fn fail(&mut self, id: u32, status: Status) {
        let Some(stream) = self.streams.remove(&id) else {
            return;
        };
        self.take_back(id, &stream);
        self.drop_queued(id);
        let list = status::trailers(&status, !stream.replied);
        self.block_to_client(id, &list, true);
        if !stream.client_done {
            frame::put_reset(&mut self.to_client, id, frame::NO_ERROR);
        }
        let seen = self.links[stream.route.index()].connected;
        self.end(stream, status, seen);
    }

    /// Tells onlookers and hooks of the end of a call; `seen`: the runtime may know of it.
    fn end(&mut self, mut stream: Stream, status: Status, seen: bool) {
        if let Some(tee) = stream.tee.take() {
            tee.end(Some(status.clone()));
        }
        if let Some(held) = stream.held.take() {
            let outcome = if seen && held.was_sent() {
                Outcome::Unknown(status.message)
            } else {
                Outcome::Failed(status)
            };
            self.after_detached(held.after, outcome);
        }
    }

    /// A call that nobody waits for any more.
    fn abandon(&mut self, stream: Stream, why: &str) {
        let status = Status {
            code: status::CANCELLED,
            message: why.to_owned(),
        };
        let seen = self.links[stream.route.index()].connected;
        self.end(stream, status, seen);
    }

    fn after_detached(&mut self, after: Option<Box<dyn After>>, outcome: Outcome) {
        if let Some(after) = after {
            self.todo.push(Todo::After(None, after, outcome));
        }
    }

    /// Sends a header block to the client now.
    fn block_to_client(&mut self, id: u32, list: &[Header], end: bool) {
        let (out, encoder) = (&mut self.to_client, &mut self.client_encoder);
        frame::put_block_of(out, id, end, self.client_max_frame, |out| {
            encoder.encode(list, out);
        });
    }

    /// Sends a header block to the client, after what waits for the client's window.
    fn reply_block(&mut self, id: u32, list: &[Header], end: bool) {
        if self.queued.is_empty() {
            return self.block_to_client(id, list, end);
        }
        // What waits may never go out: no encoder may count on it.
        let mut frames = BytesMut::new();
        frame::put_block_of(&mut frames, id, end, self.client_max_frame, |out| {
            hpack::encode(list, out);
        });
        self.pass_down(id, &frames.freeze());
    }
}

fn unavailable(why: &str) -> Status {
    Status {
        code: status::UNAVAILABLE,
        message: why.to_owned(),
    }
}

fn to_usize(value: u32) -> usize {
    usize::try_from(value).unwrap_or(usize::MAX)
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
mod notation;
#[cfg(test)]
mod tests;
