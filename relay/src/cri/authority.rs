//! The name by which a client addresses a server on a Unix socket.
//!
//! RFC 9113, 8.3.1 has it in `:authority`, as an authority of RFC 3986. Clients of Unix sockets put what they have
//! there: the socket's path (grpc-go's `Dial(PATH)`, gRPC for Python), percent-encoded or not. No server on a Unix
//! socket looks at it, but h2 resets calls whose authority is none. The relay's own sessions take any; before a server
//! that is built on h2, [`AnyAuthority`] replaces what is none by `localhost`.

use super::{
    frame::{
        CONTINUATION, DEFAULT_MAX_FRAME, END_HEADERS, END_STREAM, HEAD, HEADERS, Head, PREFACE,
        content, put_block,
    },
    hpack::{Decoder, encode},
};
use bytes::{Bytes, BytesMut};
use http::uri::Authority;
use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_util::io::poll_read_buf;
use tonic::transport::server::Connected;

/// Longest header block and longest list of a call, in octets.
const MAX_BLOCK: usize = 64 << 10;
/// Longest frame with headers: h2 takes no longer one unless told to.
const MAX_FRAME: usize = DEFAULT_MAX_FRAME as usize;

/// A client's connection, of which the server reads authorities that it can parse.
#[derive(Debug)]
pub struct AnyAuthority<S> {
    stream: S,
    input: BytesMut,
    output: BytesMut,
    /// How many octets of the input go on as they are: of the preface, or of a frame without headers.
    passing: usize,
    decoder: Decoder,
    block: Option<HeaderBlock>,
}

/// A header block whose end has not come yet.
#[derive(Debug)]
struct HeaderBlock {
    stream: u32,
    end_stream: bool,
    octets: BytesMut,
}

impl<S> AnyAuthority<S> {
    /// Before the first octet is read.
    #[must_use]
    pub fn new(stream: S) -> Self {
        Self {
            stream,
            input: BytesMut::new(),
            output: BytesMut::new(),
            passing: PREFACE.len(),
            decoder: Decoder::new(MAX_BLOCK),
            block: None,
        }
    }

    /// Moves what is whole of the input to the output.
    fn advance(&mut self) -> io::Result<()> {
        loop {
            let passes = self.passing.min(self.input.len());
            self.output.unsplit(self.input.split_to(passes));
            self.passing -= passes;
            let Some(head) = Head::read(&self.input).filter(|_head| self.passing == 0) else {
                return Ok(());
            };
            let headers = matches!(head.kind, HEADERS | CONTINUATION);
            if self.block.is_some() != (head.kind == CONTINUATION) {
                return Err(broken("a header block that is not whole"));
            }
            if !headers || head.len > MAX_FRAME {
                self.passing = HEAD + head.len;
                continue;
            }
            if self.input.len() < HEAD + head.len {
                return Ok(());
            }
            let payload = self.input.split_to(HEAD + head.len).split_off(HEAD);
            self.take_headers(head, &payload)?;
        }
    }

    fn take_headers(&mut self, head: Head, payload: &[u8]) -> io::Result<()> {
        let block = self.block.get_or_insert_with(|| HeaderBlock {
            stream: head.stream,
            end_stream: head.has(END_STREAM),
            octets: BytesMut::new(),
        });
        let part = match head.kind {
            HEADERS => content(head, payload).and_then(|range| payload.get(range)),
            _ => Some(payload),
        };
        let part = part.ok_or_else(|| broken("padding longer than its frame"))?;
        if head.stream != block.stream || block.octets.len() + part.len() > MAX_BLOCK {
            return Err(broken("a header block on two streams, or too long"));
        }
        block.octets.extend_from_slice(part);
        if head.has(END_HEADERS)
            && let Some(whole) = self.block.take()
        {
            self.write(whole)?;
        }
        Ok(())
    }

    fn write(&mut self, block: HeaderBlock) -> io::Result<()> {
        let mut headers = self
            .decoder
            .decode(&block.octets.freeze())
            .map_err(|error| broken(&error.to_string()))?;
        for header in &mut headers {
            if header.name == ":authority" && Authority::try_from(&*header.value).is_err() {
                header.value = Bytes::from_static(b"localhost");
            }
        }
        let mut encoded = BytesMut::new();
        encode(&headers, &mut encoded);
        let (out, end) = (&mut self.output, block.end_stream);
        put_block(out, block.stream, &encoded, end, MAX_FRAME);
        Ok(())
    }
}

fn broken(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}

impl<S: AsyncRead + Unpin> AsyncRead for AnyAuthority<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let connection = self.get_mut();
        while connection.output.is_empty() {
            let read = poll_read_buf(Pin::new(&mut connection.stream), cx, &mut connection.input);
            if ready!(read)? == 0 {
                return Poll::Ready(Ok(())); // the end: what is not whole never will be
            }
            connection.advance()?;
        }
        let length = buffer.remaining().min(connection.output.len());
        buffer.put_slice(&connection.output.split_to(length));
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for AnyAuthority<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        octets: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, octets)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, parts)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

impl<S: Connected> Connected for AnyAuthority<S> {
    type ConnectInfo = S::ConnectInfo;

    fn connect_info(&self) -> Self::ConnectInfo {
        self.stream.connect_info()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cri::{
        frame::{DATA, put_head},
        hpack::{Encoder, Header},
    };
    use bytes::BufMut as _;
    use tokio::io::AsyncReadExt as _;

    fn request(authority: &str) -> Vec<Header> {
        vec![
            Header::new(":method", "POST"),
            Header::new(":scheme", "http"),
            Header::new(":path", "/v1.Config/GetStatus"),
            Header::new(":authority", authority.to_owned()),
            Header::new("te", "trailers"),
        ]
    }

    /// What a server reads of these octets, which come `step` at a time.
    async fn read(octets: &[u8], step: usize) -> io::Result<BytesMut> {
        let mut stream = tokio_test_stream(octets, step);
        let mut read = Vec::new();
        AnyAuthority::new(&mut stream)
            .read_to_end(&mut read)
            .await?;
        Ok(BytesMut::from(&*read))
    }

    fn tokio_test_stream(octets: &[u8], step: usize) -> impl AsyncRead + Unpin {
        let parts: Vec<io::Result<Bytes>> = octets
            .chunks(step)
            .map(|part| Ok(Bytes::copy_from_slice(part)))
            .collect();
        tokio_util::io::StreamReader::new(tokio_stream::iter(parts))
    }

    #[tokio::test]
    async fn what_is_no_authority_becomes_localhost_and_all_else_stays() {
        let mut sender = Encoder::default();
        let mut octets = BytesMut::from(&PREFACE[..]);
        let data = |out: &mut BytesMut, stream| {
            put_head(out, 3, DATA, END_STREAM, stream);
            out.put_slice(b"abc");
        };
        let names = [
            ("/run/cri-resmgr/cri-resmgr-config.sock", "localhost"),
            ("localhost", "localhost"),
            ("unix:///run/x.sock", "localhost"),
            ("%2Frun%2Fx.sock", "localhost"),
            ("/run/cri-resmgr/cri-resmgr-config.sock", "localhost"),
            ("cri-resmgr:80", "cri-resmgr:80"),
        ];
        for (index, (name, _expected)) in (0_u32..).zip(names) {
            let mut block = BytesMut::new();
            sender.encode(&request(name), &mut block);
            put_block(&mut octets, 2 * index + 1, &block, false, 7);
            data(&mut octets, 2 * index + 1);
        }
        for step in [1, 5, octets.len()] {
            let mut got = read(&octets, step).await.unwrap();
            assert_eq!(got.split_to(PREFACE.len()), &PREFACE[..]);
            let mut decoder = Decoder::new(MAX_BLOCK);
            for (index, (name, expected)) in (0_u32..).zip(names) {
                let head = Head::read(&got).unwrap();
                assert_eq!((head.kind, head.stream), (HEADERS, 2 * index + 1));
                let block = got.split_to(HEAD + head.len).split_off(HEAD).freeze();
                assert_eq!(decoder.decode(&block), Ok(request(expected)), "{name}");
                let mut whole = BytesMut::new();
                data(&mut whole, 2 * index + 1);
                assert_eq!(got.split_to(whole.len()), whole);
            }
            assert!(got.is_empty());
        }
    }

    #[tokio::test]
    async fn blocks_without_an_end_or_with_nonsense_end_the_connection() {
        let block = |flags: u8, kinds: &[u8], payload: &[u8]| {
            let mut octets = BytesMut::from(&PREFACE[..]);
            for kind in kinds {
                put_head(&mut octets, payload.len(), *kind, flags, 1);
                octets.put_slice(payload);
            }
            octets
        };
        let endless = [&[HEADERS][..], &[CONTINUATION; 5]].concat();
        for octets in [
            block(END_HEADERS, &[HEADERS], &[0xff; 4]),
            block(0, &[HEADERS, DATA], b"x"),
            block(END_HEADERS, &[CONTINUATION], b"x"),
            block(0, &endless, &[0; MAX_FRAME]),
        ] {
            let error = read(&octets, 4096).await.unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        }
    }
}
