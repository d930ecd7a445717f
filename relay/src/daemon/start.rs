//! The daemon's life: the order of start-up, the wait for a signal, the order of shutdown.
//!
//! ```text
//!  start   log ▸ machine ▸ configuration ▸ dump ▸ metrics ▸ socket ▸ placement ▸ relay ▸ runtime listens ▸ READY=1
//!  stop    STOPPING=1 ▸ accept no more, drain ▸ give back if asked ▸ ledger ▸ dump ▸ socket removed
//! ```

use super::{
    commands,
    configure::{self, ConfigTargets},
    error::ExitError,
    fence,
    last_good::{self, StartConfig},
    measure::Measure,
    moves,
    node::NodePublisher,
    options::{lock_state_directory, resolve_options},
    placement::{self, PlacementService},
    pod_events::PodEvents,
    recording, runtime_socket,
    signals::{SignalRequest, Signals},
    tasks::Tasks,
    views::LiveViews,
};
use crate::{
    cli,
    config::{self, Config, PolicyName, Raw, pools},
    control::ConfigStatus,
    cri::{Relay, ServerOptions, Upstreams, listen, observe::Observer},
    dump::Dumper,
    inspect::{
        history,
        server::{self, AllowedHosts, Views, serve_views},
    },
    intercept::OwnContainer,
    log,
    metrics::{
        losses::LossMetrics, registry::Metrics, relay::RelayMetrics, scheduler::SchedulerMetrics,
        serve_metrics,
    },
    record::Recorder,
};
use anyhow::Context;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use prometheus_client::metrics::counter::Counter;
use resmgr_io::socket::bind_private;
use resmgr_topology::Topology;
use sd_notify::NotifyState;
use std::{
    path::PathBuf,
    sync::{Arc, Mutex},
    time::Duration,
};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// The most threads that relay. A thread carries all of a connection, tens of thousands of calls a second, and
/// a node has a handful of clients; a thread for each of hundreds of CPUs would only cost memory, and
/// wake-ups on CPUs that containers paid for.
const WORKERS: usize = 4;
/// How long tasks may take to end after the drain.
const JOIN_LIMIT: Duration = Duration::from_secs(15);
/// How much longer than the drain limit the relay may take to end.
const GRACE: Duration = Duration::from_secs(2);
/// How long threads that are busy may take to end, when everything else has ended.
const LAST_WORDS: Duration = Duration::from_secs(1);
/// How long the dump may take to write what is queued.
const DUMP_LIMIT: Duration = Duration::from_secs(5);

/// Runs the relay until a signal.
///
/// # Errors
/// A mistake in the configuration, or what failed.
pub fn run(raw: &Raw) -> Result<(), ExitError> {
    let (config, topology) = resolve_options(raw)?;
    runtime_socket::check(raw, &config.relay)?;
    let log = log::install(config.log.clone()).context("cannot log")?;
    for note in &config.notes {
        tracing::warn!(target: "resource-manager", "{note}");
    }
    let _lock = lock_state_directory(&config)?;
    raise_descriptor_limit();
    let mut start = last_good::restore(config, &topology);
    await_pools(&mut start);
    log.set(start.config.log.clone());
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(cpus.min(WORKERS))
        .enable_all()
        .thread_name("cri-resmgr")
        .build()
        .context("cannot start the async runtime")?;
    let outcome = runtime.block_on(serve(raw, start, topology, log.clone()));
    // A policy that hangs has a thread of its own: it must not keep the daemon from ending.
    runtime.shutdown_timeout(LAST_WORDS);
    log.flush();
    outcome
}

/// Policy static-pools whose pools were named nowhere places nothing until a document that is pushed brings them: an agent
/// is a pod, which could not even start if the relay refused to serve.
fn await_pools(start: &mut StartConfig) {
    let config = &mut start.config;
    if config.policy.name != PolicyName::StaticPools
        || config.relay.config_socket.is_none()
        || !pools::are_awaited(&config.policy.pools)
    {
        return;
    }
    config.policy.name = PolicyName::None;
    tracing::warn!(target: "resource-manager",
        "policy static-pools has no pools yet: containers run unplaced, as under policy none, until a configuration \
         with pools is pushed{}", pools::ADVICE);
}

async fn serve(
    raw: &Raw,
    start: StartConfig,
    topology: Topology,
    log: log::Control,
) -> Result<(), ExitError> {
    let config = start.config.clone();
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
    let metrics = Metrics::new(cli::help::build().into());
    let observers = observers(&config, &dumper, &metrics);
    let socket = Socket::open(&config)?;
    let views_path = commands::views_socket(&config.relay.relay_socket);

    let placement = match config.policy.name {
        PolicyName::Null => None,
        _ => Some(placement::start(
            &config, &topology, &observers, &tasks, &metrics,
        )?),
    };
    if let Some(placement) = &placement {
        let manager = placement.manager.clone();
        tasks.spawn(
            "moves",
            moves::dump(manager, Arc::clone(&dumper), stop.clone()),
        );
    }
    let fenced = fence::start(&config, placement.as_ref(), &tasks, &metrics);
    let manager = placement.as_ref().map(|placement| &placement.manager);
    let pod_events = PodEvents::start(&config, manager, &tasks);
    let recorder = recording::start(&config, &topology, manager, &tasks)?;
    if config.telemetry.ebpf {
        if let Some(recorder) = &recorder {
            measure.record(recorder);
        }
        measure.start(
            &config,
            placement.as_ref(),
            &observers,
            pod_events.clone(),
            &tasks,
        )?;
        let measure = Arc::clone(&measure);
        metrics.register(|registry| {
            registry.register_collector(Box::new(SchedulerMetrics::new(move || measure.sample())));
        });
    }
    let (config_status, pushed) = watch::channel(ConfigStatus::at_start(start.pushed.clone()));
    let answers = Arc::new(LiveViews {
        manager: manager.cloned(),
        topology: Arc::clone(&topology),
        measure: Arc::clone(&measure),
        fenced,
        options: config::print::changed(raw),
        pushed,
        history: Mutex::default(),
    });
    if config.telemetry.ebpf {
        let (views, stop) = (Arc::clone(&answers), stop.clone());
        tasks.spawn("history", keep_history(views, stop));
    }
    let answers: Arc<dyn Views> = answers;
    let hosts = allowed_hosts(&config);
    let (cut_scrapes, cut_views) = (Counter::default(), Counter::default());
    if let Some(address) = config.telemetry.metrics {
        let losses = losses(&log, &dumper, recorder.as_ref(), &cut_scrapes, &cut_views).with(
            "pod_events",
            "agent",
            move || pod_events.as_ref().map_or(0, PodEvents::lost),
        );
        metrics.register(|registry| registry.register_collector(Box::new(losses)));
        let listener = tokio::net::TcpListener::bind(address)
            .await
            .with_context(|| format!("cannot serve metrics on {address}"))?;
        tasks.spawn("metrics", {
            let (metrics, stop) = (metrics.clone(), stop.clone());
            let cut = cut_scrapes.clone();
            let status_page = server::router(Arc::clone(&answers), hosts.clone());
            async move {
                serve_metrics(listener, metrics, status_page, cut, stop).await;
                Ok(())
            }
        });
    }
    let views = bind_private(&views_path).map_err(anyhow::Error::from)?;
    tasks.spawn("inspect", {
        let stop = stop.clone();
        let cut = cut_views.clone();
        async move {
            serve_views(views, answers, hosts, cut, stop).await;
            Ok(())
        }
    });

    let node = NodePublisher::start(&config, manager, &tasks);
    if let Some(node) = &node {
        node.publish(&config, &topology);
    }
    configure::start(
        start,
        ConfigTargets {
            topology: Arc::clone(&topology),
            manager: placement
                .as_ref()
                .map(|placement| placement.manager.clone()),
            dumper: Arc::clone(&dumper),
            log,
            node,
        },
        config_status,
        &tasks,
    )?;
    let hooks = placement.as_ref().map(PlacementService::interceptor);
    let interceptor = OwnContainer::before_hooks(hooks);
    let upstreams = Upstreams {
        runtime: config.relay.runtime_socket.clone(),
        image: config.relay.image_socket.clone(),
    };
    let options = ServerOptions {
        drain_limit: config.relay.drain_timeout,
        max_clients: max_clients(),
        ..ServerOptions::default()
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
            // The receiver is gone when the daemon stops for another reason.
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
    let recorder = recorder.as_deref();
    // Calls are served meanwhile: each waits for the runtime up to its own deadline.
    let ready = tokio::select! {
        listens = runtime_socket::listens(&config.relay) => listens.map(|()| true),
        () = wait(&mut signals, &stop, &dumper, recorder) => Ok(false),
    };
    if let Ok(true) = ready {
        notify(&[NotifyState::Ready]);
        wait(&mut signals, &stop, &dumper, recorder).await;
    }

    notify(&[NotifyState::Stopping]);
    tracing::info!(target: "resource-manager", "stopping: calls in flight may end");
    draining.cancel();
    // The relay drains first: creations in flight end before anything is given back.
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
    ready?;
    joined.map_err(ExitError::from)
}

/// As many connections of clients as the limit of open files has room for, up to the relay's own limit: each
/// needs three descriptors, its own and two to the runtime. A tenth is left for all else.
fn max_clients() -> usize {
    const DESCRIPTORS: u64 = 3;
    let most = ServerOptions::default().max_clients;
    let open = getrlimit(Resource::RLIMIT_NOFILE).map_or(u64::MAX, |(soft, _hard)| soft);
    usize::try_from((open - open / 10) / DESCRIPTORS).map_or(most, |room| room.min(most))
}

/// As many descriptors as the process may have.
fn raise_descriptor_limit() {
    let raised = getrlimit(Resource::RLIMIT_NOFILE)
        .and_then(|(_soft, hard)| setrlimit(Resource::RLIMIT_NOFILE, hard, hard));
    if let Err(error) = raised {
        tracing::warn!(target: "resource-manager", "cannot raise the limit of open files: {error}");
    }
}

/// Keeps what the status page shows of the last hour.
async fn keep_history(views: Arc<LiveViews>, stop: CancellationToken) -> anyhow::Result<()> {
    let mut ticks = tokio::time::interval(history::INTERVAL);
    loop {
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            _tick = ticks.tick() => {}
        }
        let views = Arc::clone(&views);
        tokio::task::spawn_blocking(move || views.observe()).await?;
    }
}

/// What is counted of all that met a bound.
fn losses(
    log: &log::Control,
    dumper: &Arc<Dumper>,
    recorder: Option<&Arc<Recorder>>,
    cut_scrapes: &Counter,
    cut_views: &Counter,
) -> LossMetrics {
    let (stalled, repeated) = (log.clone(), log.clone());
    let (dumper, recorder) = (Arc::clone(dumper), recorder.cloned());
    let (cut_scrapes, cut_views) = (cut_scrapes.clone(), cut_views.clone());
    LossMetrics::default()
        .with("log_lines", "stalled", move || stalled.dropped_lines())
        .with("log_messages", "repeated", move || {
            repeated.held_back_messages()
        })
        .with("dump_events", "stalled", move || dumper.dropped())
        .with("recorded_events", "stalled", move || {
            recorder.as_ref().map_or(0, |recorder| recorder.dropped())
        })
        .with("metrics_connections", "limit", move || cut_scrapes.get())
        .with("inspect_connections", "limit", move || cut_views.get())
}

/// The names under which the status page is served: the node's own, and those of the option.
fn allowed_hosts(config: &Config) -> AllowedHosts {
    let named = config.telemetry.allowed_hosts.iter().cloned();
    let own = [
        commands::host_name(),
        std::env::var("NODE_NAME").unwrap_or_default(),
    ];
    own.into_iter()
        .filter(|name| !name.is_empty())
        .chain(named)
        .collect()
}

/// What observes the calls. Without an observer the relay inspects nothing.
fn observers(config: &Config, dumper: &Arc<Dumper>, metrics: &Metrics) -> Vec<Arc<dyn Observer>> {
    let mut observers: Vec<Arc<dyn Observer>> = vec![Arc::<Dumper>::clone(dumper)];
    if config.telemetry.metrics.is_some() {
        metrics.register(|registry| observers.push(Arc::new(RelayMetrics::new(registry))));
    }
    observers
}

/// Returns when it is time to stop: a signal asked for it, or a task failed.
async fn wait(
    signals: &mut Signals,
    stop: &CancellationToken,
    dumper: &Dumper,
    recorder: Option<&Recorder>,
) {
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            asked = signals.next() => match asked {
                SignalRequest::Stop => return,
                SignalRequest::Reopen => {
                    tracing::info!(target: "resource-manager", "reopening the dump file");
                    dumper.reopen();
                    if let Some(recorder) = recorder {
                        recorder.reopen();
                    }
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

/// Notifies the supervisor, if one listens.
fn notify(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::warn!(target: "resource-manager", "cannot notify the supervisor: {error}");
    }
}
