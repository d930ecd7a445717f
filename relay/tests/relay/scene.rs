//! A fake runtime, the relay in front of it, and a client.

use bytes::{BufMut, Bytes, BytesMut};
use cri_resmgr::cri::{
    Relay, ServerOptions, Upstreams, intercept::Interceptor, listen, observe::Observer,
};
use h2::{client::SendRequest, server};
use http::{HeaderMap, Request, Response};
use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};
use tokio::{
    net::{UnixListener, UnixStream},
    task::JoinHandle,
    time::timeout,
};
use tokio_util::sync::CancellationToken;

pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) fn message(body: &[u8]) -> Bytes {
    let mut out = BytesMut::new();
    out.put_u8(0);
    out.put_u32(u32::try_from(body.len()).unwrap());
    out.put_slice(body);
    out.freeze()
}

/// Echoes each request's data; paths that contain `hang` are never answered, `no` is refused, `which`
/// is answered by the socket's name. Of what is never answered [`hangs`] tells.
pub(crate) fn runtime(path: &Path) -> JoinHandle<()> {
    runtime_with(path, &server::Builder::new())
}

pub(crate) fn runtime_with(path: &Path, http: &server::Builder) -> JoinHandle<()> {
    let listener = UnixListener::bind(path).unwrap();
    let name = path.file_name().unwrap().to_string_lossy().into_owned();
    let mark = hanging(path);
    let http = http.clone();
    tokio::spawn(async move {
        let mut connections = tokio::task::JoinSet::new();
        while let Ok((stream, _)) = listener.accept().await {
            let (http, name, mark) = (http.clone(), name.clone(), mark.clone());
            connections.spawn(async move {
                let mut connection = http.handshake(stream).await.unwrap();
                let mut calls = tokio::task::JoinSet::new();
                while let Some(Ok((request, mut respond))) = connection.accept().await {
                    let (name, mark) = (name.clone(), mark.clone());
                    calls.spawn(async move {
                        let (parts, mut body) = request.into_parts();
                        let path = parts.uri.path().to_owned();
                        let mut data = BytesMut::new();
                        while let Some(Ok(part)) = body.data().await {
                            body.flow_control().release_capacity(part.len()).unwrap();
                            data.extend_from_slice(&part);
                        }
                        if path.contains("which") {
                            data = BytesMut::from(&message(name.as_bytes())[..]);
                        }
                        if path.contains("hang") || path.ends_with("GetContainerEvents") {
                            std::fs::write(&mark, "").unwrap();
                            std::future::pending::<()>().await;
                        }
                        let response = Response::builder().header("x-seen", path.clone());
                        if path.contains("no") {
                            let refused = response.header("grpc-status", "9");
                            let refused = refused.header("grpc-message", "will%20not");
                            respond
                                .send_response(refused.body(()).unwrap(), true)
                                .unwrap();
                            return;
                        }
                        let mut send = respond
                            .send_response(response.body(()).unwrap(), false)
                            .unwrap();
                        send_all(&mut send, data.freeze()).await;
                        let mut trailers = HeaderMap::new();
                        trailers.insert("grpc-status", "0".parse().unwrap());
                        trailers.insert("x-detail-bin", "AAEC".parse().unwrap());
                        send.send_trailers(trailers).ok();
                    });
                }
            });
        }
    })
}

/// The file that tells of a call that hangs in the runtime at `path`.
fn hanging(path: &Path) -> PathBuf {
    path.with_extension("hangs")
}

/// Waits until the runtime at `path` has got a call that it never answers.
pub(crate) async fn hangs(path: &Path) {
    let mark = hanging(path);
    let marked = async {
        while !mark.exists() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(PATIENCE, marked).await.unwrap();
}

pub(crate) async fn send_all(send: &mut h2::SendStream<Bytes>, mut data: Bytes) {
    if data.len() < 1 << 14 {
        send.send_data(data, false).ok();
        return;
    }
    while !data.is_empty() {
        send.reserve_capacity(data.len());
        let Some(Ok(n)) = std::future::poll_fn(|cx| send.poll_capacity(cx)).await else {
            return;
        };
        let part = data.split_to(n.min(data.len()));
        if send.send_data(part, false).is_err() {
            return;
        }
    }
}

pub(crate) struct Scene {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) shutdown: CancellationToken,
    pub(crate) relay: JoinHandle<()>,
}

impl Scene {
    pub(crate) fn new(
        upstreams: impl FnOnce(PathBuf) -> Upstreams,
        interceptor: Option<Arc<dyn Interceptor>>,
        observers: Vec<Arc<dyn Observer>>,
    ) -> Self {
        let options = ServerOptions {
            connect_limit: Duration::from_millis(300),
            ..ServerOptions::default()
        };
        Self::with(options, upstreams, interceptor, observers)
    }

    pub(crate) fn with(
        options: ServerOptions,
        upstreams: impl FnOnce(PathBuf) -> Upstreams,
        interceptor: Option<Arc<dyn Interceptor>>,
        observers: Vec<Arc<dyn Observer>>,
    ) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let upstreams = upstreams(dir.path().join("runtime"));
        let listener = listen::bind(&dir.path().join("relay"), None).unwrap();
        let shutdown = CancellationToken::new();
        let relay = Relay::new(listener, upstreams, options, interceptor, observers);
        let relay = tokio::spawn(relay.run(shutdown.clone()));
        Self {
            dir,
            shutdown,
            relay,
        }
    }

    pub(crate) fn plain() -> Self {
        Self::new(both, None, Vec::new())
    }

    pub(crate) fn runtime(&self) -> JoinHandle<()> {
        runtime(&self.dir.path().join("runtime"))
    }

    pub(crate) async fn client(&self) -> SendRequest<Bytes> {
        let stream = UnixStream::connect(self.dir.path().join("relay"))
            .await
            .unwrap();
        let (client, connection) = h2::client::handshake(stream).await.unwrap();
        tokio::spawn(async move { drop(connection.await) });
        client
    }
}

/// Two sockets, one for each service.
pub(crate) fn apart(path: PathBuf) -> Upstreams {
    Upstreams {
        image: Some(path.with_file_name("images")),
        runtime: Some(path),
    }
}

pub(crate) fn both(path: PathBuf) -> Upstreams {
    Upstreams {
        runtime: Some(path.clone()),
        image: Some(path),
    }
}

#[derive(Debug, PartialEq)]
pub(crate) struct Reply {
    pub(crate) data: Bytes,
    pub(crate) status: String,
    pub(crate) text: String,
}

pub(crate) async fn call(
    client: &SendRequest<Bytes>,
    path: &str,
    data: Bytes,
) -> Result<Reply, h2::Error> {
    call_with(client, path, data, None).await
}

pub(crate) async fn call_with(
    client: &SendRequest<Bytes>,
    path: &str,
    data: Bytes,
    grpc_timeout: Option<&str>,
) -> Result<Reply, h2::Error> {
    let work = async {
        let mut client = client.clone().ready().await?;
        let uri = format!("http://localhost{path}");
        let mut request = Request::post(uri).header("content-type", "application/grpc");
        if let Some(value) = grpc_timeout {
            request = request.header("grpc-timeout", value);
        }
        let (response, mut send) = client.send_request(request.body(()).unwrap(), false)?;
        let sending = async {
            send_all(&mut send, data).await;
            send.send_data(Bytes::new(), true).ok();
        };
        let receiving = async {
            let (head, mut body) = response.await?.into_parts();
            let mut data = BytesMut::new();
            while let Some(part) = body.data().await {
                let part = part?;
                body.flow_control().release_capacity(part.len())?;
                data.extend_from_slice(&part);
            }
            let trailers = body.trailers().await?.unwrap_or(head.headers);
            let text = |name| {
                let value = trailers
                    .get(name)
                    .map(|v| v.to_str().unwrap_or_default().to_owned());
                value.unwrap_or_default()
            };
            Ok(Reply {
                data: data.freeze(),
                status: text("grpc-status"),
                text: text("grpc-message"),
            })
        };
        tokio::join!(sending, receiving).1
    };
    timeout(PATIENCE, work).await.expect("the call ends")
}
