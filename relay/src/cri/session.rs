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
mod flow;
mod headers;
mod hooks;
mod intercepted;
mod output;
mod pings;
mod settings;
mod streams;
mod upstream;

use crate::cri::{
    frame::{self, Head},
    hpack::Header,
    intercept::{CallOutcome, Status},
    route::Route,
    shared::ConnectionContext,
    status,
};
use bytes::{Bytes, BytesMut};
pub(super) use error::ConnectionError;
use flow::FlowControl;
use headers::{HeaderBlocks, without_table};
pub(super) use intercepted::PendingHook;
use output::FrameOutput;
use pings::Pings;
use settings::SettingsExchange;
use std::{sync::Arc, time::Instant};
use streams::{Stream, Streams};

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
    /// Streams of intercepted calls whose request is being sent.
    sending: Vec<u32>,
    compressed_logged: bool,
}

impl Session {
    pub(super) fn new(shared: Arc<ConnectionContext>) -> Self {
        let max_list = shared.options.max_header_list_bytes;
        let mut out = FrameOutput::default();
        Self {
            hooks: Vec::new(),
            preface_seen: false,
            client_headers: HeaderBlocks::new(max_list),
            upstream_headers: [HeaderBlocks::new(max_list), HeaderBlocks::new(max_list)],
            settings: SettingsExchange::new(&mut out),
            pings: Pings::default(),
            flow: FlowControl::new(shared.upstreams.routes()),
            streams: Streams::default(),
            sending: Vec::new(),
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
        self.out.awaits_connect(route)
    }

    /// No call is open and the client was told to go: the connection can be closed.
    pub(super) fn finished(&self) -> bool {
        self.streams.finished() && !self.flow.client_awaits_window()
    }

    /// Octets of frames that wait here, for whatever reason.
    #[cfg(any(test, feature = "fuzz"))]
    pub(super) fn octets_kept(&self) -> usize {
        self.out.octets() + self.flow.octets()
    }

    /// Fails calls of `route` whose own deadline, or the limit for those without one, is near while the
    /// runtime is away for the reason `why`.
    pub(super) fn expire(&mut self, route: Route, now: Instant, why: &str) {
        for id in self.streams.due(route, now, &self.shared.options) {
            self.fail(id, unavailable(why));
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

    /// Begins to drain: endless streams end, and the client is told to open no more calls.
    pub(super) fn drain(&mut self, why: &str) {
        for id in self.streams.select(|stream| stream.endless) {
            self.refuse(id, unavailable(why));
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
        self.sending.retain(|sending| *sending != id);
        self.flow.drop_request(id, stream, &mut self.out);
    }

    /// Tells observers and hooks of the end of a call; `seen`: the runtime may know of it.
    fn end(&mut self, mut stream: Stream, status: Status, seen: bool) {
        if let Some(tap) = stream.tap.take() {
            tap.end(Some(status.clone()));
        }
        if let Some(intercepted) = stream.intercepted.take() {
            let outcome = if seen && intercepted.was_sent() {
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
            // What the client may still send is of no use to anyone.
            self.out.upstream(stream.route).reset(id, frame::NO_ERROR);
        }
        if stream.intercepted.is_some() || stream.awaiting_frames > 0 {
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
