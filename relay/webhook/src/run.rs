//! Wires the parts together and runs them until a signal.

use std::{
    io::{IsTerminal as _, Write as _},
    net::{Ipv6Addr, SocketAddr},
    process::ExitCode,
    sync::Arc,
    time::Duration,
};

use anyhow::Context as _;
use axum::Router;
use futures::{FutureExt as _, StreamExt as _, stream::FuturesUnordered};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto::Builder,
    service::TowerToHyperService,
};
use rustls::ServerConfig;
use tokio::{
    net::{TcpListener, TcpStream},
    signal::unix::{SignalKind, signal},
    time::timeout,
};
use tokio_rustls::TlsAcceptor;
use tracing::{debug, info, warn};

use crate::{
    args::WebhookArgs,
    http::{ServerState, router},
    metrics::WebhookMetrics,
    register,
    tls::{self, CurrentCertificate},
};

/// Longest TLS handshake.
const HANDSHAKE: Duration = Duration::from_secs(5);
/// Longest connection: the API server keeps its own open and reconnects.
const CONNECTION: Duration = Duration::from_secs(600);
/// Most connections at once.
const MAX_CONNECTIONS: usize = 256;

/// Runs until SIGTERM or SIGINT.
pub(crate) fn run(args: WebhookArgs) -> anyhow::Result<()> {
    let filter = tracing_subscriber::EnvFilter::try_new(&args.log)
        .with_context(|| format!("--log {:?} is not a filter such as info", args.log))?;
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr)
        .init();
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("cannot start the runtime")?
        .block_on(serve(args))
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
    info!(port = args.port, "serving");
    tokio::select! {
        () = connections(listener, tls::server(current)?, router(state)) => {}
        () = upkeep => {}
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    info!("stopping");
    Ok(())
}

/// Serves connections for ever.
async fn connections(listener: TcpListener, config: ServerConfig, router: Router) {
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let mut open = FuturesUnordered::new();
    loop {
        tokio::select! {
            accepted = listener.accept(), if open.len() < MAX_CONNECTIONS => match accepted {
                Ok((stream, _)) => open.push(connection(stream, acceptor.clone(), router.clone())),
                Err(error) => {
                    warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            },
            Some(()) = open.next() => {}
        }
    }
}

async fn connection(stream: TcpStream, acceptor: TlsAcceptor, router: Router) {
    let stream = match timeout(HANDSHAKE, acceptor.accept(stream)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return debug!(%error, "no TLS"),
        Err(_elapsed) => return debug!("no TLS in time"),
    };
    let builder = Builder::new(TokioExecutor::new());
    let served = builder.serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    match timeout(CONNECTION, served).await {
        Ok(Ok(())) | Err(_) => {}
        Ok(Err(error)) => debug!(%error, "the connection broke"),
    }
}
