//! Header blocks (RFC 9113, 4.3): collected from HEADERS and CONTINUATION, and the compression of a connection.

use super::error::ConnectionError;
use crate::cri::{
    frame::{self, Head},
    hpack::{self, Decoder, Encoder, Header, HpackError},
    options::{Limit, ServerOptions},
};
use bytes::{Bytes, BytesMut};

/// The header blocks that one peer sends and receives.
#[derive(Debug)]
pub(super) struct HeaderBlocks {
    decoder: Decoder,
    encoder: Encoder,
    /// The block whose END_HEADERS has not come yet.
    partial: Option<Partial>,
    /// The most octets of a block, and the most CONTINUATION frames.
    max: usize,
    max_continuations: usize,
}

#[derive(Debug)]
struct Partial {
    stream: u32,
    end_stream: bool,
    octets: BytesMut,
    continuations: usize,
}

/// A header block that was received.
#[derive(Debug)]
pub(super) struct Received {
    pub(super) stream: u32,
    pub(super) end_stream: bool,
    pub(super) list: Vec<Header>,
}

impl Received {
    /// Octets of the list, counted as in RFC 9113, 6.5.2.
    pub(super) fn octets(&self) -> usize {
        let fields = self.list.iter();
        fields
            .map(|field| field.name.len() + field.value.len() + 32)
            .sum()
    }
}

impl HeaderBlocks {
    pub(super) fn new(options: &ServerOptions) -> Self {
        let max = options.max_header_list_bytes;
        Self {
            decoder: Decoder::new(max),
            encoder: Encoder::default(),
            partial: None,
            max,
            max_continuations: options.max_continuations,
        }
    }

    /// The peer announced this SETTINGS_HEADER_TABLE_SIZE.
    pub(super) fn set_peer_table_size(&mut self, octets: u32) {
        self.encoder.announce(to_usize(octets));
    }

    /// The peer was told this SETTINGS_HEADER_TABLE_SIZE.
    pub(super) fn set_own_table_size(&mut self, octets: u32) {
        self.decoder.announce(to_usize(octets));
    }

    /// Between HEADERS and the last CONTINUATION no other frame may come.
    pub(super) fn check_order(&self, head: Head) -> Result<(), ConnectionError> {
        let fits = match &self.partial {
            Some(partial) => head.kind == frame::CONTINUATION && head.stream == partial.stream,
            None => head.kind != frame::CONTINUATION,
        };
        if fits {
            return Ok(());
        }
        Err(protocol_error("frames of a header block are not together"))
    }

    /// Takes in HEADERS or CONTINUATION; the whole block comes back with its last frame.
    pub(super) fn receive(
        &mut self,
        head: Head,
        octets: &Bytes,
    ) -> Result<Option<Received>, ConnectionError> {
        let Some((stream, end_stream, block)) = self.collect(head, octets)? else {
            return Ok(None);
        };
        let list = self.decoder.decode(&block).map_err(|error| {
            let fault = ConnectionError::new(frame::COMPRESSION_ERROR, error.to_string());
            match error {
                HpackError::TooLarge(_) => fault.met(Limit::HeaderList),
                _ => fault,
            }
        })?;
        Ok(Some(Received {
            stream,
            end_stream,
            list,
        }))
    }

    fn collect(
        &mut self,
        head: Head,
        octets: &Bytes,
    ) -> Result<Option<(u32, bool, Bytes)>, ConnectionError> {
        let payload = octets.slice(frame::HEAD..);
        if head.kind == frame::HEADERS {
            let content = frame::content(head, &payload);
            let part =
                payload.slice(content.ok_or_else(|| protocol_error("HEADERS is all padding"))?);
            let end_stream = head.has(frame::END_STREAM);
            if head.has(frame::END_HEADERS) {
                return Ok(Some((head.stream, end_stream, part)));
            }
            self.partial = Some(Partial {
                stream: head.stream,
                end_stream,
                octets: BytesMut::from(&part[..]),
                continuations: 0,
            });
            return Ok(None);
        }
        let partial = self
            .partial
            .as_mut()
            .ok_or_else(|| protocol_error("CONTINUATION without HEADERS"))?;
        if partial.octets.len() + payload.len() > self.max {
            let error = protocol_error("header block is too large");
            return Err(error.met(Limit::HeaderList));
        }
        partial.continuations += 1;
        if partial.continuations > self.max_continuations {
            let text = "too many CONTINUATION frames";
            return Err(ConnectionError::too_many(Limit::Continuations, text));
        }
        partial.octets.extend_from_slice(&payload);
        if !head.has(frame::END_HEADERS) {
            return Ok(None);
        }
        let whole = self.partial.take();
        Ok(whole.map(|whole| (whole.stream, whole.end_stream, whole.octets.freeze())))
    }

    /// Writes a header block that goes out next.
    pub(super) fn send(
        &mut self,
        id: u32,
        list: &[Header],
        end: bool,
        max_frame: usize,
        out: &mut BytesMut,
    ) {
        frame::put_block_of(out, id, end, max_frame, |out| {
            self.encoder.encode(list, out);
        });
    }
}

/// A header block that may wait, and may never go out: no encoder counts on it.
pub(super) fn without_table(id: u32, list: &[Header], end: bool, max_frame: usize) -> Bytes {
    let mut frames = BytesMut::new();
    frame::put_block_of(&mut frames, id, end, max_frame, |out| {
        hpack::encode(list, out);
    });
    frames.freeze()
}

fn protocol_error(text: &str) -> ConnectionError {
    ConnectionError::new(frame::PROTOCOL_ERROR, text)
}

fn to_usize(value: u32) -> usize {
    usize::try_from(value).unwrap_or(usize::MAX)
}
