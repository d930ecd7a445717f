//! What the client sends.

use super::*;
use crate::cri::observe::Kind;

impl Session {
    /// Takes in whatever has arrived from the client; an incomplete frame stays in `input`.
    pub(in crate::cri) fn take_from_client(&mut self, input: &mut BytesMut) -> Result<(), Fault> {
        if !self.preface_seen {
            let known = input.len().min(frame::PREFACE.len());
            if input[..known] != frame::PREFACE[..known] {
                return Err(fault(frame::PROTOCOL_ERROR, "not an HTTP/2 client"));
            }
            if known < frame::PREFACE.len() {
                return Ok(());
            }
            input.advance(known);
            self.preface_seen = true;
            self.forward_up(0, frame::PREFACE);
        }
        while let Some((head, octets)) = next_frame(input, self.upstream_max_frame)? {
            self.client_frame(head, &octets)?;
        }
        Ok(())
    }

    fn client_frame(&mut self, head: Head, octets: &Bytes) -> Result<(), Fault> {
        check_order(self.client_block.as_ref(), head)?;
        match head.kind {
            frame::DATA => self.client_data(head, octets),
            frame::HEADERS | frame::CONTINUATION => {
                let max = self.shared.options.max_header_list_bytes;
                match collect(&mut self.client_block, head, octets, max)? {
                    Some((id, end, block)) => self.client_headers(id, end, &block),
                    None => Ok(()),
                }
            }
            frame::RST_STREAM => {
                self.client_reset(head.stream, octets);
                Ok(())
            }
            frame::SETTINGS if head.has(frame::ACK) && !self.own_settings_acked => {
                self.own_settings_acked = true;
                Ok(())
            }
            frame::SETTINGS => {
                for (key, value) in frame::settings(&octets[frame::HEAD..]) {
                    match key {
                        1 => self.upstream_headers.announce(to_usize(value)),
                        5 => self.client_max_frame = max_frame(value)?,
                        _ => {}
                    }
                }
                self.forward_up(0, octets);
                Ok(())
            }
            frame::PUSH_PROMISE => Err(fault(frame::PROTOCOL_ERROR, "a client cannot push")),
            _ if self.dead.contains(&head.stream) => Ok(()),
            _ => {
                self.forward_up(head.stream, octets);
                Ok(())
            }
        }
    }

    fn client_headers(&mut self, id: u32, end: bool, block: &Bytes) -> Result<(), Fault> {
        let list = self
            .client_headers
            .decode(block)
            .map_err(|error| fault(frame::COMPRESSION_ERROR, error.to_string()))?;
        if id.is_multiple_of(2) {
            return Err(fault(
                frame::PROTOCOL_ERROR,
                format!("HEADERS on stream {id}"),
            ));
        }
        if id > self.last_stream {
            if self.going_away.is_some_and(|last| id > last) {
                self.ignore(id, end);
                return Ok(());
            }
            if !self.open(id, end, &list) {
                return Ok(());
            }
        } else if self.dead.contains(&id) {
            if end {
                self.dead.remove(&id);
            }
            return Ok(());
        }
        self.forward_block(id, end, &list);
        if end {
            self.client_ended(id);
        }
        Ok(())
    }

    fn forward_block(&mut self, id: u32, end: bool, list: &[Header]) {
        let mut block = BytesMut::with_capacity(512);
        hpack::encode(list, &mut block);
        let max = self.upstream_max_frame;
        if self.connected {
            frame::put_block(&mut self.to_upstream, id, &block, end, max);
        } else {
            let mut frames = BytesMut::with_capacity(block.len() + frame::HEAD);
            frame::put_block(&mut frames, id, &block, end, max);
            self.pending.push((id, frames.freeze()));
        }
    }

    /// Enters a new call; false when it goes no further.
    fn open(&mut self, id: u32, end: bool, list: &[Header]) -> bool {
        let path = hpack::find(list, ":path").unwrap_or_default();
        let shared = Arc::clone(&self.shared);
        let route = Route::of(path);
        if !shared.upstreams.serves(route) {
            self.last_stream = id;
            let message = format!(
                "the {} is turned off in cri-resmgr's configuration",
                route.name()
            );
            let off = Status {
                code: status::UNIMPLEMENTED,
                message,
            };
            self.send_trailers(id, &status::trailers(&off, true));
            self.ignore(id, end);
            return false;
        }
        let bound = *self.route.get_or_insert(route);
        if !shared.upstreams.same(bound, route) {
            // One connection serves one socket. Calls above the last stream named here were not
            // processed, so gRPC clients repeat them on a new connection by themselves.
            self.go_away(
                self.last_stream,
                frame::NO_ERROR,
                "another service needs another connection",
            );
            self.ignore(id, end);
            return false;
        }
        self.last_stream = id;
        let received = Instant::now();
        let deadline = hpack::find(list, "grpc-timeout")
            .and_then(status::timeout)
            .and_then(|t| received.checked_add(t));
        let text = std::str::from_utf8(path).unwrap_or_default();
        let wanted = shared.interceptor.as_ref().is_some_and(|i| i.wants(text));
        let (mut held, mut tee) = (None, None);
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
            tee = Tee::new(
                &shared.observers,
                &call,
                kind,
                shared.options.max_observed_bytes,
            );
            held = wanted.then(|| Box::new(Held::new(call, self.upstream_initial_window)));
        }
        let stream = Stream {
            received,
            deadline,
            endless: path.ends_with(b"/GetContainerEvents"),
            client_done: false,
            replied: false,
            held,
            tee,
        };
        self.streams.insert(id, stream);
        true
    }

    fn ignore(&mut self, id: u32, end: bool) {
        if !end {
            self.dead.insert(id);
        }
    }

    fn client_ended(&mut self, id: u32) {
        if let Some(stream) = self.streams.get_mut(&id) {
            stream.client_done = true;
        }
    }

    fn client_data(&mut self, head: Head, octets: &Bytes) -> Result<(), Fault> {
        let (id, end) = (head.stream, head.has(frame::END_STREAM));
        if self.dead.contains(&id) {
            frame::put_window_update(&mut self.to_client, 0, head.len);
            if end {
                self.dead.remove(&id);
            }
            return Ok(());
        }
        if let Some(stream) = self.streams.get_mut(&id) {
            stream.client_done |= end;
            if let Some(tee) = &mut stream.tee {
                let range = frame::content(head, &octets[frame::HEAD..])
                    .ok_or_else(|| fault(frame::PROTOCOL_ERROR, "DATA is all padding"))?;
                tee.request(&octets[frame::HEAD..][range], end);
            }
            if stream.held.is_some() {
                return self.hold(head, octets);
            }
        }
        if self.blocked.is_empty() && signed(head.len) <= self.upstream_window {
            self.upstream_window -= signed(head.len);
            self.forward_up(id, octets);
        } else {
            self.blocked.push_back((id, octets.clone()));
        }
        Ok(())
    }

    fn client_reset(&mut self, id: u32, octets: &Bytes) {
        if self.dead.remove(&id) {
            return;
        }
        if let Some(stream) = self.streams.remove(&id) {
            self.unqueue(id, stream.held.is_some());
            self.abandon(stream, "the client cancelled the call");
        }
        if self.connected {
            self.to_upstream.extend_from_slice(octets);
        }
    }
}

pub(super) fn to_usize(value: u32) -> usize {
    usize::try_from(value).unwrap_or(usize::MAX)
}

pub(super) fn max_frame(value: u32) -> Result<usize, Fault> {
    if (1 << 14..1 << 24).contains(&value) {
        return Ok(to_usize(value));
    }
    Err(fault(
        frame::PROTOCOL_ERROR,
        format!("MAX_FRAME_SIZE {value}"),
    ))
}
