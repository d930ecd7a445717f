//! Measurements in, moves out: written to the kernel, counted, explained, remembered, undone.

use super::*;
use crate::metrics::{placement::PlacementMetrics, registry::Metrics};
use resmgr_policy::{
    Confidence, Measured, Observed, Outcome, PolicySettings, RebalanceMode, Reserved, VERIFY_NS,
    by_name,
};
use resmgr_topology::Nanos;

const SECOND_NS: u64 = 1_000_000_000;

fn now_ns() -> u64 {
    clock::monotonic().0
}

/// A daemon with `static-plus` and feedback, on two packages of four CPUs.
async fn start(node: &Node, mode: RebalanceMode) -> Running {
    let topology = Topology::synthetic("pack:2 core:4").unwrap();
    let mut settings = PolicySettings {
        rebalance: mode,
        ..PolicySettings::default()
    };
    settings.slices.reserved = Some(Reserved::Set(cpus("0")));
    let policy = by_name("static-plus", &topology, &settings).unwrap();
    let config = ManagerConfig {
        policy: policy.into(),
        topology: Arc::new(topology),
        cgroups: Arc::clone(&node.cgroups),
        ledger: Ledger::open(node.state.path()).unwrap(),
        runtime: Arc::clone(&node.runtime) as Arc<dyn Runtime>,
        fail: FailPolicies::default(),
        policy_timeout: Duration::from_secs(10),
        reconcile_interval: Duration::from_millis(20),
        export: None,
        resources_file: ResourcesFile::Never,
        blocking: Blocking::Threads,
        mailbox: 64,
        reset_policy: false,
    };
    let (manager, handle) = Manager::new(config, CancellationToken::new());
    let hooks = Arc::new(Hooks::new(handle.clone()));
    let machine = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    drop(machine.spawn(manager.run()));
    handle.synced().await.unwrap();
    Running {
        handle,
        hooks,
        machine: Some(machine),
    }
}

/// `chatty` crosses packages so often, as measured then.
fn wandering(at_ns: u64, per_s: u64) -> Arc<Measured> {
    let seen = Observed {
        utilisation_mcpu: 800,
        package_migrations_milli_per_s: per_s * 1000,
        confidence: Confidence(1000),
        ..Observed::default()
    };
    Arc::new(Measured {
        containers: [(ContainerId("chatty".into()), seen)].into(),
        at: Nanos(at_ns),
        ..Measured::default()
    })
}

fn last(snapshot: &Snapshot) -> Option<Outcome> {
    let history = &snapshot.containers.state().rebalance.history;
    history.back().map(|moved| moved.outcome)
}

fn summaries(running: &Running) -> Vec<String> {
    let snapshot = running.handle.snapshot();
    let chatty = snapshot.find("chatty").unwrap();
    let history = chatty.record.history.iter();
    history.map(|note| note.why.summary.clone()).collect()
}

fn page(running: &Running) -> String {
    let metrics = Metrics::default();
    metrics.register(|registry| {
        let snapshots = running.handle.snapshots();
        registry.register_collector(Box::new(PlacementMetrics::new(snapshots)));
    });
    metrics.page().unwrap()
}

/// Takes what the ledger says of moves back in time, as if the daemon had been down so long.
fn age(node: &Node, by_ns: u64) {
    let ledger = Ledger::open(node.state.path()).unwrap();
    let mut book: Book = ledger.load().value.unwrap();
    let mut memory = book.containers.state().rebalance.clone();
    for moved in &mut memory.history {
        moved.at = Nanos(moved.at.0.saturating_sub(by_ns));
    }
    book.containers.set_memory(memory);
    ledger.store(&book).unwrap();
}

#[tokio::test]
async fn a_move_is_written_counted_and_explained_and_undone_after_a_restart() {
    let node = Node::new();
    let running = start(&node, RebalanceMode::On).await;
    assert_eq!(running.create(&node, "chatty", POD, 500).await, "1-7");
    running.handle.set_measured(wandering(now_ns(), 3000)).await;
    running
        .eventually("a trial", |now| last(now) == Some(Outcome::Trial))
        .await;
    node.comes_to(POD, "chatty", "4-7").await;
    let told = summaries(&running);
    assert!(
        told.last()
            .unwrap()
            .contains("moved because of migrations: from all of its pool to 4-7"),
        "{told:?}"
    );
    let made = page(&running);
    assert!(!made.contains("rebalance_moves_total{"), "{made}");
    for line in [
        "rebalance_made_moves_total{reason=\"migrations\"} 1",
        "rebalance_trials 1",
        "rebalance_measurements_usable 1",
    ] {
        assert!(made.contains(line), "{line}\n{made}");
    }
    running.handle.durable.flushed().await.unwrap();
    running.kill().await;

    age(&node, VERIFY_NS);
    let running = start(&node, RebalanceMode::On).await;
    let trial = last(&running.handle.snapshot());
    assert_eq!(trial, Some(Outcome::Trial), "the check goes on");
    // It wanders as before: nothing was won.
    running.handle.set_measured(wandering(now_ns(), 3000)).await;
    running
        .eventually("undone", |now| last(now) == Some(Outcome::Undone))
        .await;
    node.comes_to(POD, "chatty", "1-7").await;
    let told = summaries(&running);
    assert!(told.last().unwrap().contains("move undone"), "{told:?}");
    let undone = page(&running);
    for line in [
        "rebalance_moves_total{reason=\"migrations\",outcome=\"undone\"} 1",
        "rebalance_promised_gain_total{reason=\"migrations\",outcome=\"undone\"} 0.3",
    ] {
        assert!(undone.contains(line), "{line}\n{undone}");
    }
    running.handle.durable.flushed().await.unwrap();
    running.kill().await;

    // What was undone is not tried again, by a later run neither.
    let running = start(&node, RebalanceMode::On).await;
    for round in 1..4 {
        let at = now_ns() + round * 6 * SECOND_NS;
        running.handle.set_measured(wandering(at, 3000)).await;
    }
    running.create(&node, "later", POD, 100).await;
    assert_eq!(last(&running.handle.snapshot()), Some(Outcome::Undone));
    assert_eq!(node.kernel(POD, "chatty"), "1-7");
    running.kill().await;
}

#[tokio::test]
async fn a_shadow_is_counted_and_explained_and_nothing_moves() {
    let node = Node::new();
    let running = start(&node, RebalanceMode::Shadow).await;
    running.create(&node, "chatty", POD, 500).await;
    running.handle.set_measured(wandering(now_ns(), 3000)).await;
    running
        .eventually("a shadow", |now| last(now) == Some(Outcome::Shadow))
        .await;
    assert_eq!(node.kernel(POD, "chatty"), "1-7");
    let told = summaries(&running);
    assert!(
        told.last().unwrap().starts_with("shadow, not done"),
        "{told:?}"
    );
    let page = page(&running);
    assert!(
        page.contains("rebalance_moves_total{reason=\"migrations\",outcome=\"shadow\"} 1"),
        "{page}"
    );
    running.kill().await;
}

#[tokio::test]
async fn measurements_that_end_move_nothing_and_are_said_once() {
    let node = Node::new();
    let running = start(&node, RebalanceMode::On).await;
    running.create(&node, "chatty", POD, 500).await;
    running.handle.set_measured(wandering(now_ns(), 0)).await;
    running
        .eventually("usable", |now| now.measurements.is_usable())
        .await;
    // The program is cut off: the numbers are those of a while ago, whatever they say.
    let cut = now_ns() - 6 * SECOND_NS;
    for _look in 0..3 {
        running.handle.set_measured(wandering(cut, 3000)).await;
    }
    running
        .eventually("unusable", |now| !now.measurements.is_usable())
        .await;
    running.create(&node, "later", POD, 100).await;
    let later = ContainerId("later".into());
    running
        .eventually("later", |now| now.containers.contains(&later))
        .await;
    let snapshot = running.handle.snapshot();
    assert_eq!(last(&snapshot), None);
    assert_eq!(snapshot.moves.fallbacks, 1);
    assert_eq!(node.kernel(POD, "chatty"), "1-7");
    let later = snapshot.containers.get(&later).unwrap();
    let reasons = later
        .record
        .history
        .last()
        .unwrap()
        .why
        .reason_lines()
        .join("\n");
    assert!(
        reasons.contains("not used: decided as without telemetry"),
        "{reasons}"
    );
    // And back, when the next round is due.
    let back = now_ns() + 6 * SECOND_NS;
    running.handle.set_measured(wandering(back, 3000)).await;
    running
        .eventually("a trial", |now| last(now) == Some(Outcome::Trial))
        .await;
    assert_eq!(running.handle.snapshot().moves.fallbacks, 1);
    running.kill().await;
}
