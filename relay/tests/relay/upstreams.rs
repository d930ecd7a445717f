//! Connections to the runtime that come and go, and two of them behind one client.

use crate::scene::{
    PATIENCE, Scene, apart, call, call_with, hangs, message, runtime, runtime_with, send_all,
};
use bytes::Bytes;
use h2::server;
use http::Request;
use k8s_cri::v1::{
    ImageFilter, ImageSpec, ListImagesRequest, VersionRequest,
    image_service_client::ImageServiceClient, runtime_service_client::RuntimeServiceClient,
};
use std::time::Duration;
use tokio::{net::UnixListener, task::JoinSet, time::timeout};

const IMAGES: &str = "/runtime.v1.ImageService/";
const RUNTIME: &str = "/runtime.v1.RuntimeService/";

fn two_sockets() -> Scene {
    Scene::new(apart, None, Vec::new())
}

#[tokio::test]
async fn one_client_connection_reaches_both_sockets_at_once() {
    let scene = two_sockets();
    let _runtime = scene.runtime();
    // Windows and frames of another size than the other's, in both directions of the difference.
    let mut http = server::Builder::new();
    http.initial_window_size(1 << 20)
        .initial_connection_window_size(4 << 20)
        .max_frame_size(1 << 18)
        .max_concurrent_streams(500);
    let _images = runtime_with(&scene.dir.path().join("images"), &http);
    let client = scene.client().await;
    for (service, name) in [(RUNTIME, "runtime"), (IMAGES, "images")] {
        let path = format!("{service}which");
        let reply = call(&client, &path, message(b"")).await.unwrap();
        assert_eq!(reply.data, message(name.as_bytes()));
    }
    let mut calls = JoinSet::new();
    for n in 0..60_usize {
        let client = client.clone();
        calls.spawn(async move {
            let service = if n % 2 == 0 { RUNTIME } else { IMAGES };
            let body = message(&vec![1; 5_000 + n * 20_000]);
            let reply = call(&client, &format!("{service}Echo"), body.clone()).await;
            assert_eq!(reply.unwrap().data, body);
        });
    }
    calls.join_all().await;
}

#[tokio::test]
async fn a_socket_that_dies_takes_only_its_own_calls_with_it() {
    let scene = two_sockets();
    let _runtime = scene.runtime();
    let path = scene.dir.path().join("images");
    let images = runtime(&path);
    let client = scene.client().await;
    call(&client, &format!("{IMAGES}Echo"), message(b"1"))
        .await
        .unwrap();
    let service = format!("{RUNTIME}hang");
    let unharmed = call_with(&client, &service, message(b""), None);
    let story = async {
        let image_path = format!("{IMAGES}hang");
        let lost = call(&client, &image_path, message(b""));
        let kill = async {
            hangs(&path).await;
            images.abort();
        };
        let (lost, ()) = tokio::join!(lost, kill);
        let lost = lost.unwrap();
        assert_eq!(lost.status, "14");
        assert!(lost.text.contains("images broke"), "{}", lost.text);
        std::fs::remove_file(&path).unwrap();
        let away = call(&client, &format!("{IMAGES}Echo"), message(b"2")).await;
        let away = away.unwrap();
        assert_eq!(away.status, "14");
        assert!(away.text.contains("images cannot"), "{}", away.text);
        let _images = runtime(&path);
        let again = call(&client, &format!("{IMAGES}Echo"), message(b"3")).await;
        assert_eq!(again.unwrap().data, message(b"3"));
    };
    tokio::select! {
        biased;
        () = story => {}
        ended = unharmed => panic!("the other socket's call ended: {ended:?}"),
    }
}

#[tokio::test]
async fn a_new_runtime_fills_no_window_that_the_client_has_not_granted() {
    let scene = Scene::plain();
    let old = scene.runtime();
    let mut client = scene.client().await.ready().await.unwrap();
    // A reply that the client does not take: its window for the whole connection is nearly used up.
    let open = |path: &str| {
        let uri = format!("http://localhost{path}");
        Request::post(uri).body(()).unwrap()
    };
    let (unread, mut send) = client.send_request(open("/a.b/C"), false).unwrap();
    send_all(&mut send, message(&vec![1; 60_000])).await;
    send.send_data(Bytes::new(), true).unwrap();
    let mut unread = unread.await.unwrap().into_body();
    let first = unread.data().await.unwrap().unwrap();
    let mut taken = first.len();
    while taken < 60_005 {
        taken += unread.data().await.unwrap().unwrap().len();
    }
    old.abort();
    drop(old.await);
    std::fs::remove_file(scene.dir.path().join("runtime")).unwrap();
    let _new = scene.runtime();
    let body = message(&vec![2; 60_000]);
    let second = call(&client, "/a.b/C", body.clone());
    let release = async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        unread.flow_control().release_capacity(taken).unwrap();
    };
    let (second, ()) = tokio::join!(second, release);
    assert_eq!(second.unwrap().data, body);
}

#[tokio::test]
async fn a_runtime_that_says_goodbye_ends_what_it_has_and_the_client_hears_of_it() {
    let scene = Scene::plain();
    let path = scene.dir.path().join("runtime");
    let listener = UnixListener::bind(&path).unwrap();
    let leaving = tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        let mut connection = server::handshake(stream).await.unwrap();
        let (_request, mut respond) = connection.accept().await.unwrap().unwrap();
        connection.graceful_shutdown();
        let drive = async { while connection.accept().await.is_some() {} };
        let answer = async {
            tokio::time::sleep(Duration::from_millis(50)).await;
            let response = http::Response::builder().header("grpc-status", "0");
            respond
                .send_response(response.body(()).unwrap(), true)
                .unwrap();
        };
        tokio::join!(drive, answer);
    });
    let client = scene.client().await;
    let reply = call(&client, "/a.b/C", message(b"")).await.unwrap();
    assert_eq!(reply.status, "0");
    timeout(PATIENCE, leaving).await.unwrap().unwrap();
    let gone = async { while client.clone().ready().await.is_ok() {} };
    timeout(PATIENCE, gone).await.unwrap();
    std::fs::remove_file(&path).unwrap();
    let _runtime = scene.runtime();
    let client = scene.client().await;
    call(&client, "/a.b/C", message(b"")).await.unwrap();
}

#[tokio::test]
async fn a_usual_grpc_client_has_one_channel_for_both_and_keeps_it_through_a_restart() {
    let scene = two_sockets();
    let path = scene.dir.path().join("runtime");
    let old = runtime(&path);
    let _images = runtime(&scene.dir.path().join("images"));
    let (relay, connects) = (scene.dir.path().join("relay"), std::sync::Arc::default());
    let counter: std::sync::Arc<std::sync::atomic::AtomicU32> = std::sync::Arc::clone(&connects);
    let channel = tonic::transport::Endpoint::from_static("http://localhost")
        .connect_with_connector(tower::service_fn(move |_| {
            counter.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            let relay = relay.clone();
            async move {
                let stream = tokio::net::UnixStream::connect(relay).await;
                stream.map(hyper_util::rt::TokioIo::new)
            }
        }))
        .await
        .unwrap();
    let mut runtime_service = RuntimeServiceClient::new(channel.clone());
    let mut image_service = ImageServiceClient::new(channel);
    // The fake runtime echoes; a request and its reply have their text in the same place.
    let mut both = async |text: &str| {
        let version = text.to_owned();
        let reply = runtime_service.version(VersionRequest { version }).await;
        assert_eq!(reply.unwrap().into_inner().version, text);
        let image = text.to_owned();
        let filter = Some(ImageFilter {
            image: Some(ImageSpec {
                image,
                ..ImageSpec::default()
            }),
        });
        let reply = image_service.list_images(ListImagesRequest { filter });
        let images = reply.await.unwrap().into_inner().images;
        assert!(images[0].id.ends_with(text));
    };
    for n in 0..20 {
        both(&n.to_string()).await;
    }
    old.abort();
    drop(old.await);
    std::fs::remove_file(&path).unwrap();
    let _new = runtime(&path);
    both("after the restart").await;
    assert_eq!(connects.load(std::sync::atomic::Ordering::Relaxed), 1);
}
