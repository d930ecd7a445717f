//! gRPC by hand: any bytes to any path, and everything that comes back.

use anyhow::{Context, Result};
use bytes::{BufMut as _, Bytes, BytesMut};
use http::{HeaderMap, Request};
use std::{collections::BTreeMap, path::Path};
use tokio::net::UnixStream;

/// All of an answer that a client can tell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// HTTP status.
    pub http: u16,
    /// All data frames, joined: gRPC prefixes and messages.
    pub data: Bytes,
    /// Headers (of a reply without body: they carry the status) and trailers, sorted.
    pub fields: BTreeMap<String, Vec<Vec<u8>>>,
}

impl Answer {
    /// `grpc-status`, wherever it was.
    #[must_use]
    pub fn status(&self) -> Option<u32> {
        let value = self.fields.get("grpc-status")?.first()?;
        std::str::from_utf8(value).ok()?.parse().ok()
    }

    /// `grpc-message` as it is on the wire.
    #[must_use]
    pub fn message(&self) -> String {
        let value = self.fields.get("grpc-message").and_then(|v| v.first());
        value.map_or_else(String::new, |v| String::from_utf8_lossy(v).into_owned())
    }
}

/// A call whose answer comes in parts. Dropped before its end, it is cancelled.
#[derive(Debug)]
pub struct Open {
    reply: Option<h2::client::ResponseFuture>,
    stream: Option<h2::RecvStream>,
}

impl Open {
    /// Waits for the next part of the answer's data; `None` when there is no more.
    ///
    /// # Errors
    /// When the connection or the stream breaks.
    pub async fn next(&mut self) -> Result<Option<Bytes>> {
        if let Some(reply) = &mut self.reply {
            self.stream = Some(reply.await?.into_body());
            self.reply = None;
        }
        let stream = self.stream.as_mut().context("the call has ended")?;
        let Some(chunk) = stream.data().await else {
            return Ok(None);
        };
        let chunk = chunk?;
        stream.flow_control().release_capacity(chunk.len())?;
        Ok(Some(chunk))
    }

    /// Takes in the rest; `grpc-status` and `grpc-message`.
    ///
    /// # Errors
    /// When the connection or the stream breaks.
    pub async fn end(mut self) -> Result<(String, String)> {
        while self.next().await?.is_some() {}
        let mut stream = self.stream.context("the call has ended")?;
        let trailers = stream.trailers().await?.unwrap_or_default();
        let text = |name| {
            let value = trailers
                .get(name)
                .map(|v| String::from_utf8_lossy(v.as_bytes()));
            value.map_or_else(String::new, std::borrow::Cow::into_owned)
        };
        Ok((text("grpc-status"), text("grpc-message")))
    }
}

/// One HTTP/2 connection.
#[derive(Debug)]
pub struct Wire {
    sender: h2::client::SendRequest<Bytes>,
    driver: tokio::task::JoinHandle<()>,
}

impl Wire {
    /// Connects.
    ///
    /// # Errors
    /// When nobody listens or the other side does not speak HTTP/2.
    pub async fn connect(socket: &Path) -> Result<Self> {
        let stream = UnixStream::connect(socket)
            .await
            .with_context(|| format!("cannot connect to {}", socket.display()))?;
        let (sender, connection) = h2::client::Builder::new()
            .initial_window_size(1 << 20)
            .initial_connection_window_size(1 << 24)
            .handshake(stream)
            .await?;
        let driver = tokio::spawn(async move {
            drop(connection.await);
        });
        Ok(Self { sender, driver })
    }

    /// Sends one message and reads the whole answer.
    ///
    /// # Errors
    /// When the connection or the stream breaks.
    pub async fn call(&self, path: &str, message: &[u8]) -> Result<Answer> {
        self.call_with(path, message, &[]).await
    }

    /// Sends one message with further headers and reads the whole answer.
    ///
    /// # Errors
    /// When the connection or the stream breaks.
    pub async fn call_with(
        &self,
        path: &str,
        message: &[u8],
        headers: &[(&'static str, &str)],
    ) -> Result<Answer> {
        let mut request = Request::post(format!("http://localhost{path}"))
            .header("content-type", "application/grpc")
            .header("te", "trailers");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let mut sender = self.sender.clone().ready().await?;
        let (reply, mut body) = sender.send_request(request.body(())?, false)?;
        // A server may have answered ("no such method") or reset the stream already: the reply tells which.
        drop(body.send_data(frame(message)?, true));
        let (parts, mut stream) = reply.await?.into_parts();
        let mut fields = BTreeMap::new();
        collect(&parts.headers, &mut fields);
        let mut data = BytesMut::new();
        while let Some(chunk) = stream.data().await {
            let chunk = chunk?;
            stream.flow_control().release_capacity(chunk.len())?;
            data.extend_from_slice(&chunk);
        }
        if let Some(trailers) = stream.trailers().await? {
            collect(&trailers, &mut fields);
        }
        Ok(Answer {
            http: parts.status.as_u16(),
            data: data.freeze(),
            fields,
        })
    }

    /// Sends one message; the answer is to be read as it comes.
    ///
    /// # Errors
    /// When the connection breaks.
    pub async fn open(&self, path: &str, message: &[u8]) -> Result<Open> {
        let request = Request::post(format!("http://localhost{path}"))
            .header("content-type", "application/grpc")
            .header("te", "trailers");
        let mut sender = self.sender.clone().ready().await?;
        let (reply, mut body) = sender.send_request(request.body(())?, false)?;
        body.send_data(frame(message)?, true)?;
        Ok(Open {
            reply: Some(reply),
            stream: None,
        })
    }

    /// As [`Wire::call`] with as little work as can be, for measurements: only the status is looked at.
    ///
    /// A server that has answered in full may end the stream with the reset `NO_ERROR` (RFC 9113, 8.1), as
    /// gRPC's Go server does when it is done before it has noted the end of the request. Once in a million
    /// calls this client sees the reset and not the answer before it: no failure of the call.
    ///
    /// # Errors
    /// When the connection or the stream breaks, or the call fails.
    pub async fn hurry(&self, path: &'static str, message: &[u8]) -> Result<()> {
        let request = Request::post(format!("http://localhost{path}"))
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(())?;
        let mut sender = self.sender.clone().ready().await?;
        let (reply, mut body) = sender.send_request(request, false)?;
        body.send_data(frame(message)?, true)?;
        let mut stream = reply.await?.into_body();
        while let Some(chunk) = stream.data().await {
            let length = match chunk {
                Err(error) if error.reason() == Some(h2::Reason::NO_ERROR) => return Ok(()),
                chunk => chunk?.len(),
            };
            stream.flow_control().release_capacity(length)?;
        }
        let trailers = stream.trailers().await?;
        let status = trailers.as_ref().and_then(|map| map.get("grpc-status"));
        anyhow::ensure!(
            status.is_some_and(|s| s == "0"),
            "{path} failed: {status:?}"
        );
        Ok(())
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

fn frame(message: &[u8]) -> Result<Bytes> {
    let mut framed = BytesMut::with_capacity(message.len() + 5);
    framed.put_u8(0);
    framed.put_u32(u32::try_from(message.len())?);
    framed.put_slice(message);
    Ok(framed.freeze())
}

fn collect(map: &HeaderMap, into: &mut BTreeMap<String, Vec<Vec<u8>>>) {
    for (name, value) in map {
        into.entry(name.as_str().to_owned())
            .or_default()
            .push(value.as_bytes().to_vec());
    }
}
