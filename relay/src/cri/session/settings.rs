//! SETTINGS (RFC 9113, 6.5): the client hears what every socket takes, and each socket what the client said.
//!
//! An acknowledgement is passed on to the side that the settings came from: to the client when every
//! connected socket has acknowledged, to a socket when the client has. What a lost connection owed is
//! acknowledged in its name, and the next one is told all that the client said of itself.

mod parameters;

use super::{error::ConnectionError, output::FrameOutput};
use crate::cri::{
    frame::{self, Head},
    options::{Limit, ServerOptions},
    route::Route,
};
use bytes::BytesMut;
use parameters::{Settings, check};
use std::collections::VecDeque;

/// SETTINGS frames that may wait for their acknowledgement.
const MAX_UNACKNOWLEDGED: usize = 1000;
/// Parameters of the client that are kept for the next connection.
const MAX_PARAMETERS: usize = 32;

/// What the settings of a socket change in the windows of open streams (RFC 9113, 6.9.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct WindowChange {
    /// In the send windows of its own streams.
    pub(super) send: i64,
    /// In what the client may send on every stream.
    pub(super) recv: i64,
}

/// The settings of one client and of the sockets behind it, and which of them are acknowledged.
#[derive(Debug)]
pub(super) struct SettingsExchange {
    /// What the client said of itself.
    client: Vec<(u16, u32)>,
    client_max_frame: u32,
    /// SETTINGS frames of the client: received, and acknowledged to it.
    received: u64,
    acknowledged: u64,
    upstreams: [UpstreamSettings; 2],
    /// The relay's own bounds.
    own: Settings,
    /// What the client was told.
    announced: Settings,
    /// Sockets that learn of the client's acknowledgements to come, in order.
    announcements: VecDeque<Option<Route>>,
}

#[derive(Debug)]
struct UpstreamSettings {
    settings: Settings,
    /// They are this socket's own.
    received: bool,
    /// Which of the client's SETTINGS frames it has not acknowledged, by their number.
    unacknowledged: VecDeque<u64>,
}

impl UpstreamSettings {
    const NEW: Self = Self {
        settings: Settings::DEFAULT,
        received: false,
        unacknowledged: VecDeque::new(),
    };
}

impl SettingsExchange {
    /// Writes the SETTINGS frame that a server's connection begins with.
    pub(super) fn new(options: &ServerOptions, out: &mut FrameOutput) -> Self {
        let own = Settings::of_relay(options);
        let announced = Settings::DEFAULT.least(own);
        frame::put_settings(&mut out.client, announced.changes(Settings::DEFAULT));
        Self {
            own,
            client: Vec::new(),
            client_max_frame: frame::DEFAULT_MAX_FRAME,
            received: 0,
            acknowledged: 0,
            upstreams: [UpstreamSettings::NEW; 2],
            announced,
            announcements: VecDeque::from([None]),
        }
    }

    /// Octets that the client may send on a new stream.
    pub(super) fn initial_recv_window(&self) -> i64 {
        i64::from(self.announced.initial_window)
    }

    /// Octets that the socket of `route` takes on a new stream.
    pub(super) fn initial_send_window(&self, route: Route) -> i64 {
        i64::from(self.upstreams[route.index()].settings.initial_window)
    }

    /// The largest frame that the client takes.
    pub(super) fn max_frame_to_client(&self) -> usize {
        to_usize(self.client_max_frame)
    }

    /// The largest frame that the client may send.
    pub(super) fn max_frame_from_client(&self) -> usize {
        to_usize(self.announced.max_frame)
    }

    /// The largest frame that the socket of `route` takes.
    pub(super) fn max_frame_to_upstream(&self, route: Route) -> usize {
        to_usize(self.upstreams[route.index()].settings.max_frame)
    }

    /// The client's SETTINGS_HEADER_TABLE_SIZE, if it has said one.
    pub(super) fn client_header_table(&self) -> Option<u32> {
        let mut parameters = self.client.iter();
        parameters.find_map(|(key, value)| (*key == frame::HEADER_TABLE_SIZE).then_some(*value))
    }

    /// Begins a connection to the socket of `route` with all that the client said of itself.
    pub(super) fn connected(&mut self, route: Route, out: &mut FrameOutput) {
        let out = &mut out.upstream(route).octets;
        out.extend_from_slice(frame::PREFACE);
        frame::put_settings(out, self.client.iter().copied());
        let unacknowledged = &mut self.upstreams[route.index()].unacknowledged;
        unacknowledged.push_back(self.received);
    }

    /// The connection to the socket of `route` is gone: what it owed is acknowledged in its name.
    pub(super) fn upstream_lost(&mut self, route: Route, out: &mut FrameOutput) {
        self.upstreams[route.index()] = UpstreamSettings::NEW;
        self.acknowledge(out);
        for of in &mut self.announcements {
            *of = of.filter(|of| *of != route);
        }
    }

    /// Checks that the first frame of a peer, without a route the client, is its SETTINGS (RFC 9113, 3.4).
    pub(super) fn check_preface(
        &self,
        peer: Option<Route>,
        head: Head,
    ) -> Result<(), ConnectionError> {
        let (received, text) = match peer {
            None => (self.received > 0, "the first frame is not SETTINGS"),
            Some(route) => (
                self.upstreams[route.index()].received,
                "the first frame of the runtime is not SETTINGS",
            ),
        };
        if received || head.kind == frame::SETTINGS && !head.has(frame::ACK) {
            return Ok(());
        }
        Err(ConnectionError::new(frame::PROTOCOL_ERROR, text))
    }

    /// Takes in a SETTINGS frame of the client.
    pub(super) fn receive_from_client(
        &mut self,
        head: Head,
        payload: &[u8],
        out: &mut FrameOutput,
    ) -> Result<(), ConnectionError> {
        if head.has(frame::ACK) {
            if let Some(Some(route)) = self.announcements.pop_front() {
                put_acknowledgement(&mut out.upstream(route).octets);
            }
            return Ok(());
        }
        for (key, value) in frame::settings(payload) {
            check(key, value)?;
            if key == frame::MAX_FRAME_SIZE {
                self.client_max_frame = value;
            }
            match self.client.iter().position(|(known, _)| *known == key) {
                Some(at) => self.client[at].1 = value,
                None if self.client.len() < MAX_PARAMETERS => self.client.push((key, value)),
                None => {}
            }
        }
        self.received += 1;
        for route in Route::ALL {
            let upstream = out.upstream(route);
            if !upstream.connected {
                continue;
            }
            frame::put_settings(&mut upstream.octets, frame::settings(payload));
            let unacknowledged = &mut self.upstreams[route.index()].unacknowledged;
            unacknowledged.push_back(self.received);
            if unacknowledged.len() > MAX_UNACKNOWLEDGED {
                return Err(too_many());
            }
        }
        self.acknowledge(out);
        Ok(())
    }

    /// Takes in a SETTINGS frame of the socket of `route`; what it changes in the windows of open streams.
    pub(super) fn receive_from_upstream(
        &mut self,
        route: Route,
        head: Head,
        payload: &[u8],
        out: &mut FrameOutput,
    ) -> Result<Option<WindowChange>, ConnectionError> {
        let upstream = &mut self.upstreams[route.index()];
        if head.has(frame::ACK) {
            upstream.unacknowledged.pop_front();
            self.acknowledge(out);
            return Ok(None);
        }
        let before = upstream.settings;
        upstream.settings.update(payload)?;
        upstream.received = true;
        let send = window_change(before, upstream.settings);
        let received = self.upstreams.iter().filter(|upstream| upstream.received);
        let common = received.map(|upstream| upstream.settings);
        let common = common.fold(self.own, Settings::least);
        let recv = window_change(self.announced, common);
        if common == self.announced {
            put_acknowledgement(&mut out.upstream(route).octets);
        } else if self.announcements.len() >= MAX_UNACKNOWLEDGED {
            return Err(too_many());
        } else {
            frame::put_settings(&mut out.client, common.changes(self.announced));
            self.announcements.push_back(Some(route));
            self.announced = common;
        }
        Ok(Some(WindowChange { send, recv }))
    }

    /// Acknowledges to the client those settings that every connected socket has acknowledged.
    fn acknowledge(&mut self, out: &mut FrameOutput) {
        let upstreams = self.upstreams.iter();
        let oldest = upstreams.filter_map(|upstream| upstream.unacknowledged.front());
        let done = oldest
            .min()
            .map_or(self.received, |number| number.saturating_sub(1));
        while self.acknowledged < done {
            self.acknowledged += 1;
            put_acknowledgement(&mut out.client);
        }
    }
}

fn window_change(before: Settings, now: Settings) -> i64 {
    i64::from(now.initial_window) - i64::from(before.initial_window)
}

fn put_acknowledgement(out: &mut BytesMut) {
    frame::put_head(out, 0, frame::SETTINGS, frame::ACK, 0);
}

pub(super) fn to_usize(value: u32) -> usize {
    usize::try_from(value).unwrap_or(usize::MAX)
}

fn too_many() -> ConnectionError {
    ConnectionError::too_many(Limit::IdleFrames, "too many SETTINGS")
}
