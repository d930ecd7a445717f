//! What the runtime sends, and connections to it that come and go.

use super::{
    Session, check_frame,
    error::ConnectionError,
    excess::Excess,
    headers::{HeaderBlocks, Received},
    next_frame, number, parameter, unavailable,
};
use crate::cri::{
    frame::{self, Head},
    hpack,
    route::Route,
};
use bytes::{Bytes, BytesMut};

impl Session {
    /// The connection to the socket of `route` is there: what waited for it goes out.
    pub(in crate::cri) fn connected(&mut self, route: Route) {
        self.settings.connected(route, &mut self.out);
        if let Some(octets) = self.settings.client_header_table() {
            self.upstream_headers[route.index()].set_own_table_size(octets);
        }
        self.out.upstream(route).connected = true;
        for stream in self.streams.iter_mut().filter(|s| s.route == route) {
            if let Some(tap) = stream.tap.as_mut().filter(|_| stream.client_done) {
                tap.sent();
            }
        }
        let out = &mut self.out;
        self.flow.open_calls(route, &mut self.streams, out);
        self.flow.grant_upstreams(out);
    }

    /// The connection to the socket of `route` is gone: its calls fail, the client's connection stays.
    pub(in crate::cri) fn upstream_lost(&mut self, route: Route, why: &str) {
        for id in self.streams.select(|stream| stream.route == route) {
            self.fail(id, unavailable(why));
        }
        self.upstream_headers[route.index()] = HeaderBlocks::new(&self.shared.options);
        self.upstream_idle_frames[route.index()] = Excess::default();
        *self.out.upstream(route) = Default::default();
        self.settings.upstream_lost(route, &mut self.out);
        self.pings.upstream_lost(route, &mut self.out);
        self.flow.upstream_lost(route, &mut self.out);
        self.streams.close_announced_intake(&mut self.out);
    }

    /// Takes in whatever has arrived from the socket of `route`; an incomplete frame stays in `input`.
    pub(in crate::cri) fn take_from_upstream(
        &mut self,
        route: Route,
        input: &mut BytesMut,
    ) -> Result<(), ConnectionError> {
        while self.takes_from_upstream(route) {
            let max_frame = self.settings.max_frame_to_client();
            let Some((head, octets)) = next_frame(input, max_frame)? else {
                break;
            };
            self.upstream_frame(route, head, &octets)
                .inspect_err(|error| {
                    if let Some(limit) = error.limit {
                        self.shared.limit_reached(limit);
                    }
                })?;
        }
        Ok(())
    }

    fn upstream_frame(
        &mut self,
        route: Route,
        head: Head,
        octets: &Bytes,
    ) -> Result<(), ConnectionError> {
        let headers = &mut self.upstream_headers[route.index()];
        headers.check_order(head)?;
        check_frame(head)?;
        self.settings.check_preface(Some(route), head)?;
        let id = head.stream;
        let payload = &octets[frame::HEAD..];
        match head.kind {
            frame::DATA => self.upstream_data(route, head, octets),
            frame::HEADERS | frame::CONTINUATION => match headers.receive(head, octets)? {
                Some(received) => self.upstream_headers_received(route, &received),
                None => Ok(()),
            },
            frame::WINDOW_UPDATE => {
                self.upstream_window_update(route, id, number(octets) & frame::MAX_WINDOW)
            }
            frame::RST_STREAM => self.upstream_reset(route, id, octets),
            frame::SETTINGS => {
                self.idle_frame(Some(route))?;
                self.upstream_settings(route, head, payload)
            }
            frame::PING => {
                self.idle_frame(Some(route))?;
                let out = &mut self.out;
                self.pings.receive_from_upstream(route, head, payload, out)
            }
            frame::GOAWAY => self.upstream_goaway(route, payload),
            frame::PUSH_PROMISE => Err(ConnectionError::new(
                frame::PROTOCOL_ERROR,
                "the runtime pushes, which gRPC never does",
            )),
            _ => self.idle_frame(Some(route)),
        }
    }

    fn upstream_settings(
        &mut self,
        route: Route,
        head: Head,
        payload: &[u8],
    ) -> Result<(), ConnectionError> {
        for octets in parameter(payload, frame::HEADER_TABLE_SIZE) {
            self.upstream_headers[route.index()].set_peer_table_size(octets);
        }
        let out = &mut self.out;
        let received = self
            .settings
            .receive_from_upstream(route, head, payload, out)?;
        let Some(change) = received else {
            return Ok(());
        };
        self.streams.change_windows(route, change);
        let max_frame = self.settings.max_frame_to_upstream(route);
        self.flow.set_max_frame(route, max_frame);
        self.flow.retry_upstream(route, &mut self.streams, out);
        for id in self.streams.select(|_| true) {
            if let Some(stream) = self.streams.get_mut(id) {
                stream.grant_client(id, &mut self.out);
            }
        }
        Ok(())
    }

    fn upstream_window_update(
        &mut self,
        route: Route,
        id: u32,
        octets: u32,
    ) -> Result<(), ConnectionError> {
        self.idle_frame(Some(route))?;
        let out = &mut self.out;
        if id == 0 {
            self.flow.window_update_from_upstream(route, octets)?;
            self.flow.resume_upstream(route, &mut self.streams, out);
            self.flow.grant_client(out);
            return Ok(());
        }
        self.streams.check_opened("WINDOW_UPDATE", id)?;
        let Some(stream) = self.streams.on_route(id, route) else {
            return Ok(()); // of a call that is over
        };
        let window = stream.send_window + i64::from(octets);
        if octets == 0 || window > i64::from(frame::MAX_WINDOW) {
            let text = format!("WINDOW_UPDATE of {octets} octets on stream {id}");
            return Err(ConnectionError::new(frame::PROTOCOL_ERROR, text));
        }
        stream.send_window = window;
        if !stream.unsent.is_empty() {
            self.flow.send_unsent(id, stream, out);
        }
        stream.grant_client(id, out);
        Ok(())
    }

    fn upstream_reset(
        &mut self,
        route: Route,
        id: u32,
        octets: &Bytes,
    ) -> Result<(), ConnectionError> {
        self.streams.check_opened("RST_STREAM", id)?;
        match self.streams.get(id) {
            Some(stream) if stream.route != route => return Ok(()),
            // The client may not have ended its half yet, though the reply is complete.
            None => self.idle_frame(Some(route))?,
            Some(_) => {}
        }
        let stream = self.streams.remove(id);
        if let Some(stream) = &stream {
            self.drop_request(id, stream);
        }
        self.flow.send_to_client(id, octets, &mut self.out);
        if let Some(stream) = stream {
            self.abandon(stream, "the runtime reset the call");
        }
        Ok(())
    }

    fn upstream_data(
        &mut self,
        route: Route,
        head: Head,
        octets: &Bytes,
    ) -> Result<(), ConnectionError> {
        let (id, end) = (head.stream, head.has(frame::END_STREAM));
        let payload = &octets[frame::HEAD..];
        let range = frame::content(head, payload)
            .ok_or_else(|| ConnectionError::new(frame::PROTOCOL_ERROR, "DATA is all padding"))?;
        let content = &payload[range];
        self.streams.check_opened("DATA", id)?;
        self.flow.receive_from_upstream(route, head.len)?;
        if content.is_empty() && !end {
            self.idle_frame(Some(route))?;
        }
        let Some(stream) = self.streams.on_route(id, route) else {
            // The client was told that this call is over: it fills no window.
            self.flow.grant_upstreams(&mut self.out);
            return self.idle_frame(Some(route));
        };
        if let Some(intercepted) = &mut stream.intercepted {
            intercepted.collect_reply(content, self.shared.options.max_observed_bytes);
        }
        if let Some(tap) = &mut stream.tap {
            tap.reply(content);
        }
        if !content.is_empty() {
            self.useful_frame(route);
        }
        self.flow.send_to_client(id, octets, &mut self.out);
        if end {
            self.finish(id, &[]);
        }
        Ok(())
    }

    fn upstream_headers_received(
        &mut self,
        route: Route,
        received: &Received,
    ) -> Result<(), ConnectionError> {
        let (id, end, list) = (received.stream, received.end_stream, &received.list);
        self.streams.check_opened("HEADERS", id)?;
        let Some(stream) = self.streams.on_route(id, route) else {
            return self.idle_frame(Some(route));
        };
        if end {
            if let Some(tap) = &mut stream.tap {
                tap.answered();
            }
            if self.commit(id, list) {
                self.useful_frame(route);
                return Ok(()); // the client sees the end once the hook has run
            }
        } else {
            // An informational response is not yet the response.
            stream.replied |= hpack::find(list, ":status").is_some_and(|s| !s.starts_with(b"1"));
        }
        self.send_headers(id, list, end);
        if end {
            self.finish(id, list);
        }
        self.useful_frame(route);
        Ok(())
    }

    /// A socket says goodbye: the client hears it too. Calls above its last stream were not processed.
    fn upstream_goaway(&mut self, route: Route, payload: &[u8]) -> Result<(), ConnectionError> {
        let word = |at: usize| payload.get(at..)?.first_chunk().copied();
        let (Some(last), Some(code)) = (word(0), word(4)) else {
            let text = "GOAWAY is too short";
            return Err(ConnectionError::new(frame::FRAME_SIZE_ERROR, text));
        };
        let last = u32::from_be_bytes(last) & frame::MAX_STREAM;
        let text = String::from_utf8_lossy(&payload[8..]);
        let of_route = self.streams.select(|stream| stream.route == route);
        for id in of_route.into_iter().filter(|id| *id > last) {
            let Some(stream) = self.streams.remove(id) else {
                continue;
            };
            self.drop_request(id, &stream);
            self.flow.drop_reply(id, &mut self.out);
            frame::put_reset(&mut self.out.client, id, frame::REFUSED_STREAM);
            self.end(stream, unavailable("the runtime did not process it"), false);
        }
        let code = u32::from_be_bytes(code);
        self.streams
            .pass_on_goaway(last, code, &text, &mut self.out);
        Ok(())
    }
}
