//! SETTINGS, PING and GOAWAY: what the two sides say about their connections, not about calls.
//!
//! The client keeps its connection when the runtime's goes. What it said of itself is said again to
//! the next connection, and answers that the old one owed are given in its name.

use super::{
    link::{Link, Settings},
    *,
};

/// PINGs that may wait for an answer; further ones are answered by the relay.
const PINGS: usize = 64;
/// SETTINGS that may wait for their acknowledgement.
const UNACKNOWLEDGED: usize = 1000;

pub(super) type Ping = [u8; 8];

impl Session {
    /// The connection to the socket of `route` is there: what waited goes out.
    pub(in crate::cri) fn connected(&mut self, route: Route) {
        let link = &mut self.links[route.index()];
        link.connected = true;
        link.out.extend_from_slice(frame::PREFACE);
        frame::put_settings(&mut link.out, self.client_settings.iter().copied());
        link.asked.push_back(self.settings_seen);
        if let Some((_, octets)) = self.client_settings.iter().find(|(key, _)| *key == 1) {
            link.headers.announce(to_usize(*octets));
        }
        for (_, octets) in link.pending.drain(..) {
            link.out.extend_from_slice(&octets);
        }
        for stream in self.streams.values_mut().filter(|s| s.route == route) {
            if let Some(tee) = stream.tee.as_mut().filter(|_| stream.client_done) {
                tee.sent();
            }
        }
        self.grant_links();
    }

    /// The connection to the socket of `route` is gone: its calls fail, the client's connection stays.
    pub(in crate::cri) fn upstream_lost(&mut self, route: Route, why: &str) {
        for id in self.calls(|s| s.route == route) {
            self.fail(id, unavailable(why));
        }
        let max_list = self.shared.options.max_header_list_bytes;
        self.links[route.index()] = Link::new(max_list);
        self.acknowledge();
        for of in &mut self.announces {
            *of = of.filter(|of| *of != route);
        }
        self.upstream_pings.retain(|(of, _)| *of != route);
        let answered = |(of, ping): &(Route, Ping)| {
            if *of == route {
                frame::put_ping(&mut self.to_client, frame::ACK, *ping);
            }
            *of != route
        };
        self.client_pings.retain(answered);
        self.grant_client();
        if self.going_away == Some(frame::MAX_STREAM) {
            self.close_intake();
        }
    }

    pub(super) fn client_settings(&mut self, head: Head, payload: &[u8]) -> Result<(), Fault> {
        if head.has(frame::ACK) {
            if let Some(Some(route)) = self.announces.pop_front() {
                frame::put_head(self.out(route), 0, frame::SETTINGS, frame::ACK, 0);
            }
            return Ok(());
        }
        for (key, value) in frame::settings(payload) {
            match key {
                1 => {
                    self.client_encoder.announce(to_usize(value));
                    for link in &mut self.links {
                        link.headers.announce(to_usize(value));
                    }
                }
                5 => self.client_max_frame = link::max_frame(value)?,
                _ => {}
            }
            let known = &mut self.client_settings;
            match known.iter().position(|(k, _)| *k == key) {
                Some(at) => known[at].1 = value,
                None if known.len() < 32 => known.push((key, value)),
                None => {}
            }
        }
        self.settings_seen += 1;
        for link in self.links.iter_mut().filter(|link| link.connected) {
            frame::put_settings(&mut link.out, frame::settings(payload));
            link.asked.push_back(self.settings_seen);
            if link.asked.len() > UNACKNOWLEDGED {
                return Err(fault(frame::ENHANCE_YOUR_CALM, "too many SETTINGS"));
            }
        }
        self.acknowledge();
        Ok(())
    }

    /// Acknowledges to the client those settings that every connected socket has acknowledged.
    fn acknowledge(&mut self) {
        let oldest = self.links.iter().filter_map(|link| link.asked.front());
        let done = oldest
            .min()
            .map_or(self.settings_seen, |serial| serial.saturating_sub(1));
        while self.settings_acked < done {
            self.settings_acked += 1;
            frame::put_head(&mut self.to_client, 0, frame::SETTINGS, frame::ACK, 0);
        }
    }

    pub(super) fn upstream_settings(
        &mut self,
        route: Route,
        head: Head,
        payload: &[u8],
    ) -> Result<(), Fault> {
        let link = &mut self.links[route.index()];
        if head.has(frame::ACK) {
            link.asked.pop_front();
            self.acknowledge();
            return Ok(());
        }
        let before = link.settings.initial_window;
        link.settings.read(payload)?;
        for (_, octets) in frame::settings(payload).filter(|(key, _)| *key == 1) {
            link.encoder.announce(to_usize(octets));
        }
        link.greeted = true;
        let change = i64::from(link.settings.initial_window) - i64::from(before);
        for stream in self.streams.values_mut().filter(|s| s.route == route) {
            stream.window += change;
        }
        let heard = self.links.iter().filter(|link| link.greeted);
        let common = heard.map(|link| link.settings).reduce(Settings::least);
        let common = common.unwrap_or(Settings::DEFAULT);
        if common == self.announced {
            frame::put_head(self.out(route), 0, frame::SETTINGS, frame::ACK, 0);
        } else if self.announces.len() >= UNACKNOWLEDGED {
            return Err(fault(frame::ENHANCE_YOUR_CALM, "too many SETTINGS"));
        } else {
            common.put_changes(self.announced, &mut self.to_client);
            self.announces.push_back(Some(route));
            self.announced = common;
        }
        self.unblock(route);
        self.send_held();
        for id in self.calls(|_| true) {
            self.grant_stream(id);
        }
        Ok(())
    }

    pub(super) fn client_ping(&mut self, head: Head, payload: &[u8]) -> Result<(), Fault> {
        let ping = ping(payload)?;
        if head.has(frame::ACK) {
            let asked = self.upstream_pings.iter().position(|(_, p)| *p == ping);
            if let Some((route, _)) = asked.and_then(|at| self.upstream_pings.remove(at)) {
                frame::put_ping(self.out(route), frame::ACK, ping);
            }
            return Ok(());
        }
        let connected = |route: &&Route| self.links[route.index()].connected;
        match self.shared.upstreams.routes().iter().find(connected) {
            Some(route) if self.client_pings.len() < PINGS => {
                self.client_pings.push_back((*route, ping));
                frame::put_ping(&mut self.links[route.index()].out, 0, ping);
            }
            _ => frame::put_ping(&mut self.to_client, frame::ACK, ping),
        }
        Ok(())
    }

    pub(super) fn upstream_ping(
        &mut self,
        route: Route,
        head: Head,
        payload: &[u8],
    ) -> Result<(), Fault> {
        let ping = ping(payload)?;
        if head.has(frame::ACK) {
            let sent = self.client_pings.iter().position(|p| *p == (route, ping));
            if sent.and_then(|at| self.client_pings.remove(at)).is_some() {
                frame::put_ping(&mut self.to_client, frame::ACK, ping);
            }
        } else if self.upstream_pings.len() < PINGS {
            self.upstream_pings.push_back((route, ping));
            frame::put_ping(&mut self.to_client, 0, ping);
        } else {
            frame::put_ping(self.out(route), frame::ACK, ping);
        }
        Ok(())
    }

    /// A socket says goodbye: the client hears it too. Calls above `last` were not processed.
    pub(super) fn upstream_goes(&mut self, route: Route, payload: &[u8]) -> Result<(), Fault> {
        let word = |at: usize| payload.get(at..)?.first_chunk().copied();
        let (Some(last), Some(code)) = (word(0), word(4)) else {
            return Err(fault(frame::FRAME_SIZE_ERROR, "GOAWAY is too short"));
        };
        let last = u32::from_be_bytes(last) & frame::MAX_STREAM;
        let text = String::from_utf8_lossy(&payload[8..]).into_owned();
        let unprocessed = self.calls(|s| s.route == route);
        for id in unprocessed.into_iter().filter(|id| *id > last) {
            let Some(stream) = self.streams.remove(&id) else {
                continue;
            };
            self.take_back(id, &stream);
            self.drop_queued(id);
            frame::put_reset(&mut self.to_client, id, frame::REFUSED_STREAM);
            self.end(stream, unavailable("the runtime did not process it"), false);
        }
        let bound = if last == frame::MAX_STREAM {
            last
        } else {
            self.last_stream
        };
        if self.going_away.is_none_or(|known| bound < known) {
            self.go_away(bound, u32::from_be_bytes(code), &text);
        }
        Ok(())
    }

    fn out(&mut self, route: Route) -> &mut BytesMut {
        &mut self.links[route.index()].out
    }
}

fn ping(payload: &[u8]) -> Result<Ping, Fault> {
    payload
        .try_into()
        .ok()
        .ok_or_else(|| fault(frame::FRAME_SIZE_ERROR, "PING is not of 8 octets"))
}
