//! Flow control (RFC 9113, 5.2): each side is granted what the other takes, and no more.
//!
//! With one socket behind the client, every WINDOW_UPDATE is passed on for what it is worth. Windows of
//! two sockets, or of a new connection to a restarted runtime, do not match what the client was granted:
//! the difference waits, of a request in its stream's [`Unsent`](super::unsent::Unsent), of a reply in
//! `awaiting_window`, and is kept from later grants. What waits is bounded by what one side was granted by the
//! other, and requests by the client's [`HeldBudget`].

mod windows;

use super::{
    error::ConnectionError,
    output::FrameOutput,
    streams::{Stream, Streams},
};
use crate::cri::{
    frame,
    held::{HeldBudget, NoRoom},
    route::Route,
};
use bytes::Bytes;
use std::sync::Arc;
pub(super) use windows::signed;
use windows::{KEPT, Windows, data_len, unsigned};

/// The windows of the client's connection and of those to the sockets.
#[derive(Debug)]
pub(super) struct FlowControl {
    /// The sockets that there are.
    routes: &'static [Route],
    client: Windows,
    upstreams: [Windows; 2],
    /// Octets that may wait for a socket to read them.
    max_unread: usize,
}

impl FlowControl {
    pub(super) fn new(routes: &'static [Route], max_unread: usize) -> Self {
        Self {
            routes,
            client: Windows::NEW,
            upstreams: [Windows::NEW; 2],
            max_unread,
        }
    }

    /// The connection to the socket of `route` is gone, and the calls that used it are over.
    pub(super) fn upstream_lost(&mut self, route: Route, out: &mut FrameOutput) {
        self.upstreams[route.index()] = Windows::NEW;
        self.grant_client(out);
    }

    /// The socket of `route` takes frames of so many octets.
    pub(super) fn set_max_frame(&mut self, route: Route, octets: usize) {
        self.upstreams[route.index()].max_frame = octets;
    }

    /// Counts DATA of the client, padding included.
    pub(super) fn receive_from_client(&mut self, octets: usize) -> Result<(), ConnectionError> {
        self.client.receive(octets, "more DATA than was granted")
    }

    /// Counts DATA of the socket of `route`, padding included.
    pub(super) fn receive_from_upstream(
        &mut self,
        route: Route,
        octets: usize,
    ) -> Result<(), ConnectionError> {
        let text = "the runtime sends more DATA than it was granted";
        self.upstreams[route.index()].receive(octets, text)
    }

    /// The client takes more on the whole connection.
    pub(super) fn window_update_from_client(
        &mut self,
        octets: u32,
        out: &mut FrameOutput,
    ) -> Result<(), ConnectionError> {
        self.client.grow(octets)?;
        self.resume_client(out);
        self.grant_upstreams(out);
        Ok(())
    }

    /// The socket of `route` takes more on the whole connection.
    pub(super) fn window_update_from_upstream(
        &mut self,
        route: Route,
        octets: u32,
    ) -> Result<(), ConnectionError> {
        self.upstreams[route.index()].grow(octets)
    }

    /// Grants the client what the sockets take on the whole connection.
    pub(super) fn grant_client(&mut self, out: &mut FrameOutput) {
        let routes = self.routes.iter();
        let most = routes.map(|route| self.upstreams[route.index()].send_window);
        let awaiting: i64 = self.upstreams.iter().map(|u| u.awaiting_octets).sum();
        let grant = most.max().unwrap_or(0) - awaiting - self.client.recv_window;
        if grant > 0 {
            frame::put_window_update(&mut out.client, 0, unsigned(grant));
            self.client.recv_window += grant;
        }
    }

    /// Grants the sockets what the client takes on the whole connection.
    pub(super) fn grant_upstreams(&mut self, out: &mut FrameOutput) {
        let room = self.client.send_window - self.client.awaiting_octets;
        for route in Route::ALL {
            let (upstream, out) = (&mut self.upstreams[route.index()], out.upstream(route));
            let grant = room - upstream.recv_window;
            if out.connected && grant > 0 {
                frame::put_window_update(&mut out.octets, 0, unsigned(grant));
                upstream.recv_window += grant;
            }
        }
    }

    /// Sends DATA of a stream to its socket, or has it wait there until the connection and the windows allow it;
    /// `content` is `frame`'s payload without padding.
    pub(super) fn send_to_upstream(
        &mut self,
        id: u32,
        stream: &mut Stream,
        frame: &Bytes,
        content: &[u8],
        budget: &Arc<HeldBudget>,
        out: &mut FrameOutput,
    ) -> Result<(), NoRoom> {
        let upstream = &mut self.upstreams[stream.route.index()];
        let socket = out.upstream(stream.route);
        let octets = data_len(frame);
        let fits = octets == 0 || (octets <= upstream.send_window && octets <= stream.send_window);
        if fits && socket.connected && stream.unsent.is_empty() && upstream.waiting.is_empty() {
            stream.send_window -= octets;
            upstream.send_window -= octets;
            socket.octets.extend_from_slice(frame);
            return Ok(());
        }
        stream.unsent.push(content, stream.client_done, budget)?;
        upstream.awaiting_octets += signed(content.len());
        self.send_unsent(id, stream, out);
        Ok(())
    }

    /// Sends what waits of a request, as far as the connection and the windows allow it.
    pub(super) fn send_unsent(&mut self, id: u32, stream: &mut Stream, out: &mut FrameOutput) {
        let upstream = &mut self.upstreams[stream.route.index()];
        let socket = out.upstream(stream.route);
        if !socket.connected {
            upstream.waiting.insert(id);
            return;
        }
        let unsent = &mut stream.unsent;
        while unsent.has_data() {
            let window = stream.send_window.min(upstream.send_window);
            let most = unsigned(window).min(upstream.max_frame);
            if (most == 0 && unsent.octets() > 0) || socket.octets.len() >= self.max_unread {
                if stream.send_window <= 0 && unsent.octets() > 0 {
                    // A WINDOW_UPDATE of the stream itself has its DATA sent on.
                    upstream.waiting.remove(&id);
                } else {
                    upstream.waiting.insert(id);
                }
                return;
            }
            let (part, last) = unsent.take(most);
            let octets = signed(part.len());
            let flags = if last { frame::END_STREAM } else { 0 };
            frame::put_head(&mut socket.octets, part.len(), frame::DATA, flags, id);
            socket.octets.extend_from_slice(&part);
            stream.send_window -= octets;
            upstream.send_window -= octets;
            if stream.intercepted.is_none() {
                upstream.awaiting_octets -= octets;
            }
        }
        socket
            .octets
            .extend_from_slice(&std::mem::take(&mut unsent.trailers));
        upstream.waiting.remove(&id);
    }

    /// The connection to the socket of `route` is there: calls that wait for it are opened, in their order.
    pub(super) fn open_calls(
        &mut self,
        route: Route,
        streams: &mut Streams,
        out: &mut FrameOutput,
    ) {
        let socket = &mut out.upstream(route).octets;
        for id in &self.upstreams[route.index()].waiting {
            let Some(stream) = streams.get_mut(*id) else {
                continue;
            };
            socket.extend_from_slice(&std::mem::take(&mut stream.unsent.head));
            let granted = std::mem::take(&mut stream.unsent.granted);
            frame::put_window_update(socket, *id, unsigned(i64::from(granted)));
        }
        self.resume_upstream(route, streams, out);
    }

    /// The windows of all streams of `route` have changed: their DATA is tried again.
    pub(super) fn retry_upstream(
        &mut self,
        route: Route,
        streams: &mut Streams,
        out: &mut FrameOutput,
    ) {
        let unsent = streams.select(|s| s.route == route && !s.unsent.is_empty());
        self.upstreams[route.index()].waiting.extend(unsent);
        self.resume_upstream(route, streams, out);
    }

    /// Sends what has waited for the window of a connection, or for its socket to read: the oldest call first.
    pub(super) fn resume_upstream(
        &mut self,
        route: Route,
        streams: &mut Streams,
        out: &mut FrameOutput,
    ) {
        if !out.is_connected(route) {
            return;
        }
        while let Some(id) = self.upstreams[route.index()].waiting.first().copied() {
            let Some(stream) = streams.get_mut(id) else {
                self.upstreams[route.index()].waiting.remove(&id);
                continue;
            };
            self.send_unsent(id, stream, out);
            if self.upstreams[route.index()].waiting.first() == Some(&id) {
                break;
            }
        }
    }

    /// Whether calls wait for a connection to the socket of `route`.
    pub(super) fn awaits_connect(&self, route: Route, out: &FrameOutput) -> bool {
        !out.is_connected(route) && !self.upstreams[route.index()].waiting.is_empty()
    }

    /// Sends frames of a stream to the client, or keeps them until its window allows it.
    pub(super) fn send_to_client(&mut self, id: u32, frames: &Bytes, out: &mut FrameOutput) {
        let octets = data_len(frames);
        if self.client.awaiting_window.is_empty() && octets <= self.client.send_window {
            self.client.send_window -= octets;
            out.client.extend_from_slice(frames);
        } else {
            self.client.keep(id, frames, octets);
        }
    }

    /// Whether frames wait for the client's window.
    pub(super) fn client_awaits_window(&self) -> bool {
        !self.client.awaiting_window.is_empty()
    }

    /// Sends what has waited for the client's window.
    fn resume_client(&mut self, out: &mut FrameOutput) {
        while let Some((_, frames)) = self.client.awaiting_window.front() {
            let octets = data_len(frames);
            if octets > self.client.send_window {
                break;
            }
            self.client.send_window -= octets;
            self.client.awaiting_octets -= octets;
            self.client.kept -= KEPT + frames.len();
            out.client.extend_from_slice(frames);
            self.client.awaiting_window.pop_front();
        }
    }

    /// Drops what of a stream that is over has not left for its socket yet.
    pub(super) fn drop_request(&mut self, id: u32, stream: &Stream, out: &mut FrameOutput) {
        let upstream = &mut self.upstreams[stream.route.index()];
        upstream.waiting.remove(&id);
        if stream.intercepted.is_none() {
            upstream.awaiting_octets -= signed(stream.unsent.octets());
        }
        self.grant_client(out);
    }

    /// Drops what of a stream that failed waits for the client's window.
    pub(super) fn drop_reply(&mut self, id: u32, out: &mut FrameOutput) {
        if self.client_awaits_window() {
            self.client.drop_stream(id);
            self.grant_upstreams(out);
        }
    }

    /// Drops all that waits for the client's window.
    pub(super) fn drop_replies(&mut self) {
        self.client.awaiting_window.clear();
        self.client.awaiting_octets = 0;
        self.client.kept = 0;
    }

    /// The windows of all connections.
    #[cfg(test)]
    pub(super) fn show(&self) -> String {
        let show = |windows: &Windows| {
            let awaiting = match windows.awaiting_octets {
                0 => String::new(),
                octets => format!(", {octets} wait"),
            };
            let (send, recv) = (windows.send_window, windows.recv_window);
            format!("send {send} recv {recv}{awaiting}")
        };
        let [runtime, image] = &self.upstreams;
        let [client, runtime, image] = [&self.client, runtime, image].map(show);
        format!("windows: client {client}; runtime {runtime}; image {image}")
    }

    /// Octets of the frames that wait for the client's window, and what it takes to keep them.
    pub(super) fn unsent_to_client(&self) -> usize {
        self.client.kept
    }
}

impl Stream {
    /// Counts DATA of the client, padding included.
    pub(super) fn receive_from_client(&mut self, octets: usize) {
        self.recv_window -= signed(octets);
    }

    /// Grants the client what the runtime takes on this stream.
    pub(super) fn grant_client(&mut self, id: u32, out: &mut FrameOutput) {
        // The client of an intercepted call has had all its window from the relay itself.
        if self.client_done || self.intercepted.is_some() {
            return;
        }
        let grant = self.send_window - signed(self.unsent.octets()) - self.recv_window;
        if grant > 0 {
            frame::put_window_update(&mut out.client, id, unsigned(grant));
            self.recv_window += grant;
        }
    }
}
