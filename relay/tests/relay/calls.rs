//! Calls that pass through.

use crate::scene::{PATIENCE, Reply, Scene, both, call, call_with, hangs, message};
use cri_resmgr::cri::{ServerOptions, Upstreams};
use std::time::Duration;
use tokio::time::timeout;

#[tokio::test]
async fn any_path_passes_with_its_bytes_status_and_trailers() {
    let scene = Scene::plain();
    let _runtime = scene.runtime();
    let client = scene.client().await;
    for path in [
        "/runtime.v1.RuntimeService/Version",
        "/runtime.v9.Future/Dance",
        "/x",
    ] {
        let reply = call(&client, path, message(b"hello")).await.unwrap();
        assert_eq!((reply.data, &*reply.status), (message(b"hello"), "0"));
    }
    let refused = call(&client, "/a.b/no", message(b"")).await.unwrap();
    assert_eq!((&*refused.status, &*refused.text), ("9", "will%20not"));
}

#[tokio::test]
async fn a_thousand_streams_at_once_and_a_message_of_32_mib() {
    let scene = Scene::plain();
    let _runtime = scene.runtime();
    let client = scene.client().await;
    let mut calls = tokio::task::JoinSet::new();
    for n in 0..1000_u32 {
        let client = client.clone();
        calls.spawn(async move {
            // Not tiny: the fake peers' library takes many small frames for an attack.
            let body = message(&n.to_be_bytes().repeat(500));
            let reply = call(&client, "/a.b/C", body.clone()).await.unwrap();
            let expected = Reply {
                data: body,
                status: "0".into(),
                text: String::new(),
            };
            assert_eq!(reply, expected);
        });
    }
    calls.join_all().await;
    let large = message(&vec![7; 32 << 20]);
    assert_eq!(
        call(&client, "/a.b/C", large.clone()).await.unwrap().data,
        large
    );
}

#[tokio::test]
async fn calls_wait_for_a_runtime_that_is_not_there_yet_or_hear_why_it_is_not() {
    let scene = Scene::plain();
    let client = scene.client().await;
    let gone = call(&client, "/a.b/C", message(b"1")).await.unwrap();
    assert_eq!(gone.status, "14");
    assert!(
        gone.text.contains("/runtime cannot be reached"),
        "{}",
        gone.text
    );
    let waits = call_with(&client, "/a.b/C", message(b"2"), Some("20S"));
    let starts = async {
        tokio::time::sleep(Duration::from_millis(200)).await;
        (scene.runtime(),)
    };
    let (reply, _runtime) = tokio::join!(waits, starts);
    assert_eq!(reply.unwrap().data, message(b"2"));
}

#[tokio::test]
async fn a_runtime_killed_amid_a_call_fails_it_and_the_same_connection_finds_the_new_one() {
    let scene = Scene::plain();
    let runtime = scene.runtime();
    let client = scene.client().await;
    call(&client, "/a.b/C", message(b"")).await.unwrap();
    let hanging = call(&client, "/a.b/hang", message(b""));
    let kill = async {
        hangs(&scene.dir.path().join("runtime")).await;
        runtime.abort();
    };
    let (reply, ()) = tokio::join!(hanging, kill);
    let reply = reply.unwrap();
    assert_eq!(reply.status, "14");
    assert!(reply.text.contains("broke"), "{}", reply.text);
    std::fs::remove_file(scene.dir.path().join("runtime")).unwrap();
    let _runtime = scene.runtime();
    // Twice what either side grants at first: the windows are even on the new connection.
    for size in [1, 200_000] {
        let body = message(&vec![5; size]);
        assert_eq!(
            call(&client, "/a.b/C", body.clone()).await.unwrap().data,
            body
        );
    }
}

#[tokio::test]
async fn a_service_that_is_off_says_so() {
    let scene = Scene::new(
        |p| Upstreams {
            runtime: Some(p),
            image: None,
        },
        None,
        Vec::new(),
    );
    let _runtime = scene.runtime();
    let client = scene.client().await;
    let off = call(&client, "/runtime.v1.ImageService/ListImages", message(b""))
        .await
        .unwrap();
    assert_eq!(off.status, "12");
    assert!(
        off.text.contains("image service is turned off"),
        "{}",
        off.text
    );
    assert_eq!(
        call(&client, "/a.b/C", message(b"x")).await.unwrap().status,
        "0"
    );
}

#[tokio::test]
async fn shutdown_ends_endless_streams_and_waits_for_the_others() {
    let scene = Scene::plain();
    let _runtime = scene.runtime();
    let client = scene.client().await;
    let endless = call(
        &client,
        "/runtime.v1.RuntimeService/GetContainerEvents",
        message(b""),
    );
    let stop = async {
        hangs(&scene.dir.path().join("runtime")).await;
        scene.shutdown.cancel();
    };
    let (reply, ()) = tokio::join!(endless, stop);
    let reply = reply.unwrap();
    assert_eq!(
        (&*reply.status, &*reply.text),
        ("14", "cri-resmgr is shutting down")
    );
    drop(client);
    timeout(PATIENCE, scene.relay).await.unwrap().unwrap();
}

#[tokio::test]
async fn the_client_that_was_silent_for_longest_makes_room_for_one_too_many() {
    let options = ServerOptions {
        max_clients: 3,
        ..ServerOptions::default()
    };
    let scene = Scene::with(options, both, None, Vec::new());
    let _runtime = scene.runtime();
    let busy = scene.client().await;
    let silent = scene.client().await;
    let hanging = call(&silent, "/a.b/hang", message(b""));
    let arrivals = async {
        hangs(&scene.dir.path().join("runtime")).await;
        let mut clients = Vec::new();
        for _ in 0..20 {
            call(&busy, "/a.b/C", message(b"")).await.unwrap();
            let newest = scene.client().await;
            call(&newest, "/a.b/C", message(b"")).await.unwrap();
            clients.push(newest);
        }
    };
    let (ended, ()) = timeout(PATIENCE, async { tokio::join!(hanging, arrivals) })
        .await
        .unwrap();
    let ended = ended.unwrap();
    assert_eq!(ended.status, "14");
    assert!(ended.text.contains("too many clients"), "{}", ended.text);
    call(&busy, "/a.b/C", message(b"")).await.unwrap();
}
