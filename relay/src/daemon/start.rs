//! The daemon's life: the order of start-up, the wait for a signal, the order of shutdown.
//!
//! ```text
//!  start   log ▸ machine ▸ configuration ▸ dump ▸ metrics ▸ socket ▸ placement ▸ relay ▸ READY=1
//!  stop    STOPPING=1 ▸ accept no more, drain ▸ give back if asked ▸ ledger ▸ dump ▸ socket removed
//! ```

use super::{
    Failed, commands,
    configure::{self, Changeable},
    measure::Measure,
    placement::{self, Placement},
    settle::settle,
    signals::{Asked, Signals},
    tasks::Tasks,
    views::LiveViews,
};
use crate::{
    config::{Config, PolicyName, Raw},
    cri::{
        listen,
        observe::Observer,
        server::{Options, Relay, Upstreams},
    },
    dump::Dumper,
    inspect::server::{Views, serve_metrics, serve_views},
    log,
    metrics::{registry::Metrics, relay::RelayMetrics, scheduler::SchedulerMetrics},
};
use anyhow::Context;
use resmgr_topology::Topology;
use sd_notify::NotifyState;
use std::{
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};
use tokio_util::sync::CancellationToken;

/// How long tasks may take to end after the drain.
const JOIN_LIMIT: Duration = Duration::from_secs(15);
/// How much longer than the drain limit the relay may take to end.
const GRACE: Duration = Duration::from_secs(2);
/// How long the dump may take to write what is queued.
const DUMP_LIMIT: Duration = Duration::from_secs(5);

/// Runs the relay until a signal.
///
/// # Errors
/// A mistake in the configuration, or what failed.
pub fn run(raw: &Raw) -> Result<(), Failed> {
    let (config, topology) = settle(raw)?;
    let log = log::install(config.log.clone()).context("cannot log")?;
    for note in &config.notes {
        tracing::warn!(target: "resource-manager", "{note}");
    }
    for (asked, option) in [
        (config.telemetry.record.is_some(), "record"),
        (
            config.policy.pools.label_node,
            "static-pools-create-cmk-node-label",
        ),
        (
            config.policy.pools.taint_node,
            "static-pools-create-cmk-node-taint",
        ),
    ] {
        if asked {
            tracing::warn!(target: "resource-manager", "{option} has no effect in this version");
        }
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .thread_name("cri-resmgr")
        .build()
        .context("cannot start the async runtime")?;
    runtime.block_on(serve(config, topology, log))
}

async fn serve(config: Config, topology: Topology, log: log::Control) -> Result<(), Failed> {
    let stop = CancellationToken::new();
    let mut signals = Signals::new().context("cannot listen for signals")?;
    let tasks = Tasks::new(stop.clone());
    let topology = Arc::new(topology);

    let measure = Measure::new(&topology);
    let measurements = Arc::<Measure>::clone(&measure);
    let dumper = Dumper::start(
        &config.dump,
        config.telemetry.ebpf.then_some(measurements as _),
    );
    let dumper = Arc::new(dumper.map_err(anyhow::Error::from)?);
    let metrics = Metrics::default();
    let observers = observers(&config, &dumper, &metrics);
    let socket = Socket::open(&config)?;
    let views_path = commands::views_socket(&config.relay.relay_socket);

    let placement = match config.policy.name {
        PolicyName::Null => None,
        _ => Some(placement::start(
            &config, &topology, &observers, &tasks, &metrics,
        )?),
    };
    if config.telemetry.ebpf {
        measure.start(&config, placement.as_ref(), &observers, &tasks)?;
        let measure = Arc::clone(&measure);
        metrics.register(|registry| {
            registry.register_collector(Box::new(SchedulerMetrics::new(move || measure.look())));
        });
    }
    if let Some(address) = config.telemetry.metrics {
        let listener = tokio::net::TcpListener::bind(address)
            .await
            .with_context(|| format!("cannot serve metrics on {address}"))?;
        tasks.spawn("metrics", {
            let (metrics, stop) = (metrics.clone(), stop.clone());
            async move { Ok(serve_metrics(listener, metrics, stop).await?) }
        });
    }
    let views = private(&views_path)?;
    tasks.spawn("inspect", {
        let (answers, stop) = (
            views_of(placement.as_ref(), &topology, &measure),
            stop.clone(),
        );
        async move { Ok(serve_views(views, answers, stop).await?) }
    });

    configure::start(
        Changeable {
            start: config.clone(),
            topology: Arc::clone(&topology),
            manager: placement
                .as_ref()
                .map(|placement| placement.manager.clone()),
            dumper: Arc::clone(&dumper),
            log,
        },
        &tasks,
    )?;
    let interceptor = placement.as_ref().map(Placement::interceptor);
    let upstreams = Upstreams {
        runtime: config.relay.runtime_socket.clone(),
        image: config.relay.image_socket.clone(),
    };
    let options = Options {
        drain_limit: config.relay.drain_timeout,
        ..Options::default()
    };
    let Socket {
        listener,
        path: bound,
    } = socket;
    let relay = Relay::new(listener, upstreams, options, interceptor, observers);
    let draining = CancellationToken::new();
    let (ended, drained) = tokio::sync::oneshot::channel();
    tasks.spawn("relay", {
        let (draining, stop) = (draining.clone(), stop.clone());
        async move {
            // A daemon that stops for another reason drains just the same.
            let both = async {
                tokio::select! {
                    () = draining.cancelled() => {}
                    () = stop.cancelled() => draining.cancel(),
                }
            };
            tokio::join!(relay.run(draining.clone()), both);
            // Nobody waits for it when the daemon stops for another reason.
            ended.send(()).ok();
            stop.cancelled().await;
            Ok(())
        }
    });
    tracing::info!(
        target: "resource-manager",
        "cri-resmgr {} serves {} with policy {} in front of {}",
        env!("CARGO_PKG_VERSION"),
        config.relay.relay_socket.display(),
        config.policy.name,
        config.relay.runtime_socket.as_deref().map_or("no runtime".into(), |path| path.to_string_lossy()),
    );
    notify(&[NotifyState::Ready]);

    wait(&mut signals, &stop, &dumper).await;

    notify(&[NotifyState::Stopping]);
    tracing::info!(target: "resource-manager", "stopping: calls in flight may end");
    draining.cancel();
    // The relay drains first: whoever is being created is settled before anything is given back.
    let drained = tokio::time::timeout(config.relay.drain_timeout + GRACE, drained).await;
    if !matches!(drained, Ok(Ok(()))) {
        tracing::warn!(target: "cri/relay", "calls were cut off at the end of the drain");
    }
    if let Some(placement) = &placement {
        placement.stop(config.enforce.restore_on_stop).await;
    }
    stop.cancel();
    let joined = tasks.join(JOIN_LIMIT + config.relay.drain_timeout).await;
    for path in bound.iter().chain([&views_path]) {
        if let Err(error) = std::fs::remove_file(path) {
            tracing::warn!(target: "resource-manager", "cannot remove {}: {error}", path.display());
        }
    }
    dumper.stop(DUMP_LIMIT);
    joined.map_err(Failed::from)
}

/// A socket for root alone.
fn private(path: &Path) -> anyhow::Result<tokio::net::UnixListener> {
    let listener = listen::bind(path, None)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))
        .with_context(|| format!("cannot set the mode of {}", path.display()))?;
    Ok(listener)
}

fn views_of(
    placement: Option<&Placement>,
    topology: &Arc<Topology>,
    measure: &Arc<Measure>,
) -> Arc<dyn Views> {
    let manager = placement.map(|placement| placement.manager.clone());
    Arc::new(LiveViews::new(
        manager,
        Arc::clone(topology),
        Arc::clone(measure),
    ))
}

/// Whoever wants to see the calls go by. None of them, and the relay looks at nothing.
fn observers(config: &Config, dumper: &Arc<Dumper>, metrics: &Metrics) -> Vec<Arc<dyn Observer>> {
    let mut observers: Vec<Arc<dyn Observer>> = vec![Arc::<Dumper>::clone(dumper)];
    if config.telemetry.metrics.is_some() {
        metrics.register(|registry| observers.push(Arc::new(RelayMetrics::new(registry))));
    }
    observers
}

/// Returns when it is time to stop: a signal asked for it, or a task failed.
async fn wait(signals: &mut Signals, stop: &CancellationToken, dumper: &Dumper) {
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            asked = signals.next() => match asked {
                Asked::Stop => return,
                Asked::Reopen => {
                    tracing::info!(target: "resource-manager", "reopening the dump file");
                    dumper.reopen();
                }
            },
        }
    }
}

/// The relay socket, and its path if it is ours to remove.
struct Socket {
    listener: tokio::net::UnixListener,
    path: Option<PathBuf>,
}

impl Socket {
    fn open(config: &Config) -> anyhow::Result<Self> {
        if let Some(listener) = listen::inherited()? {
            tracing::info!(target: "resource-manager", "serving the socket the supervisor passed");
            return Ok(Self {
                listener,
                path: None,
            });
        }
        let path = &config.relay.relay_socket;
        let like = config.relay.runtime_socket.as_deref();
        Ok(Self {
            listener: listen::bind(path, like)?,
            path: Some(path.clone()),
        })
    }
}

/// Tells the supervisor, if there is one that listens.
fn notify(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::warn!(target: "resource-manager", "cannot notify the supervisor: {error}");
    }
}
