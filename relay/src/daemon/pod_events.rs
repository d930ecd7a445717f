//! Tells the cluster, through the agent, what happens to the containers of a pod: Events about it.
//!
//! ```text
//! manager's snapshots ──SnapshotDiff──┐
//!                                     ├──▶ queue (bounded) ──▶ agent ──▶ API server
//! exclusivity ────────────────────────┘
//! ```
//! Nothing waits for the agent. An Event that finds the queue full, or that the agent could not be given in time, is
//! lost and counted.

use super::{
    moves::{KnownMoves, new_moves},
    tasks::Tasks,
};
use crate::{
    config::Config,
    control::agent_client::{AgentClient, PodEvent, PodEventReason},
    manager::{ManagerHandle, RuntimeAnswer, Snapshot, Stage},
};
use resmgr_policy::{ContainerId, MoveStep, Outcome, RebalanceMove, Request};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime},
};
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, sleep},
};

/// Events that may wait for the agent.
const QUEUE: usize = 256;
/// Wait before the agent is given an Event again.
const RETRY: Duration = Duration::from_secs(5);
/// Age at which an Event is given up.
const MAX_AGE: Duration = Duration::from_secs(300);
/// How often an agent that is too old is asked again: a newer agent may have taken its place.
const ASK_AGAIN: Duration = Duration::from_secs(300);

/// Takes Events about pods.
#[derive(Clone, Debug)]
pub struct PodEvents {
    queue: mpsc::Sender<PodEvent>,
    lost: Arc<AtomicU64>,
}

impl PodEvents {
    /// Starts to send them, if there can be an agent; what the manager does is told by itself.
    #[must_use]
    pub fn start(config: &Config, manager: Option<&ManagerHandle>, tasks: &Tasks) -> Option<Self> {
        let client = AgentClient::new(config.relay.agent_socket.clone()?);
        let (queue, waiting) = mpsc::channel(QUEUE);
        let events = Self {
            queue,
            lost: Arc::default(),
        };
        tasks.spawn("pod events", {
            let (lost, stop) = (Arc::clone(&events.lost), tasks.stop().clone());
            async move {
                tokio::select! {
                    () = stop.cancelled() => {}
                    () = deliver(client, waiting, &lost) => stop.cancelled().await,
                }
                Ok(())
            }
        });
        if let Some(manager) = manager {
            tasks.spawn("pod events of placement", {
                let (events, stop) = (events.clone(), tasks.stop().clone());
                let snapshots = manager.snapshots();
                async move {
                    tokio::select! {
                        () = stop.cancelled() => {}
                        () = events.follow(snapshots) => stop.cancelled().await,
                    }
                    Ok(())
                }
            });
        }
        Some(events)
    }

    /// Sends an Event, or loses it; never waits.
    pub(super) fn send(&self, event: PodEvent) {
        if self.queue.try_send(event).is_err() {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// How many Events were lost.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }

    /// Follows the manager until it ends.
    async fn follow(&self, mut snapshots: watch::Receiver<Arc<Snapshot>>) {
        let mut diff = SnapshotDiff::default();
        loop {
            let snapshot = Arc::clone(&snapshots.borrow_and_update());
            for event in diff.next(&snapshot) {
                self.send(event);
            }
            if snapshots.changed().await.is_err() {
                return;
            }
        }
    }
}

/// Gives the agent each Event, until the queue is closed.
async fn deliver(client: AgentClient, mut queue: mpsc::Receiver<PodEvent>, lost: &AtomicU64) {
    let mut too_old: Option<Instant> = None;
    while let Some(event) = queue.recv().await {
        let is_asked = too_old.is_none_or(|since| since.elapsed() >= ASK_AGAIN);
        let outcome = match is_asked {
            true => deliver_one(&client, &event).await,
            false => Delivery::TooOld,
        };
        match outcome {
            Delivery::Done => too_old = None,
            Delivery::Failed => _ = lost.fetch_add(1, Ordering::Relaxed),
            Delivery::TooOld => {
                if too_old.is_none() {
                    tracing::warn!("the agent is too old to write Events about pods");
                }
                if is_asked {
                    too_old = Some(Instant::now());
                }
                lost.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
}

/// What became of an Event.
enum Delivery {
    Done,
    /// The agent knows no Events.
    TooOld,
    Failed,
}

async fn deliver_one(client: &AgentClient, event: &PodEvent) -> Delivery {
    loop {
        match client.record_event(event).await {
            Ok(()) => return Delivery::Done,
            Err(error) if error.is_too_old() => return Delivery::TooOld,
            Err(error) if error.is_refusal() => {
                tracing::warn!("Event about pod {}/{}: {error}", event.namespace, event.pod);
                return Delivery::Failed;
            }
            Err(error) => {
                tracing::debug!("Event about pod {}/{}: {error}", event.namespace, event.pod);
                // A clock that was set back makes no Event older.
                if event.at.elapsed().unwrap_or_default() > MAX_AGE {
                    return Delivery::Failed;
                }
                sleep(RETRY).await;
            }
        }
    }
}

/// What changes from snapshot to snapshot that a pod should know.
#[derive(Debug, Default)]
struct SnapshotDiff {
    /// Sandbox and container, when refused last, and how often.
    refused: BTreeSet<(Arc<str>, Arc<str>, u64, u64)>,
    unplaced: BTreeSet<ContainerId>,
    unenforced: Arc<BTreeMap<ContainerId, RuntimeAnswer>>,
    contested: Arc<BTreeMap<ContainerId, Arc<str>>>,
    moves: KnownMoves,
}

impl SnapshotDiff {
    /// The Events that come of one more snapshot. What an earlier run of cri-resmgr did is no news; what is still wrong
    /// is.
    fn next(&mut self, snapshot: &Snapshot) -> Vec<PodEvent> {
        let moves = new_moves(snapshot, &mut self.moves);
        if !snapshot.synced {
            return Vec::new();
        }
        let mut events = self.new_refusals(snapshot);
        events.extend(self.new_unplaced(snapshot));
        events.extend(self.new_unenforced(snapshot));
        events.extend(self.new_contested(snapshot));
        events.extend(moves.iter().flat_map(|moved| of_move(snapshot, moved)));
        events
    }

    fn new_refusals(&mut self, snapshot: &Snapshot) -> Vec<PodEvent> {
        let mut now = BTreeSet::new();
        let mut events = Vec::new();
        for refused in snapshot.refused.recent() {
            let request = &refused.request;
            let (sandbox, name) = (&request.pod.sandbox, &request.name);
            let key = (
                Arc::clone(sandbox),
                Arc::clone(name),
                refused.at_unix_s,
                refused.times,
            );
            if !self.refused.contains(&key) {
                events.push(event(
                    request,
                    PodEventReason::PlacementRefused,
                    &refused.why,
                ));
            }
            now.insert(key);
        }
        self.refused = now;
        events
    }

    fn new_unplaced(&mut self, snapshot: &Snapshot) -> Vec<PodEvent> {
        let mut now = BTreeSet::new();
        let mut events = Vec::new();
        for container in snapshot.containers.iter() {
            // The runtime gives it another id.
            if container.stage() == Stage::Reserved {
                continue;
            }
            let was_unplaced = self.unplaced.contains(container.id);
            if let Some(why) = container.unplaced {
                now.insert(container.id.clone());
                if !was_unplaced {
                    let text = format!("runs without a placement: {why}");
                    events.push(event(container.request, PodEventReason::Unplaced, &text));
                }
            } else if let Some(placement) = container.placement.filter(|_| was_unplaced) {
                let text = format!("runs on CPUs {}", *placement.cpus);
                events.push(event(container.request, PodEventReason::Placed, &text));
            }
        }
        self.unplaced = now;
        events
    }

    fn new_unenforced(&mut self, snapshot: &Snapshot) -> Vec<PodEvent> {
        let before = std::mem::replace(&mut self.unenforced, Arc::clone(&snapshot.unenforced));
        let told = snapshot.unenforced.iter().filter(|&(id, answer)| {
            *answer != RuntimeAnswer::Unasked && before.get(id) != Some(answer)
        });
        told.filter_map(|(id, answer)| {
            let container = snapshot.containers.get(id)?;
            let text = format!("its placement is not enforced: {answer}");
            Some(event(container.request, PodEventReason::NotEnforced, &text))
        })
        .collect()
    }

    fn new_contested(&mut self, snapshot: &Snapshot) -> Vec<PodEvent> {
        let before = std::mem::replace(&mut self.contested, Arc::clone(&snapshot.contested));
        let contested = snapshot.contested.iter();
        let told = contested.filter(|(id, _candidates)| !before.contains_key(*id));
        told.filter_map(|(id, candidates)| {
            let container = snapshot.containers.get(id)?;
            let text = format!(
                "another program keeps changing its cgroup, which is repaired every few seconds; candidates: {candidates}"
            );
            Some(event(container.request, PodEventReason::Contested, &text))
        })
        .collect()
    }
}

/// One for each container that a move was about.
fn of_move(snapshot: &Snapshot, moved: &RebalanceMove) -> Vec<PodEvent> {
    let told = |step: &MoveStep| {
        let (reason, text) = match moved.outcome {
            Outcome::Trial => (
                PodEventReason::Moved,
                format!("moved {step}, because of {}", moved.reason),
            ),
            Outcome::Undone => {
                let back = MoveStep {
                    from: step.to,
                    to: step.from,
                    ..step.clone()
                };
                let text = format!(
                    "moved back {back}: the move because of {} did not help",
                    moved.reason
                );
                (PodEventReason::MovedBack, text)
            }
            Outcome::Kept | Outcome::Ended | Outcome::Shadow => return None,
        };
        let container = snapshot.containers.get(&step.id)?;
        Some(event(container.request, reason, &text))
    };
    moved.steps.iter().filter_map(told).collect()
}

fn event(request: &Request, reason: PodEventReason, text: &str) -> PodEvent {
    PodEvent {
        namespace: request.pod.namespace.to_string(),
        pod: request.pod.name.to_string(),
        uid: request.pod.uid.to_string(),
        reason,
        message: format!("container {}: {text}", request.name),
        at: SystemTime::now(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manager::Book;
    use resmgr_policy::{Policy, Unplaced as NoPolicy};
    use resmgr_topology::Topology;
    use serde_json::{Value, json};
    use tokio_stream::wrappers::UnixListenerStream;
    use tonic::{service::Routes, transport::Server};

    fn container(unplaced: Option<&str>) -> Value {
        let placement = json!({
            "exclusive": "2-3", "pool": null, "shared": 0, "cpus": "2-3", "mems": null,
            "cpu_shares": null, "quota": "unlimited",
        });
        json!({
            "request": {
                "id": "id", "pod": {"sandbox": "s", "uid": "u", "name": "db-0", "namespace": "shop"},
                "name": "db", "qos": "Guaranteed", "requirements": resmgr_policy::Requirements::default(),
                "init": false, "annotations": {}, "env": [],
            },
            "placement": if unplaced.is_some() { Value::Null } else { placement },
            "unplaced": unplaced, "arrival": 0, "stage": "running",
            "asked": crate::enforce::CgroupSettings::default(), "cgroup_parent": "",
        })
    }

    /// A container that runs, and a move of it that came to `outcome`.
    fn snapshot(unplaced: Option<&str>, outcome: Option<&str>) -> Snapshot {
        let moves = outcome.map(|outcome| {
            json!({
                "id": "id", "at": 7, "reason": "contention", "judged": [], "lost_ns_per_s": 0,
                "promised_ns_per_s": 0, "cost_ns_per_s": 0, "seen_ns_per_s": null, "outcome": outcome,
                "parts": [{"id": "id", "what": "exclusive", "from": "0-1", "to": "2-3"}],
            })
        });
        let book = json!({
            "policy": "static", "next_arrival": 1, "entries": {"id": container(unplaced)},
            "rebalance": {"history": moves.into_iter().collect::<Vec<_>>()},
        });
        let book: Book = serde_json::from_value(book).unwrap();
        let topology = Arc::new(Topology::synthetic("pack:1 core:4 pu:1").unwrap());
        let policy: Arc<dyn Policy> = Arc::new(NoPolicy::NONE);
        let mut snapshot = Snapshot::empty(&policy, topology);
        snapshot.containers = book.containers;
        snapshot.synced = true;
        snapshot
    }

    /// What a snapshot tells of.
    fn told(diff: &mut SnapshotDiff, snapshot: &Snapshot) -> Vec<(&'static str, String)> {
        let events = diff.next(snapshot).into_iter();
        events
            .map(|event| {
                assert_eq!(
                    (&*event.namespace, &*event.pod, &*event.uid),
                    ("shop", "db-0", "u")
                );
                (event.reason.word(), event.message)
            })
            .collect()
    }

    #[test]
    fn a_container_without_a_placement_is_told_of_once_and_when_it_has_one() {
        let mut diff = SnapshotDiff::default();
        let unplaced = snapshot(Some("no room"), None);
        let mut early = unplaced.clone();
        early.synced = false;
        assert_eq!(told(&mut diff, &early), []);
        let text = "container db: runs without a placement: no room".to_owned();
        assert_eq!(told(&mut diff, &unplaced), [("CPUUnplaced", text)]);
        assert_eq!(told(&mut diff, &unplaced), []);
        let placed = snapshot(None, None);
        let text = "container db: runs on CPUs 2-3".to_owned();
        assert_eq!(told(&mut diff, &placed), [("CPUPlaced", text)]);
        assert_eq!(told(&mut diff, &placed), []);
    }

    #[test]
    fn a_move_is_told_of_when_it_is_made_and_when_it_is_taken_back() {
        let mut diff = SnapshotDiff::default();
        assert_eq!(told(&mut diff, &snapshot(None, None)), []);
        let text =
            "container db: moved exclusive CPUs from 0-1 to 2-3, because of contention".to_owned();
        assert_eq!(
            told(&mut diff, &snapshot(None, Some("trial"))),
            [("CPUMoved", text)]
        );
        assert_eq!(told(&mut diff, &snapshot(None, Some("trial"))), []);
        let text = "container db: moved back exclusive CPUs from 2-3 to 0-1: the move because of contention did \
                    not help";
        assert_eq!(
            told(&mut diff, &snapshot(None, Some("undone"))),
            [("CPUMovedBack", text.to_owned())]
        );
        // Of an earlier run: known before the manager knows what runs.
        let mut later = SnapshotDiff::default();
        let mut early = snapshot(None, Some("undone"));
        early.synced = false;
        assert_eq!(told(&mut later, &early), []);
        assert_eq!(told(&mut later, &snapshot(None, Some("undone"))), []);
    }

    #[test]
    fn a_placement_that_is_not_enforced_is_told_of_when_the_runtime_has_answered() {
        let mut diff = SnapshotDiff::default();
        let with = |answer| {
            let mut snapshot = snapshot(None, None);
            snapshot.unenforced = Arc::new(BTreeMap::from([(ContainerId("id".into()), answer)]));
            snapshot
        };
        assert_eq!(told(&mut diff, &with(RuntimeAnswer::Unasked)), []);
        let refused = with(RuntimeAnswer::Refused("no".into()));
        let [(reason, text)] = &told(&mut diff, &refused)[..] else {
            panic!("one Event");
        };
        assert_eq!(*reason, "CPUPlacementNotEnforced");
        assert!(
            text.ends_with("the runtime did not take its CPUs: no"),
            "{text}"
        );
        assert_eq!(told(&mut diff, &refused), []);
    }

    #[test]
    fn another_program_that_keeps_changing_the_cgroup_is_told_of_once_each_time() {
        let mut diff = SnapshotDiff::default();
        let quiet = snapshot(None, None);
        let mut contested = snapshot(None, None);
        let candidates = "other-relay (process 7)";
        contested.contested = Arc::new(BTreeMap::from([(
            ContainerId("id".into()),
            candidates.into(),
        )]));
        for (now, count) in [
            (&quiet, 0),
            (&contested, 1),
            (&contested, 0),
            (&quiet, 0),
            (&contested, 1),
        ] {
            let events = told(&mut diff, now);
            assert_eq!(events.len(), count);
            for (reason, text) in events {
                assert_eq!(reason, "CPUPlacementContested");
                assert!(
                    text.ends_with("candidates: other-relay (process 7)"),
                    "{text}"
                );
            }
        }
    }

    #[tokio::test]
    async fn an_agent_that_knows_no_events_is_asked_once_and_what_it_does_not_get_is_counted() {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("agent.sock");
        let listener = tokio::net::UnixListener::bind(&socket).unwrap();
        let asked = Arc::new(AtomicU64::new(0));
        let count = Arc::clone(&asked);
        let server = Server::builder()
            .layer(tower::util::MapRequestLayer::new(move |request| {
                count.fetch_add(1, Ordering::Relaxed);
                request
            }))
            .add_routes(Routes::default())
            .serve_with_incoming(UnixListenerStream::new(listener));
        let (sender, queue) = mpsc::channel(3);
        let lost = Arc::<AtomicU64>::default();
        let events = PodEvents {
            queue: sender,
            lost: Arc::clone(&lost),
        };
        let unplaced = snapshot(Some("no room"), None);
        for _ in 0..4 {
            events.send(SnapshotDiff::default().next(&unplaced).remove(0));
        }
        assert_eq!(events.lost(), 1, "the queue was full");
        drop(events);
        tokio::select! {
            ended = server => panic!("{ended:?}"),
            () = deliver(AgentClient::new(socket), queue, &lost) => {}
        }
        assert_eq!(lost.load(Ordering::Relaxed), 4);
        assert_eq!(asked.load(Ordering::Relaxed), 1);
    }
}
