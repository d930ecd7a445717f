//! What the runtime sends.

use super::*;

impl Session {
    /// Takes in whatever has arrived from the socket of `route`; an incomplete frame stays in `input`.
    pub(in crate::cri) fn take_from_upstream(
        &mut self,
        route: Route,
        input: &mut BytesMut,
    ) -> Result<(), Fault> {
        while let Some((head, octets)) = next_frame(input, self.client_max_frame)? {
            self.upstream_frame(route, head, &octets)?;
        }
        Ok(())
    }

    fn upstream_frame(&mut self, route: Route, head: Head, octets: &Bytes) -> Result<(), Fault> {
        let block = &mut self.links[route.index()].block;
        check_order(block.as_ref(), head)?;
        let id = head.stream;
        let payload = &octets[frame::HEAD..];
        match head.kind {
            frame::DATA => self.upstream_data(route, head, octets),
            frame::HEADERS | frame::CONTINUATION => {
                let max = self.shared.options.max_header_list_bytes;
                match collect(block, head, octets, max)? {
                    Some((id, end, block)) => self.upstream_headers(route, id, end, &block),
                    None => Ok(()),
                }
            }
            frame::WINDOW_UPDATE => {
                let grant = number(octets).unwrap_or(0) & frame::MAX_STREAM;
                self.upstream_grants(route, id, i64::from(grant));
                Ok(())
            }
            frame::RST_STREAM => {
                self.upstream_reset(route, id, octets);
                Ok(())
            }
            frame::SETTINGS => self.upstream_settings(route, head, payload),
            frame::PING => self.upstream_ping(route, head, payload),
            frame::GOAWAY => self.upstream_goes(route, payload),
            frame::PUSH_PROMISE => Err(fault(
                frame::PROTOCOL_ERROR,
                "the runtime pushes, which gRPC never does",
            )),
            _ => Ok(()),
        }
    }

    fn upstream_grants(&mut self, route: Route, id: u32, grant: i64) {
        if id == 0 {
            let link = &mut self.links[route.index()];
            link.window = link.window.saturating_add(grant);
        } else if let Some(stream) = self.streams.get_mut(&id).filter(|s| s.route == route) {
            stream.window = stream.window.saturating_add(grant);
        }
        self.unblock(route);
        if id == 0 {
            self.grant_client();
        } else {
            self.grant_stream(id);
        }
        self.send_held();
    }

    fn upstream_reset(&mut self, route: Route, id: u32, octets: &Bytes) {
        match self.streams.get(&id) {
            Some(stream) if stream.route != route => return,
            Some(_) => {}
            // The client may not have ended it yet, though the reply is complete.
            None if id <= self.last_stream => return self.pass_down(id, octets),
            None => return,
        }
        if let Some(stream) = self.streams.remove(&id) {
            self.take_back(id, &stream);
            self.pass_down(id, octets);
            self.abandon(stream, "the runtime reset the call");
        }
    }

    fn upstream_data(&mut self, route: Route, head: Head, octets: &Bytes) -> Result<(), Fault> {
        let (id, link) = (head.stream, &mut self.links[route.index()]);
        link.may_send -= signed(head.len);
        if link.may_send < 0 {
            let text = "the runtime sends more DATA than it was granted";
            return Err(fault(frame::FLOW_CONTROL_ERROR, text));
        }
        let Some(stream) = self.streams.get_mut(&id).filter(|s| s.route == route) else {
            // The client was told that this call is over: it fills no window.
            self.grant_links();
            return Ok(());
        };
        if stream.tee.is_some() || stream.held.is_some() {
            let payload = octets.slice(frame::HEAD..);
            let range = frame::content(head, &payload)
                .ok_or_else(|| fault(frame::PROTOCOL_ERROR, "DATA is all padding"))?;
            if let Some(held) = &mut stream.held {
                held.collect_reply(
                    &payload[range.clone()],
                    self.shared.options.max_message_bytes,
                );
            }
            if let Some(tee) = &mut stream.tee {
                tee.reply(&payload[range]);
            }
        }
        self.pass_down(id, octets);
        if head.has(frame::END_STREAM) {
            self.finish(id, &[]);
        }
        Ok(())
    }

    fn upstream_headers(
        &mut self,
        route: Route,
        id: u32,
        end: bool,
        block: &Bytes,
    ) -> Result<(), Fault> {
        let list = self.links[route.index()]
            .headers
            .decode(block)
            .map_err(|error| fault(frame::COMPRESSION_ERROR, error.to_string()))?;
        let Some(stream) = self.streams.get_mut(&id).filter(|s| s.route == route) else {
            return Ok(());
        };
        if end {
            if let Some(tee) = &mut stream.tee {
                tee.answered();
            }
            if self.commit(id, &list) {
                return Ok(()); // the client sees the end once the hook has run
            }
        } else {
            // An informational response is not yet the response.
            stream.replied |= hpack::find(&list, ":status").is_some_and(|s| !s.starts_with(b"1"));
        }
        self.reply_block(id, &list, end);
        if end {
            self.finish(id, &list);
        }
        Ok(())
    }

    /// The runtime has ended the call and the client knows.
    pub(super) fn finish(&mut self, id: u32, trailers: &[Header]) {
        let Some(mut stream) = self.streams.remove(&id) else {
            return;
        };
        if !stream.client_done {
            // What the client may still send is of no use to anyone.
            self.links[stream.route.index()].reset(id, frame::NO_ERROR);
        }
        if stream.held.is_some() || stream.blocked > 0 {
            self.take_back(id, &stream);
        }
        let failed = status::of(trailers);
        if let Some(held) = stream.held.take() {
            let status = failed
                .clone()
                .unwrap_or_else(|| unavailable("the call ended early"));
            self.after_detached(held.after, Outcome::Failed(status));
        }
        if let Some(tee) = stream.tee.take() {
            tee.end(failed);
        }
    }
}
