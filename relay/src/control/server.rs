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
    time::{Duration, SystemTime, UNIX_EPOCH},
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{UnixListener, UnixStream},
    sync::{Mutex, mpsc, oneshot, watch},
};
use tokio_stream::{StreamExt as _, wrappers::UnixListenerStream};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, transport::server::Connected};

/// What a document means for a node, or what is wrong with it (see [`crate::config::overlay`]).
pub type ConfigValidator = Arc<dyn Fn(&Document, &str) -> Result<Config, Problems> + Send + Sync>;

/// A configuration as it was pushed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PushedConfig {
    /// What was pushed.
    pub document: Document,
    /// The node it was pushed for.
    pub node: String,
    /// When it came, seconds since 1970.
    pub at_unix_s: u64,
}

/// A legal configuration, on its way to the task that applies it.
#[derive(Debug)]
pub struct ConfigPush {
    /// As pushed; to be kept as last good once applied.
    pub pushed: PushedConfig,
    /// What it means.
    pub config: Box<Config>,
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
    /// Locked while a push is handled.
    status: Arc<Mutex<watch::Sender<ConfigStatus>>>,
}

impl fmt::Debug for ConfigServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConfigServer")
            .field("instance", &self.instance)
            .finish_non_exhaustive()
    }
}

/// What became of the configurations that were pushed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConfigStatus {
    /// How many were applied since the start, with the one that was in force then.
    pub generation: u64,
    /// The one in force; `None` where the options alone are.
    pub applied: Option<PushedConfig>,
    /// The one that was refused last.
    pub refused: Option<RefusedConfig>,
}

/// A configuration that was refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RefusedConfig {
    /// Where it came from, for people.
    pub source: String,
    /// When it came, seconds since 1970.
    pub at_unix_s: u64,
    /// Why, a line for each problem.
    pub why: String,
    /// Whether no other was accepted since.
    pub outstanding: bool,
}

impl ConfigStatus {
    /// `kept` is in force from before the start, so that the same push changes nothing.
    #[must_use]
    pub fn at_start(kept: Option<PushedConfig>) -> Self {
        Self {
            generation: kept.is_some().into(),
            applied: kept,
            refused: None,
        }
    }

    fn accept(&mut self) {
        if let Some(refused) = &mut self.refused {
            refused.outstanding = false;
        }
    }
}

impl ConfigServer {
    /// A server that checks documents with `validate` and hands what is legal to `pushes`; their reader has
    /// `limit` to answer. What becomes of them is told to `status`, which holds what is in force from before.
    #[must_use]
    pub fn new(
        validate: ConfigValidator,
        pushes: mpsc::Sender<ConfigPush>,
        limit: Duration,
        status: watch::Sender<ConfigStatus>,
    ) -> Self {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let now = since_1970();
        let count = COUNT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let instance = format!("{:x}-{:x}-{count:x}", now.as_nanos(), std::process::id());
        Self {
            validate,
            pushes,
            limit,
            instance: instance.into(),
            status: Arc::new(Mutex::new(status)),
        }
    }

    /// Serves until cancelled, on connections as `prepare` makes them; calls in progress are finished.
    ///
    /// # Errors
    /// When the transport fails.
    pub async fn serve<S>(
        self,
        listener: UnixListener,
        prepare: fn(UnixStream) -> S,
        stop: CancellationToken,
    ) -> Result<(), tonic::transport::Error>
    where
        S: AsyncRead + AsyncWrite + Connected + Unpin + Send + 'static,
    {
        let connections = UnixListenerStream::new(listener).filter(|connection| {
            let refused = connection.as_ref().ok().map(check_peer);
            if let Some(Err(refused)) = &refused {
                tracing::warn!("refused a connection to the configuration socket: {refused}");
            }
            !matches!(refused, Some(Err(_)))
        });
        let connections = connections.map(move |connection| connection.map(prepare));
        tonic::transport::Server::builder()
            .add_service(GrpcServer::new(self))
            .serve_with_incoming_shutdown(connections, stop.cancelled_owned())
            .await
    }

    /// Validates a document and has it applied, or planned. The error is for the transport: no decision was
    /// made, and the agent tries again.
    async fn apply(
        &self,
        pushed: PushedConfig,
        dry: bool,
        without_effect: &mut Vec<String>,
    ) -> Result<Result<ApplyReport, Vec<Problem>>, Status> {
        let config = match (self.validate)(&pushed.document, &pushed.node) {
            Ok(config) => config,
            Err(problems) => return Ok(Err(problems.0)),
        };
        without_effect.clone_from(&config.notes);
        let (answer, outcome) = oneshot::channel();
        let push = ConfigPush {
            pushed,
            config: Box::new(config),
            dry,
            answer,
        };
        let stopping = || Status::unavailable("cri-resmgr is stopping");
        let handed_over = async {
            self.pushes.send(push).await.map_err(|_closed| stopping())?;
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

fn since_1970() -> Duration {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
}

impl From<SetConfigRequest> for PushedConfig {
    fn from(request: SetConfigRequest) -> Self {
        let source = if request.origin.is_empty() {
            "pushed configuration".to_owned()
        } else {
            format!("ConfigMap {}", request.origin)
        };
        Self {
            document: Document {
                source,
                entries: request.config.into_iter().collect(),
            },
            node: request.node_name,
            at_unix_s: since_1970().as_secs(),
        }
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
#[must_use]
pub fn beginning(text: &str) -> String {
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
        let pushed = PushedConfig::from(request.into_inner());
        // Locked until the push is answered: pushes are handled in the order they came.
        let status = self.status.lock().await;
        let before = status.borrow().clone();
        let mut reply = SetConfigReply {
            instance: self.instance.to_string(),
            generation: before.generation,
            ..SetConfigReply::default()
        };
        if pushed.document.entries.is_empty() {
            // An agent that finds no ConfigMap must not reset the node.
            reply.notes =
                vec!["empty configuration ignored: the last good one stays in force".to_owned()];
            return Ok(Response::new(reply));
        }
        let source = pushed.document.source.clone();
        let same = before.applied.filter(|applied| {
            applied.node == pushed.node && applied.document.entries == pushed.document.entries
        });
        if let Some(mut applied) = same {
            // An agent that has started anew tells of it anew.
            let config = (self.validate)(&pushed.document, &pushed.node);
            reply.without_effect = config.map_or_else(|_unfit| Vec::new(), |config| config.notes);
            applied.document.source = source;
            status.send_modify(|status| {
                status.accept();
                status.applied = Some(applied);
            });
            return Ok(Response::new(reply));
        }
        let applied = self.apply(pushed.clone(), false, &mut reply.without_effect);
        match applied.await? {
            Ok(report) => {
                reply.generation += 1;
                reply.notes = report.notes;
                status.send_modify(|status| {
                    status.accept();
                    status.generation = reply.generation;
                    status.applied = Some(pushed);
                });
                tracing::info!("configuration {} in force ({source})", reply.generation);
            }
            Err(problems) => {
                refuse(&mut reply, &problems);
                status.send_modify(|status| {
                    status.refused = Some(RefusedConfig {
                        source,
                        at_unix_s: pushed.at_unix_s,
                        why: reply.error.clone(),
                        outstanding: true,
                    });
                });
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
        let mut asked = PushedConfig::from(request.into_inner());
        let status = self.status.lock().await;
        let before = status.borrow().clone();
        if let (true, Some(applied)) = (asked.node.is_empty(), before.applied) {
            asked.node = applied.node;
        }
        let mut reply = SetConfigReply {
            instance: self.instance.to_string(),
            generation: before.generation,
            ..SetConfigReply::default()
        };
        let planned = self.apply(asked, true, &mut reply.without_effect);
        match planned.await? {
            Ok(applied) => reply.notes = applied.notes,
            Err(problems) => refuse(&mut reply, &problems),
        }
        Ok(Response::new(reply))
    }

    async fn get_status(
        &self,
        _request: Request<GetStatusRequest>,
    ) -> Result<Response<GetStatusReply>, Status> {
        let status = self.status.lock().await.borrow().clone();
        let refused = status.refused.filter(|refused| refused.outstanding);
        Ok(Response::new(GetStatusReply {
            instance: self.instance.to_string(),
            generation: status.generation,
            error: refused.map(|refused| refused.why).unwrap_or_default(),
            origin: status
                .applied
                .map(|applied| applied.document.source)
                .unwrap_or_default(),
        }))
    }
}

#[cfg(test)]
mod tests;
