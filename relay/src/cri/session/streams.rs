//! Streams (RFC 9113, 5.1): the calls that are open, and how far new ones are taken.

use super::{
    error::ConnectionError,
    intercepted::InterceptedCall,
    output::FrameOutput,
    settings::{WindowChange, to_usize},
    unsent::Unsent,
};
use crate::cri::{
    frame,
    options::{Limit, ServerOptions},
    route::Route,
    tap::ObserverTap,
};
use std::{collections::HashMap, time::Instant};

/// A call that is open.
#[derive(Debug)]
pub(super) struct Stream {
    pub(super) received: Instant,
    pub(super) deadline: Option<Instant>,
    /// The socket that it uses.
    pub(super) route: Route,
    /// A server stream that lives as long as the client.
    pub(super) endless: bool,
    /// The client has ended its half.
    pub(super) client_done: bool,
    /// The response's header block went to the client.
    pub(super) replied: bool,
    /// Octets that the runtime takes on this stream.
    pub(super) send_window: i64,
    /// Octets that the client may send on it.
    pub(super) recv_window: i64,
    /// Its first header block was taken in.
    pub(super) opened: bool,
    /// What of its request waits for the runtime.
    pub(super) unsent: Unsent,
    /// Octets of its header lists.
    pub(super) header_octets: usize,
    pub(super) intercepted: Option<Box<InterceptedCall>>,
    pub(super) tap: Option<Box<ObserverTap>>,
}

impl Stream {
    /// Whether the runtime may have the whole request of an intercepted call.
    pub(super) fn request_sent(&self) -> bool {
        let intercepted = self.intercepted.as_ref();
        intercepted.is_some_and(|call| call.was_let_go()) && self.unsent.is_empty()
    }

    /// Whether the runtime answers it only when the relay has ended.
    pub(super) fn awaits_relay_end(&self) -> bool {
        let after = self
            .intercepted
            .as_ref()
            .and_then(|call| call.after.as_ref());
        after.is_some_and(|after| after.awaits_relay_end())
    }
}

/// The streams of one client's connection.
#[derive(Debug, Default)]
pub(super) struct Streams {
    open: HashMap<u32, Stream>,
    /// Octets of the header lists of all that are open.
    header_octets: usize,
    /// The highest stream that the client has opened.
    last: u32,
    /// The last stream that the client was told is served.
    going_away: Option<u32>,
}

impl Streams {
    pub(super) fn get(&self, id: u32) -> Option<&Stream> {
        self.open.get(&id)
    }

    pub(super) fn get_mut(&mut self, id: u32) -> Option<&mut Stream> {
        self.open.get_mut(&id)
    }

    /// A stream that uses the socket of `route`.
    pub(super) fn on_route(&mut self, id: u32, route: Route) -> Option<&mut Stream> {
        self.open.get_mut(&id).filter(|s| s.route == route)
    }

    pub(super) fn remove(&mut self, id: u32) -> Option<Stream> {
        let stream = self.open.remove(&id)?;
        self.header_octets -= stream.header_octets;
        Some(stream)
    }

    pub(super) fn insert(&mut self, id: u32, stream: Stream) {
        self.header_octets += stream.header_octets;
        self.open.insert(id, stream);
    }

    /// The bound that a further call with a header list of `octets` meets.
    pub(super) fn full(&self, octets: usize, options: &ServerOptions) -> Option<Limit> {
        if self.open.len() >= to_usize(options.max_concurrent_streams) {
            return Some(Limit::Streams);
        }
        let headers = self.header_octets + octets > options.max_call_header_bytes;
        headers.then_some(Limit::CallHeaders)
    }

    /// The initial windows have changed: those of open streams change as much (RFC 9113, 6.9.2).
    pub(super) fn change_windows(&mut self, route: Route, change: WindowChange) {
        for stream in self.open.values_mut() {
            if stream.route == route {
                stream.send_window += change.send;
            }
            stream.recv_window += change.recv;
        }
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Stream> {
        self.open.values_mut()
    }

    /// Those of which `holds` is true, in the order in which they were opened.
    pub(super) fn select(&self, holds: impl Fn(&Stream) -> bool) -> Vec<u32> {
        let streams = self.open.iter().filter(|(_, stream)| holds(stream));
        let mut ids: Vec<u32> = streams.map(|(id, _)| *id).collect();
        ids.sort_unstable();
        ids
    }

    /// Those of `route` whose own deadline, or the limit for those without one, is near.
    pub(super) fn due(&self, route: Route, now: Instant, options: &ServerOptions) -> Vec<u32> {
        self.select(|stream| {
            stream.route == route
                && match stream.deadline {
                    Some(deadline) => deadline <= now + options.deadline_margin,
                    None => stream.received + options.connect_limit <= now,
                }
        })
    }

    /// Whether the client has not opened stream `id` yet.
    pub(super) fn is_idle(&self, id: u32) -> bool {
        id > self.last
    }

    /// A frame that makes no sense on a stream that the client has not opened, or never can.
    pub(super) fn check_opened(&self, name: &str, id: u32) -> Result<(), ConnectionError> {
        if !self.is_idle(id) && !id.is_multiple_of(2) {
            return Ok(());
        }
        let text = format!("{name} on stream {id}, which is not open");
        Err(ConnectionError::new(frame::PROTOCOL_ERROR, text))
    }

    /// Notes that the client opens stream `id`; false when the client was told that it is not served.
    pub(super) fn accept(&mut self, id: u32) -> bool {
        let refused = self.going_away.is_some_and(|last| id > last);
        if !refused {
            self.last = id;
        }
        !refused
    }

    /// Tells the client the last stream that is served, and why.
    pub(super) fn go_away(&mut self, last: u32, code: u32, why: &str, out: &mut FrameOutput) {
        self.going_away = Some(last);
        let text: String = why.chars().take(200).collect();
        frame::put_goaway(&mut out.client, last, code, &text);
    }

    /// Announces that no further streams will be served; those on their way still are.
    pub(super) fn announce_end(&mut self, why: &str, out: &mut FrameOutput) {
        if self.going_away.is_none() {
            self.go_away(frame::MAX_STREAM, frame::NO_ERROR, why, out);
        }
    }

    /// Serves none but those that the client has opened by now.
    pub(super) fn close_intake(&mut self, out: &mut FrameOutput) {
        let served = self.going_away.unwrap_or(frame::MAX_STREAM);
        self.go_away(self.last.min(served), frame::NO_ERROR, "", out);
    }

    /// Closes the intake that was announced to end.
    pub(super) fn close_announced_intake(&mut self, out: &mut FrameOutput) {
        if self.going_away == Some(frame::MAX_STREAM) {
            self.close_intake(out);
        }
    }

    /// A socket said goodbye: the client hears it, unless it knows of an earlier end.
    pub(super) fn pass_on_goaway(
        &mut self,
        last: u32,
        code: u32,
        why: &str,
        out: &mut FrameOutput,
    ) {
        let bound = if last == frame::MAX_STREAM {
            last
        } else {
            self.last
        };
        if self.going_away.is_none_or(|known| bound < known) {
            self.go_away(bound, code, why, out);
        }
    }

    /// No stream is open, and the client knows that there will be no other.
    pub(super) fn finished(&self) -> bool {
        self.open.is_empty()
            && self
                .going_away
                .is_some_and(|last| last != frame::MAX_STREAM)
    }
}
