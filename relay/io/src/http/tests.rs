use super::*;
use axum::{Extension, body::Bytes, routing::get};
use futures::StreamExt as _;
use std::net::SocketAddr;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};

const LIMIT: Duration = Duration::from_secs(60);

/// A server, its address, and what counts the connections it cut.
async fn server(limits: HttpLimits) -> (SocketAddr, Counter, CancellationToken) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (cut, stop) = (Counter::default(), CancellationToken::new());
    let app = Router::new()
        .route(
            "/",
            get(async || "hello\n").post(async |body: Bytes| body.len().to_string()),
        )
        .route("/endless", get(endless));
    let server = HttpServer::new(app, limits, cut.clone());
    tokio::spawn(server.serve(listener, stop.clone()));
    (address, cut, stop)
}

/// An answer that ends with its connection.
async fn endless(Extension(end): Extension<ConnectionEnd>) -> Body {
    let text = Bytes::from_static(&[b'x'; 1 << 16]);
    let texts = futures::stream::repeat_with(move || Ok::<_, Infallible>(text.clone()));
    Body::from_stream(texts.take_until(end.0.cancelled_owned()))
}

async fn send(address: SocketAddr, text: &str) -> TcpStream {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(text.as_bytes()).await.unwrap();
    stream
}

/// All that a server says until it closes the connection.
async fn said(mut stream: TcpStream) -> String {
    let mut text = Vec::new();
    let read = timeout(LIMIT, stream.read_to_end(&mut text)).await;
    // A connection that is cut may be reset.
    drop(read.expect("the server closes the connection"));
    String::from_utf8_lossy(&text).into_owned()
}

async fn ask(address: SocketAddr) -> String {
    said(
        send(
            address,
            "GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
        )
        .await,
    )
    .await
}

#[tokio::test]
async fn the_newest_request_is_served_however_many_are_half_sent() {
    let limits = HttpLimits {
        connections: 8,
        ..HttpLimits::default()
    };
    let (address, cut, _stop) = server(limits).await;
    let mut half = Vec::new();
    for _ in 0..100 {
        half.push(
            send(
                address,
                "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n1234",
            )
            .await,
        );
        half.push(send(address, "GET / HTTP/1.1\r\nHos").await);
        half.push(send(address, "").await);
    }
    assert!(ask(address).await.ends_with("hello\n"));
    assert!(cut.get() >= 292, "{}", cut.get());
}

#[tokio::test]
async fn a_request_that_is_not_whole_in_time_is_cut() {
    let limits = HttpLimits {
        request: Duration::from_millis(200),
        ..HttpLimits::default()
    };
    let (address, cut, _stop) = server(limits).await;
    for text in ["", "GET / HTTP/1.1\r\nHos"] {
        assert_eq!(said(send(address, text).await).await, "");
    }
    let body = "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n1234";
    let answer = said(send(address, body).await).await;
    assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
    assert_eq!(cut.get(), 3);
}

#[tokio::test]
async fn bodies_are_limited_one_by_one_and_together() {
    let limits = HttpLimits {
        body_bytes: 10,
        total_bytes: 15,
        ..HttpLimits::default()
    };
    let (address, _cut, _stop) = server(limits).await;
    let post = |length: usize, sent: usize| {
        let head = format!(
            "POST / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n"
        );
        head + &"x".repeat(sent)
    };
    let whole = said(send(address, &post(10, 10)).await).await;
    assert!(whole.ends_with("10"), "{whole}");
    let large = said(send(address, &post(11, 11)).await).await;
    assert!(large.starts_with("HTTP/1.1 413 "), "{large}");
    let half = send(address, &post(10, 9)).await;
    // The half body is held when its octets have come.
    let end = tokio::time::Instant::now() + LIMIT;
    loop {
        let second = said(send(address, &post(9, 9)).await).await;
        if second.starts_with("HTTP/1.1 503 ") {
            break;
        }
        assert!(tokio::time::Instant::now() < end, "{second}");
    }
    drop(half);
}

#[tokio::test]
async fn a_stop_ends_idle_connections_at_once_and_the_server_with_them() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let stop = CancellationToken::new();
    let app = Router::new().route("/", get(async || "hello\n"));
    let server = HttpServer::new(app, HttpLimits::default(), Counter::default());
    let serving = tokio::spawn(server.serve(listener, stop.clone()));
    let mut idle = send(address, "GET / HTTP/1.1\r\nHost: x\r\n\r\n").await;
    let mut first = [0; 16];
    idle.read_exact(&mut first).await.unwrap();
    stop.cancel();
    timeout(LIMIT, serving).await.unwrap().unwrap();
    assert!(said(idle).await.ends_with("hello\n"));
}

#[tokio::test]
async fn a_client_that_takes_nothing_of_its_answer_is_cut() {
    let limits = HttpLimits {
        request: Duration::from_millis(200),
        ..HttpLimits::default()
    };
    let (address, cut, _stop) = server(limits).await;
    let _silent = send(address, "GET /endless HTTP/1.1\r\nHost: x\r\n\r\n").await;
    let counted = async {
        while cut.get() == 0 {
            sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(LIMIT, counted).await.unwrap();
}

#[tokio::test]
async fn an_answer_without_end_ends_with_the_age_of_its_connection_and_with_the_server() {
    let limits = HttpLimits {
        age: Duration::from_millis(200),
        ..HttpLimits::default()
    };
    let asked = "GET /endless HTTP/1.1\r\nHost: x\r\n\r\n";
    let (address, cut, _stop) = server(limits).await;
    assert!(
        said(send(address, asked).await)
            .await
            .ends_with("\r\n0\r\n\r\n")
    );
    assert_eq!(cut.get(), 0);

    let (address, cut, stop) = server(HttpLimits::default()).await;
    let mut reader = send(address, asked).await;
    let mut first = [0; 16];
    reader.read_exact(&mut first).await.unwrap();
    stop.cancel();
    assert!(said(reader).await.ends_with("\r\n0\r\n\r\n"));
    assert_eq!(cut.get(), 0);
}
