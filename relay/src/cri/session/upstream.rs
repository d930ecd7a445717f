//! What the runtime sends, and connections to it that come and go.

use super::{
    Session,
    error::ConnectionError,
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
        self.out.upstream(route).connect();
        for stream in self.streams.iter_mut().filter(|s| s.route == route) {
            if let Some(tap) = stream.tap.as_mut().filter(|_| stream.client_done) {
                tap.sent();
            }
        }
        self.flow.grant_upstreams(&mut self.out);
    }

    /// The connection to the socket of `route` is gone: its calls fail, the client's connection stays.
    pub(in crate::cri) fn upstream_lost(&mut self, route: Route, why: &str) {
        for id in self.streams.select(|stream| stream.route == route) {
            self.fail(id, unavailable(why));
        }
        let max_list = self.shared.options.max_header_list_bytes;
        self.upstream_headers[route.index()] = HeaderBlocks::new(max_list);
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
        while let Some((head, octets)) = next_frame(input, self.settings.max_frame_to_client())? {
            self.upstream_frame(route, head, &octets)?;
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
        let id = head.stream;
        let payload = &octets[frame::HEAD..];
        match head.kind {
            frame::DATA => self.upstream_data(route, head, octets),
            frame::HEADERS | frame::CONTINUATION => {
                if let Some(received) = headers.receive(head, octets)? {
                    self.upstream_headers_received(route, &received);
                }
                Ok(())
            }
            frame::WINDOW_UPDATE => {
                self.upstream_window_update(route, id, number(octets) & frame::MAX_WINDOW);
                Ok(())
            }
            frame::RST_STREAM => {
                self.upstream_reset(route, id, octets);
                Ok(())
            }
            frame::SETTINGS => self.upstream_settings(route, head, payload),
            frame::PING => {
                let out = &mut self.out;
                self.pings.receive_from_upstream(route, head, payload, out)
            }
            frame::GOAWAY => self.upstream_goaway(route, payload),
            frame::PUSH_PROMISE => Err(ConnectionError::new(
                frame::PROTOCOL_ERROR,
                "the runtime pushes, which gRPC never does",
            )),
            _ => Ok(()),
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
        self.flow.resume_upstream(route, &mut self.streams, out);
        self.send_intercepted();
        for id in self.streams.select(|_| true) {
            if let Some(stream) = self.streams.get_mut(id) {
                stream.grant_client(id, &mut self.out);
            }
        }
        Ok(())
    }

    fn upstream_window_update(&mut self, route: Route, id: u32, octets: u32) {
        if id == 0 {
            self.flow.window_update_from_upstream(route, octets);
        } else if let Some(stream) = self.streams.on_route(id, route) {
            stream.send_window = stream.send_window.saturating_add(i64::from(octets));
        }
        let out = &mut self.out;
        self.flow.resume_upstream(route, &mut self.streams, out);
        if id == 0 {
            self.flow.grant_client(out);
        } else if let Some(stream) = self.streams.get_mut(id) {
            stream.grant_client(id, out);
        }
        self.send_intercepted();
    }

    fn upstream_reset(&mut self, route: Route, id: u32, octets: &Bytes) {
        match self.streams.get(id) {
            Some(stream) if stream.route != route => return,
            None if self.streams.is_idle(id) => return,
            // The client may not have ended its half yet, though the reply is complete.
            _ => {}
        }
        let stream = self.streams.remove(id);
        if let Some(stream) = &stream {
            self.drop_request(id, stream);
        }
        self.flow.send_to_client(id, octets, &mut self.out);
        if let Some(stream) = stream {
            self.abandon(stream, "the runtime reset the call");
        }
    }

    fn upstream_data(
        &mut self,
        route: Route,
        head: Head,
        octets: &Bytes,
    ) -> Result<(), ConnectionError> {
        let id = head.stream;
        self.flow.receive_from_upstream(route, head.len)?;
        let Some(stream) = self.streams.on_route(id, route) else {
            // The client was told that this call is over: it fills no window.
            self.flow.grant_upstreams(&mut self.out);
            return Ok(());
        };
        if stream.tap.is_some() || stream.intercepted.is_some() {
            let payload = &octets[frame::HEAD..];
            let range = frame::content(head, payload).ok_or_else(|| {
                ConnectionError::new(frame::PROTOCOL_ERROR, "DATA is all padding")
            })?;
            let max = self.shared.options.max_message_bytes;
            if let Some(intercepted) = &mut stream.intercepted {
                intercepted.collect_reply(&payload[range.clone()], max);
            }
            if let Some(tap) = &mut stream.tap {
                tap.reply(&payload[range]);
            }
        }
        self.flow.send_to_client(id, octets, &mut self.out);
        if head.has(frame::END_STREAM) {
            self.finish(id, &[]);
        }
        Ok(())
    }

    fn upstream_headers_received(&mut self, route: Route, received: &Received) {
        let (id, end, list) = (received.stream, received.end_stream, &received.list);
        let Some(stream) = self.streams.on_route(id, route) else {
            return;
        };
        if end {
            if let Some(tap) = &mut stream.tap {
                tap.answered();
            }
            if self.commit(id, list) {
                return; // the client sees the end once the hook has run
            }
        } else {
            // An informational response is not yet the response.
            stream.replied |= hpack::find(list, ":status").is_some_and(|s| !s.starts_with(b"1"));
        }
        self.send_headers(id, list, end);
        if end {
            self.finish(id, list);
        }
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
