//! HTTP/1 and HTTP/2 for clients that may be slow, silent or many.
//!
//! A request reaches the application when it is whole. What it may cost until then is limited: connections,
//! time, octets of one body and of all bodies. When there are too many connections, the oldest that the
//! application does not serve just now makes room for the newest: a client with a request that is whole is
//! served, whatever others hold open.
//!
//! An answer may be without end. It should end when [`ConnectionEnd`] says so, an extension of its request.

use axum::{Router, body::Body, response::IntoResponse as _, serve::Listener};
use bytes::BytesMut;
use http_body_util::BodyExt as _;
use hyper::{Request, Response, StatusCode, body::Incoming, header, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto::Builder,
};
use prometheus_client::metrics::counter::Counter;
use std::{
    collections::VecDeque,
    convert::Infallible,
    error::Error,
    io,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    task::{AbortHandle, JoinSet},
    time::{sleep, timeout},
};
use tokio_io_timeout::TimeoutWriter;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt as _;

/// Calls that one HTTP/2 connection may have open.
const STREAMS: u32 = 32;

/// How much a server takes from its clients.
#[derive(Clone, Copy, Debug)]
pub struct HttpLimits {
    /// Connections at once.
    pub connections: usize,
    /// From the first octet of a request to its last; also how long an HTTP/1 connection may be idle, and a client may
    /// take nothing of what is sent to it.
    pub request: Duration,
    /// A connection's age, at which it ends after the request that is served.
    pub age: Duration,
    /// Octets of one request's body.
    pub body_bytes: usize,
    /// Octets of all bodies that are not whole yet or are being served.
    pub total_bytes: usize,
}

impl Default for HttpLimits {
    /// For small servers that take requests without bodies.
    fn default() -> Self {
        Self {
            connections: 64,
            request: Duration::from_secs(10),
            age: Duration::from_secs(600),
            body_bytes: 4 << 10,
            total_bytes: 64 << 10,
        }
    }
}

/// Cancelled when the connection of a request shall end: its age is reached, or the server stops.
#[derive(Clone, Debug, Default)]
pub struct ConnectionEnd(pub CancellationToken);

/// An application, and what guards it.
#[derive(Clone, Debug)]
pub struct HttpServer {
    app: Router,
    limits: HttpLimits,
    cut: Counter,
    buffered: Arc<AtomicUsize>,
}

impl HttpServer {
    /// Serves `app` within the limits, and counts in `cut` the connections and requests that a limit ended.
    #[must_use]
    pub fn new(app: Router, limits: HttpLimits, cut: Counter) -> Self {
        Self {
            app,
            limits,
            cut,
            buffered: Arc::default(),
        }
    }

    /// Serves until `stop`, then lets requests end that are being served.
    pub async fn serve<L: Listener>(self, listener: L, stop: CancellationToken) {
        self.serve_after(listener, async |stream| Some(stream), stop)
            .await;
    }

    /// As [`HttpServer::serve`], over the streams that `handshake` makes of connections; it has as long as a
    /// request.
    pub async fn serve_after<L, H, F, S>(
        self,
        mut listener: L,
        handshake: H,
        stop: CancellationToken,
    ) where
        L: Listener,
        H: Fn(L::Io) -> F,
        F: Future<Output = Option<S>> + Send + 'static,
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let mut tasks = JoinSet::new();
        let mut open = VecDeque::new();
        loop {
            tokio::select! {
                () = stop.cancelled() => break,
                (stream, _peer) = listener.accept() => {
                    self.make_room(&mut open);
                    let connection = OpenConnection::default();
                    let load = Arc::clone(&connection.load);
                    let shaken = timeout(self.limits.request, handshake(stream));
                    let (server, stop) = (self.clone(), stop.clone());
                    let task = tasks.spawn(async move {
                        match shaken.await {
                            Ok(Some(stream)) => server.connection(stream, load, stop).await,
                            Ok(None) => {}
                            Err(_elapsed) => { server.cut.inc(); }
                        }
                    });
                    open.push_back(OpenConnection { task: Some(task), ..connection });
                }
                Some(_ended) = tasks.join_next() => {}
            }
        }
        drop(listener);
        while tasks.join_next().await.is_some() {}
    }

    /// Ends the oldest connection that serves no request, if there are as many as may be.
    fn make_room(&self, open: &mut VecDeque<OpenConnection>) {
        open.retain(|connection| !connection.ended());
        if open.len() < self.limits.connections {
            return;
        }
        let idle =
            |connection: &OpenConnection| connection.load.serving.load(Ordering::Relaxed) == 0;
        let oldest = open.iter().position(idle).unwrap_or_default();
        if let Some(OpenConnection {
            task: Some(task), ..
        }) = open.remove(oldest)
        {
            self.cut.inc();
            task.abort();
        }
    }

    async fn connection<S>(&self, stream: S, load: Arc<ConnectionLoad>, stop: CancellationToken)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let mut builder = Builder::new(TokioExecutor::new());
        builder
            .http1()
            .timer(TokioTimer::new())
            .header_read_timeout(self.limits.request);
        builder
            .http2()
            .timer(TokioTimer::new())
            .max_concurrent_streams(STREAMS);
        let end = ConnectionEnd(stop.child_token());
        let service = service_fn(|mut request: Request<Incoming>| {
            request.extensions_mut().insert(end.clone());
            self.clone().answer(request, Arc::clone(&load))
        });
        let mut stream = TimeoutWriter::new(stream);
        stream.set_timeout(Some(self.limits.request));
        let stream = TokioIo::new(Box::pin(stream));
        let mut served = pin!(builder.serve_connection(stream, service));
        // Ends when the head of the first request has not come in time: the detection of HTTP/2 has no deadline
        // of its own.
        let too_late = async {
            sleep(self.limits.request).await;
            if load.used.load(Ordering::Relaxed) {
                std::future::pending::<()>().await;
            }
        };
        tokio::select! {
            // First, as hyper's own deadline may pass in the same moment, and ends the connection without a count.
            biased;
            () = too_late => {
                self.cut.inc();
                return;
            }
            // A client that breaks its connection off has no interest in the reason.
            ended = served.as_mut() => {
                if ended.is_err_and(|error| is_timeout(&*error)) {
                    self.cut.inc();
                }
                return;
            }
            () = sleep(self.limits.age) => {}
            () = stop.cancelled() => {}
        }
        end.0.cancel();
        served.as_mut().graceful_shutdown();
        if timeout(self.limits.request, served).await.is_err() {
            self.cut.inc();
        }
    }

    async fn answer(
        self,
        request: Request<Incoming>,
        load: Arc<ConnectionLoad>,
    ) -> Result<Response<Body>, Infallible> {
        let (head, incoming) = request.into_parts();
        load.used.store(true, Ordering::Relaxed);
        let mut held = Held::new(&self.buffered);
        let read = timeout(self.limits.request, self.whole(incoming, &mut held)).await;
        let body = match read.unwrap_or(Err(StatusCode::REQUEST_TIMEOUT)) {
            Ok(body) => Body::from(body.freeze()),
            Err(status) => {
                self.cut.inc();
                return Ok((status, [(header::CONNECTION, "close")]).into_response());
            }
        };
        let _serving = Serving::begin(&load);
        self.app.oneshot(Request::from_parts(head, body)).await
    }

    /// Reads a whole body.
    async fn whole(
        &self,
        mut incoming: Incoming,
        held: &mut Held<'_>,
    ) -> Result<BytesMut, StatusCode> {
        let mut body = BytesMut::new();
        while let Some(frame) = incoming.frame().await {
            let frame = frame.map_err(|_broken| StatusCode::BAD_REQUEST)?;
            let Ok(data) = frame.into_data() else {
                continue; // Trailers are not used.
            };
            if body.len() + data.len() > self.limits.body_bytes {
                return Err(StatusCode::PAYLOAD_TOO_LARGE);
            }
            if held.add(data.len()) > self.limits.total_bytes {
                return Err(StatusCode::SERVICE_UNAVAILABLE);
            }
            body.extend_from_slice(&data);
        }
        Ok(body)
    }
}

/// Whether the client took nothing for too long.
fn is_timeout(error: &(dyn Error + 'static)) -> bool {
    let mut causes = std::iter::successors(Some(error), |&error| error.source());
    causes.any(|cause| {
        let io = cause.downcast_ref::<io::Error>();
        io.is_some_and(|error| error.kind() == io::ErrorKind::TimedOut)
    })
}

/// A connection that was accepted.
#[derive(Debug, Default)]
struct OpenConnection {
    task: Option<AbortHandle>,
    load: Arc<ConnectionLoad>,
}

/// What a connection has asked for.
#[derive(Debug, Default)]
struct ConnectionLoad {
    /// Requests that the application serves just now.
    serving: AtomicUsize,
    /// There was a request.
    used: AtomicBool,
}

impl OpenConnection {
    fn ended(&self) -> bool {
        self.task.as_ref().is_none_or(AbortHandle::is_finished)
    }
}

/// A request that the application serves, counted while it lives.
struct Serving<'a>(&'a ConnectionLoad);

impl<'a> Serving<'a> {
    fn begin(load: &'a ConnectionLoad) -> Self {
        load.serving.fetch_add(1, Ordering::Relaxed);
        Self(load)
    }
}

impl Drop for Serving<'_> {
    fn drop(&mut self) {
        self.0.serving.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Octets of one body, counted among all while it lives.
struct Held<'a> {
    all: &'a AtomicUsize,
    own: usize,
}

impl<'a> Held<'a> {
    fn new(all: &'a AtomicUsize) -> Self {
        Self { all, own: 0 }
    }

    /// Counts more octets, and gives those of all bodies.
    fn add(&mut self, octets: usize) -> usize {
        self.own += octets;
        self.all.fetch_add(octets, Ordering::Relaxed) + octets
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.all.fetch_sub(self.own, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests;
