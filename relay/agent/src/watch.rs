//! Watches the Node and the ConfigMaps that could be in force for it.
//!
//! Each object is watched by its own name, so that a Role may be narrowed to names. A watch that
//! the API server closes, or lets expire, is re-created silently; one that fails is retried for ever
//! and logged once when it breaks and once when it works again. A failing watch never empties what is
//! known.

use std::time::Duration;

use futures::{Stream, StreamExt as _, stream::BoxStream};
use k8s_openapi::api::core::v1::{ConfigMap, Node};
use kube::{
    Api, Client, ResourceExt as _,
    runtime::{
        WatchStreamExt as _,
        utils::Backoff,
        watcher::{self, watch_object},
    },
};
use tokio::sync::watch::Sender;
use tracing::{debug, info, warn};

use crate::{
    args::AgentArgs,
    choose::{Lookup, MapChoice, Maps, NodeConfig, choose},
    metrics::AgentMetrics,
};

/// Wait before a failed watch is tried again.
const RETRY: Duration = Duration::from_secs(1);

/// For which nodes a ConfigMap of [`Maps`] is.
#[derive(Clone, Copy, Debug)]
enum MapScope {
    Node,
    Default,
    Single,
}

impl MapScope {
    fn name(self) -> WatchName {
        match self {
            Self::Node => WatchName("the node's ConfigMap", "node_map"),
            Self::Default => WatchName("the default ConfigMap", "default_map"),
            Self::Single => WatchName("the single ConfigMap", "single_map"),
        }
    }
}

/// What is watched: for the log, and as a label.
#[derive(Clone, Copy, Debug)]
struct WatchName(&'static str, &'static str);

const NODE: WatchName = WatchName("the Node", "node");
const GROUP_MAP: WatchName = WatchName("the group's ConfigMap", "group_map");

type WatchResult<K> = Result<Option<K>, watcher::Error>;

/// Watches for ever, and sends every new choice.
pub(crate) async fn run(
    client: Client,
    args: &AgentArgs,
    choice: &Sender<MapChoice>,
    metrics: AgentMetrics,
) {
    let maps_api = Api::<ConfigMap>::namespaced(client.clone(), &args.config_ns);
    let base = &args.configmap_name;
    let map = |name: String| follow(maps_api.clone(), name);
    let mut fixed = futures::stream::select_all([
        tagged(
            MapScope::Node,
            map(format!("{base}.node.{}", args.node_name)),
        ),
        tagged(MapScope::Default, map(format!("{base}.default"))),
        tagged(MapScope::Single, map(base.clone())),
    ]);
    let mut node = follow(Api::<Node>::all(client), args.node_name.clone()).boxed();
    let mut group_name = Lookup::Unknown;
    let mut group: BoxStream<'static, WatchResult<ConfigMap>> = futures::stream::pending().boxed();
    let mut maps = Maps::default();
    let mut health = WatchHealth::new(metrics);
    loop {
        tokio::select! {
            Some((scope, found)) = fixed.next() => {
                if let Some(found) = health.observe(scope.name(), found) {
                    let known = found.map(config).into();
                    match scope {
                        MapScope::Node => maps.node = known,
                        MapScope::Default => maps.default = known,
                        MapScope::Single => maps.single = known,
                    }
                }
            }
            Some(found) = group.next() => {
                if let Some(found) = health.observe(GROUP_MAP, found) {
                    maps.group = found.map(config).into();
                }
            }
            Some(found) = node.next() => {
                if let Some(found) = health.observe(NODE, found) {
                    let now = Lookup::from(found.and_then(|node| label(&node, &args.label_name)));
                    if now != group_name {
                        (group, maps.group) = match &now {
                            Lookup::Present(name) => {
                                info!(group = name, "the Node's group decides which ConfigMap to use");
                                (map(format!("{base}.group.{name}")).boxed(), Lookup::Unknown)
                            }
                            _ => (futures::stream::pending().boxed(), Lookup::Absent),
                        };
                        group_name = now;
                    }
                }
            }
        }
        publish(choose(&maps), choice);
    }
}

/// Sends a choice that differs from the last one.
fn publish(next: MapChoice, choice: &Sender<MapChoice>) {
    choice.send_if_modified(|current| {
        if *current == next {
            return false;
        }
        match &next {
            MapChoice::Wait => {}
            MapChoice::Nothing => {
                info!("no ConfigMap for this node: the configuration in force stays");
            }
            MapChoice::Empty { origin } => {
                warn!(
                    origin,
                    "the ConfigMap has no keys: the configuration in force stays"
                );
            }
            MapChoice::Push(config) => {
                info!(
                    origin = config.origin,
                    version = config.resource_version,
                    "ConfigMap chosen"
                );
            }
        }
        *current = next;
        true
    });
}

/// The object of that name, each time it changes; `None` when there is none.
fn follow<K>(api: Api<K>, name: String) -> impl Stream<Item = WatchResult<K>> + Send + 'static
where
    K: kube::Resource + Clone + std::fmt::Debug + Send + serde::de::DeserializeOwned + 'static,
{
    watch_object(api, &name).backoff(FixedBackoff(RETRY))
}

/// The same wait between attempts: a restarted API server is found again within it.
#[derive(Debug)]
struct FixedBackoff(Duration);

impl Iterator for FixedBackoff {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        Some(self.0)
    }
}

impl Backoff for FixedBackoff {
    fn reset(&mut self) {}
}

fn tagged(
    scope: MapScope,
    stream: impl Stream<Item = WatchResult<ConfigMap>> + Send + 'static,
) -> BoxStream<'static, (MapScope, WatchResult<ConfigMap>)> {
    stream.map(move |found| (scope, found)).boxed()
}

fn config(map: ConfigMap) -> NodeConfig {
    NodeConfig {
        origin: format!("{}/{}", map.namespace().unwrap_or_default(), map.name_any()),
        resource_version: map.resource_version().unwrap_or_default(),
        data: map.data.unwrap_or_default(),
    }
}

/// The value of a label; an empty value counts as none.
fn label(node: &Node, key: &str) -> Option<String> {
    node.labels()
        .get(key)
        .filter(|value| !value.is_empty())
        .cloned()
}

/// Which watches work; logs a line whenever a watch breaks or works again.
#[derive(Debug)]
struct WatchHealth {
    broken: std::collections::BTreeSet<&'static str>,
    metrics: AgentMetrics,
}

impl WatchHealth {
    fn new(metrics: AgentMetrics) -> Self {
        Self {
            broken: std::collections::BTreeSet::new(),
            metrics,
        }
    }

    fn observe<K>(
        &mut self,
        WatchName(object, label): WatchName,
        found: WatchResult<K>,
    ) -> Option<Option<K>> {
        match &found {
            Ok(_) => self.metrics.watched(label),
            Err(_) => self.metrics.watch_failed(label),
        }
        match found {
            Ok(found) => {
                if self.broken.remove(object) {
                    info!(object, "watch works again");
                }
                Some(found)
            }
            // 410 Gone: object happened since is no longer kept. The watcher lists anew, nothing is lost.
            Err(watcher::Error::WatchError(status)) if status.code == 410 => {
                debug!(object, "watch expired; listing again");
                None
            }
            Err(error) => {
                if self.broken.insert(object) {
                    warn!(object, %error, "watch failed; trying again until it works");
                }
                None
            }
        }
    }
}
