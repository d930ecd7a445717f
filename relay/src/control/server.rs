//! The server of `v1.Config`.

use super::socket::may_connect;
use crate::config::{Config, Document, Problem, Problems};
use resmgr_proto::v1::{
    self, GetStatusReply, GetStatusRequest, SetConfigReply, SetConfigRequest,
    config_server::{Config as ConfigService, ConfigServer as GrpcServer},
};
use std::{
    fmt,
    sync::{Arc, atomic::AtomicU64},
    time::Duration,
};
use tokio::{
    net::UnixListener,
    sync::{Mutex, mpsc, oneshot},
};
use tokio_stream::{StreamExt as _, wrappers::UnixListenerStream};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};

/// Judges a document for a node (see [`crate::config::overlay`]).
pub type Judge = Arc<dyn Fn(&Document, &str) -> Result<Config, Problems> + Send + Sync>;

/// A configuration that is legal, on its way to whoever applies it.
#[derive(Debug)]
pub struct Pushed {
    /// As pushed; to be kept as last good once applied.
    pub document: Document,
    /// What it means.
    pub config: Box<Config>,
    /// The node it was pushed for.
    pub node: String,
    /// Only asked what it would do: nothing may change.
    pub dry: bool,
    /// To be answered: what became of it. Dropped unanswered, it counts as refused. When `is_closed()`, the
    /// time is up and the agent was told so: do not apply it, or take it back.
    pub answer: oneshot::Sender<Result<Applied, Refused>>,
}

/// A configuration that is in force now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Applied {
    /// What the change did, or would do, in words: which containers move from where to where.
    pub notes: Vec<String>,
}

/// A configuration that could not be applied; nothing has changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused(pub Vec<Problem>);

/// Serves `v1.Config`.
#[derive(Clone)]
pub struct ConfigServer {
    judge: Judge,
    pushes: mpsc::Sender<Pushed>,
    limit: Duration,
    instance: Arc<str>,
    state: Arc<Mutex<InForce>>,
}

impl fmt::Debug for ConfigServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConfigServer")
            .field("instance", &self.instance)
            .finish_non_exhaustive()
    }
}

#[derive(Debug, Default)]
struct InForce {
    generation: u64,
    document: Option<Document>,
    node: String,
    error: String,
}

impl ConfigServer {
    /// A server that judges with `judge` and hands what is legal to `pushes`; whoever reads them has
    /// `limit` to answer.
    #[must_use]
    pub fn new(judge: Judge, pushes: mpsc::Sender<Pushed>, limit: Duration) -> Self {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let now = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .unwrap_or_default();
        let count = COUNT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let instance = format!("{:x}-{:x}-{count:x}", now.as_nanos(), std::process::id());
        Self {
            judge,
            pushes,
            limit,
            instance: instance.into(),
            state: Arc::default(),
        }
    }

    /// Serves until cancelled; calls in progress are finished.
    ///
    /// # Errors
    /// When the transport fails.
    pub async fn serve(
        self,
        listener: UnixListener,
        stop: CancellationToken,
    ) -> Result<(), tonic::transport::Error> {
        let own_uid = nix::unistd::geteuid().as_raw();
        let connections = UnixListenerStream::new(listener).filter(move |connection| {
            connection
                .as_ref()
                .map_or(true, |stream| may_connect(stream, own_uid))
        });
        tonic::transport::Server::builder()
            .add_service(GrpcServer::new(self))
            .serve_with_incoming_shutdown(connections, stop.cancelled_owned())
            .await
    }

    /// Remembers a configuration in force from before, so that the same push changes nothing.
    pub async fn adopt(&self, document: Document, node: String) {
        let mut state = self.state.lock().await;
        state.document = Some(document);
        state.node = node;
        state.generation = 1;
    }

    /// Judges it and has it applied, or planned. The error is for the transport: nobody has decided, and
    /// the agent tries again.
    async fn apply(
        &self,
        document: Document,
        node: &str,
        dry: bool,
    ) -> Result<Result<Applied, Vec<Problem>>, Status> {
        let config = match (self.judge)(&document, node) {
            Ok(config) => config,
            Err(problems) => return Ok(Err(problems.0)),
        };
        let (answer, outcome) = oneshot::channel();
        let pushed = Pushed {
            document,
            config: Box::new(config),
            node: node.to_owned(),
            dry,
            answer,
        };
        let stopping = || Status::unavailable("cri-resmgr is stopping");
        let handed_over = async {
            self.pushes
                .send(pushed)
                .await
                .map_err(|_closed| stopping())?;
            outcome.await.map_err(|_dropped| stopping())
        };
        match tokio::time::timeout(self.limit, handed_over).await {
            Ok(outcome) => Ok(outcome?.map_err(|refused| refused.0)),
            Err(_late) => Err(Status::unavailable(format!(
                "not applied within {} s; does the container runtime answer?",
                self.limit.as_secs_f64()
            ))),
        }
    }
}

/// The document of a request.
fn document(request: SetConfigRequest) -> Document {
    let source = if request.origin.is_empty() {
        "pushed configuration".to_owned()
    } else {
        format!("ConfigMap {}", request.origin)
    };
    Document {
        source,
        entries: request.config.into_iter().collect(),
    }
}

/// Says in a reply why it was refused.
fn refuse(reply: &mut SetConfigReply, problems: &[Problem]) {
    reply.problems = problems
        .iter()
        .map(|problem| v1::Problem {
            key: problem.key.clone(),
            text: problem.to_string(),
        })
        .collect();
    let lines: Vec<String> = problems.iter().map(ToString::to_string).collect();
    reply.error = lines.join("\n");
}

#[tonic::async_trait]
impl ConfigService for ConfigServer {
    async fn set_config(
        &self,
        request: Request<SetConfigRequest>,
    ) -> Result<Response<SetConfigReply>, Status> {
        let request = request.into_inner();
        let node = request.node_name.clone();
        let document = document(request);
        // Held until it is answered: one push at a time, in the order they came.
        let mut state = self.state.lock().await;
        let mut reply = SetConfigReply {
            instance: self.instance.to_string(),
            generation: state.generation,
            ..SetConfigReply::default()
        };
        if document.entries.is_empty() {
            // An agent that finds no ConfigMap must not reset the node.
            reply.notes =
                vec!["empty configuration ignored: the last good one stays in force".to_owned()];
            return Ok(Response::new(reply));
        }
        let same = state.node == node
            && state
                .document
                .as_ref()
                .is_some_and(|current| current.entries == document.entries);
        if same {
            state.error.clear();
            state.document = Some(document);
            return Ok(Response::new(reply));
        }
        match self.apply(document.clone(), &node, false).await? {
            Ok(applied) => {
                state.generation += 1;
                state.document = Some(document);
                state.node = node;
                state.error.clear();
                tracing::info!(
                    "configuration {} in force ({})",
                    state.generation,
                    state
                        .document
                        .as_ref()
                        .map_or("", |current| &current.source)
                );
                reply.generation = state.generation;
                reply.notes = applied.notes;
            }
            Err(problems) => {
                refuse(&mut reply, &problems);
                state.error.clone_from(&reply.error);
                tracing::warn!(
                    "configuration refused, the last good one stays: {}",
                    reply.error
                );
            }
        }
        Ok(Response::new(reply))
    }

    async fn check_config(
        &self,
        request: Request<SetConfigRequest>,
    ) -> Result<Response<SetConfigReply>, Status> {
        let request = request.into_inner();
        let state = self.state.lock().await;
        let node = match request.node_name.as_str() {
            "" => state.node.clone(),
            name => name.to_owned(),
        };
        let mut reply = SetConfigReply {
            instance: self.instance.to_string(),
            generation: state.generation,
            ..SetConfigReply::default()
        };
        match self.apply(document(request), &node, true).await? {
            Ok(applied) => reply.notes = applied.notes,
            Err(problems) => refuse(&mut reply, &problems),
        }
        Ok(Response::new(reply))
    }

    async fn get_status(
        &self,
        _request: Request<GetStatusRequest>,
    ) -> Result<Response<GetStatusReply>, Status> {
        let state = self.state.lock().await;
        Ok(Response::new(GetStatusReply {
            instance: self.instance.to_string(),
            generation: state.generation,
            error: state.error.clone(),
            origin: state
                .document
                .as_ref()
                .map(|document| document.source.clone())
                .unwrap_or_default(),
        }))
    }
}

#[cfg(test)]
mod tests;
