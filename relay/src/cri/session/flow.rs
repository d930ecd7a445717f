//! Flow control (RFC 9113, 5.2): each side is granted what the other takes, and no more.
//!
//! With one socket behind the client, every WINDOW_UPDATE is passed on for what it is worth. Windows of
//! two sockets, or of a new connection to a restarted runtime, do not match what the client was granted:
//! the difference waits in `awaiting_window` and is kept from later grants. What waits is bounded by what
//! one side was granted by the other.

mod windows;

use super::{
    error::ConnectionError,
    output::FrameOutput,
    streams::{Stream, Streams},
};
use crate::cri::{frame, route::Route};
use bytes::Bytes;
use std::collections::HashSet;
pub(super) use windows::signed;
use windows::{Windows, data_len, unsigned};

/// The windows of the client's connection and of those to the sockets.
#[derive(Debug)]
pub(super) struct FlowControl {
    /// The sockets that there are.
    routes: &'static [Route],
    client: Windows,
    upstreams: [Windows; 2],
}

impl FlowControl {
    pub(super) fn new(routes: &'static [Route]) -> Self {
        Self {
            routes,
            client: Windows::NEW,
            upstreams: [Windows::NEW; 2],
        }
    }

    /// The connection to the socket of `route` is gone, and the calls that used it are over.
    pub(super) fn upstream_lost(&mut self, route: Route, out: &mut FrameOutput) {
        self.upstreams[route.index()] = Windows::NEW;
        self.grant_client(out);
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
    pub(super) fn window_update_from_client(&mut self, octets: u32, out: &mut FrameOutput) {
        let window = &mut self.client.send_window;
        *window = window.saturating_add(i64::from(octets));
        self.resume_client(out);
        self.grant_upstreams(out);
    }

    /// The socket of `route` takes more on the whole connection.
    pub(super) fn window_update_from_upstream(&mut self, route: Route, octets: u32) {
        let window = &mut self.upstreams[route.index()].send_window;
        *window = window.saturating_add(i64::from(octets));
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

    /// Sends a frame of a stream to its socket, or keeps it until the windows allow it.
    pub(super) fn send_to_upstream(
        &mut self,
        id: u32,
        stream: &mut Stream,
        frame: &Bytes,
        out: &mut FrameOutput,
    ) {
        let upstream = &mut self.upstreams[stream.route.index()];
        let octets = data_len(frame);
        let fits = octets == 0 || (octets <= upstream.send_window && octets <= stream.send_window);
        if fits && upstream.awaiting_window.is_empty() {
            stream.send_window -= octets;
            upstream.send_window -= octets;
            out.upstream(stream.route).forward(id, frame);
        } else {
            self.keep_for_upstream(id, stream, frame);
        }
    }

    /// Keeps frames of a stream behind what of it waits for a window of its socket.
    pub(super) fn keep_for_upstream(&mut self, id: u32, stream: &mut Stream, frames: &Bytes) {
        let octets = data_len(frames);
        stream.awaiting_frames += 1;
        stream.awaiting_octets += octets;
        self.upstreams[stream.route.index()].keep(id, frames, octets);
    }

    /// Takes up to `most` octets off the windows of a stream and of its socket, for DATA that goes out now.
    pub(super) fn take_send_window(&mut self, stream: &mut Stream, most: usize) -> usize {
        let upstream = &mut self.upstreams[stream.route.index()];
        let octets = unsigned(stream.send_window.min(upstream.send_window)).min(most);
        stream.send_window -= signed(octets);
        upstream.send_window -= signed(octets);
        octets
    }

    /// Sends what has waited for the windows of a socket.
    pub(super) fn resume_upstream(
        &mut self,
        route: Route,
        streams: &mut Streams,
        out: &mut FrameOutput,
    ) {
        let upstream = &mut self.upstreams[route.index()];
        if upstream.awaiting_window.is_empty() {
            return;
        }
        let mut waiting = std::mem::take(&mut upstream.awaiting_window);
        let mut stuck = HashSet::new();
        while let Some((id, frames)) = waiting.pop_front() {
            let octets = data_len(&frames);
            let Some(stream) = streams.get_mut(id) else {
                upstream.awaiting_octets -= octets;
                continue;
            };
            if octets > upstream.send_window {
                upstream.awaiting_window.push_back((id, frames));
                upstream.awaiting_window.append(&mut waiting);
                break;
            }
            if stuck.contains(&id) || octets > stream.send_window.max(0) {
                stuck.insert(id);
                upstream.awaiting_window.push_back((id, frames));
                continue;
            }
            stream.send_window -= octets;
            stream.awaiting_frames -= 1;
            stream.awaiting_octets -= octets;
            upstream.send_window -= octets;
            upstream.awaiting_octets -= octets;
            out.upstream(route).forward(id, &frames);
        }
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
            out.client.extend_from_slice(frames);
            self.client.awaiting_window.pop_front();
        }
    }

    /// Drops what of a stream that is over has not left for its socket yet.
    pub(super) fn drop_request(&mut self, id: u32, stream: &Stream, out: &mut FrameOutput) {
        let upstream = &mut self.upstreams[stream.route.index()];
        let awaiting_connect = &mut out.upstream(stream.route).awaiting_connect;
        awaiting_connect.retain(|(of, frames)| {
            if *of == id {
                upstream.send_window += data_len(frames);
            }
            *of != id
        });
        if stream.awaiting_frames > 0 {
            upstream.drop_stream(id);
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

    /// Octets of all frames that wait for a window.
    #[cfg(any(test, feature = "fuzz"))]
    pub(super) fn octets(&self) -> usize {
        let connections = std::iter::once(&self.client).chain(&self.upstreams);
        let frames = connections.flat_map(|connection| &connection.awaiting_window);
        frames.map(|(_, frames)| frames.len()).sum()
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
        let grant = self.send_window - self.awaiting_octets - self.recv_window;
        if grant > 0 {
            frame::put_window_update(&mut out.client, id, unsigned(grant));
            self.recv_window += grant;
        }
    }
}
