//! Moves octets between the sockets of one client's calls and its [`Session`], and runs the session's hooks.

use crate::cri::{
    clients::Client,
    intercept::{After, Before, Call, CallOutcome, Status},
    route::Route,
    session::{ConnectionError, PendingHook, Session},
    shared::ConnectionContext,
    status,
};
use bytes::{Buf, Bytes, BytesMut};
use std::{
    fmt,
    future::poll_fn,
    io,
    path::Path,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll, Waker, ready},
    time::{Duration, Instant},
};
use tokio::{
    io::{AsyncWrite, AsyncWriteExt},
    net::UnixStream,
    sync::mpsc,
    time::{sleep_until, timeout},
};
use tokio_util::{io::poll_read_buf, sync::CancellationToken, task::TaskTracker};

/// Octets asked for in one read.
const READ: usize = 32 << 10;
/// Above this much the memory of a buffer that has become empty is given back.
const BUFFER: usize = 256 << 10;
/// Reads from each side before other connections have their turn.
const TURN: usize = 8;
/// How often the deadlines of waiting calls are looked at.
const TICK: Duration = Duration::from_millis(50);
/// How long after a failed attempt a runtime is tried again. An attempt costs some microseconds.
const RETRY: Duration = Duration::from_millis(100);
const SHUTTING_DOWN: &str = "cri-resmgr is shutting down";
const EVICTED: &str =
    "there are too many clients, and nothing has passed on this connection for longest";
/// How long a peer may take to read what is left for it.
const LAST_WRITE: Duration = Duration::from_secs(1);

/// A hook's answer.
enum Answer {
    Decided(u32, Before),
    Committed(u32),
}

enum PumpEvent {
    /// Hooks are to be run, or a connection is wanted.
    Progress,
    ClientGone,
    /// The client makes room for another one.
    Evicted,
    UpstreamGone(Route, String),
    Broken(ConnectionError),
}

/// A connection to the runtime, or what is known of its absence.
struct Upstream {
    stream: Option<UnixStream>,
    input: BytesMut,
    /// Why it cannot be had, and when to try again.
    away: Option<String>,
    retry_at: Instant,
}

impl Upstream {
    /// One that has not been tried.
    fn new() -> Self {
        Self {
            stream: None,
            input: BytesMut::new(),
            away: None,
            retry_at: Instant::now(),
        }
    }
}

/// One client's connection, and those to the runtime that its calls need.
pub(super) struct Pump {
    client: UnixStream,
    /// See [`Client`].
    entry: Arc<Client>,
    from_client: BytesMut,
    routes: &'static [Route],
    upstreams: [Upstream; 2],
    session: Session,
    shared: Arc<ConnectionContext>,
    tasks: TaskTracker,
    answers: mpsc::Sender<Answer>,
    answered: Option<mpsc::Receiver<Answer>>,
}

impl Pump {
    pub(super) fn new(
        client: UnixStream,
        entry: Arc<Client>,
        session: Session,
        shared: Arc<ConnectionContext>,
        tasks: TaskTracker,
    ) -> Self {
        let (answers, answered) = mpsc::channel(256);
        Self {
            client,
            entry,
            from_client: BytesMut::new(),
            routes: shared.upstreams.routes(),
            upstreams: [(); 2].map(|()| Upstream::new()),
            session,
            shared,
            tasks,
            answers,
            answered: Some(answered),
        }
    }

    /// Until the client is gone, or `shutdown` and all calls are over.
    pub(super) async fn run(mut self, shutdown: CancellationToken) {
        let Some(mut answered) = self.answered.take() else {
            return;
        };
        let mut cancelled = pin!(shutdown.cancelled());
        let evicted = self.entry.evicted.clone();
        let mut evicted = pin!(evicted.cancelled());
        let mut drain: Option<Instant> = None;
        let mut intake_open = true;
        let mut expired = Instant::now();
        loop {
            for route in self.routes {
                self.connect(*route).await;
            }
            let tick = self.waits() || drain.is_some();
            let next = tokio::time::Instant::now() + TICK;
            let event = tokio::select! {
                event = poll_fn(|cx| self.poll(cx)) => event,
                Some(answer) = answered.recv() => {
                    match answer {
                        Answer::Decided(id, before) => self.session.decided(id, before),
                        Answer::Committed(id) => self.session.committed(id),
                    }
                    PumpEvent::Progress
                }
                () = &mut evicted => PumpEvent::Evicted,
                () = &mut cancelled, if drain.is_none() => {
                    drain = Some(Instant::now());
                    self.session.drain(SHUTTING_DOWN);
                    PumpEvent::Progress
                }
                () = sleep_until(next), if tick => PumpEvent::Progress,
            };
            match event {
                PumpEvent::Progress => {}
                PumpEvent::ClientGone => self.session.client_lost(),
                PumpEvent::Evicted => self.session.cut(EVICTED),
                PumpEvent::UpstreamGone(route, ref why) => {
                    self.session.upstream_lost(route, why);
                    self.upstreams[route.index()] = Upstream::new();
                }
                PumpEvent::Broken(ref error) => {
                    tracing::warn!(why = error.text, "a client's connection is ended");
                    self.session.client_lost();
                    self.session.go_away(error);
                }
            }
            // Before a call is given up, the runtime has been tried.
            if tick && expired.elapsed() >= TICK {
                expired = Instant::now();
                for route in self.routes {
                    if let Some(away) = &self.upstreams[route.index()].away {
                        self.session.expire(*route, expired, away);
                    }
                }
            }
            if let Some(since) = drain {
                // Two GOAWAYs: a call that was opened before the client heard of the end is still served.
                if intake_open && since.elapsed() >= TICK {
                    intake_open = false;
                    self.session.close_intake();
                }
                if since.elapsed() >= self.shared.options.drain_limit {
                    self.session.cut(SHUTTING_DOWN);
                }
            }
            self.run_hooks();
            match event {
                // The next client waits for the end of this one.
                PumpEvent::Evicted => return self.close(Duration::ZERO).await,
                PumpEvent::ClientGone | PumpEvent::Broken(_) => {
                    return self.close(LAST_WRITE).await;
                }
                _ if self.session.finished() => return self.close(LAST_WRITE).await,
                PumpEvent::Progress | PumpEvent::UpstreamGone(..) => {}
            }
        }
    }

    /// Whether a call waits for a connection to the runtime.
    fn waits(&self) -> bool {
        let mut routes = self.routes.iter();
        routes.any(|route| self.session.awaits_connect(*route))
    }

    /// Sends what is left, as far as a peer takes it within `limit`, and ends all connections.
    async fn close(mut self, limit: Duration) {
        let rest = self.session.client_out().split();
        // A client that does not read or is gone loses nothing by this.
        drop(timeout(limit, self.client.write_all(&rest)).await);
        for route in self.routes {
            if let Some(stream) = &mut self.upstreams[route.index()].stream {
                let rest = self.session.upstream_out(*route).split();
                drop(timeout(limit, stream.write_all(&rest)).await);
            }
        }
    }

    /// Tries to reach the runtime, if a call waits for it and it is time to.
    async fn connect(&mut self, route: Route) {
        let upstream = &mut self.upstreams[route.index()];
        if !self.session.awaits_connect(route) || Instant::now() < upstream.retry_at {
            return;
        }
        let Some(path) = self.shared.upstreams.path(route) else {
            return;
        };
        match UnixStream::connect(path).await {
            Ok(stream) => {
                upstream.stream = Some(stream);
                upstream.away = None;
                self.session.connected(route);
                if let Some(outage) = self.shared.outages.ended(route) {
                    tracing::info!(path = %path.display(), ?outage, "the {} is back", route.name());
                }
            }
            Err(error) => {
                if self.shared.outages.began(route) {
                    let path = path.display();
                    tracing::info!(%path, %error, "the {} is away, calls wait for it", route.name());
                }
                upstream.away = Some(unreachable(route, path, &error));
                upstream.retry_at = Instant::now() + RETRY;
            }
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<PumpEvent> {
        for _ in 0..TURN {
            let mut moved = match self.poll_client(cx) {
                Ok(moved) => moved,
                Err(event) => return Poll::Ready(event),
            };
            for route in self.routes {
                match self.poll_upstream(*route, cx) {
                    Ok(upstream_moved) => moved |= upstream_moved,
                    Err(why) => return Poll::Ready(PumpEvent::UpstreamGone(*route, why)),
                }
            }
            match write(&mut self.client, self.session.client_out(), cx) {
                Poll::Ready(Err(_)) => return Poll::Ready(PumpEvent::ClientGone),
                Poll::Ready(Ok(wrote)) => moved |= wrote,
                Poll::Pending => {}
            }
            if moved {
                self.entry.pass();
            }
            let finished = self.session.finished();
            if !self.session.hooks.is_empty() || finished || (moved && self.waits()) {
                return Poll::Ready(PumpEvent::Progress);
            }
            if !moved {
                return Poll::Pending;
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Takes in what the client has sent, as far as the session does; whether anything was taken in.
    fn poll_client(&mut self, cx: &mut Context<'_>) -> Result<bool, PumpEvent> {
        // What the session has left there before comes first.
        let left = self.from_client.len();
        if left > 0 {
            self.take_from_client()?;
        }
        let mut moved = self.from_client.len() < left;
        if self.session.takes_from_client()
            && let Poll::Ready(read) = read(&mut self.client, &mut self.from_client, cx)
        {
            if !matches!(read, Ok(1..)) {
                return Err(PumpEvent::ClientGone);
            }
            moved = true;
            self.take_from_client()?;
        }
        Ok(moved)
    }

    fn take_from_client(&mut self) -> Result<(), PumpEvent> {
        let taken = self.session.take_from_client(&mut self.from_client);
        taken.map_err(PumpEvent::Broken)
    }

    /// Writes to and reads from one connection to the runtime; whether anything moved, or why it is lost.
    fn poll_upstream(&mut self, route: Route, cx: &mut Context<'_>) -> Result<bool, String> {
        let Upstream { stream, input, .. } = &mut self.upstreams[route.index()];
        let Some(stream) = stream else {
            return Ok(false);
        };
        let session = &mut self.session;
        let path = self.shared.upstreams.path(route).unwrap_or(Path::new(""));
        let broke =
            |why: &dyn fmt::Display| format!("connection to {} broke: {why}", path.display());
        let mut moved = false;
        // What it said before it closed the connection counts: a write that fails is reported after the read.
        let written = write(stream, session.upstream_out(route), cx);
        if let Poll::Ready(Ok(true)) = written {
            moved = true;
            session.upstream_read(route);
        }
        let left = input.len();
        if left > 0 {
            let taken = session.take_from_upstream(route, input);
            taken.map_err(|error| broke(&error))?;
            moved |= input.len() < left;
        }
        if session.takes_from_upstream(route)
            && let Poll::Ready(read) = read(stream, input, cx)
        {
            match read {
                Ok(0) => return Err(broke(&"it closed the connection")),
                Err(error) => return Err(broke(&error)),
                Ok(_) => moved = true,
            }
            let taken = session.take_from_upstream(route, input);
            taken.map_err(|error| broke(&error))?;
        }
        match written {
            Poll::Ready(Err(error)) if !moved => Err(broke(&error)),
            _ => Ok(moved),
        }
    }

    /// Runs hooks until none is left to run: here as far as they get without waiting, which is all the
    /// way for most; a task of its own takes over what must wait.
    fn run_hooks(&mut self) {
        while !self.session.hooks.is_empty() {
            for hook in std::mem::take(&mut self.session.hooks) {
                match hook {
                    PendingHook::Before(id, call, request) => self.run_before(id, call, request),
                    PendingHook::After(id, after, outcome) => self.run_after(id, after, outcome),
                }
            }
        }
    }

    fn run_before(&mut self, id: u32, call: Arc<Call>, request: Bytes) {
        let Some(interceptor) = self.shared.interceptor.clone() else {
            return;
        };
        let limit = self.shared.options.before_limit;
        let path = Arc::clone(&call.path);
        let mut hook = Box::pin(async move { interceptor.before(&call, &request).await });
        if let Poll::Ready(before) = at_once(hook.as_mut()) {
            return self.session.decided(id, before);
        }
        let answers = self.answers.clone();
        self.tasks.spawn(async move {
            let before = timeout(limit, hook).await.unwrap_or_else(|_| {
                let message = format!("{path} was not decided within {limit:?}");
                let code = status::DEADLINE_EXCEEDED;
                Before::Refuse(Status { code, message })
            });
            let unsent = answers.send(Answer::Decided(id, before)).await;
            if let Err(mpsc::error::SendError(Answer::Decided(
                _,
                Before::Forward {
                    after: Some(after), ..
                },
            ))) = unsent
            {
                let message = "the client left before the request was sent".to_owned();
                let status = Status {
                    code: status::CANCELLED,
                    message,
                };
                drop(timeout(limit, after.after(CallOutcome::Failed(status))).await);
            }
        });
    }

    fn run_after(&mut self, id: Option<u32>, after: Box<dyn After>, outcome: CallOutcome) {
        let limit = self.shared.options.after_limit;
        let mut hook = after.after(outcome);
        if at_once(hook.as_mut()).is_ready() {
            if let Some(id) = id {
                self.session.committed(id);
            }
            return;
        }
        let answers = self.answers.clone();
        self.tasks.spawn(async move {
            if timeout(limit, hook).await.is_err() {
                tracing::warn!(?limit, "the hook at the end of a call took too long");
            }
            if let Some(id) = id {
                // A connection that has ended does not wait for it.
                drop(answers.send(Answer::Committed(id)).await);
            }
        });
    }
}

/// What comes of a hook that need not wait. A hook that must has no waker that matters yet: the next poll
/// gives it one.
fn at_once<T>(hook: Pin<&mut (impl Future<Output = T> + ?Sized)>) -> Poll<T> {
    hook.poll(&mut Context::from_waker(Waker::noop()))
}

fn unreachable(route: Route, path: &Path, error: &io::Error) -> String {
    format!(
        "the {} at {} cannot be reached: {error}",
        route.name(),
        path.display()
    )
}

fn read(
    stream: &mut UnixStream,
    into: &mut BytesMut,
    cx: &mut Context<'_>,
) -> Poll<io::Result<usize>> {
    into.reserve(READ);
    poll_read_buf(Pin::new(stream), cx, into)
}

/// Writes all it can; whether anything was written.
fn write(
    stream: &mut UnixStream,
    from: &mut BytesMut,
    cx: &mut Context<'_>,
) -> Poll<io::Result<bool>> {
    let mut wrote = false;
    while !from.is_empty() {
        match Pin::new(&mut *stream).poll_write(cx, from) {
            Poll::Pending if wrote => return Poll::Ready(Ok(true)),
            polled => {
                let n = ready!(polled)?;
                if n == 0 {
                    return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
                }
                from.advance(n);
                wrote = true;
            }
        }
    }
    if wrote && from.capacity() > BUFFER {
        *from = BytesMut::new();
    }
    Poll::Ready(Ok(wrote))
}
