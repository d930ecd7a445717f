//! Containers that end by themselves: their CPUs are free at once.

use super::*;
use std::sync::atomic::Ordering;

/// A node that looks by itself in its first seconds, as after every start, and not again within a test's time.
async fn patient() -> (Node, Running) {
    let node = Node::new();
    let relay = node.start_looking_every(Duration::from_secs(3600)).await;
    (node, relay)
}

#[tokio::test]
async fn a_create_that_finds_no_room_asks_the_runtime_which_have_ended_before_it_is_refused() {
    let (node, relay) = patient().await;
    assert_eq!(relay.create(&node, "init", POD, 6000).await, "0-5");
    // It ended, and the runtime did not tell us.
    node.runtime.containers.lock().unwrap().clear();
    assert_eq!(relay.create(&node, "main", POD, 6000).await, "0-5");
    let counts = relay.handle.snapshot().counts.clone();
    assert_eq!((counts.placed, counts.refused), (2, 0));
}

#[tokio::test]
async fn an_ending_the_runtime_tells_frees_the_cpus_and_a_broken_stream_is_opened_again() {
    let (node, relay) = patient().await;
    for round in 1..=2 {
        relay.create(&node, "init", POD, 6000).await;
        relay
            .eventually("init runs", |now| {
                now.find("init")
                    .is_ok_and(|container| container.stage() != Stage::Reserved)
            })
            .await;
        let deadline = Instant::now() + Duration::from_secs(20);
        while node.runtime.streams.load(Ordering::SeqCst) < round {
            assert!(Instant::now() < deadline, "the stream is not opened again");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        node.runtime.containers.lock().unwrap().clear();
        let told = node.runtime.told.lock().unwrap().clone().unwrap();
        told.send("some sandbox".into()).await.unwrap();
        told.send("init".into()).await.unwrap();
        relay
            .eventually("its CPUs are free", |now| now.containers.is_empty())
            .await;
        *node.runtime.told.lock().unwrap() = None;
    }
}

#[tokio::test]
async fn what_ended_while_the_stream_was_broken_is_found_when_it_is_opened_again() {
    let (node, relay) = patient().await;
    relay.create(&node, "init", POD, 6000).await;
    node.runtime.containers.lock().unwrap().clear();
    *node.runtime.told.lock().unwrap() = None;
    relay
        .eventually("its CPUs are free", |now| now.containers.is_empty())
        .await;
}
