//! Wires the parts together and runs them until a signal.

use std::{
    io::{IsTerminal as _, Write as _},
    net::{Ipv6Addr, SocketAddr},
    process::ExitCode,
    sync::Arc,
    time::Duration,
};

use anyhow::Context as _;
use futures::FutureExt as _;
use resmgr_io::{
    http::{HttpLimits, HttpServer},
    stderr::{StderrQueue, report_dropped},
};
use tokio::{
    net::{TcpListener, TcpStream},
    signal::unix::{SignalKind, signal},
};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info};

use crate::{
    args::WebhookArgs,
    http::{ServerState, router},
    metrics::WebhookMetrics,
    register,
    tls::{self, CurrentCertificate},
};

/// What the API server may need: a review of an update holds the old and the new pod, each at most as large as the
/// largest object of etcd (1.5 MiB), and it waits for 5 s (deploy/kustomize/base/webhook.yaml).
const LIMITS: HttpLimits = HttpLimits {
    connections: 256,
    request: Duration::from_secs(4),
    age: Duration::from_secs(600),
    body_bytes: 8 << 20,
    total_bytes: 64 << 20,
};

/// Runs until SIGTERM or SIGINT.
pub(crate) fn run(args: WebhookArgs) -> anyhow::Result<()> {
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
pub(crate) fn report(error: &anyhow::Error) -> ExitCode {
    // A closed standard error leaves nowhere to report to.
    drop(writeln!(std::io::stderr(), "cri-resmgr-webhook: {error:#}"));
    ExitCode::FAILURE
}

async fn serve(args: WebhookArgs) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("cannot catch SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot catch SIGINT")?;
    let metrics = WebhookMetrics::new();
    let (current, upkeep) = match (&args.cert_file, &args.key_file, &args.self_signed) {
        (Some(cert), Some(key), _) => {
            let current = CurrentCertificate::new(tls::load(cert, key)?);
            let (followed, metrics) = (Arc::clone(&current), metrics.clone());
            let (cert, key) = (cert.clone(), key.clone());
            let upkeep = async move { tls::follow(&cert, &key, &followed, &metrics).await }.boxed();
            (current, upkeep)
        }
        (_, _, Some(name)) => {
            let (key, authority) = tls::make(&args.host)?;
            let client = register::client(args.kubeconfig.as_ref()).await?;
            let name = name.clone();
            let upkeep = async move { register::keep(client, &name, &authority).await }.boxed();
            (CurrentCertificate::new(key), upkeep)
        }
        _ => anyhow::bail!("give --cert-file and --key-file, or --self-signed"),
    };
    metrics.certificate_loaded();
    let cut = metrics.cut_connections();
    let state = ServerState {
        exempt: Arc::new(args.exempt_namespaces.iter().cloned().collect()),
        metrics,
    };
    let address = SocketAddr::from((Ipv6Addr::UNSPECIFIED, args.port));
    let listener = match TcpListener::bind(address).await {
        Ok(listener) => listener,
        // A machine without IPv6.
        Err(_) => TcpListener::bind((std::net::Ipv4Addr::UNSPECIFIED, args.port))
            .await
            .with_context(|| format!("cannot serve on port {}", args.port))?,
    };
    let server = HttpServer::new(router(state), LIMITS, cut);
    let acceptor = TlsAcceptor::from(Arc::new(tls::server(current)?));
    let handshake = move |stream: TcpStream| {
        acceptor.accept(stream).map(|shaken| match shaken {
            Ok(stream) => Some(stream),
            Err(error) => {
                debug!(%error, "no TLS");
                None
            }
        })
    };
    info!(port = args.port, "serving");
    tokio::select! {
        () = server.serve_after(listener, handshake, CancellationToken::new()) => {}
        () = upkeep => {}
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    info!("stopping");
    Ok(())
}
