//! A made-up runtime that answers every request, for clients and sizes that a real runtime would refuse.

use bytes::Bytes;
use std::path::Path;
use tokio::net::{UnixListener, UnixStream};

/// A method that is answered with [`LARGE`] octets where the request has the header `large`.
pub const LIST: &str = "/runtime.v1.RuntimeService/ListContainers";
/// See [`LIST`].
pub const LARGE: usize = 47 << 20;
/// A method that is never answered.
pub const EVENTS: &str = "/runtime.v1.RuntimeService/GetContainerEvents";

/// Answers every call with an empty message, whatever it is, in a task of its own.
///
/// # Panics
/// When `socket` cannot be served.
pub fn serve(socket: &Path) {
    let listener = UnixListener::bind(socket).expect("a test's socket can be bound");
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(connection(stream));
        }
    });
}

async fn connection(stream: UnixStream) {
    let Ok(mut connection) = h2::server::handshake(stream).await else {
        return;
    };
    while let Some(Ok((request, respond))) = connection.accept().await {
        tokio::spawn(answer(request, respond));
    }
}

async fn answer(
    request: http::Request<h2::RecvStream>,
    mut respond: h2::server::SendResponse<Bytes>,
) {
    let (parts, mut body) = request.into_parts();
    if parts.uri.path() == EVENTS {
        std::future::pending::<()>().await;
    }
    while let Some(Ok(part)) = body.data().await {
        drop(body.flow_control().release_capacity(part.len()));
    }
    let large = parts.uri.path() == LIST && parts.headers.contains_key("large");
    let length = if large { LARGE } else { 0 };
    let mut data = vec![0; 5 + length];
    data[1..5].copy_from_slice(&u32::try_from(length).unwrap_or(0).to_be_bytes());
    // An unknown field of the reply, as long as the message.
    if large {
        data[5..11].copy_from_slice(&[0xfa, 0x7f, 0xf9, 0xff, 0xb6, 0x16]);
    }
    let Ok(mut send) = respond.send_response(http::Response::new(()), false) else {
        return;
    };
    let mut rest = Bytes::from(data);
    while !rest.is_empty() {
        send.reserve_capacity(rest.len());
        let Some(Ok(n)) = std::future::poll_fn(|cx| send.poll_capacity(cx)).await else {
            return;
        };
        if send.send_data(rest.split_to(n), false).is_err() {
            return;
        }
    }
    let mut trailers = http::HeaderMap::new();
    trailers.insert("grpc-status", http::HeaderValue::from_static("0"));
    // A call that was reset meanwhile hears nothing.
    drop(send.send_trailers(trailers));
}
