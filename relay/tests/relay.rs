//! The relay between a plain HTTP/2 client and a fake runtime that can be made to misbehave.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use async_trait::async_trait;
use bytes::{BufMut, Bytes, BytesMut};
use cri_resmgr::cri::{
    Options, Relay, Upstreams,
    intercept::{After, Before, Call, Interceptor, Outcome, Status},
    listen,
    observe::{Event, Interest, Kind, Observer},
};
use h2::{client::SendRequest, server};
use http::{HeaderMap, Request, Response};
use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::Duration,
};
use tokio::{
    net::{UnixListener, UnixStream},
    task::JoinHandle,
    time::timeout,
};
use tokio_util::sync::CancellationToken;

const PATIENCE: Duration = Duration::from_secs(30);

fn message(body: &[u8]) -> Bytes {
    let mut out = BytesMut::new();
    out.put_u8(0);
    out.put_u32(u32::try_from(body.len()).unwrap());
    out.put_slice(body);
    out.freeze()
}

/// Echoes each request's data; paths that contain `hang` are never answered, `no` is refused.
fn runtime(path: &Path) -> JoinHandle<()> {
    let listener = UnixListener::bind(path).unwrap();
    tokio::spawn(async move {
        let mut connections = tokio::task::JoinSet::new();
        while let Ok((stream, _)) = listener.accept().await {
            connections.spawn(async move {
                let mut connection = server::handshake(stream).await.unwrap();
                let mut calls = tokio::task::JoinSet::new();
                while let Some(Ok((request, mut respond))) = connection.accept().await {
                    calls.spawn(async move {
                        let (parts, mut body) = request.into_parts();
                        let path = parts.uri.path().to_owned();
                        let mut data = BytesMut::new();
                        while let Some(Ok(part)) = body.data().await {
                            body.flow_control().release_capacity(part.len()).unwrap();
                            data.extend_from_slice(&part);
                        }
                        if path.contains("hang") || path.ends_with("GetContainerEvents") {
                            std::future::pending::<()>().await;
                        }
                        let response = Response::builder().header("x-seen", path.clone());
                        if path.contains("no") {
                            let refused = response.header("grpc-status", "9");
                            let refused = refused.header("grpc-message", "will%20not");
                            respond
                                .send_response(refused.body(()).unwrap(), true)
                                .unwrap();
                            return;
                        }
                        let mut send = respond
                            .send_response(response.body(()).unwrap(), false)
                            .unwrap();
                        send_all(&mut send, data.freeze()).await;
                        let mut trailers = HeaderMap::new();
                        trailers.insert("grpc-status", "0".parse().unwrap());
                        trailers.insert("x-detail-bin", "AAEC".parse().unwrap());
                        send.send_trailers(trailers).ok();
                    });
                }
            });
        }
    })
}

async fn send_all(send: &mut h2::SendStream<Bytes>, mut data: Bytes) {
    if data.len() < 1 << 14 {
        send.send_data(data, false).ok();
        return;
    }
    while !data.is_empty() {
        send.reserve_capacity(data.len());
        let Some(Ok(n)) = std::future::poll_fn(|cx| send.poll_capacity(cx)).await else {
            return;
        };
        let part = data.split_to(n.min(data.len()));
        if send.send_data(part, false).is_err() {
            return;
        }
    }
}

struct Scene {
    dir: tempfile::TempDir,
    shutdown: CancellationToken,
    relay: JoinHandle<()>,
}

impl Scene {
    fn new(
        upstreams: impl FnOnce(PathBuf) -> Upstreams,
        interceptor: Option<Arc<dyn Interceptor>>,
        observers: Vec<Arc<dyn Observer>>,
    ) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let upstreams = upstreams(dir.path().join("runtime"));
        let listener = listen::bind(&dir.path().join("relay"), None).unwrap();
        let options = Options {
            connect_limit: Duration::from_millis(300),
            ..Options::default()
        };
        let shutdown = CancellationToken::new();
        let relay = Relay::new(listener, upstreams, options, interceptor, observers);
        let relay = tokio::spawn(relay.run(shutdown.clone()));
        Self {
            dir,
            shutdown,
            relay,
        }
    }

    fn plain() -> Self {
        Self::new(both, None, Vec::new())
    }

    fn runtime(&self) -> JoinHandle<()> {
        runtime(&self.dir.path().join("runtime"))
    }

    async fn client(&self) -> SendRequest<Bytes> {
        let stream = UnixStream::connect(self.dir.path().join("relay"))
            .await
            .unwrap();
        let (client, connection) = h2::client::handshake(stream).await.unwrap();
        tokio::spawn(async move { drop(connection.await) });
        client
    }
}

fn both(path: PathBuf) -> Upstreams {
    Upstreams {
        runtime: Some(path.clone()),
        image: Some(path),
    }
}

#[derive(Debug, PartialEq)]
struct Reply {
    data: Bytes,
    status: String,
    text: String,
}

async fn call(client: &SendRequest<Bytes>, path: &str, data: Bytes) -> Result<Reply, h2::Error> {
    call_with(client, path, data, None).await
}

async fn call_with(
    client: &SendRequest<Bytes>,
    path: &str,
    data: Bytes,
    grpc_timeout: Option<&str>,
) -> Result<Reply, h2::Error> {
    let work = async {
        let mut client = client.clone().ready().await?;
        let uri = format!("http://localhost{path}");
        let mut request = Request::post(uri).header("content-type", "application/grpc");
        if let Some(value) = grpc_timeout {
            request = request.header("grpc-timeout", value);
        }
        let (response, mut send) = client.send_request(request.body(()).unwrap(), false)?;
        let sending = async {
            send_all(&mut send, data).await;
            send.send_data(Bytes::new(), true).ok();
        };
        let receiving = async {
            let (head, mut body) = response.await?.into_parts();
            let mut data = BytesMut::new();
            while let Some(part) = body.data().await {
                let part = part?;
                body.flow_control().release_capacity(part.len())?;
                data.extend_from_slice(&part);
            }
            let trailers = body.trailers().await?.unwrap_or(head.headers);
            let text = |name| {
                let value = trailers
                    .get(name)
                    .map(|v| v.to_str().unwrap_or_default().to_owned());
                value.unwrap_or_default()
            };
            Ok(Reply {
                data: data.freeze(),
                status: text("grpc-status"),
                text: text("grpc-message"),
            })
        };
        tokio::join!(sending, receiving).1
    };
    timeout(PATIENCE, work).await.expect("the call ends")
}

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
async fn a_runtime_killed_amid_a_call_fails_it_and_the_next_connection_finds_the_new_one() {
    let scene = Scene::plain();
    let runtime = scene.runtime();
    let client = scene.client().await;
    call(&client, "/a.b/C", message(b"")).await.unwrap();
    let hanging = call(&client, "/a.b/hang", message(b""));
    let kill = async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        runtime.abort();
    };
    let (reply, ()) = tokio::join!(hanging, kill);
    let reply = reply.unwrap();
    assert_eq!(reply.status, "14");
    assert!(reply.text.contains("broke"), "{}", reply.text);
    std::fs::remove_file(scene.dir.path().join("runtime")).unwrap();
    let _runtime = scene.runtime();
    let client = scene.client().await;
    assert_eq!(
        call(&client, "/a.b/C", message(b"x")).await.unwrap().data,
        message(b"x")
    );
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
        tokio::time::sleep(Duration::from_millis(100)).await;
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

/// Appends to every request; refuses paths with `refuse`; records outcomes.
#[derive(Debug, Default)]
struct Hook(Arc<Mutex<Vec<String>>>);

struct Ending(Arc<Mutex<Vec<String>>>);

#[async_trait]
impl Interceptor for Hook {
    fn wants(&self, path: &str) -> bool {
        path.starts_with("/hook")
    }

    async fn before(&self, call: &Call, request: &Bytes) -> Before {
        if call.path.contains("refuse") {
            return Before::Refuse(Status {
                code: 9,
                message: "no room".into(),
            });
        }
        let request = Some([&request[..], b"+overlay"].concat().into());
        Before::Forward {
            request,
            after: Some(Box::new(Ending(Arc::clone(&self.0)))),
        }
    }
}

#[async_trait]
impl After for Ending {
    async fn after(self: Box<Self>, outcome: Outcome) {
        tokio::time::sleep(Duration::from_millis(20)).await;
        let text = match outcome {
            Outcome::Reply(body) => format!("reply of {}", body.len()),
            Outcome::Failed(status) => format!("failed {}", status.code),
            Outcome::Unknown(_) => "unknown".into(),
        };
        self.0.lock().unwrap().push(text);
    }
}

#[tokio::test]
async fn a_hook_rewrites_the_request_and_has_run_before_the_client_sees_the_end() {
    let hook = Arc::new(Hook::default());
    let scene = Scene::new(both, Some(hook.clone()), Vec::new());
    let _runtime = scene.runtime();
    let client = scene.client().await;
    let reply = call(&client, "/hook/C", message(b"body")).await.unwrap();
    assert_eq!(
        (reply.data, &*reply.status),
        (message(b"body+overlay"), "0")
    );
    assert_eq!(*hook.0.lock().unwrap(), ["reply of 12"]);
    let refused = call(&client, "/hook/refuse", message(b"body"))
        .await
        .unwrap();
    assert_eq!((&*refused.status, &*refused.text), ("9", "no room"));
    assert_eq!(
        call(&client, "/hook/no", message(b"b"))
            .await
            .unwrap()
            .status,
        "9"
    );
    assert_eq!(hook.0.lock().unwrap()[1..], ["failed 9"]);
    // A request far larger than every window, held whole; flow control is even afterwards.
    let large = vec![1; 32 << 20];
    for _ in 0..2 {
        let reply = call(&client, "/hook/C", message(&large)).await.unwrap();
        assert_eq!(reply.data.len(), large.len() + 8 + 5);
    }
    let small = call(&client, "/a.b/C", message(&[2; 200_000]))
        .await
        .unwrap();
    assert_eq!(small.data, message(&[2; 200_000]));
}

#[tokio::test]
async fn a_hook_hears_that_nobody_knows_when_the_runtime_dies() {
    let hook = Arc::new(Hook::default());
    let scene = Scene::new(both, Some(hook.clone()), Vec::new());
    let runtime = scene.runtime();
    let client = scene.client().await;
    let hanging = call(&client, "/hook/hang", message(b""));
    let kill = async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        runtime.abort();
    };
    let (reply, ()) = tokio::join!(hanging, kill);
    assert_eq!(reply.unwrap().status, "14");
    timeout(PATIENCE, async {
        while hook.0.lock().unwrap().is_empty() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await
    .unwrap();
    assert_eq!(*hook.0.lock().unwrap(), ["unknown"]);
}

#[derive(Debug, Default)]
struct Seen(Mutex<Vec<String>>);

impl Observer for Seen {
    fn interest(&self, path: &str) -> Interest {
        if path.contains("secret") {
            Interest::None
        } else {
            Interest::Bodies
        }
    }

    fn observe(&self, call: &Arc<Call>, kind: Kind, event: Event) {
        let text = match event {
            Event::Request { body } => format!("request {}", body.len()),
            Event::Rewritten { body } => format!("rewritten {}", body.len()),
            Event::Reply { body } => format!("reply {}", body.len()),
            Event::End {
                failed,
                total,
                runtime,
            } => {
                assert!(runtime <= total);
                format!("end {}", failed.map_or(0, |s| s.code))
            }
        };
        self.0
            .lock()
            .unwrap()
            .push(format!("{} {kind:?} {} {text}", call.seq, call.method()));
    }
}

#[tokio::test]
async fn onlookers_see_every_message_in_order() {
    let seen = Arc::new(Seen::default());
    let hook = Arc::new(Hook::default());
    let scene = Scene::new(both, Some(hook), vec![seen.clone()]);
    let _runtime = scene.runtime();
    let client = scene.client().await;
    let two = [message(&[1; 50_000]), message(b"")].concat();
    call(&client, "/a.b/C", two.into()).await.unwrap();
    call(&client, "/a.b/secret", message(b"x")).await.unwrap();
    call(&client, "/hook/C", message(b"body")).await.unwrap();
    let expected = [
        "1 Passthrough C request 50000",
        "1 Passthrough C request 0",
        "1 Passthrough C reply 50000",
        "1 Passthrough C reply 0",
        "1 Passthrough C end 0",
        "3 Intercepted C request 4",
        "3 Intercepted C rewritten 12",
        "3 Intercepted C reply 12",
        "3 Intercepted C end 0",
    ];
    assert_eq!(*seen.0.lock().unwrap(), expected);
}
