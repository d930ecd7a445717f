//! Wires the parts together and runs them until a signal.

use std::{
    future::pending,
    io::{IsTerminal as _, Write as _},
    process::ExitCode,
    time::Duration,
};

use anyhow::Context as _;
use futures::FutureExt as _;
use kube::{
    Client, Config,
    client::ClientBuilder,
    config::{KubeConfigOptions, Kubeconfig},
};
use resmgr_io::stderr::{StderrQueue, report_dropped};
use resmgr_proto::v1::agent_server::AgentServer;
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
    sync::{mpsc, watch},
};
use tower::util::MapResultLayer;
use tracing::info;

use crate::{
    args::AgentArgs,
    choose::MapChoice,
    events::{self, EventWriter},
    health,
    metrics::AgentMetrics,
    node::NodeService,
    push, socket, status,
    views::{self, AccessReviews, ViewServer},
};

/// Longest operation on the Node: the client of cri-resmgr waits for 5 s.
const OPERATION: Duration = Duration::from_secs(10);

/// Runs until SIGTERM or SIGINT.
pub(crate) fn run(args: AgentArgs) -> anyhow::Result<()> {
    let filter = tracing_subscriber::EnvFilter::try_new(&args.log)
        .with_context(|| format!("--log {:?} is not a filter such as info", args.log))?;
    let queue = StderrQueue::start(report_dropped).context("cannot log")?;
    let log = queue.clone();
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(move || queue.clone())
        .init();
    let outcome = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("cannot start the runtime")?
        .block_on(serve(args));
    log.flush_at_end();
    outcome
}

/// Prints an error with its causes and gives the exit code.
pub(crate) fn report(error: &anyhow::Error, code: u8) -> ExitCode {
    // A closed standard error leaves nowhere to report to.
    drop(writeln!(std::io::stderr(), "cri-resmgr-agent: {error:#}"));
    ExitCode::from(code)
}

async fn serve(args: AgentArgs) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("cannot catch SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot catch SIGINT")?;
    let metrics = AgentMetrics::new();
    let client = connect(&args, &metrics).await?;
    let (choice_in, choices) = watch::channel(MapChoice::Wait);
    let (outcome_in, outcomes) = watch::channel(push::PushOutcome::default());
    let (event_in, event_queue) = mpsc::channel(events::QUEUE);
    let health = TcpListener::bind(args.health_address)
        .await
        .with_context(|| format!("cannot serve health on {}", args.health_address))?;
    let views = match args.views_address {
        Some(address) => {
            let listener = TcpListener::bind(address).await;
            let listener = listener.with_context(|| format!("cannot serve views on {address}"))?;
            let reviews = AccessReviews::new(client.clone(), args.node_name.clone());
            let server = ViewServer::new(args.inspect_socket.clone(), reviews, metrics.clone());
            views::run(listener, server)?.left_future()
        }
        None => pending().right_future(),
    };
    let connections = socket::listen(&args.agent_socket)?;
    let service = NodeService::new(
        client.clone(),
        args.node_name.clone(),
        choices.clone(),
        outcomes.clone(),
        event_in,
        metrics.clone(),
    );
    let pod_events = EventWriter::new(client.clone(), "cri-resmgr", &args.node_name);
    let remote = push::ConfigConnection::new(args.cri_resmgr_socket.clone());
    info!(
        node = args.node_name,
        socket = %args.agent_socket.display(),
        "serving"
    );
    tokio::select! {
        () = crate::watch::run(client.clone(), &args, &choice_in, metrics.clone()) => Ok(()),
        () = push::run(remote, &args.node_name, choices, &outcome_in, &metrics) => Ok(()),
        () = status::run(client, &args.node_name, outcomes.clone()) => Ok(()),
        () = events::run(pod_events, event_queue, metrics.clone()) => Ok(()),
        () = health::run(health, outcomes, metrics.clone()) => Ok(()),
        () = views => Ok(()),
        ended = tonic::transport::Server::builder()
            .timeout(OPERATION)
            .add_service(AgentServer::new(service))
            .serve_with_incoming(connections) => ended.context("the agent's socket failed"),
        _ = terminate.recv() => Ok(()),
        _ = interrupt.recv() => Ok(()),
    }?;
    info!("stopping");
    match std::fs::remove_file(&args.agent_socket) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", args.agent_socket.display()))
        }
        _ => Ok(()),
    }
}

async fn connect(args: &AgentArgs, metrics: &AgentMetrics) -> anyhow::Result<Client> {
    let mut config = match &args.kubeconfig {
        Some(path) => {
            let read = Kubeconfig::read_from(path)
                .with_context(|| format!("cannot read the kubeconfig {}", path.display()))?;
            Config::from_custom_kubeconfig(read, &KubeConfigOptions::default())
                .await
                .with_context(|| format!("cannot use the kubeconfig {}", path.display()))?
        }
        None => Config::incluster().context(
            "not in a pod with a service account; outside a cluster give --kubeconfig FILE",
        )?,
    };
    config.connect_timeout = Some(Duration::from_secs(5));
    let metrics = metrics.clone();
    let counted = MapResultLayer::new(move |answer: Result<http::Response<_>, _>| {
        let answered = answer.as_ref().ok();
        metrics.requested(answered.map(http::Response::status));
        answer
    });
    let client = ClientBuilder::try_from(config);
    let client = client.context("cannot make a client of the API server")?;
    Ok(client.with_layer(&counted).build())
}
