//! Clients and runtimes that break the rules, or keep them and ask for too much: the relay process stays small, and
//! serves the next client. A real runtime does not misbehave, so this one is made up.
#![expect(clippy::unwrap_used, reason = "a test program: helpers fail the test")]

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use resmgr_tests::{
    Relay, Runtime, built, eventually,
    frames::{ENHANCE_YOUR_CALM, PREFACE, RawClient, SETTINGS, Sent, frame, headers, remembered},
    mock_runtime::{EVENTS, LARGE, LIST, serve},
    skip,
    wire::Wire,
};
use std::{
    io::{Read as _, Write as _},
    os::unix::net::{UnixListener, UnixStream},
    path::PathBuf,
    time::Duration,
};

const VERSION: &str = "/runtime.v1.RuntimeService/Version";
const CREATE: &str = "/runtime.v1.RuntimeService/CreateContainer";
/// Beyond it a test hangs, however busy the machine is.
const PATIENCE: Duration = Duration::from_secs(120);
const MIB: u64 = 1 << 20;

/// The relay before a runtime that is not there yet.
struct Scene {
    relay: Relay,
    rest: u64,
    runtime: PathBuf,
    _folder: tempfile::TempDir,
}

impl Scene {
    fn start(arguments: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let runtime = folder.path().join("runtime.sock");
        Self::before(folder, runtime, arguments)
    }

    /// With a runtime that answers every call.
    fn served(arguments: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let runtime = folder.path().join("runtime.sock");
        serve(&runtime);
        Self::before(folder, runtime, arguments)
    }

    fn before(folder: tempfile::TempDir, runtime: PathBuf, arguments: &[&str]) -> Self {
        let relay = Relay::start_before(&runtime, &folder.path().join("relay"), arguments).unwrap();
        let (rest, _) = relay.memory().unwrap();
        Self {
            relay,
            rest,
            runtime,
            _folder: folder,
        }
    }

    fn client(&self) -> RawClient {
        RawClient::connect(&self.relay.socket()).unwrap()
    }

    /// An honest client is served, and the relay has never been larger than at rest by more than `most` octets.
    async fn unharmed(&self, most: u64) {
        let call = async {
            let wire = Wire::connect(&self.relay.socket()).await.unwrap();
            wire.call(VERSION, &[]).await.unwrap()
        };
        let answer = tokio::time::timeout(PATIENCE, call).await.unwrap();
        assert_eq!(answer.status(), Some(0), "{answer:?}\n{}", self.relay.log());
        let (now, peak) = self.relay.memory().unwrap();
        let grown = peak.saturating_sub(self.rest);
        assert!(
            grown <= most,
            "grown by {} MiB, {} MiB now\n{}",
            grown / MIB,
            now.saturating_sub(self.rest) / MIB,
            self.relay.log()
        );
    }

    /// The relay may not have come to what it was sent yet.
    async fn assert_logged(&self, limit: &str) {
        let met = eventually(PATIENCE, async || self.relay.log().contains(limit)).await;
        assert!(met, "{limit} was not met\n{}", self.relay.log());
    }
}

fn ping() -> Vec<u8> {
    frame(6, 0, 0, &[7; 8])
}

fn unbuilt(what: &str) -> bool {
    let unbuilt = built("cri-resmgr").is_none();
    if unbuilt {
        skip::skip(what, "cri-resmgr is not built: cargo build --bins");
    }
    unbuilt
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_floods_pings_or_settings_and_reads_nothing_is_sent_away() {
    if unbuilt("hostile: floods of PING and SETTINGS") {
        return;
    }
    let scene = Scene::served(&[]);
    for part in [ping(), SETTINGS.to_vec()] {
        // Before the first call, and when the runtime is connected.
        for call in [Vec::new(), headers(1, true, EVENTS, &[])] {
            let mut client = scene.client();
            assert_eq!(client.send(&call).unwrap(), Sent::All);
            let end = client.flood(&part, 10_000_000).unwrap();
            assert_ne!(end, Sent::All, "{}", scene.relay.log());
            assert_eq!(client.goaway().unwrap(), Some(ENHANCE_YOUR_CALM));
        }
    }
    scene.assert_logged("idle_frames").await;
    scene.unharmed(64 * MIB).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_without_end_take_neither_memory_nor_another_clients_place() {
    if unbuilt("hostile: connections") {
        return;
    }
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, most, most).unwrap();
    // More than the relay takes, whatever the limit is.
    let connections = (most / 2).min(4500);
    let scene = Scene::served(&[]);
    let honest = Wire::connect(&scene.relay.socket()).await.unwrap();
    let mut silent = Vec::new();
    for n in 0..connections {
        silent.push(UnixStream::connect(scene.relay.socket()).unwrap());
        if n % 100 == 0 {
            let answer = honest.call(VERSION, &[]).await.unwrap();
            assert_eq!(answer.status(), Some(0), "{answer:?}");
        }
    }
    // A client that does not wait is told to come again while the listener's queue is full.
    let accepted = async || Wire::connect(&scene.relay.socket()).await.is_ok();
    assert!(
        eventually(PATIENCE, accepted).await,
        "{}",
        scene.relay.log()
    );
    // It is accepted after all of these.
    scene.unharmed(64 * MIB).await;
    scene.assert_logged("limit=clients").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_read_from_a_client_that_does_not_read_its_answers() {
    if unbuilt("hostile: unread answers") {
        return;
    }
    let scene = Scene::served(&["--policy", "none"]);
    // DATA of one octet to intercepted calls, which the relay answers with two WINDOW_UPDATE each.
    let mut client = scene.client();
    assert_eq!(
        client.send(&headers(1, false, CREATE, &[])).unwrap(),
        Sent::All
    );
    let data = frame(0, 0, 1, &[0]);
    assert_eq!(client.flood(&data, 5_000_000).unwrap(), Sent::Stuck);
    scene.assert_logged("unread_answers").await;
    scene.unharmed(64 * MIB).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_runtime_that_floods_is_given_up_and_calls_hear_why() {
    if unbuilt("hostile: a runtime that floods") {
        return;
    }
    for part in [ping(), SETTINGS.to_vec(), frame(8, 0, 0, &[0, 0, 0, 1])] {
        let scene = Scene::start(&[]);
        let listener = UnixListener::bind(&scene.runtime).unwrap();
        let flooding = std::thread::spawn(move || {
            // The relay looks first whether a runtime listens; then the first call is there.
            let mut stream = loop {
                let (mut stream, _) = listener.accept().unwrap();
                let greeted = stream.write_all(SETTINGS);
                let mut preface = [0; PREFACE.len()];
                if greeted
                    .and_then(|()| stream.read_exact(&mut preface))
                    .is_ok()
                {
                    break stream;
                }
            };
            let block = part.repeat(10_000);
            for _ in 0..1000 {
                if stream.write_all(&block).is_err() {
                    return (true, listener);
                }
            }
            (false, listener)
        });
        let wire = Wire::connect(&scene.relay.socket()).await.unwrap();
        let call = tokio::time::timeout(PATIENCE, wire.call(VERSION, &[]));
        let answer = call.await.unwrap().unwrap();
        assert_eq!(answer.status(), Some(14), "{answer:?}");
        let why = answer.message();
        assert!(why.contains("too many frames"), "{why}");
        let (given_up, listener) = flooding.join().unwrap();
        assert!(given_up);
        drop(listener);
        std::fs::remove_file(&scene.runtime).unwrap();
        serve(&scene.runtime);
        scene.unharmed(64 * MIB).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn header_blocks_without_an_end_and_calls_that_are_reset_at_once_are_too_much() {
    if unbuilt("hostile: CONTINUATION and RST_STREAM") {
        return;
    }
    let scene = Scene::served(&[]);
    let mut client = scene.client();
    // HEADERS without END_HEADERS.
    assert_eq!(client.send(&frame(1, 0, 1, &[0x83])).unwrap(), Sent::All);
    assert_ne!(
        client.flood(&frame(9, 0, 1, &[]), 10_000_000).unwrap(),
        Sent::All
    );
    assert_eq!(client.goaway().unwrap(), Some(ENHANCE_YOUR_CALM));
    let mut client = scene.client();
    let mut sent = Sent::All;
    for n in 0..100_000 {
        let id = 2 * n + 1;
        let call = headers(id, true, VERSION, &[]);
        sent = client
            .send(&[call, frame(3, 0, id, &[0, 0, 0, 8])].concat())
            .unwrap();
        if sent != Sent::All {
            break;
        }
    }
    assert_ne!(sent, Sent::All);
    assert_eq!(client.goaway().unwrap(), Some(ENHANCE_YOUR_CALM));
    scene.assert_logged("continuations").await;
    scene.assert_logged("resets").await;
    scene.unharmed(64 * MIB).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_beyond_what_a_client_may_have_open_are_refused() {
    if unbuilt("hostile: open calls") {
        return;
    }
    let scene = Scene::served(&[]);
    let mut client = scene.client();
    let calls: Vec<u8> = (0..52_000)
        .flat_map(|n| headers(2 * n + 1, true, EVENTS, &[]))
        .collect();
    let sender = std::thread::spawn(move || (client.send(&calls).unwrap(), client));
    scene.unharmed(64 * MIB).await;
    let (_, mut client) = sender.join().unwrap();
    // REFUSED_STREAM: such a call may be repeated.
    let (stream, code) = client.next(3).unwrap().unwrap();
    assert_eq!(code, [0, 0, 0, 7], "of stream {stream}");
    assert!(stream > 2000, "stream {stream}");
    scene.assert_logged("streams").await;
    scene.unharmed(64 * MIB).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_and_windows_that_wait_for_an_absent_runtime_are_bounded() {
    if unbuilt("hostile: calls without a runtime") {
        return;
    }
    let scene = Scene::start(&[]);
    let mut client = scene.client();
    let further = [&[0][..], &[12], b"grpc-timeout", &[2], b"1S"].concat();
    let calls: Vec<u8> = (0..200_000)
        .flat_map(|n| headers(2 * n + 1, true, VERSION, &further))
        .collect();
    let windows = [frame(8, 0, 1, &[0, 0, 0, 1]), frame(8, 0, 3, &[0, 0, 0, 1])].concat();
    let sender = std::thread::spawn(move || {
        // It may be sent away amid this.
        client.send(&calls).unwrap();
        client.flood(&windows, 1_000_000).unwrap();
        client
    });
    // Another client's call waits for the runtime, and has it when it is there.
    let wire = Wire::connect(&scene.relay.socket()).await.unwrap();
    let waits = wire.call_with(VERSION, &[], &[("grpc-timeout", "100S")]);
    let serves = async {
        tokio::time::sleep(Duration::from_millis(1500)).await;
        serve(&scene.runtime);
    };
    let (waits, ()) = tokio::join!(waits, serves);
    assert_eq!(waits.unwrap().status(), Some(0), "{}", scene.relay.log());
    drop(sender.join().unwrap());
    scene.assert_logged("streams").await;
    scene.unharmed(64 * MIB).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_that_are_held_are_bounded_for_each_client_and_for_all() {
    if unbuilt("hostile: held requests") {
        return;
    }
    let scene = Scene::served(&["--policy", "none"]);
    let mut clients: Vec<RawClient> = (0..4).map(|_| scene.client()).collect();
    let part = vec![0; 16 << 10];
    let mut refused = 0;
    for client in &mut clients {
        for id in [1, 3, 5, 7, 9] {
            let open = headers(id, false, CREATE, &[]);
            assert_eq!(client.send(&open).unwrap(), Sent::All);
            // 60 MiB, all but the end; WINDOW_UPDATE comes for the connection and for the stream.
            let mut window: usize = 65_535;
            for _ in 0..60 << 6 {
                while window < part.len() {
                    let (stream, grant) = match client.next_of(&[8, 3]).unwrap() {
                        Some((8, stream, payload)) => (stream, payload),
                        _ => (id, Vec::new()),
                    };
                    if grant.is_empty() {
                        window = 0;
                        break;
                    }
                    if stream == id {
                        let grant = u32::from_be_bytes(*grant.first_chunk().unwrap());
                        window += usize::try_from(grant).unwrap();
                    }
                }
                if window == 0 {
                    refused += 1;
                    break;
                }
                window -= part.len();
                assert_eq!(client.send(&frame(0, 0, id, &part)).unwrap(), Sent::All);
            }
        }
    }
    assert!(refused >= 18, "{refused} of 20 were refused");
    scene.assert_logged("held_octets").await;
    // Two requests of 60 MiB fit.
    scene.unharmed(200 * MIB).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn header_lists_that_grow_as_they_are_decoded_are_bounded() {
    if unbuilt("hostile: header lists") {
        return;
    }
    // 62: the newest entry of the table, of 4,000 octets, again and again.
    let list = [remembered("x", &[b'a'; 3900]), vec![0x80 | 62; 60]].concat();
    for scene in [Scene::served(&[]), Scene::start(&[])] {
        let mut client = scene.client();
        for n in 0..2000 {
            let sent = client
                .send(&headers(2 * n + 1, true, EVENTS, &list))
                .unwrap();
            if sent != Sent::All {
                break;
            }
        }
        scene.assert_logged("call_headers").await;
        if !scene.runtime.exists() {
            serve(&scene.runtime);
        }
        scene.unharmed(64 * MIB).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_that_do_not_read_long_lists_cost_only_themselves() {
    if unbuilt("hostile: unread replies") {
        return;
    }
    let scene = Scene::served(&["--policy", "none"]);
    let mut clients: Vec<RawClient> = (0..10).map(|_| scene.client()).collect();
    let large = [&[0][..], &[5], b"large", &[1], b"1"].concat();
    for client in &mut clients {
        // All that flow control can grant, and frames as large as can be.
        let window = frame(8, 0, 0, &0x7fff_0000_u32.to_be_bytes());
        let own = frame(
            4,
            0,
            0,
            &[0, 4, 0x7f, 0xff, 0xff, 0xff, 0, 5, 0, 0xff, 0xff, 0xff],
        );
        let data = frame(0, 1, 1, &[0; 5]);
        let call = headers(1, false, LIST, &large);
        let sent = client.send(&[own, window, call, data].concat()).unwrap();
        assert_eq!(sent, Sent::All);
    }
    for _ in 0..20 {
        scene.unharmed(64 * MIB).await;
    }
    // The first of them reads at last, and has it all.
    let mut octets = 0;
    while octets < LARGE {
        let (_, payload) = clients[0].next(0).unwrap().unwrap();
        octets += payload.len();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_with_a_short_deadline_on_a_new_connection_is_served() {
    if unbuilt("hostile: short deadlines") {
        return;
    }
    let scene = Scene::served(&[]);
    for _ in 0..6 {
        let wire = Wire::connect(&scene.relay.socket()).await.unwrap();
        let answer = wire.call_with(VERSION, &[], &[("grpc-timeout", "200m")]);
        let answer = answer.await.unwrap();
        assert_eq!(answer.status(), Some(0), "{answer:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_calls_at_once_and_a_long_list_meet_no_bound() {
    if unbuilt("hostile: an honest client") {
        return;
    }
    let scene = Scene::served(&["--policy", "none"]);
    let wire = Wire::connect(&scene.relay.socket()).await.unwrap();
    let calls = futures::future::join_all((0..1000).map(|_| wire.call(VERSION, &[7; 1000])));
    for answer in tokio::time::timeout(PATIENCE, calls).await.unwrap() {
        assert_eq!(answer.unwrap().status(), Some(0));
    }
    let list = wire.call_with(LIST, &[], &[("large", "1")]);
    let list = tokio::time::timeout(PATIENCE, list).await.unwrap().unwrap();
    assert_eq!(list.data.len(), 5 + LARGE);
    let request = vec![0xff; 15 << 20];
    let create = wire.call(CREATE, &request);
    let create = tokio::time::timeout(PATIENCE, create).await.unwrap();
    assert!(create.unwrap().status().is_some());
    let log = scene.relay.log();
    assert!(!log.contains("has met a limit"), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn deadlines_that_have_passed_or_make_no_sense_are_answered_as_by_the_runtime() {
    if let Some(why) = skip::no_relay() {
        return skip::skip("hostile: deadlines", &why);
    }
    let runtime = Runtime::start().unwrap();
    let relay = Relay::start(&runtime, &["--policy", "none"]).unwrap();
    let mut different = Vec::new();
    for timeout in ["S", "1", "1x", "999999999S", "99999999H", ""] {
        let mut answers = Vec::new();
        for socket in [runtime.socket(), relay.socket()] {
            let wire = Wire::connect(&socket).await.unwrap();
            let timeout = [("grpc-timeout", timeout)];
            let answer = wire.call_with(VERSION, &[], &timeout).await;
            let answer = answer.map_err(|error| format!("{error:#}"));
            answers.push(answer.map(|answer| (answer.http, answer.status(), answer.message())));
        }
        if answers[0] != answers[1] {
            different.push(format!("{timeout:?}: {answers:?}"));
        }
    }
    assert!(different.is_empty(), "{}", different.join("\n"));
    // Of these the runtime says so too, unless the request is there whole before it looks.
    let wire = Wire::connect(&relay.socket()).await.unwrap();
    for timeout in ["0n", "-1S"] {
        let timeout = [("grpc-timeout", timeout)];
        let answer = wire.call_with(VERSION, &[], &timeout).await;
        assert_eq!(answer.unwrap().status(), Some(4));
    }
}
