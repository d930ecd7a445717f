//! Pushes the chosen configuration into cri-resmgr, and again whenever cri-resmgr restarts.
//!
//! ```text
//! Idle ──choice──▶ Debounce (2 s after the last change) ──▶ Pushing ──accepted/refused──▶ Done
//!                                                            ▲  │ unreachable: retry         │
//!                                                            └──┴──── other process ◀────────┘
//! ```
//! An accepted or refused configuration is not pushed again until it changes or another process
//! of cri-resmgr answers. Unreachability is logged once, and once when it ends.

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use hyper_util::rt::TokioIo;
use resmgr_proto::v1::{GetStatusRequest, SetConfigRequest, config_client::ConfigClient};
use tokio::{
    net::UnixStream,
    sync::watch::{Receiver, Sender},
    time::{Instant, sleep_until, timeout},
};
use tonic::{
    Code,
    transport::{Channel, Endpoint},
};
use tracing::{error, info, warn};

use crate::{
    choose::{MapChoice, NodeConfig},
    metrics::{AgentMetrics, PushAnswer},
};

/// A push waits this long after the last change.
const DEBOUNCE: Duration = Duration::from_secs(2);
/// Longest push.
const DEADLINE: Duration = Duration::from_secs(5);
/// How often cri-resmgr is asked whether it is still the same process, and tried again when it is unreachable.
const PROBE: Duration = Duration::from_secs(1);

/// What became of the chosen configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct PushOutcome {
    /// Where the configuration came from; empty when nothing was pushed.
    pub(crate) origin: String,
    /// resourceVersion of that ConfigMap.
    pub(crate) resource_version: String,
    /// Generation in force, as cri-resmgr counts; 0 when it does not say.
    pub(crate) generation: u64,
    /// State of the push.
    pub(crate) verdict: PushVerdict,
    /// What of the configuration has no effect on this node, and why.
    pub(crate) without_effect: Vec<String>,
}

/// State of the push.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum PushVerdict {
    /// Nothing chosen yet.
    #[default]
    Waiting,
    /// There is nothing to push.
    Nothing,
    /// The winning ConfigMap has no keys.
    Empty,
    /// In force.
    Accepted,
    /// Refused, with cri-resmgr's reason; what was in force stays.
    Refused(String),
    /// cri-resmgr does not answer, with the reason; tried until it does.
    Unreachable(String),
}

impl PushOutcome {
    /// Why the configuration is not in force; `None` when all is well or there is nothing to do.
    pub(crate) fn problem(&self) -> Option<String> {
        match &self.verdict {
            PushVerdict::Nothing | PushVerdict::Accepted => None,
            PushVerdict::Waiting => {
                Some("the ConfigMaps are not read or not pushed yet".to_owned())
            }
            PushVerdict::Empty => Some(format!("ConfigMap {} has no keys", self.origin)),
            PushVerdict::Refused(reason) => Some(format!("{} was refused: {reason}", self.origin)),
            PushVerdict::Unreachable(reason) => {
                Some(format!("cri-resmgr does not answer: {reason}"))
            }
        }
    }
}

/// Pushes every choice, for ever, and sends each new outcome.
pub(crate) async fn run(
    mut remote: ConfigConnection,
    node_name: &str,
    mut choices: Receiver<MapChoice>,
    outcome: &Sender<PushOutcome>,
    metrics: &AgentMetrics,
) {
    loop {
        let choice = choices.borrow_and_update().clone();
        let next = match choice {
            MapChoice::Wait => PushOutcome::default(),
            MapChoice::Nothing => PushOutcome {
                verdict: PushVerdict::Nothing,
                ..PushOutcome::default()
            },
            MapChoice::Empty { origin } => PushOutcome {
                origin,
                verdict: PushVerdict::Empty,
                ..PushOutcome::default()
            },
            MapChoice::Push(config) => {
                tokio::select! {
                    () = keep_in_force(&mut remote, node_name, &config, outcome, metrics) => {}
                    changed = choices.changed() => if changed.is_err() { return },
                }
                debounce(&mut choices).await;
                continue;
            }
        };
        publish(outcome, next);
        if choices.changed().await.is_err() {
            return;
        }
        debounce(&mut choices).await;
    }
}

/// Waits until nothing has changed for [`DEBOUNCE`].
async fn debounce(choices: &mut Receiver<MapChoice>) {
    choices.mark_unchanged();
    let mut until = Instant::now() + DEBOUNCE;
    loop {
        tokio::select! {
            () = sleep_until(until) => return,
            changed = choices.changed() => {
                if changed.is_err() { return }
                until = Instant::now() + DEBOUNCE;
            }
        }
    }
}

/// Pushes one configuration to each process of cri-resmgr that appears. Ends only by being dropped.
async fn keep_in_force(
    remote: &mut ConfigConnection,
    node_name: &str,
    config: &NodeConfig,
    outcome: &Sender<PushOutcome>,
    metrics: &AgentMetrics,
) {
    let mut pushed_to: Option<Process> = None;
    loop {
        let asked = timeout(DEADLINE, remote.process()).await;
        let answer = match asked {
            Ok(Ok(process)) if pushed_to.as_ref() == Some(&process) => None,
            Ok(Ok(process)) => {
                let pushed = remote.set_config(node_name, config).await;
                metrics.pushed(match pushed.as_ref().map(|next| &next.verdict) {
                    Ok(PushVerdict::Accepted) => PushAnswer::Accepted,
                    Ok(_) => PushAnswer::Refused,
                    Err(_) => PushAnswer::None,
                });
                Some(pushed.map(|next| (process, next)))
            }
            Ok(Err(status)) => Some(Err(status)),
            Err(_elapsed) => Some(Err(silence())),
        };
        match answer {
            None => {}
            Some(Ok((process, next))) => {
                pushed_to = Some(process);
                publish(outcome, next);
            }
            Some(Err(status)) => {
                pushed_to = None;
                publish(
                    outcome,
                    PushOutcome {
                        origin: config.origin.clone(),
                        resource_version: config.resource_version.clone(),
                        generation: 0,
                        verdict: PushVerdict::Unreachable(chain(&status)),
                        without_effect: Vec::new(),
                    },
                );
            }
        }
        tokio::time::sleep(PROBE).await;
    }
}

/// Sends an outcome that differs from the last one, and logs it.
fn publish(outcome: &Sender<PushOutcome>, next: PushOutcome) {
    outcome.send_if_modified(|current| {
        let unreachable = |verdict: &PushVerdict| matches!(verdict, PushVerdict::Unreachable(_));
        // The words of an unreachable peer vary; the state does not.
        let same = *current == next
            || (unreachable(&current.verdict)
                && unreachable(&next.verdict)
                && current.origin == next.origin);
        if same {
            return false;
        }
        let (origin, generation) = (&next.origin, next.generation);
        match &next.verdict {
            PushVerdict::Waiting | PushVerdict::Nothing | PushVerdict::Empty => {}
            PushVerdict::Accepted => info!(origin, generation, "configuration in force"),
            PushVerdict::Refused(reason) => error!(origin, reason, "configuration refused"),
            PushVerdict::Unreachable(reason) => {
                warn!(reason, "cri-resmgr does not answer; trying until it does");
            }
        }
        *current = next;
        true
    });
}

/// Which process of cri-resmgr answered: its own word for itself, else our count of connections.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Process {
    Instance(String),
    Connection(u64),
}

/// The configuration service of cri-resmgr: connected when first used, and again after each loss.
#[derive(Clone, Debug)]
pub(crate) struct ConfigConnection {
    client: ConfigClient<Channel>,
    connections: Arc<AtomicU64>,
}

impl ConfigConnection {
    /// A client of the service at `socket`, which need not exist yet.
    pub(crate) fn new(socket: PathBuf) -> Self {
        let connections = Arc::new(AtomicU64::new(0));
        let counter = Arc::clone(&connections);
        let connector = tower::service_fn(move |_: http::Uri| {
            let (socket, counter) = (socket.clone(), Arc::clone(&counter));
            async move {
                let stream = UnixStream::connect(&socket).await?;
                counter.fetch_add(1, Ordering::Relaxed);
                Ok::<_, std::io::Error>(TokioIo::new(stream))
            }
        });
        // The address is never looked up: the connector ignores it.
        let channel =
            Endpoint::from_static("http://cri-resmgr").connect_with_connector_lazy(connector);
        Self {
            client: ConfigClient::new(channel),
            connections,
        }
    }

    async fn process(&mut self) -> Result<Process, tonic::Status> {
        let instance = match self.client.get_status(GetStatusRequest {}).await {
            Ok(reply) => reply.into_inner().instance,
            Err(status) if status.code() == Code::Unimplemented => String::new(),
            Err(status) => return Err(status),
        };
        Ok(if instance.is_empty() {
            Process::Connection(self.connections.load(Ordering::Relaxed))
        } else {
            Process::Instance(instance)
        })
    }

    async fn set_config(
        &mut self,
        node_name: &str,
        config: &NodeConfig,
    ) -> Result<PushOutcome, tonic::Status> {
        let mut request = tonic::Request::new(SetConfigRequest {
            node_name: node_name.to_owned(),
            config: config.data.clone(),
            origin: config.origin.clone(),
            resource_version: config.resource_version.clone(),
        });
        request.set_timeout(DEADLINE);
        let reply = match timeout(DEADLINE, self.client.set_config(request)).await {
            Err(_elapsed) => return Err(silence()),
            Ok(reply) => reply,
        };
        let (generation, refusal, without_effect) = match reply {
            Ok(reply) => {
                let reply = reply.into_inner();
                for note in &reply.notes {
                    info!(note, "cri-resmgr says");
                }
                (reply.generation, reply.error, reply.without_effect)
            }
            // Early resource managers refuse with a gRPC error.
            Err(status) if status.code() == Code::InvalidArgument => {
                (0, status.message().to_owned(), Vec::new())
            }
            Err(status) => return Err(status),
        };
        let verdict = if refusal.is_empty() {
            PushVerdict::Accepted
        } else {
            PushVerdict::Refused(refusal)
        };
        Ok(PushOutcome {
            origin: config.origin.clone(),
            resource_version: config.resource_version.clone(),
            generation,
            verdict,
            without_effect,
        })
    }
}

fn silence() -> tonic::Status {
    tonic::Status::deadline_exceeded(format!("no answer within {} s", DEADLINE.as_secs()))
}

/// An error with all its causes, on one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let words = error.to_string();
        if !text.contains(&words) {
            text = format!("{text}: {words}");
        }
        cause = error.source();
    }
    text
}
