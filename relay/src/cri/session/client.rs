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
        }
        while let Some((head, octets)) = next_frame(input, self.announced.max_frame)? {
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
            frame::WINDOW_UPDATE => {
                self.client_grants(head.stream, octets);
                Ok(())
            }
            frame::SETTINGS => self.client_settings(head, &octets[frame::HEAD..]),
            frame::PING => self.client_ping(head, &octets[frame::HEAD..]),
            frame::PUSH_PROMISE => Err(fault(frame::PROTOCOL_ERROR, "a client cannot push")),
            // A client that says goodbye closes its connection when its calls have ended. Others mean
            // nothing for a call: RFC 9113, 5.5 wants unknown frames discarded.
            _ => Ok(()),
        }
    }

    fn client_grants(&mut self, id: u32, octets: &Bytes) {
        let grant = number(octets).unwrap_or(0) & frame::MAX_STREAM;
        if id == 0 {
            self.client_room = self.client_room.saturating_add(i64::from(grant));
            self.unqueue_to_client();
            self.grant_links();
        } else if let Some(stream) = self.streams.get(&id) {
            self.links[stream.route.index()].forward(id, octets);
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
            if self.going_away.is_some_and(|last| id > last) || !self.open(id, end, &list) {
                return Ok(());
            }
        } else if self.streams.get(&id).is_none_or(|s| s.client_done) {
            return Ok(()); // of a call that is over
        } else if end && self.streams.get(&id).is_some_and(|s| s.held.is_some()) {
            // gRPC's clients send no trailers: those of a held call end its request, and are all it loses.
            return self.hold(id, 0, Bytes::new(), true);
        }
        let Some(stream) = self.streams.get_mut(&id) else {
            return Ok(());
        };
        stream.client_done |= end;
        let link = &mut self.links[stream.route.index()];
        let max = link.settings.max_frame;
        if link.connected && stream.blocked == 0 {
            let Link { out, encoder, .. } = link;
            frame::put_block_of(out, id, end, max, |out| encoder.encode(&list, out));
        } else {
            // What waits may never go out: no encoder may count on it.
            let mut frames = BytesMut::new();
            frame::put_block_of(&mut frames, id, end, max, |out| hpack::encode(&list, out));
            if stream.blocked == 0 {
                link.pending.push((id, frames.freeze()));
            } else {
                link.blocked.push_back((id, frames.freeze()));
            }
        }
        self.grant_stream(id);
        Ok(())
    }

    /// Enters a new call; false when it goes no further.
    fn open(&mut self, id: u32, end: bool, list: &[Header]) -> bool {
        let path = hpack::find(list, ":path").unwrap_or_default();
        let shared = Arc::clone(&self.shared);
        let route = Route::of(path);
        self.last_stream = id;
        let Some(line) = shared.upstreams.serving(route) else {
            let message = format!(
                "the {} is turned off in cri-resmgr's configuration",
                route.name()
            );
            let off = Status {
                code: status::UNIMPLEMENTED,
                message,
            };
            self.block_to_client(id, &status::trailers(&off, true), true);
            if !end {
                frame::put_reset(&mut self.to_client, id, frame::NO_ERROR);
            }
            return false;
        };
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
            held = wanted.then(|| Box::new(Held::new(call)));
        }
        let stream = Stream {
            received,
            deadline,
            route: line,
            endless: path.ends_with(b"/GetContainerEvents"),
            client_done: false,
            replied: false,
            window: i64::from(self.links[line.index()].settings.initial_window),
            granted: 0,
            blocked: 0,
            held,
            tee,
        };
        self.streams.insert(id, stream);
        true
    }

    fn client_data(&mut self, head: Head, octets: &Bytes) -> Result<(), Fault> {
        let (id, end) = (head.stream, head.has(frame::END_STREAM));
        self.client_credit -= signed(head.len);
        if self.client_credit < 0 {
            let text = "more DATA than was granted";
            return Err(fault(frame::FLOW_CONTROL_ERROR, text));
        }
        let Some(stream) = self.streams.get_mut(&id).filter(|s| !s.client_done) else {
            // Of a call that is over: it fills no window.
            self.grant_client();
            return Ok(());
        };
        stream.granted -= signed(head.len);
        if stream.tee.is_none() && stream.held.is_none() {
            stream.client_done = end;
            self.pass_up(id, octets);
            return Ok(());
        }
        let payload = octets.slice(frame::HEAD..);
        let range = frame::content(head, &payload)
            .ok_or_else(|| fault(frame::PROTOCOL_ERROR, "DATA is all padding"))?;
        if let Some(tee) = &mut stream.tee {
            tee.request(&payload[range.clone()], end);
        }
        if stream.held.is_some() {
            return self.hold(id, head.len, payload.slice(range), end);
        }
        stream.client_done = end;
        self.pass_up(id, octets);
        Ok(())
    }

    fn client_reset(&mut self, id: u32, octets: &Bytes) {
        self.drop_queued(id);
        if let Some(stream) = self.streams.remove(&id) {
            self.take_back(id, &stream);
            let link = &mut self.links[stream.route.index()];
            if link.connected {
                link.out.extend_from_slice(octets);
            }
            self.abandon(stream, "the client cancelled the call");
        }
    }
}
