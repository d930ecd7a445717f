//! The server of `v1.Config`.

use crate::config::{Config, Document, Problem, Problems};
use resmgr_io::socket::check_peer;
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

/// What a document means for a node, or what is wrong with it (see [`crate::config::overlay`]).
pub type ConfigValidator = Arc<dyn Fn(&Document, &str) -> Result<Config, Problems> + Send + Sync>;

/// A legal configuration, on its way to the task that applies it.
#[derive(Debug)]
pub struct ConfigPush {
    /// As pushed; to be kept as last good once applied.
    pub document: Document,
    /// What it means.
    pub config: Box<Config>,
    /// The node it was pushed for.
    pub node: String,
    /// A question what the configuration would do: nothing may change.
    pub dry: bool,
    /// Where the outcome goes. Dropped unanswered, it counts as refused. When `is_closed()`, the time is up
    /// and the agent has been answered so: do not apply the configuration, or take it back.
    pub answer: oneshot::Sender<Result<ApplyReport, ConfigRefusal>>,
}

/// A configuration that is in force now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ApplyReport {
    /// What the change did, or would do, in words: which containers move from where to where.
    pub notes: Vec<String>,
}

/// A configuration that could not be applied; nothing has changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigRefusal(pub Vec<Problem>);

/// Serves `v1.Config`.
#[derive(Clone)]
pub struct ConfigServer {
    validate: ConfigValidator,
    pushes: mpsc::Sender<ConfigPush>,
    limit: Duration,
    instance: Arc<str>,
    state: Arc<Mutex<ActiveConfig>>,
}

impl fmt::Debug for ConfigServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConfigServer")
            .field("instance", &self.instance)
            .finish_non_exhaustive()
    }
}

#[derive(Debug, Default)]
struct ActiveConfig {
    generation: u64,
    document: Option<Document>,
    node: String,
    error: String,
}

impl ConfigServer {
    /// A server that checks documents with `validate` and hands what is legal to `pushes`; their reader has
    /// `limit` to answer.
    #[must_use]
    pub fn new(
        validate: ConfigValidator,
        pushes: mpsc::Sender<ConfigPush>,
        limit: Duration,
    ) -> Self {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let now = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .unwrap_or_default();
        let count = COUNT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let instance = format!("{:x}-{:x}-{count:x}", now.as_nanos(), std::process::id());
        Self {
            validate,
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
        let connections = UnixListenerStream::new(listener).filter(|connection| {
            let refused = connection.as_ref().ok().map(check_peer);
            if let Some(Err(refused)) = &refused {
                tracing::warn!("refused a connection to the configuration socket: {refused}");
            }
            !matches!(refused, Some(Err(_)))
        });
        tonic::transport::Server::builder()
            .add_service(GrpcServer::new(self))
            .serve_with_incoming_shutdown(connections, stop.cancelled_owned())
            .await
    }

    /// Takes the configuration that is in force from before, so that the same push changes nothing.
    pub async fn restore_last_good(&self, document: Document, node: String) {
        let mut state = self.state.lock().await;
        state.document = Some(document);
        state.node = node;
        state.generation = 1;
    }

    /// Validates a document and has it applied, or planned. The error is for the transport: no decision was
    /// made, and the agent tries again.
    async fn apply(
        &self,
        document: Document,
        node: &str,
        dry: bool,
    ) -> Result<Result<ApplyReport, Vec<Problem>>, Status> {
        let config = match (self.validate)(&document, node) {
            Ok(config) => config,
            Err(problems) => return Ok(Err(problems.0)),
        };
        let (answer, outcome) = oneshot::channel();
        let pushed = ConfigPush {
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

/// Most problems of one configuration that are named. Together with [`PROBLEM_BYTES`] they fit into an annotation of
/// a Node (256 KiB), whatever is in the ConfigMap.
const PROBLEMS: usize = 50;

/// Most octets of one problem's text: it may quote a value of a megabyte.
const PROBLEM_BYTES: usize = 2048;

/// Writes into a reply why the configuration was refused.
fn refuse(reply: &mut SetConfigReply, problems: &[Problem]) {
    reply.problems = problems
        .iter()
        .take(PROBLEMS)
        .map(|problem| v1::Problem {
            key: beginning(&problem.key),
            text: beginning(&problem.to_string()),
        })
        .collect();
    let mut lines: Vec<&str> = reply
        .problems
        .iter()
        .map(|problem| &*problem.text)
        .collect();
    let more = problems.len().saturating_sub(PROBLEMS);
    let rest = format!("and {more} more problems");
    if more > 0 {
        lines.push(&rest);
    }
    reply.error = lines.join("\n");
}

/// A text, or its first octets and a mark that there were more.
fn beginning(text: &str) -> String {
    match text.get(..text.floor_char_boundary(PROBLEM_BYTES)) {
        Some(first) if first.len() < text.len() => format!("{first}…"),
        _ => text.to_owned(),
    }
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
        // Locked until the push is answered: pushes are handled in the order they came.
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
