//! HTTP/2 frames (RFC 9113, 4.1): reading their heads, writing the few that the relay makes itself.

use bytes::{BufMut, BytesMut};

pub(super) const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
pub(super) const HEAD: usize = 9;
pub(super) const DEFAULT_WINDOW: i64 = 65_535;
pub(super) const DEFAULT_MAX_FRAME: u32 = 16_384;

pub(super) const DATA: u8 = 0;
pub(super) const HEADERS: u8 = 1;
pub(super) const PRIORITY_FRAME: u8 = 2;
pub(super) const RST_STREAM: u8 = 3;
pub(super) const SETTINGS: u8 = 4;
pub(super) const PUSH_PROMISE: u8 = 5;
pub(super) const PING: u8 = 6;
pub(super) const GOAWAY: u8 = 7;
pub(super) const WINDOW_UPDATE: u8 = 8;
pub(super) const CONTINUATION: u8 = 9;

pub(super) const END_STREAM: u8 = 0x1;
pub(super) const ACK: u8 = 0x1;
pub(super) const END_HEADERS: u8 = 0x4;
pub(super) const PADDED: u8 = 0x8;
pub(super) const PRIORITY: u8 = 0x20;

pub(super) const NO_ERROR: u32 = 0;
pub(super) const PROTOCOL_ERROR: u32 = 1;
pub(super) const FLOW_CONTROL_ERROR: u32 = 3;
pub(super) const STREAM_CLOSED: u32 = 5;
pub(super) const FRAME_SIZE_ERROR: u32 = 6;
pub(super) const REFUSED_STREAM: u32 = 7;
pub(super) const CANCEL: u32 = 8;
pub(super) const COMPRESSION_ERROR: u32 = 9;
pub(super) const ENHANCE_YOUR_CALM: u32 = 11;

/// Parameters of SETTINGS (RFC 9113, 6.5.2).
pub(super) const HEADER_TABLE_SIZE: u16 = 1;
pub(super) const ENABLE_PUSH: u16 = 2;
pub(super) const MAX_CONCURRENT_STREAMS: u16 = 3;
pub(super) const INITIAL_WINDOW_SIZE: u16 = 4;
pub(super) const MAX_FRAME_SIZE: u16 = 5;
pub(super) const MAX_HEADER_LIST_SIZE: u16 = 6;

pub(super) const MAX_STREAM: u32 = 0x7fff_ffff;
pub(super) const MAX_WINDOW: u32 = 0x7fff_ffff;

/// A frame's first nine octets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) len: usize,
    pub(super) kind: u8,
    pub(super) flags: u8,
    pub(super) stream: u32,
}

impl Head {
    /// Reads a head; `None` when there are fewer than nine octets.
    pub(super) fn read(octets: &[u8]) -> Option<Self> {
        let &[a, b, c, kind, flags, e, f, g, h] = octets.first_chunk::<HEAD>()?;
        Some(Self {
            len: usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c),
            kind,
            flags,
            stream: u32::from_be_bytes([e, f, g, h]) & MAX_STREAM,
        })
    }

    pub(super) fn has(self, flag: u8) -> bool {
        self.flags & flag != 0
    }
}

/// What is wrong with a frame whatever its stream is (RFC 9113, 6): an error code of the connection, and why.
pub(super) fn mistake(head: Head) -> Option<(u32, String)> {
    let (name, of_stream, length_fits) = match head.kind {
        DATA => ("DATA", true, true),
        HEADERS => ("HEADERS", true, true),
        PRIORITY_FRAME => ("PRIORITY", true, head.len == 5),
        RST_STREAM => ("RST_STREAM", true, head.len == 4),
        SETTINGS if head.has(ACK) => ("the acknowledgement of SETTINGS", false, head.len == 0),
        SETTINGS => ("SETTINGS", false, head.len.is_multiple_of(6)),
        PING => ("PING", false, head.len == 8),
        GOAWAY => ("GOAWAY", false, head.len >= 8),
        WINDOW_UPDATE => ("WINDOW_UPDATE", head.stream != 0, head.len == 4),
        CONTINUATION => ("CONTINUATION", true, true),
        _ => return None,
    };
    if of_stream != (head.stream != 0) {
        return Some((PROTOCOL_ERROR, format!("{name} on stream {}", head.stream)));
    }
    let text = || format!("{name} is of {} octets", head.len);
    (!length_fits).then(|| (FRAME_SIZE_ERROR, text()))
}

/// Writes a head.
pub(super) fn put_head(out: &mut BytesMut, len: usize, kind: u8, flags: u8, stream: u32) {
    let [.., a, b, c] = len.to_be_bytes();
    out.put_slice(&[a, b, c, kind, flags]);
    out.put_u32(stream);
}

pub(super) fn put_window_update(out: &mut BytesMut, stream: u32, octets: usize) {
    if let Some(octets) = u32::try_from(octets).ok().filter(|n| *n > 0) {
        put_head(out, 4, WINDOW_UPDATE, 0, stream);
        out.put_u32(octets);
    }
}

pub(super) fn put_reset(out: &mut BytesMut, stream: u32, code: u32) {
    put_head(out, 4, RST_STREAM, 0, stream);
    out.put_u32(code);
}

pub(super) fn put_ping(out: &mut BytesMut, flags: u8, octets: [u8; 8]) {
    put_head(out, octets.len(), PING, flags, 0);
    out.put_slice(&octets);
}

pub(super) fn put_settings(out: &mut BytesMut, list: impl Iterator<Item = (u16, u32)>) {
    let start = out.len();
    put_head(out, 0, SETTINGS, 0, 0);
    for (key, value) in list {
        out.put_u16(key);
        out.put_u32(value);
    }
    // Few: a frame that was received, or the handful of settings there are.
    let [.., a, b, c] = (out.len() - start - HEAD).to_be_bytes();
    out[start..start + 3].copy_from_slice(&[a, b, c]);
}

pub(super) fn put_goaway(out: &mut BytesMut, last: u32, code: u32, text: &str) {
    put_head(out, 8 + text.len(), GOAWAY, 0, 0);
    out.put_u32(last);
    out.put_u32(code);
    out.put_slice(text.as_bytes());
}

/// Writes a header block as HEADERS and, where `max_frame` asks for it, CONTINUATION frames.
pub(super) fn put_block(
    out: &mut BytesMut,
    stream: u32,
    block: &[u8],
    end: bool,
    max_frame: usize,
) {
    let (mut kind, mut flags) = (HEADERS, if end { END_STREAM } else { 0 });
    let mut rest = block;
    loop {
        let (part, more) = rest.split_at(rest.len().min(max_frame));
        if more.is_empty() {
            flags |= END_HEADERS;
        }
        put_head(out, part.len(), kind, flags, stream);
        out.put_slice(part);
        if more.is_empty() {
            return;
        }
        (kind, flags, rest) = (CONTINUATION, 0, more);
    }
}

/// The same for a block that `write` appends to `out`, where it stays if it fits into one frame.
pub(super) fn put_block_of(
    out: &mut BytesMut,
    stream: u32,
    end: bool,
    max_frame: usize,
    write: impl FnOnce(&mut BytesMut),
) {
    let start = out.len();
    let flags = if end {
        END_STREAM | END_HEADERS
    } else {
        END_HEADERS
    };
    put_head(out, 0, HEADERS, flags, stream);
    write(out);
    let len = out.len() - start - HEAD;
    if len <= max_frame {
        let [.., a, b, c] = len.to_be_bytes();
        out[start..start + 3].copy_from_slice(&[a, b, c]);
    } else {
        let block = out.split_off(start + HEAD);
        out.truncate(start);
        put_block(out, stream, &block, end, max_frame);
    }
}

/// The part of a DATA or HEADERS payload that is not padding or priority; `None` when they do not fit.
pub(super) fn content(head: Head, payload: &[u8]) -> Option<std::ops::Range<usize>> {
    let (mut start, mut end) = (0, payload.len());
    if head.has(PADDED) {
        start = 1;
        end = end.checked_sub(usize::from(*payload.first()?))?;
    }
    if head.kind == HEADERS && head.has(PRIORITY) {
        start += 5;
    }
    (start <= end).then_some(start..end)
}

/// The settings in a SETTINGS payload.
pub(super) fn settings(payload: &[u8]) -> impl Iterator<Item = (u16, u32)> + '_ {
    payload.chunks_exact(6).map(|s| {
        (
            u16::from_be_bytes([s[0], s[1]]),
            u32::from_be_bytes([s[2], s[3], s[4], s[5]]),
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_reads_as_written() {
        let mut out = BytesMut::new();
        put_head(&mut out, 0x01_0203, DATA, END_STREAM, 7);
        let head = Head::read(&out).unwrap();
        assert_eq!((head.len, head.kind, head.stream), (0x01_0203, DATA, 7));
        assert!(head.has(END_STREAM));
        assert_eq!(Head::read(&out[..8]), None);
    }

    #[test]
    fn padding_and_priority_are_cut_off() {
        let head = Head {
            len: 9,
            kind: HEADERS,
            flags: PADDED | PRIORITY,
            stream: 1,
        };
        assert_eq!(content(head, &[2, 0, 0, 0, 0, 0, 9, 0, 0]), Some(6..7));
        assert_eq!(content(head, &[9, 0, 0, 0, 0, 0, 9, 0, 0]), None);
        assert_eq!(content(head, &[]), None);
    }

    #[test]
    fn a_long_block_is_split() {
        let mut out = BytesMut::new();
        put_block(&mut out, 3, &[1; 25], true, 10);
        let first = Head::read(&out).unwrap();
        assert_eq!(
            (first.len, first.kind, first.flags),
            (10, HEADERS, END_STREAM)
        );
        let last = Head::read(&out[2 * 19..]).unwrap();
        assert_eq!(
            (last.len, last.kind, last.flags),
            (5, CONTINUATION, END_HEADERS)
        );
    }
}
