//! What the client sends.

use super::{
    Session,
    error::ConnectionError,
    headers::{Received, without_table},
    intercepted::InterceptedCall,
    next_frame, number, parameter,
    streams::Stream,
};
use crate::cri::{
    frame::{self, Head},
    hpack::{self, Header},
    intercept::{Call, Status},
    observe::Kind,
    route::Route,
    status,
    tap::ObserverTap,
};
use bytes::{Buf, Bytes, BytesMut};
use std::{
    sync::{Arc, atomic::Ordering},
    time::Instant,
};

impl Session {
    /// Takes in whatever has arrived from the client; an incomplete frame stays in `input`.
    pub(in crate::cri) fn take_from_client(
        &mut self,
        input: &mut BytesMut,
    ) -> Result<(), ConnectionError> {
        if !self.preface_seen {
            let known = input.len().min(frame::PREFACE.len());
            if input[..known] != frame::PREFACE[..known] {
                let text = "not an HTTP/2 client";
                return Err(ConnectionError::new(frame::PROTOCOL_ERROR, text));
            }
            if known < frame::PREFACE.len() {
                return Ok(());
            }
            input.advance(known);
            self.preface_seen = true;
        }
        while let Some((head, octets)) = next_frame(input, self.settings.max_frame_from_client())? {
            self.client_frame(head, &octets)?;
        }
        Ok(())
    }

    fn client_frame(&mut self, head: Head, octets: &Bytes) -> Result<(), ConnectionError> {
        self.client_headers.check_order(head)?;
        let payload = &octets[frame::HEAD..];
        match head.kind {
            frame::DATA => self.client_data(head, octets),
            frame::HEADERS | frame::CONTINUATION => {
                match self.client_headers.receive(head, octets)? {
                    Some(received) => self.client_headers_received(&received),
                    None => Ok(()),
                }
            }
            frame::RST_STREAM => {
                self.client_reset(head.stream, octets);
                Ok(())
            }
            frame::WINDOW_UPDATE => {
                self.client_window_update(head.stream, octets);
                Ok(())
            }
            frame::SETTINGS => self.client_settings(head, payload),
            frame::PING => {
                let out = &mut self.out;
                let mut routes = self.shared.upstreams.routes().iter().copied();
                let route = routes.find(|route| out.is_connected(*route));
                self.pings.receive_from_client(head, payload, route, out)
            }
            frame::PUSH_PROMISE => Err(ConnectionError::new(
                frame::PROTOCOL_ERROR,
                "a client cannot push",
            )),
            // A client that says goodbye closes its connection when its calls have ended. Others mean
            // nothing for a call: RFC 9113, 5.5 wants unknown frames discarded.
            _ => Ok(()),
        }
    }

    fn client_settings(&mut self, head: Head, payload: &[u8]) -> Result<(), ConnectionError> {
        for octets in parameter(payload, frame::HEADER_TABLE_SIZE) {
            self.client_headers.set_peer_table_size(octets);
            for headers in &mut self.upstream_headers {
                headers.set_own_table_size(octets);
            }
        }
        self.settings
            .receive_from_client(head, payload, &mut self.out)
    }

    fn client_window_update(&mut self, id: u32, octets: &Bytes) {
        if id == 0 {
            let grant = number(octets) & frame::MAX_WINDOW;
            self.flow.window_update_from_client(grant, &mut self.out);
        } else if let Some(stream) = self.streams.get(id) {
            self.out.upstream(stream.route).forward(id, octets);
        }
    }

    fn client_headers_received(&mut self, received: &Received) -> Result<(), ConnectionError> {
        let Received {
            stream: id,
            end_stream: end,
            list,
        } = received;
        let (id, end) = (*id, *end);
        if id.is_multiple_of(2) {
            let text = format!("HEADERS on stream {id}");
            return Err(ConnectionError::new(frame::PROTOCOL_ERROR, text));
        }
        if self.streams.is_idle(id) {
            if !self.streams.accept(id) || !self.open(id, end, list) {
                return Ok(());
            }
        } else {
            let Some(stream) = self.streams.get(id).filter(|s| !s.client_done) else {
                return Ok(()); // of a call that is over
            };
            if end && stream.intercepted.is_some() {
                // gRPC's clients send no trailers: those of an intercepted call end its request, and are
                // all it loses.
                return self.hold(id, 0, &[], true);
            }
        }
        let Some(stream) = self.streams.get_mut(id) else {
            return Ok(());
        };
        stream.client_done |= end;
        let max_frame = self.settings.max_frame_to_upstream(stream.route);
        let upstream = self.out.upstream(stream.route);
        if stream.awaiting_frames > 0 {
            let frames = without_table(id, list, end, max_frame);
            self.flow.keep_for_upstream(id, stream, &frames);
        } else if upstream.connected {
            let headers = &mut self.upstream_headers[stream.route.index()];
            headers.send(id, list, end, max_frame, &mut upstream.octets);
        } else {
            upstream.forward(id, &without_table(id, list, end, max_frame));
        }
        stream.grant_client(id, &mut self.out);
        Ok(())
    }

    /// Enters a new call; false when it goes no further.
    fn open(&mut self, id: u32, end: bool, list: &[Header]) -> bool {
        let path = hpack::find(list, ":path").unwrap_or_default();
        let shared = Arc::clone(&self.shared);
        let route = Route::of(path);
        let Some(route) = shared.upstreams.serving(route) else {
            let name = route.name();
            let off = Status {
                code: status::UNIMPLEMENTED,
                message: format!("the {name} is turned off in cri-resmgr's configuration"),
            };
            self.send_headers_now(id, &status::trailers(&off, true), true);
            if !end {
                frame::put_reset(&mut self.out.client, id, frame::NO_ERROR);
            }
            return false;
        };
        let received = Instant::now();
        let deadline = hpack::find(list, "grpc-timeout")
            .and_then(status::timeout)
            .and_then(|t| received.checked_add(t));
        let text = std::str::from_utf8(path).unwrap_or_default();
        let wanted = shared.interceptor.as_ref().is_some_and(|i| i.wants(text));
        let (mut intercepted, mut tap) = (None, None);
        if wanted || !shared.observers.is_empty() {
            let call = Arc::new(Call {
                seq: shared.seq.fetch_add(1, Ordering::Relaxed),
                path: text.into(),
                received,
                deadline,
            });
            let kind = if wanted {
                Kind::Intercepted
            } else {
                Kind::Passthrough
            };
            let max_body = shared.options.max_observed_bytes;
            tap = ObserverTap::new(&shared.observers, &call, kind, max_body);
            intercepted = wanted.then(|| Box::new(InterceptedCall::new(call)));
        }
        let stream = Stream {
            received,
            deadline,
            route,
            endless: path.ends_with(b"/GetContainerEvents"),
            client_done: false,
            replied: false,
            send_window: self.settings.initial_send_window(route),
            recv_window: self.settings.initial_recv_window(),
            awaiting_frames: 0,
            awaiting_octets: 0,
            intercepted,
            tap,
        };
        self.streams.insert(id, stream);
        true
    }

    fn client_data(&mut self, head: Head, octets: &Bytes) -> Result<(), ConnectionError> {
        let (id, end) = (head.stream, head.has(frame::END_STREAM));
        self.flow.receive_from_client(head.len)?;
        let Some(stream) = self.streams.get_mut(id).filter(|s| !s.client_done) else {
            // Of a call that is over: it fills no window.
            self.flow.grant_client(&mut self.out);
            return Ok(());
        };
        stream.receive_from_client(head.len);
        if stream.tap.is_some() || stream.intercepted.is_some() {
            let payload = &octets[frame::HEAD..];
            let range = frame::content(head, payload).ok_or_else(|| {
                ConnectionError::new(frame::PROTOCOL_ERROR, "DATA is all padding")
            })?;
            if let Some(tap) = &mut stream.tap {
                tap.request(&payload[range.clone()], end);
            }
            if stream.intercepted.is_some() {
                return self.hold(id, head.len, &payload[range], end);
            }
        }
        stream.client_done = end;
        self.flow
            .send_to_upstream(id, stream, octets, &mut self.out);
        Ok(())
    }

    fn client_reset(&mut self, id: u32, octets: &Bytes) {
        self.flow.drop_reply(id, &mut self.out);
        if let Some(stream) = self.streams.remove(id) {
            self.drop_request(id, &stream);
            let upstream = self.out.upstream(stream.route);
            if upstream.connected {
                upstream.octets.extend_from_slice(octets);
            }
            self.abandon(stream, "the client cancelled the call");
        }
    }
}
