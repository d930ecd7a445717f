//! Accepts clients and gives each its own connections to the runtime.

use crate::cri::{
    intercept::Interceptor,
    observe::Observer,
    outage::Outages,
    pump::Pump,
    session::{Session, Shared},
};
use std::{
    path::{Path, PathBuf},
    sync::{Arc, atomic::AtomicU64},
    time::Duration,
};
use tokio::net::UnixListener;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// The sockets that calls go on to; `None` is a service turned off.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Upstreams {
    /// For everything that is not the image service.
    pub runtime: Option<PathBuf>,
    /// For `*.ImageService`.
    pub image: Option<PathBuf>,
}

/// Which of the two a call is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Route {
    Runtime,
    Image,
}

impl Route {
    pub(super) fn of(path: &[u8]) -> Self {
        let service = path.strip_prefix(b"/").unwrap_or(path);
        let service = service.split(|c| *c == b'/').next().unwrap_or_default();
        if service.ends_with(b".ImageService") {
            Self::Image
        } else {
            Self::Runtime
        }
    }

    /// Where things that each route has one of are kept.
    pub(super) fn index(self) -> usize {
        match self {
            Self::Runtime => 0,
            Self::Image => 1,
        }
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Runtime => "runtime service",
            Self::Image => "image service",
        }
    }
}

impl Upstreams {
    pub(super) fn path(&self, route: Route) -> Option<&Path> {
        match route {
            Route::Runtime => self.runtime.as_deref(),
            Route::Image => self.image.as_deref(),
        }
    }

    /// The route whose socket serves `route`: one connection serves both when their sockets are the
    /// same. `None` when the service is turned off.
    pub(super) fn line(&self, route: Route) -> Option<Route> {
        self.path(route)?;
        if self.runtime == self.image {
            Some(Route::Runtime)
        } else {
            Some(route)
        }
    }

    /// The routes that have a connection of their own.
    pub(super) fn lines(&self) -> &'static [Route] {
        match (&self.runtime, &self.image) {
            (Some(runtime), Some(image)) if runtime != image => &[Route::Runtime, Route::Image],
            (Some(_), _) => &[Route::Runtime],
            (None, Some(_)) => &[Route::Image],
            (None, None) => &[],
        }
    }
}

/// Limits and deadlines.
#[derive(Clone, Debug)]
pub struct Options {
    /// Octets of an intercepted call's request that may be held; more is RESOURCE_EXHAUSTED.
    pub max_message_bytes: usize,
    /// Octets of a body that onlookers get; longer ones are cut.
    pub max_observed_bytes: usize,
    /// Octets of one header list.
    pub max_header_list_bytes: usize,
    /// How long a call without a deadline of its own waits for an absent runtime.
    pub connect_limit: Duration,
    /// How long before its own deadline a waiting call is answered, so that the client learns why.
    pub deadline_margin: Duration,
    /// The most a hook may take before the request is refused.
    pub before_limit: Duration,
    /// The most the end of a reply waits for a hook.
    pub after_limit: Duration,
    /// How long open calls may go on after shutdown has begun.
    pub drain_limit: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            max_message_bytes: 64 << 20,
            max_observed_bytes: 16 << 20,
            max_header_list_bytes: 256 << 10,
            connect_limit: Duration::from_secs(10),
            deadline_margin: Duration::from_millis(200),
            before_limit: Duration::from_secs(60),
            after_limit: Duration::from_secs(30),
            drain_limit: Duration::from_secs(10),
        }
    }
}

/// The relay: see the module [`crate::cri`].
#[derive(Debug)]
pub struct Relay {
    listener: UnixListener,
    shared: Arc<Shared>,
}

impl Relay {
    /// Serves `listener`. Without an interceptor and observers nothing of a call is looked at.
    #[must_use]
    pub fn new(
        listener: UnixListener,
        upstreams: Upstreams,
        options: Options,
        interceptor: Option<Arc<dyn Interceptor>>,
        observers: Vec<Arc<dyn Observer>>,
    ) -> Self {
        let seq = AtomicU64::new(1);
        Self {
            listener,
            shared: Arc::new(Shared {
                upstreams,
                options,
                interceptor,
                observers,
                seq,
                outages: Outages::default(),
            }),
        }
    }

    /// Serves until `shutdown` is cancelled, then lets open calls end (up to the drain limit).
    /// Returns when the last connection and the last hook are done.
    pub async fn run(self, shutdown: CancellationToken) {
        let tasks = TaskTracker::new();
        loop {
            let accepted = tokio::select! {
                () = shutdown.cancelled() => break,
                accepted = self.listener.accept() => accepted,
            };
            match accepted {
                Ok((client, _)) => {
                    let session = Session::new(Arc::clone(&self.shared));
                    let pump = Pump::new(client, session, Arc::clone(&self.shared), tasks.clone());
                    tasks.spawn(pump.run(shutdown.clone()));
                }
                Err(error) => {
                    // Out of descriptors or memory: connections wait in the backlog meanwhile.
                    tracing::warn!(%error, "cannot accept a client");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
        drop(self.listener);
        tasks.close();
        tasks.wait().await;
    }
}
