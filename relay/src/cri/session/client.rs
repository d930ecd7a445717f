//! What the client sends.

use super::{
    Session, check_frame,
    error::ConnectionError,
    exhausted,
    headers::{Received, without_table},
    intercepted::InterceptedCall,
    next_frame, number, parameter,
    settings::to_usize,
    streams::Stream,
    unsent::Unsent,
};
use crate::cri::{
    frame::{self, Head},
    hpack,
    intercept::{Call, Status},
    observe::Kind,
    options::Limit,
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
        while self.takes_from_client() {
            let max_frame = self.settings.max_frame_from_client();
            let Some((head, octets)) = next_frame(input, max_frame)? else {
                break;
            };
            self.client_frame(head, &octets).inspect_err(|error| {
                if let Some(limit) = error.limit {
                    self.shared.limit_reached(limit);
                }
            })?;
        }
        Ok(())
    }

    fn client_frame(&mut self, head: Head, octets: &Bytes) -> Result<(), ConnectionError> {
        self.client_headers.check_order(head)?;
        check_frame(head)?;
        self.settings.check_preface(None, head)?;
        let payload = &octets[frame::HEAD..];
        match head.kind {
            frame::DATA => self.client_data(head, octets),
            frame::HEADERS | frame::CONTINUATION => {
                match self.client_headers.receive(head, octets)? {
                    Some(received) => self.client_headers_received(&received),
                    None => Ok(()),
                }
            }
            frame::RST_STREAM => self.client_reset(head.stream, octets),
            frame::WINDOW_UPDATE => self.client_window_update(head.stream, octets),
            frame::SETTINGS => {
                self.idle_frame(None)?;
                self.client_settings(head, payload)
            }
            frame::PING => {
                self.idle_frame(None)?;
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
            _ => self.idle_frame(None),
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

    fn client_window_update(&mut self, id: u32, octets: &Bytes) -> Result<(), ConnectionError> {
        self.idle_frame(None)?;
        let grant = number(octets) & frame::MAX_WINDOW;
        if id == 0 {
            return self.flow.window_update_from_client(grant, &mut self.out);
        }
        self.streams.check_opened("WINDOW_UPDATE", id)?;
        let Some(stream) = self.streams.get_mut(id) else {
            return Ok(()); // of a call that is over
        };
        if grant == 0 {
            self.stream_error(id, frame::PROTOCOL_ERROR);
            return Ok(());
        }
        let socket = self.out.upstream(stream.route);
        if socket.connected {
            socket.octets.extend_from_slice(octets);
        } else {
            let granted = stream.unsent.granted.saturating_add(grant);
            stream.unsent.granted = granted.min(frame::MAX_WINDOW);
        }
        Ok(())
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
            if !self.streams.accept(id) || !self.open(id, end, received) {
                return Ok(());
            }
        } else if hpack::find(list, ":path").is_some() {
            let text = format!("stream {id} is opened a second time, or after later ones");
            return Err(ConnectionError::new(frame::PROTOCOL_ERROR, text));
        } else {
            let Some(stream) = self.streams.get(id) else {
                return Ok(()); // of a call that is over
            };
            if stream.client_done {
                self.stream_error(id, frame::STREAM_CLOSED);
                return Ok(());
            }
            if !end {
                // Trailers end a stream: RFC 9113, 8.1.
                self.stream_error(id, frame::PROTOCOL_ERROR);
                return Ok(());
            }
            if stream.intercepted.is_some() {
                // gRPC's clients send no trailers: those of an intercepted call end its request, and are
                // all it loses.
                self.hold(id, 0, &[], true);
                return Ok(());
            }
        }
        let Some(stream) = self.streams.get_mut(id) else {
            return Ok(());
        };
        let route = stream.route;
        let opens = !stream.opened;
        stream.opened = true;
        stream.client_done |= end;
        let max_frame = self.settings.max_frame_to_upstream(stream.route);
        let upstream = self.out.upstream(stream.route);
        if upstream.connected && stream.unsent.is_empty() {
            let headers = &mut self.upstream_headers[stream.route.index()];
            headers.send(id, list, end, max_frame, &mut upstream.octets);
        } else {
            let frames = without_table(id, list, end, max_frame);
            if opens {
                stream.unsent.head = frames;
            } else {
                stream.unsent.trailers = frames;
            }
            self.flow.send_unsent(id, stream, &mut self.out);
        }
        stream.grant_client(id, &mut self.out);
        self.useful_frame(route);
        Ok(())
    }

    /// Enters a new call; false when it goes no further.
    fn open(&mut self, id: u32, end: bool, received: &Received) -> bool {
        let (list, header_octets) = (&received.list, received.octets());
        let path = hpack::find(list, ":path").unwrap_or_default();
        let shared = Arc::clone(&self.shared);
        let mut full = self.streams.full(header_octets, &shared.options);
        if self.deciding >= to_usize(shared.options.max_concurrent_streams) {
            full = Some(Limit::Streams);
        }
        if let Some(limit) = full {
            shared.limit_reached(limit);
            frame::put_reset(&mut self.out.client, id, frame::REFUSED_STREAM);
            return false;
        }
        let route = Route::of(path);
        let Some(route) = shared.upstreams.serving(route) else {
            let name = route.name();
            let message = format!("the {name} is turned off in cri-resmgr's configuration");
            return self.answer(id, end, status::UNIMPLEMENTED, message);
        };
        let timeout = hpack::find(list, "grpc-timeout").and_then(status::timeout);
        if timeout.is_some_and(|timeout| timeout.is_zero()) {
            // Go's gRPC says so too, unless the whole request is there before it looks.
            let message = "context deadline exceeded".to_owned();
            return self.answer(id, end, status::DEADLINE_EXCEEDED, message);
        }
        let received = Instant::now();
        let deadline = timeout.and_then(|timeout| received.checked_add(timeout));
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
            tap = ObserverTap::new(&shared.observers, &call, kind, max_body, &self.copies);
            intercepted =
                wanted.then(|| Box::new(InterceptedCall::new(call, &self.requests, &self.copies)));
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
            opened: false,
            unsent: Unsent::default(),
            header_octets,
            intercepted,
            tap,
        };
        self.streams.insert(id, stream);
        true
    }

    /// Answers a new call that goes no further.
    fn answer(&mut self, id: u32, end: bool, code: u32, message: String) -> bool {
        let status = Status { code, message };
        self.send_headers_now(id, &status::trailers(&status, true), true);
        if !end {
            frame::put_reset(&mut self.out.client, id, frame::NO_ERROR);
        }
        false
    }

    fn client_data(&mut self, head: Head, octets: &Bytes) -> Result<(), ConnectionError> {
        let (id, end) = (head.stream, head.has(frame::END_STREAM));
        let payload = &octets[frame::HEAD..];
        let range = frame::content(head, payload)
            .ok_or_else(|| ConnectionError::new(frame::PROTOCOL_ERROR, "DATA is all padding"))?;
        let content = &payload[range];
        self.streams.check_opened("DATA", id)?;
        self.flow.receive_from_client(head.len)?;
        if content.is_empty() && !end {
            self.idle_frame(None)?;
        }
        let Some(stream) = self.streams.get_mut(id) else {
            // Of a call that is over: it fills no window.
            self.flow.grant_client(&mut self.out);
            return self.idle_frame(None);
        };
        if stream.client_done {
            self.stream_error(id, frame::STREAM_CLOSED);
            return Ok(());
        }
        stream.receive_from_client(head.len);
        if let Some(tap) = &mut stream.tap {
            tap.request(content, end);
        }
        if stream.intercepted.is_some() {
            self.hold(id, head.len, content, end);
            return Ok(());
        }
        stream.client_done = end;
        let route = stream.route;
        let (flow, requests) = (&mut self.flow, &self.requests);
        let sent = flow.send_to_upstream(id, stream, octets, content, requests, &mut self.out);
        if let Err(no_room) = sent {
            self.refuse(id, exhausted(no_room.to_string()));
        }
        if !content.is_empty() {
            self.useful_frame(route);
        }
        Ok(())
    }

    fn client_reset(&mut self, id: u32, octets: &Bytes) -> Result<(), ConnectionError> {
        self.streams.check_opened("RST_STREAM", id)?;
        self.flow.drop_reply(id, &mut self.out);
        let Some(stream) = self.streams.remove(id) else {
            return self.idle_frame(None);
        };
        self.drop_request(id, &stream);
        let upstream = self.out.upstream(stream.route);
        if upstream.connected {
            upstream.octets.extend_from_slice(octets);
        }
        self.abandon(stream, "the client cancelled the call");
        let options = &self.shared.options;
        if self.resets.add(options.max_resets, options.frame_period) {
            let text = "too many calls are reset";
            return Err(ConnectionError::too_many(Limit::Resets, text));
        }
        Ok(())
    }
}
