//! Moves octets between the sockets of one client and its [`Session`], and runs the session's hooks.

use crate::cri::{
    frame,
    intercept::{Before, Outcome, Status},
    server::Route,
    session::{Session, Shared, Todo},
    status,
};
use bytes::{Buf, BytesMut};
use std::{
    future::poll_fn,
    io,
    path::{Path, PathBuf},
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll, ready},
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
/// Above this much unsent output, the side it comes from is not read: the kernel holds it back.
const BACKLOG: usize = 256 << 10;
/// How often the deadlines of waiting calls are looked at.
const TICK: Duration = Duration::from_millis(50);
const SHUTTING_DOWN: &str = "cri-resmgr is shutting down";

/// A hook's answer.
enum Answer {
    Decided(u32, Before),
    Committed(u32),
}

enum Event {
    /// Hooks are to be run.
    Todo,
    ClientGone,
    UpstreamGone(String),
    Broken(u32, String),
}

/// One client's pair of connections.
pub(super) struct Pump {
    client: UnixStream,
    upstream: Option<UnixStream>,
    from_client: BytesMut,
    from_upstream: BytesMut,
    session: Session,
    shared: Arc<Shared>,
    tasks: TaskTracker,
    answers: mpsc::Sender<Answer>,
    answered: Option<mpsc::Receiver<Answer>>,
    /// Why the runtime cannot be reached, and when to try again.
    away: String,
    retry_at: Instant,
    retry_after: Duration,
}

impl Pump {
    pub(super) fn new(
        client: UnixStream,
        session: Session,
        shared: Arc<Shared>,
        tasks: TaskTracker,
    ) -> Self {
        let (answers, answered) = mpsc::channel(256);
        Self {
            client,
            upstream: None,
            from_client: BytesMut::new(),
            from_upstream: BytesMut::new(),
            session,
            shared,
            tasks,
            answers,
            answered: Some(answered),
            away: "not connected to the runtime yet".into(),
            retry_at: Instant::now(),
            retry_after: Duration::from_millis(100),
        }
    }

    /// Until one of the two sides is gone, or `shutdown` and all calls are over.
    pub(super) async fn run(mut self, shutdown: CancellationToken) {
        let Some(mut answered) = self.answered.take() else {
            return;
        };
        let mut cancelled = pin!(shutdown.cancelled());
        let mut drain: Option<Instant> = None;
        let mut intake_open = true;
        loop {
            self.connect().await;
            let tick =
                (self.upstream.is_none() && self.session.route().is_some()) || drain.is_some();
            let next = tokio::time::Instant::now() + TICK;
            let event = tokio::select! {
                event = poll_fn(|cx| self.poll(cx)) => event,
                Some(answer) = answered.recv() => {
                    match answer {
                        Answer::Decided(id, before) => self.session.decided(id, before),
                        Answer::Committed(id) => self.session.committed(id),
                    }
                    Event::Todo
                }
                () = &mut cancelled, if drain.is_none() => {
                    drain = Some(Instant::now());
                    self.session.drain(SHUTTING_DOWN);
                    Event::Todo
                }
                () = sleep_until(next), if tick => Event::Todo,
            };
            match event {
                Event::Todo => {}
                Event::ClientGone => self.session.client_lost(),
                Event::UpstreamGone(ref why) => self.session.upstream_lost(why),
                Event::Broken(code, ref why) => {
                    tracing::warn!(why, "a client's connection is ended");
                    self.session.client_lost();
                    self.session.go_away(frame::MAX_STREAM, code, why);
                }
            }
            if self.session.waiting() {
                self.session.expire(Instant::now(), &self.away);
            }
            if let Some(since) = drain {
                // Two looks: whoever opened a call before hearing of the end is served still.
                if intake_open && since.elapsed() >= TICK {
                    intake_open = false;
                    self.session.close_intake();
                }
                if since.elapsed() >= self.shared.options.drain_limit {
                    self.session.upstream_lost(SHUTTING_DOWN);
                }
            }
            self.run_hooks();
            if !matches!(event, Event::Todo) || self.session.finished() {
                return self.close().await;
            }
        }
    }

    /// Sends what is left and ends both connections.
    async fn close(mut self) {
        let rest = self.session.to_client.split();
        // A client that does not read or is gone loses nothing by this.
        drop(timeout(Duration::from_secs(1), self.client.write_all(&rest)).await);
        if let Some(mut upstream) = self.upstream.take() {
            let rest = self.session.to_upstream.split();
            drop(timeout(Duration::from_secs(1), upstream.write_all(&rest)).await);
        }
    }

    /// Tries to reach the runtime, if it is time to.
    async fn connect(&mut self) {
        let Some(route) = self.session.route().filter(|_| self.upstream.is_none()) else {
            return;
        };
        let Some(path) = self.shared.upstreams.path(route).map(Path::to_owned) else {
            return;
        };
        if Instant::now() < self.retry_at {
            return;
        }
        match UnixStream::connect(&path).await {
            Ok(upstream) => {
                self.upstream = Some(upstream);
                self.session.connected();
                if let Some(outage) = self.shared.outages.ended(route) {
                    tracing::info!(path = %path.display(), ?outage, "the {} is back", route.name());
                }
            }
            Err(error) => {
                if self.shared.outages.began(route) {
                    let path = path.display();
                    tracing::info!(%path, %error, "the {} is away, calls wait for it", route.name());
                }
                self.away = unreachable(route, &path, &error);
                self.retry_at = Instant::now() + self.retry_after;
                self.retry_after = (self.retry_after * 2).min(Duration::from_secs(1));
            }
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Event> {
        loop {
            let mut moved = false;
            if self.session.to_upstream.len() < BACKLOG
                && let Poll::Ready(read) = read(&mut self.client, &mut self.from_client, cx)
            {
                if !matches!(read, Ok(1..)) {
                    return Poll::Ready(Event::ClientGone);
                }
                moved = true;
                if let Err(fault) = self.session.take_from_client(&mut self.from_client) {
                    return Poll::Ready(Event::Broken(fault.code, fault.text));
                }
            }
            let routed = self.upstream.is_none() && self.session.route().is_some();
            if let Some(upstream) = &mut self.upstream {
                match write(upstream, &mut self.session.to_upstream, cx) {
                    Poll::Ready(Err(error)) => return self.lost(&error.to_string()),
                    Poll::Ready(Ok(wrote)) => moved |= wrote,
                    Poll::Pending => {}
                }
            }
            if self.session.to_client.len() < BACKLOG
                && let Some(upstream) = &mut self.upstream
                && let Poll::Ready(read) = read(upstream, &mut self.from_upstream, cx)
            {
                match read {
                    Ok(0) => return self.lost("it closed the connection"),
                    Err(error) => return self.lost(&error.to_string()),
                    Ok(_) => {}
                }
                moved = true;
                if let Err(fault) = self.session.take_from_upstream(&mut self.from_upstream) {
                    return self.lost(&fault.text);
                }
            }
            match write(&mut self.client, &mut self.session.to_client, cx) {
                Poll::Ready(Err(_)) => return Poll::Ready(Event::ClientGone),
                Poll::Ready(Ok(wrote)) => moved |= wrote,
                Poll::Pending => {}
            }
            let finished = self.session.finished();
            if !self.session.todo.is_empty() || finished || (moved && routed) {
                return Poll::Ready(Event::Todo);
            }
            if !moved {
                return Poll::Pending;
            }
        }
    }

    fn lost(&self, why: &str) -> Poll<Event> {
        let path = self
            .session
            .route()
            .and_then(|r| self.shared.upstreams.path(r));
        let path = path.map_or_else(PathBuf::new, Path::to_owned);
        let text = format!("connection to {} broke: {why}", path.display());
        Poll::Ready(Event::UpstreamGone(text))
    }

    fn run_hooks(&mut self) {
        for todo in std::mem::take(&mut self.session.todo) {
            match todo {
                Todo::Before(id, call, request) => {
                    let shared = Arc::clone(&self.shared);
                    let answers = self.answers.clone();
                    self.tasks.spawn(async move {
                        let Some(interceptor) = &shared.interceptor else {
                            return;
                        };
                        let limit = shared.options.before_limit;
                        let before = timeout(limit, interceptor.before(&call, &request)).await;
                        let before = before.unwrap_or_else(|_| {
                            let message = format!("{} was not decided within {limit:?}", call.path);
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
                            drop(timeout(limit, after.after(Outcome::Failed(status))).await);
                        }
                    });
                }
                Todo::After(id, after, outcome) => {
                    let limit = self.shared.options.after_limit;
                    let answers = self.answers.clone();
                    self.tasks.spawn(async move {
                        if timeout(limit, after.after(outcome)).await.is_err() {
                            tracing::warn!(?limit, "the hook at the end of a call took too long");
                        }
                        if let Some(id) = id {
                            // A connection that has ended does not wait for it.
                            drop(answers.send(Answer::Committed(id)).await);
                        }
                    });
                }
            }
        }
    }
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
    if wrote && from.capacity() > BACKLOG {
        *from = BytesMut::new();
    }
    Poll::Ready(Ok(wrote))
}
