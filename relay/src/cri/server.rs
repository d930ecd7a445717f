//! Accepts clients and gives each its own connections to the runtime.

use crate::cri::{
    clients::Clients,
    intercept::Interceptor,
    observe::Observer,
    options::{Limit, ServerOptions},
    pump::Pump,
    route::Upstreams,
    session::Session,
    shared::ConnectionContext,
};
use std::{sync::Arc, time::Duration};
use tokio::net::UnixListener;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// The relay: see the module [`crate::cri`].
#[derive(Debug)]
pub struct Relay {
    listener: UnixListener,
    shared: Arc<ConnectionContext>,
}

impl Relay {
    /// Serves `listener`. Without an interceptor and observers nothing of a call is looked at.
    #[must_use]
    pub fn new(
        listener: UnixListener,
        upstreams: Upstreams,
        options: ServerOptions,
        interceptor: Option<Arc<dyn Interceptor>>,
        observers: Vec<Arc<dyn Observer>>,
    ) -> Self {
        let shared = ConnectionContext::new(upstreams, options, interceptor, observers);
        Self {
            listener,
            shared: Arc::new(shared),
        }
    }

    /// Serves until `shutdown` is cancelled, then lets open calls end (up to the drain limit).
    /// Returns when the last connection and the last hook are done.
    pub async fn run(self, shutdown: CancellationToken) {
        let tasks = TaskTracker::new();
        let mut clients = Clients::new(self.shared.options.max_clients);
        loop {
            let accepted = tokio::select! {
                () = shutdown.cancelled() => break,
                accepted = self.listener.accept() => accepted,
            };
            match accepted {
                Ok((stream, _)) => {
                    let (client, full) = clients.add().await;
                    if full {
                        self.shared.limit_reached(Limit::Clients);
                    }
                    let session = Session::new(Arc::clone(&self.shared));
                    let shared = Arc::clone(&self.shared);
                    let pump = Pump::new(stream, client, session, shared, tasks.clone());
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
