//! What the runtime sends.

use super::client::{max_frame, to_usize};
use super::*;

impl Session {
    /// Takes in whatever has arrived from the runtime; an incomplete frame stays in `input`.
    pub(in crate::cri) fn take_from_upstream(&mut self, input: &mut BytesMut) -> Result<(), Fault> {
        while let Some((head, octets)) = next_frame(input, self.client_max_frame)? {
            self.upstream_frame(head, &octets)?;
        }
        Ok(())
    }

    fn upstream_frame(&mut self, head: Head, octets: &Bytes) -> Result<(), Fault> {
        check_order(self.upstream_block.as_ref(), head)?;
        match head.kind {
            frame::DATA => return self.upstream_data(head, octets),
            frame::HEADERS | frame::CONTINUATION => {
                let max = self.shared.options.max_header_list_bytes;
                if let Some((id, end, block)) =
                    collect(&mut self.upstream_block, head, octets, max)?
                {
                    self.upstream_block_in(id, end, &block)?;
                }
                return Ok(());
            }
            frame::WINDOW_UPDATE => {
                self.window_update(head.stream, number(octets).unwrap_or(0) & frame::MAX_STREAM);
                return Ok(());
            }
            frame::RST_STREAM => {
                if let Some(stream) = self.streams.remove(&head.stream) {
                    self.unqueue(head.stream, stream.held.is_some());
                    self.abandon(stream, "the runtime reset the call");
                }
            }
            frame::SETTINGS if !head.has(frame::ACK) => self.upstream_settings(octets)?,
            frame::PUSH_PROMISE => {
                return Err(fault(
                    frame::PROTOCOL_ERROR,
                    "the runtime pushes, which gRPC never does",
                ));
            }
            _ => {}
        }
        self.to_client.extend_from_slice(octets);
        Ok(())
    }

    fn upstream_settings(&mut self, octets: &Bytes) -> Result<(), Fault> {
        for (key, value) in frame::settings(&octets[frame::HEAD..]) {
            match key {
                1 => self.client_headers.announce(to_usize(value)),
                4 => {
                    let change = i64::from(value) - self.upstream_initial_window;
                    self.upstream_initial_window = i64::from(value);
                    for stream in self.streams.values_mut() {
                        if let Some(held) = &mut stream.held {
                            held.window += change;
                        }
                    }
                }
                5 => self.upstream_max_frame = max_frame(value)?,
                _ => {}
            }
        }
        self.send_held();
        Ok(())
    }

    fn window_update(&mut self, id: u32, octets: u32) {
        if id == 0 {
            self.upstream_window += i64::from(octets);
            let octets = to_usize(octets);
            let kept = octets.min(self.debt);
            self.debt -= kept;
            frame::put_window_update(&mut self.to_client, 0, octets - kept);
            self.unblock();
        } else {
            // The client of a held call has had all its window from the relay itself.
            match self.streams.get_mut(&id).and_then(|s| s.held.as_mut()) {
                Some(held) => held.window += i64::from(octets),
                None => frame::put_window_update(&mut self.to_client, id, to_usize(octets)),
            }
        }
        self.send_held();
    }

    fn unblock(&mut self) {
        while let Some((id, octets)) = self.blocked.pop_front() {
            let len = signed(data_len(&octets));
            if len > self.upstream_window {
                self.blocked.push_front((id, octets));
                return;
            }
            self.upstream_window -= len;
            self.forward_up(id, &octets);
        }
    }

    fn upstream_data(&mut self, head: Head, octets: &Bytes) -> Result<(), Fault> {
        let id = head.stream;
        if let Some(stream) = self.streams.get_mut(&id) {
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
            self.to_client.extend_from_slice(octets);
            if head.has(frame::END_STREAM) {
                self.finish(id, &[]);
            }
        } else {
            // The client was told that this call is over: its window is given back in its name.
            if self.connected {
                frame::put_window_update(&mut self.to_upstream, 0, head.len);
            }
        }
        Ok(())
    }

    fn upstream_block_in(&mut self, id: u32, end: bool, block: &Bytes) -> Result<(), Fault> {
        let list = self
            .upstream_headers
            .decode(block)
            .map_err(|error| fault(frame::COMPRESSION_ERROR, error.to_string()))?;
        let Some(stream) = self.streams.get_mut(&id) else {
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
        let mut block = BytesMut::with_capacity(256);
        hpack::encode(&list, &mut block);
        frame::put_block(&mut self.to_client, id, &block, end, self.client_max_frame);
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
        let held = stream.held.is_some();
        if held {
            self.unqueue(id, held);
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
