use super::*;
use k8s_cri::v1alpha2 as alpha;
use std::sync::Mutex;
use tokio_stream::wrappers::UnixListenerStream;

#[derive(Debug, Default)]
struct Heard(Mutex<Vec<String>>);

impl Observer for Heard {
    fn interest(&self, _path: &str) -> Interest {
        Interest::Bodies
    }
    fn observe(&self, call: &Arc<Call>, kind: Kind, event: Event) {
        let name = match event {
            Event::Request { .. } => "request",
            Event::Rewritten { .. } => "rewritten",
            Event::Reply { .. } => "reply",
            Event::TooLong { .. } => "too long",
            Event::End { .. } => "end",
        };
        self.0
            .lock()
            .unwrap()
            .push(format!("{kind:?} {} {name}", call.path));
    }
}

/// A runtime that answers with these messages, by path, and UNIMPLEMENTED to everything else.
pub(crate) fn replying(
    listener: tokio::net::UnixListener,
    replies: impl Fn(&str) -> Option<Vec<u8>> + Clone + Send + 'static,
) {
    let service = tower::service_fn(move |request: http::Request<hyper::body::Incoming>| {
        let message = replies(request.uri().path());
        let mut reply = http::Response::new(tonic::body::Body::empty());
        let headers = reply.headers_mut();
        headers.insert("content-type", "application/grpc".parse().unwrap());
        let status = if message.is_some() { "0" } else { "12" };
        headers.insert("grpc-status", status.parse().unwrap());
        if let Some(message) = message {
            let length = u32::try_from(message.len()).unwrap().to_be_bytes();
            let frame = Bytes::from([&[0], &length[..], &message].concat());
            *reply.body_mut() = tonic::body::Body::new(http_body_util::Full::new(frame));
        }
        std::future::ready(Ok::<_, std::convert::Infallible>(reply))
    });
    serve(listener, service);
}

/// A runtime that speaks v1alpha2 only.
fn old_runtime(listener: tokio::net::UnixListener) {
    replying(listener, |path| {
        let version = alpha::VersionResponse {
            runtime_name: "old".into(),
            ..alpha::VersionResponse::default()
        };
        let asked = path == "/runtime.v1alpha2.RuntimeService/Version";
        asked.then(|| version.encode_to_vec())
    });
}

fn serve<S, F>(listener: tokio::net::UnixListener, service: S)
where
    S: tower::Service<
            http::Request<hyper::body::Incoming>,
            Response = http::Response<tonic::body::Body>,
            Error = std::convert::Infallible,
            Future = F,
        > + Clone
        + Send
        + 'static,
    F: Future<Output = Result<http::Response<tonic::body::Body>, std::convert::Infallible>>
        + Send
        + 'static,
{
    tokio::spawn(async move {
        let mut stream = UnixListenerStream::new(listener);
        while let Some(Ok(connection)) = tokio_stream::StreamExt::next(&mut stream).await {
            let service = hyper_util::service::TowerToHyperService::new(service.clone());
            tokio::spawn(async move {
                hyper_util::server::conn::auto::Builder::new(hyper_util::rt::TokioExecutor::new())
                    .serve_connection(TokioIo::new(connection), service)
                    .await
                    .unwrap();
            });
        }
    });
}

#[tokio::test]
async fn an_old_runtime_is_spoken_to_in_its_own_version_and_the_calls_are_observed() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("runtime.sock");
    old_runtime(tokio::net::UnixListener::bind(&socket).unwrap());
    let heard = Arc::new(Heard::default());
    let client = RuntimeClient::new(&socket, Duration::from_secs(10), vec![heard.clone()]);
    assert_eq!(client.version().await.unwrap().runtime_name, "old");
    let refused = client.list_containers().await.unwrap_err();
    assert_eq!(refused.status.code, UNIMPLEMENTED);
    assert_eq!(
        *heard.0.lock().unwrap(),
        [
            "Own /runtime.v1.RuntimeService/Version request",
            "Own /runtime.v1.RuntimeService/Version end",
            "Own /runtime.v1alpha2.RuntimeService/Version request",
            "Own /runtime.v1alpha2.RuntimeService/Version reply",
            "Own /runtime.v1alpha2.RuntimeService/Version end",
            "Own /runtime.v1alpha2.RuntimeService/ListContainers request",
            "Own /runtime.v1alpha2.RuntimeService/ListContainers end",
        ]
    );
}

#[tokio::test]
async fn a_runtime_that_is_not_there_is_unavailable_with_the_reason() {
    let dir = tempfile::tempdir().unwrap();
    let client = RuntimeClient::new(
        &dir.path().join("none"),
        Duration::from_secs(10),
        Vec::new(),
    );
    let error = client.version().await.unwrap_err();
    assert_eq!(error.status.code, UNAVAILABLE);
    assert!(error.to_string().contains("No such file"), "{error}");
}

#[test]
fn only_a_containerd_of_version_two_tells_all_listeners() {
    for (version, number) in [("v2.1.4", 2), ("2.0.0-rc.1", 2), ("1.6.20~ds1", 1), ("", 0)] {
        assert_eq!(major(version), number, "{version:?}");
    }
}

/// A containerd of version 2 that tells of two endings and goes away.
fn new_runtime(listener: tokio::net::UnixListener) {
    let frame = |body: Vec<u8>| {
        let mut frame = vec![0];
        frame.extend_from_slice(&u32::try_from(body.len()).unwrap().to_be_bytes());
        frame.extend_from_slice(&body);
        frame
    };
    let service = tower::service_fn(
        move |request: http::Request<hyper::body::Incoming>| async move {
            let bytes = match request.uri().path() {
                "/runtime.v1.RuntimeService/Version" => frame(
                    cri::VersionResponse {
                        runtime_name: "containerd".into(),
                        runtime_version: "v2.1.4".into(),
                        ..cri::VersionResponse::default()
                    }
                    .encode_to_vec(),
                ),
                "/runtime.v1.RuntimeService/GetContainerEvents" => ["one", "two"]
                    .into_iter()
                    .flat_map(|id| {
                        let event = cri::ContainerEventResponse {
                            container_id: id.into(),
                            container_event_type: cri::ContainerEventType::ContainerStoppedEvent
                                .into(),
                            ..cri::ContainerEventResponse::default()
                        };
                        frame(event.encode_to_vec())
                    })
                    .collect(),
                unexpected => panic!("{unexpected}"),
            };
            let mut reply = http::Response::new(tonic::body::Body::new(http_body_util::Full::new(
                Bytes::from(bytes),
            )));
            let headers = reply.headers_mut();
            headers.insert("content-type", "application/grpc".parse().unwrap());
            headers.insert("grpc-status", "0".parse().unwrap());
            Ok::<_, std::convert::Infallible>(reply)
        },
    );
    serve(listener, service);
}

#[tokio::test]
async fn events_are_streamed_until_the_runtime_ends_the_stream() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("runtime.sock");
    new_runtime(tokio::net::UnixListener::bind(&socket).unwrap());
    let client = RuntimeClient::new(&socket, Duration::from_secs(10), Vec::new());
    assert!(client.tells_all_listeners().await.unwrap());
    let mut events = std::pin::pin!(client.container_events().await.unwrap());
    let mut ids = Vec::new();
    while let Some(Ok(event)) = events.next().await {
        ids.push(event.container_id);
    }
    assert_eq!(ids, ["one", "two"]);
}
