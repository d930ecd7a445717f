//! One client connection and its connections to the runtime, as a state machine without any I/O.
//!
//! Frames of calls pass verbatim in both directions under the same stream ids, so that flow control,
//! cancellation and half-close are end to end. Only header blocks are written anew, and only the
//! messages of intercepted calls wait here. What must be sent piles up in `out`, hooks to be run in
//! `hooks`. Nothing here blocks, and no octets make it panic.
//!
//! ```text
//!  client ─ take_from_client ─▶ ┌─────────┐ ─ upstream_out(Runtime) ─▶ runtime.sock
//!  client ◀────── client_out ── │ Session │ ─ upstream_out(Image) ───▶ image.sock, where it is another one
//!                               └─────────┘ ◀─ take_from_upstream ── both
//!                                    └─ hooks ─▶ decided, committed ─▶ Session
//! ```
//!
//! The session composes parts, each with a state of its own: [`HeaderBlocks`] (compression and CONTINUATION),
//! [`SettingsExchange`], [`Pings`], [`FlowControl`] and [`Streams`]. Each takes in frames and writes frames
//! to [`FrameOutput`].
//!
//! A socket is connected when a call needs it. When its connection breaks, its calls fail, and the
//! client's connection lives on: the next call connects again.

mod client;
mod error;
mod excess;
mod flow;
mod headers;
mod hooks;
mod intercepted;
mod output;
mod pings;
mod settings;
mod streams;
mod unsent;
mod upstream;

use crate::cri::{
    frame::{self, Head},
    held::{HeldBudget, HeldUse},
    hpack::Header,
    intercept::{CallOutcome, Status},
    options::{Limit, ServerOptions},
    route::Route,
    shared::ConnectionContext,
    status,
};
use bytes::{Bytes, BytesMut};
pub(super) use error::ConnectionError;
use excess::Excess;
use flow::FlowControl;
use headers::{HeaderBlocks, without_table};
pub(super) use intercepted::PendingHook;
use output::FrameOutput;
use pings::Pings;
use settings::SettingsExchange;
use std::{sync::Arc, time::Instant};
use streams::{Stream, Streams};

const OWN_CONTAINER: &str =
    "cri-resmgr ends, as the runtime stops its container for this call: call again";

/// See the module.
#[derive(Debug)]
pub(super) struct Session {
    shared: Arc<ConnectionContext>,
    out: FrameOutput,
    /// To be run.
    pub(super) hooks: Vec<PendingHook>,
    preface_seen: bool,
    client_headers: HeaderBlocks,
    upstream_headers: [HeaderBlocks; 2],
    settings: SettingsExchange,
    pings: Pings,
    flow: FlowControl,
    streams: Streams,
    /// Octets that are held for this client: requests, and unfinished messages for observers and hooks.
    requests: Arc<HeldBudget>,
    copies: Arc<HeldBudget>,
    /// Hooks before calls that have not answered yet, also of calls that are over.
    deciding: usize,
    /// Nothing is taken in from the client until it reads.
    client_stalled: bool,
    client_idle_frames: Excess,
    upstream_idle_frames: [Excess; 2],
    resets: Excess,
    compressed_logged: bool,
}

impl Session {
    pub(super) fn new(shared: Arc<ConnectionContext>) -> Self {
        let options = &shared.options;
        let headers = || HeaderBlocks::new(options);
        let mut out = FrameOutput::default();
        Self {
            hooks: Vec::new(),
            preface_seen: false,
            client_headers: headers(),
            upstream_headers: [headers(), headers()],
            settings: SettingsExchange::new(options, &mut out),
            pings: Pings::default(),
            flow: FlowControl::new(shared.upstreams.routes(), options.max_unread_bytes),
            streams: Streams::default(),
            requests: HeldBudget::new(&shared, HeldUse::Requests),
            copies: HeldBudget::new(&shared, HeldUse::Copies),
            deciding: 0,
            client_stalled: false,
            client_idle_frames: Excess::default(),
            upstream_idle_frames: Default::default(),
            resets: Excess::default(),
            compressed_logged: false,
            out,
            shared,
        }
    }

    /// What is to be sent to the client.
    pub(super) fn client_out(&mut self) -> &mut BytesMut {
        &mut self.out.client
    }

    /// What is to be sent to the socket of `route`.
    pub(super) fn upstream_out(&mut self, route: Route) -> &mut BytesMut {
        &mut self.out.upstream(route).octets
    }

    /// Whether a call waits for a connection to the socket of `route`.
    pub(super) fn awaits_connect(&self, route: Route) -> bool {
        self.flow.awaits_connect(route, &self.out)
    }

    /// Whether frames of the client are taken in: not while they add to what is not read.
    pub(super) fn takes_from_client(&mut self) -> bool {
        let options = &self.shared.options;
        let mut routes = self.shared.upstreams.routes().iter();
        if self.out.client.len() >= options.max_unread_answer_bytes {
            if !std::mem::replace(&mut self.client_stalled, true) {
                self.shared.limit_reached(Limit::UnreadAnswers);
            }
            return false;
        }
        self.client_stalled = false;
        routes.all(|route| self.out.unread(*route) < options.max_unread_bytes)
    }

    /// Whether frames of the socket of `route` are taken in.
    pub(super) fn takes_from_upstream(&self, route: Route) -> bool {
        let options = &self.shared.options;
        let unread = self.out.client.len() + self.flow.unsent_to_client();
        unread < options.max_unread_bytes
            && self.out.unread(route) < options.max_unread_answer_bytes
    }

    /// The socket of `route` has read something: more may be sent.
    pub(super) fn upstream_read(&mut self, route: Route) {
        self.flow
            .resume_upstream(route, &mut self.streams, &mut self.out);
    }

    /// No call is open and the client was told to go: the connection can be closed.
    pub(super) fn finished(&self) -> bool {
        self.streams.finished() && !self.flow.client_awaits_window()
    }

    /// Octets of frames that wait here, for whatever reason.
    #[cfg(any(test, feature = "fuzz"))]
    pub(super) fn octets_kept(&self) -> usize {
        self.out.octets()
            + self.flow.unsent_to_client()
            + self.requests.octets()
            + self.copies.octets()
    }

    /// Fails calls of `route` whose own deadline, or the limit for those without one, is near while the
    /// runtime is away for the reason `why`.
    pub(super) fn expire(&mut self, route: Route, now: Instant, why: &str) {
        for id in self.streams.due(route, now, &self.shared.options) {
            let deadline = self.streams.get(id).and_then(|stream| stream.deadline);
            let mut status = unavailable(why);
            if deadline.is_some_and(|deadline| deadline <= now) {
                status.code = status::DEADLINE_EXCEEDED;
            }
            self.fail(id, status);
        }
    }

    /// Ends every call and sends the client away.
    pub(super) fn cut(&mut self, why: &str) {
        for id in self.streams.select(|_| true) {
            self.refuse(id, unavailable(why));
        }
        self.flow.drop_replies();
        self.close_intake();
    }

    /// The client is gone.
    pub(super) fn client_lost(&mut self) {
        for id in self.streams.select(|_| true) {
            if let Some(stream) = self.streams.remove(id) {
                self.abandon(stream, "the client's connection ended");
            }
        }
    }

    /// Begins to drain: calls that would not end before the relay does end now, and the client is told to open
    /// no more.
    pub(super) fn drain(&mut self, why: &str) {
        for id in self.streams.select(|stream| stream.endless) {
            self.refuse(id, unavailable(why));
        }
        for id in self.streams.select(Stream::awaits_relay_end) {
            // Not cancelled at the runtime, which does what it was asked for.
            self.fail(id, unavailable(OWN_CONTAINER));
        }
        self.streams.announce_end(why, &mut self.out);
    }

    /// After the client had time to hear of [`Self::drain`]: later streams are not served.
    pub(super) fn close_intake(&mut self) {
        self.streams.close_intake(&mut self.out);
    }

    /// Tells the client of a connection error.
    pub(super) fn go_away(&mut self, error: &ConnectionError) {
        let last = frame::MAX_STREAM;
        self.streams
            .go_away(last, error.code, &error.text, &mut self.out);
    }

    /// Ends a call towards both sides.
    fn refuse(&mut self, id: u32, status: Status) {
        let route = self.streams.get(id).map(|stream| stream.route);
        self.fail(id, status);
        if let Some(route) = route {
            self.out.upstream(route).reset(id, frame::CANCEL);
        }
    }

    /// Ends a call towards the client with `status`, whatever has happened to it.
    fn fail(&mut self, id: u32, status: Status) {
        let Some(stream) = self.streams.remove(id) else {
            return;
        };
        self.drop_request(id, &stream);
        self.flow.drop_reply(id, &mut self.out);
        let list = status::trailers(&status, !stream.replied);
        self.send_headers_now(id, &list, true);
        if !stream.client_done {
            frame::put_reset(&mut self.out.client, id, frame::NO_ERROR);
        }
        let seen = self.out.is_connected(stream.route);
        self.end(stream, status, seen);
    }

    /// Drops what of a call that is over has not left for the runtime yet.
    fn drop_request(&mut self, id: u32, stream: &Stream) {
        self.flow.drop_request(id, stream, &mut self.out);
    }

    /// Ends a call on which the client makes a mistake (RFC 9113, 5.4.2).
    fn stream_error(&mut self, id: u32, code: u32) {
        frame::put_reset(&mut self.out.client, id, code);
        self.flow.drop_reply(id, &mut self.out);
        if let Some(stream) = self.streams.remove(id) {
            self.drop_request(id, &stream);
            self.out.upstream(stream.route).reset(id, code);
            self.abandon(stream, "the client broke the protocol");
        }
    }

    /// Counts a frame of `peer` that serves no call.
    fn idle_frame(&mut self, peer: Option<Route>) -> Result<(), ConnectionError> {
        let ServerOptions {
            max_idle_frames,
            frame_period,
            ..
        } = self.shared.options;
        let (excess, text) = match peer {
            None => (
                &mut self.client_idle_frames,
                "too many frames that serve no call",
            ),
            Some(route) => (
                &mut self.upstream_idle_frames[route.index()],
                "the runtime sends too many frames that serve no call",
            ),
        };
        if excess.add(max_idle_frames, frame_period) {
            return Err(ConnectionError::too_many(Limit::IdleFrames, text));
        }
        Ok(())
    }

    /// Counts a frame that serves a call on the socket of `route`: each side may answer it with others.
    fn useful_frame(&mut self, route: Route) {
        const ANSWERS: u32 = 4;
        self.client_idle_frames.relieve(ANSWERS);
        self.upstream_idle_frames[route.index()].relieve(ANSWERS);
    }

    /// Tells observers and hooks of the end of a call; `seen`: the runtime may know of it.
    fn end(&mut self, mut stream: Stream, status: Status, seen: bool) {
        if let Some(tap) = stream.tap.take() {
            tap.end(Some(status.clone()));
        }
        let sent = stream.request_sent();
        if let Some(intercepted) = stream.intercepted.take() {
            let outcome = if seen && sent {
                CallOutcome::Unknown(status.message)
            } else {
                CallOutcome::Failed(status)
            };
            self.after_detached(intercepted.after, outcome);
        }
    }

    /// A call whose end no peer waits for any more.
    fn abandon(&mut self, stream: Stream, why: &str) {
        let status = Status {
            code: status::CANCELLED,
            message: why.to_owned(),
        };
        let seen = self.out.is_connected(stream.route);
        self.end(stream, status, seen);
    }

    /// Sends a header block to the client now.
    fn send_headers_now(&mut self, id: u32, list: &[Header], end: bool) {
        let max_frame = self.settings.max_frame_to_client();
        self.client_headers
            .send(id, list, end, max_frame, &mut self.out.client);
    }

    /// Sends a header block to the client, after what waits for the client's window.
    fn send_headers(&mut self, id: u32, list: &[Header], end: bool) {
        if !self.flow.client_awaits_window() {
            return self.send_headers_now(id, list, end);
        }
        let frames = without_table(id, list, end, self.settings.max_frame_to_client());
        self.flow.send_to_client(id, &frames, &mut self.out);
    }

    /// The runtime has ended the call and the client knows.
    fn finish(&mut self, id: u32, trailers: &[Header]) {
        let Some(mut stream) = self.streams.remove(id) else {
            return;
        };
        if !stream.client_done {
            // The call is over: what the client may still send is of no use.
            self.out.upstream(stream.route).reset(id, frame::NO_ERROR);
        }
        self.resets.relieve(1);
        if stream.intercepted.is_some() || !stream.unsent.is_empty() {
            self.drop_request(id, &stream);
        }
        let failed = status::of(trailers);
        if let Some(intercepted) = stream.intercepted.take() {
            let status = failed
                .clone()
                .unwrap_or_else(|| unavailable("the call ended early"));
            self.after_detached(intercepted.after, CallOutcome::Failed(status));
        }
        if let Some(tap) = stream.tap.take() {
            tap.end(failed);
        }
    }
}

fn exhausted(message: String) -> Status {
    Status {
        code: status::RESOURCE_EXHAUSTED,
        message,
    }
}

fn unavailable(why: &str) -> Status {
    Status {
        code: status::UNAVAILABLE,
        message: why.to_owned(),
    }
}

/// Takes the next whole frame off `input`.
fn next_frame(input: &mut BytesMut, max: usize) -> Result<Option<(Head, Bytes)>, ConnectionError> {
    let Some(head) = Head::read(input) else {
        return Ok(None);
    };
    if head.len > max {
        let text = format!("frame of {} octets, above the limit of {max}", head.len);
        return Err(ConnectionError::new(frame::FRAME_SIZE_ERROR, text));
    }
    if input.len() < frame::HEAD + head.len {
        return Ok(None);
    }
    Ok(Some((
        head,
        input.split_to(frame::HEAD + head.len).freeze(),
    )))
}

/// A frame that is wrong whatever its stream is.
fn check_frame(head: Head) -> Result<(), ConnectionError> {
    match frame::mistake(head) {
        Some((code, text)) => Err(ConnectionError::new(code, text)),
        None => Ok(()),
    }
}

/// The number that RST_STREAM and WINDOW_UPDATE consist of.
fn number(octets: &[u8]) -> u32 {
    let payload = octets.get(frame::HEAD..).unwrap_or_default();
    payload.first_chunk().map_or(0, |n| u32::from_be_bytes(*n))
}

/// The values of one parameter in a SETTINGS payload.
fn parameter(payload: &[u8], key: u16) -> impl Iterator<Item = u32> + '_ {
    frame::settings(payload).filter_map(move |(known, value)| (known == key).then_some(value))
}

#[cfg(test)]
mod notation;
#[cfg(test)]
mod tests;
