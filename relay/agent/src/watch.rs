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
    args::Args,
    choose::{Choice, Known, Maps, Wanted, choose},
};

/// Wait before a failed watch is tried again.
const RETRY: Duration = Duration::from_secs(1);

/// Which ConfigMap of [`Maps`] an event is about.
#[derive(Clone, Copy, Debug)]
enum Slot {
    Node,
    Default,
    Single,
}

impl Slot {
    fn name(self) -> &'static str {
        match self {
            Self::Node => "the node's ConfigMap",
            Self::Default => "the default ConfigMap",
            Self::Single => "the single ConfigMap",
        }
    }
}

type Found<K> = Result<Option<K>, watcher::Error>;

/// Watches for ever, and sends each new choice.
pub(crate) async fn run(client: Client, args: &Args, choice: &Sender<Choice>) {
    let maps_api = Api::<ConfigMap>::namespaced(client.clone(), &args.config_ns);
    let base = &args.configmap_name;
    let map = |name: String| follow(maps_api.clone(), name);
    let mut fixed = futures::stream::select_all([
        tagged(Slot::Node, map(format!("{base}.node.{}", args.node_name))),
        tagged(Slot::Default, map(format!("{base}.default"))),
        tagged(Slot::Single, map(base.clone())),
    ]);
    let mut node = follow(Api::<Node>::all(client), args.node_name.clone()).boxed();
    let mut group_name = Known::Unknown;
    let mut group: BoxStream<'static, Found<ConfigMap>> = futures::stream::pending().boxed();
    let mut maps = Maps::default();
    let mut health = Health::default();
    loop {
        tokio::select! {
            Some((slot, found)) = fixed.next() => {
                if let Some(found) = health.settle(slot.name(), found) {
                    let known = found.map(wanted).into();
                    match slot {
                        Slot::Node => maps.node = known,
                        Slot::Default => maps.default = known,
                        Slot::Single => maps.single = known,
                    }
                }
            }
            Some(found) = group.next() => {
                if let Some(found) = health.settle("the group's ConfigMap", found) {
                    maps.group = found.map(wanted).into();
                }
            }
            Some(found) = node.next() => {
                if let Some(found) = health.settle("the Node", found) {
                    let now = Known::from(found.and_then(|node| label(&node, &args.label_name)));
                    if now != group_name {
                        (group, maps.group) = match &now {
                            Known::Present(name) => {
                                info!(group = name, "the Node's group decides which ConfigMap to use");
                                (map(format!("{base}.group.{name}")).boxed(), Known::Unknown)
                            }
                            _ => (futures::stream::pending().boxed(), Known::Absent),
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
fn publish(next: Choice, choice: &Sender<Choice>) {
    choice.send_if_modified(|current| {
        if *current == next {
            return false;
        }
        match &next {
            Choice::Wait => {}
            Choice::Nothing => {
                info!("no ConfigMap for this node: the configuration in force stays");
            }
            Choice::Empty { origin } => {
                warn!(
                    origin,
                    "the ConfigMap has no keys: the configuration in force stays"
                );
            }
            Choice::Push(wanted) => {
                info!(
                    origin = wanted.origin,
                    version = wanted.resource_version,
                    "ConfigMap chosen"
                );
            }
        }
        *current = next;
        true
    });
}

/// The object of that name, each time it changes; `None` when there is none.
fn follow<K>(api: Api<K>, name: String) -> impl Stream<Item = Found<K>> + Send + 'static
where
    K: kube::Resource + Clone + std::fmt::Debug + Send + serde::de::DeserializeOwned + 'static,
{
    watch_object(api, &name).backoff(Every(RETRY))
}

/// The same wait each time: a restarted API server is found again within it.
#[derive(Debug)]
struct Every(Duration);

impl Iterator for Every {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        Some(self.0)
    }
}

impl Backoff for Every {
    fn reset(&mut self) {}
}

fn tagged(
    slot: Slot,
    stream: impl Stream<Item = Found<ConfigMap>> + Send + 'static,
) -> BoxStream<'static, (Slot, Found<ConfigMap>)> {
    stream.map(move |found| (slot, found)).boxed()
}

fn wanted(map: ConfigMap) -> Wanted {
    Wanted {
        origin: format!("{}/{}", map.namespace().unwrap_or_default(), map.name_any()),
        resource_version: map.resource_version().unwrap_or_default(),
        data: map.data.unwrap_or_default(),
    }
}

/// The value of a label; an empty one counts as none.
fn label(node: &Node, key: &str) -> Option<String> {
    node.labels()
        .get(key)
        .filter(|value| !value.is_empty())
        .cloned()
}

/// Which watches work: one log line per change.
#[derive(Debug, Default)]
struct Health {
    broken: std::collections::BTreeSet<&'static str>,
}

impl Health {
    fn settle<K>(&mut self, what: &'static str, found: Found<K>) -> Option<Option<K>> {
        match found {
            Ok(found) => {
                if self.broken.remove(what) {
                    info!(what, "watching again");
                }
                Some(found)
            }
            // 410 Gone: what happened since is no longer kept. The watcher lists anew, nothing is lost.
            Err(watcher::Error::WatchError(status)) if status.code == 410 => {
                debug!(what, "the watch has expired; listing again");
                None
            }
            Err(error) => {
                if self.broken.insert(what) {
                    warn!(what, %error, "cannot watch; trying again until it works");
                }
                None
            }
        }
    }
}
