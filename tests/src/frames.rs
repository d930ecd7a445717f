//! HTTP/2 by hand, frame by frame: peers that break the rules.

use anyhow::Result;
use std::{
    io::{ErrorKind, Read, Write},
    os::unix::net::UnixStream,
    path::Path,
    time::Duration,
};

/// What a client's connection begins with, and empty SETTINGS.
pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
/// Empty SETTINGS, and their acknowledgement.
pub const SETTINGS: &[u8] = &[0, 0, 0, 4, 0, 0, 0, 0, 0];
/// The code of a connection error: the peer makes too much work.
pub const ENHANCE_YOUR_CALM: u32 = 11;

/// A frame.
#[must_use]
pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let [.., a, b, c] = payload.len().to_be_bytes();
    let mut out = vec![a, b, c, kind, flags];
    out.extend(stream.to_be_bytes());
    out.extend(payload);
    out
}

/// HEADERS that open a call of `path`; further fields as an encoded block.
#[must_use]
pub fn headers(stream: u32, end_stream: bool, path: &str, further: &[u8]) -> Vec<u8> {
    // POST, http, :path as a literal, te: trailers as the static table has no such field.
    let mut block = vec![0x83, 0x86, 0x04];
    string(&mut block, path.as_bytes());
    block.push(0);
    string(&mut block, b"te");
    string(&mut block, b"trailers");
    block.extend(further);
    frame(1, 4 | u8::from(end_stream), stream, &block)
}

/// A field that the peer is to remember: the newest entry of its table, index 62.
#[must_use]
pub fn remembered(name: &str, value: &[u8]) -> Vec<u8> {
    let mut block = vec![0x40];
    string(&mut block, name.as_bytes());
    string(&mut block, value);
    block
}

/// A string of a header block (RFC 7541, 5.2).
fn string(out: &mut Vec<u8>, octets: &[u8]) {
    let mut length = octets.len();
    if length < 127 {
        out.extend(u8::try_from(length));
    } else {
        out.push(127);
        length -= 127;
        while length >= 128 {
            out.extend(u8::try_from(length % 128 + 128));
            length /= 128;
        }
        out.extend(u8::try_from(length));
    }
    out.extend(octets);
}

/// How sending ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sent {
    /// All was taken.
    All,
    /// Nothing more is taken.
    Stuck,
    /// The connection was closed.
    Closed,
}

/// A client that sends what it likes and reads nothing until it is asked to.
#[derive(Debug)]
pub struct RawClient {
    stream: UnixStream,
}

impl RawClient {
    /// Connects, and sends what a client begins with.
    ///
    /// # Errors
    /// When nothing listens.
    pub fn connect(socket: &Path) -> Result<Self> {
        let mut stream = UnixStream::connect(socket)?;
        stream.write_all(PREFACE)?;
        // Far longer than a relay that reads at all needs for what a socket holds.
        stream.set_write_timeout(Some(Duration::from_secs(2)))?;
        stream.set_read_timeout(Some(Duration::from_secs(30)))?;
        Ok(Self { stream })
    }

    /// Sends `octets`, as far as they are taken.
    ///
    /// # Errors
    /// On a fault of the socket other than its end.
    pub fn send(&mut self, octets: &[u8]) -> Result<Sent> {
        let mut rest = octets;
        while !rest.is_empty() {
            match self.stream.write(rest) {
                Ok(n) => rest = &rest[n..],
                Err(error) => match error.kind() {
                    ErrorKind::WouldBlock | ErrorKind::TimedOut => return Ok(Sent::Stuck),
                    ErrorKind::BrokenPipe | ErrorKind::ConnectionReset => return Ok(Sent::Closed),
                    ErrorKind::Interrupted => {}
                    _ => return Err(error.into()),
                },
            }
        }
        Ok(Sent::All)
    }

    /// Sends `part` again and again, `times` at most, as far as it is taken.
    ///
    /// # Errors
    /// As [`RawClient::send`].
    pub fn flood(&mut self, part: &[u8], times: usize) -> Result<Sent> {
        let at_once = (64_usize << 10).div_ceil(part.len()).min(times);
        let block = part.repeat(at_once);
        for _ in 0..times.div_ceil(at_once) {
            match self.send(&block)? {
                Sent::All => {}
                end => return Ok(end),
            }
        }
        Ok(Sent::All)
    }

    /// Reads frames until one of `kind` comes; its stream and payload. `None` when the connection ends before.
    ///
    /// # Errors
    /// When nothing comes for half a minute.
    pub fn next(&mut self, kind: u8) -> Result<Option<(u32, Vec<u8>)>> {
        let next = self.next_of(&[kind])?;
        Ok(next.map(|(_, stream, payload)| (stream, payload)))
    }

    /// The same for frames of several kinds; the kind comes first.
    ///
    /// # Errors
    /// As [`RawClient::next`].
    pub fn next_of(&mut self, kinds: &[u8]) -> Result<Option<(u8, u32, Vec<u8>)>> {
        loop {
            let mut head = [0; 9];
            if !self.read(&mut head)? {
                return Ok(None);
            }
            let [a, b, c, found, _, stream @ ..] = head;
            let length = u32::from_be_bytes([0, a, b, c]);
            let mut payload = vec![0; usize::try_from(length)?];
            if !self.read(&mut payload)? {
                return Ok(None);
            }
            if kinds.contains(&found) {
                return Ok(Some((found, u32::from_be_bytes(stream), payload)));
            }
        }
    }

    /// The code of the GOAWAY that the connection ends with.
    ///
    /// # Errors
    /// As [`RawClient::next`].
    pub fn goaway(&mut self) -> Result<Option<u32>> {
        let goaway = self.next(7)?;
        let code = goaway.and_then(|(_, payload)| payload.get(4..8)?.first_chunk().copied());
        Ok(code.map(u32::from_be_bytes))
    }

    fn read(&mut self, into: &mut [u8]) -> Result<bool> {
        match self.stream.read_exact(into) {
            Ok(()) => Ok(true),
            Err(error) => match error.kind() {
                ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset => Ok(false),
                _ => Err(error.into()),
            },
        }
    }
}
