//! The relay's socket and its supervisor: modes and owner, sockets in the way, a listener passed on, and
//! a client that keeps calling while the relay is replaced.
#![expect(clippy::unwrap_used, reason = "a test program: helpers fail the test")]

use resmgr_tests::{Relay, Runtime, skip, wire::Wire};
use std::{
    io::{BufRead as _, BufReader, ErrorKind},
    os::unix::{
        fs::{MetadataExt as _, PermissionsExt as _, chown},
        net::{UnixDatagram, UnixListener},
    },
    path::Path,
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
        mpsc,
    },
    time::Duration,
};

const LIMIT: Duration = Duration::from_secs(60);
const VERSION: &str = "/runtime.v1.RuntimeService/Version";
const EXEC: &str = "/runtime.v1.RuntimeService/ExecSync";

/// What a supervisor hears.
struct Notices(UnixDatagram);

impl Notices {
    fn bind(path: &Path) -> Self {
        let socket = UnixDatagram::bind(path).unwrap();
        socket.set_read_timeout(Some(LIMIT)).unwrap();
        Self(socket)
    }

    /// Waits for a notice of `state`.
    fn hear(&self, state: &str) {
        let mut octets = [0; 4096];
        loop {
            let n = self.0.recv(&mut octets).unwrap();
            let text = String::from_utf8_lossy(&octets[..n]).into_owned();
            if text.lines().any(|line| line == state) {
                return;
            }
        }
    }
}

/// Calls as a kubelet does: one connection as long as it lasts; a call that was not processed is
/// repeated on the next one. Says how many were answered; anything else is a lost call.
async fn keep_calling(
    socket: &Path,
    stop: &AtomicBool,
    answered: &AtomicU32,
) -> Result<(), String> {
    let mut wire = None;
    while !stop.load(Ordering::Relaxed) {
        let current = match &wire {
            Some(wire) => wire,
            None => wire.insert(Wire::connect(socket).await.map_err(|e| format!("{e:#}"))?),
        };
        match current.call(VERSION, &[]).await {
            Ok(answer) if answer.status() == Some(0) => {
                answered.fetch_add(1, Ordering::Relaxed);
            }
            Ok(answer) => return Err(format!("{answer:?}")),
            Err(error) => {
                let h2 = error.downcast_ref::<h2::Error>().ok_or("not of HTTP/2")?;
                let processed = !h2.is_go_away() && h2.reason() != Some(h2::Reason::REFUSED_STREAM);
                let before_sent = h2
                    .get_io()
                    .is_some_and(|io| io.kind() == ErrorKind::BrokenPipe);
                if processed && !before_sent {
                    return Err(format!("{error:#}"));
                }
                wire = None;
            }
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_that_is_replaced_under_a_calling_client_loses_no_call() {
    if let Some(why) = skip::no_relay() {
        return skip::skip("cri: socket activation", &why);
    }
    let runtime = Runtime::start().unwrap();
    let socket = runtime.folder().join("activated.sock");
    let listener = UnixListener::bind(&socket).unwrap();
    let notify = runtime.folder().join("notify.sock");
    let notices = Notices::bind(&notify);
    let start = |name: &str| Relay::activate(&runtime, name, &listener, &notify, &[]).unwrap();
    let (stop, answered) = (
        Arc::new(AtomicBool::new(false)),
        Arc::new(AtomicU32::new(0)),
    );
    // Before there is a relay at all: the calls wait in the backlog.
    let clients: Vec<_> = (0..4)
        .map(|_| {
            let (socket, stop, answered) = (socket.clone(), stop.clone(), answered.clone());
            tokio::spawn(async move { keep_calling(&socket, &stop, &answered).await })
        })
        .collect();
    let mut old: Option<Relay> = None;
    for generation in 0..4 {
        if let Some(mut old) = old.take() {
            let status = tokio::task::block_in_place(|| old.stop()).unwrap();
            assert!(status.success(), "{}", old.log());
        }
        let relay = start(&format!("relay{generation}"));
        tokio::task::block_in_place(|| notices.hear("READY=1"));
        let before = answered.load(Ordering::Relaxed);
        let served = resmgr_tests::eventually(LIMIT, async || {
            answered.load(Ordering::Relaxed) > before + 50
        });
        assert!(served.await, "{}", relay.log());
        old = Some(relay);
    }
    stop.store(true, Ordering::Relaxed);
    for client in clients {
        client.await.unwrap().unwrap();
    }
    let mut last = old.unwrap();
    assert!(last.stop().unwrap().success(), "{}", last.log());
    notices.hear("STOPPING=1");
    assert!(socket.exists(), "the socket is the supervisor's to remove");
}

/// A program that calls with the kubelet's own library, and what it has said so far.
struct Kubelet {
    child: Child,
    said: mpsc::Receiver<String>,
}

impl Kubelet {
    fn start(program: &Path, socket: &Path, form: &str) -> Self {
        let mut child = Command::new(program)
            .arg(format!("unix://{}", socket.display()))
            .arg(form)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        let (tell, said) = mpsc::channel();
        std::thread::spawn(move || {
            for line in output.lines() {
                drop(tell.send(line.unwrap()));
            }
        });
        Self { child, said }
    }

    /// Waits until it has been answered, `times` over, since now.
    fn answered(&self, times: usize) {
        while self.said.try_recv().map(|line| told(&line)).is_ok() {}
        for _ in 0..times {
            told(&self.said.recv_timeout(LIMIT).unwrap());
        }
    }

    fn end(mut self) {
        drop(self.child.stdin.take());
        for line in self.said.iter() {
            told(&line);
        }
        assert!(self.child.wait().unwrap().success());
    }
}

/// A line of the client's: anything but an answer is a call that was lost.
fn told(line: &str) {
    assert!(line.starts_with("answered"), "{line}");
}

#[test]
fn the_kubelets_own_client_loses_no_call_when_the_relay_is_replaced() {
    let what = "cri: the kubelet's client over a restart of the relay";
    if let Some(why) = skip::no_relay() {
        return skip::skip(what, &why);
    }
    let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("../.cache/kubernetes/kubelet-cri");
    if !program.is_file() {
        return skip::skip(what, "kubelet-cri is not built: cargo xtask setup");
    }
    let runtime = Runtime::start().unwrap();
    // Another path for the image service: one connection of a client leads to two of the runtime's.
    let images = runtime.folder().join("images.sock");
    std::os::unix::fs::symlink(runtime.socket(), &images).unwrap();
    let images = images.display().to_string();
    for arguments in [&[][..], &["--image-socket", &images]] {
        let name = format!("relay{}", arguments.len());
        let socket = runtime.folder().join(format!("{name}.sock"));
        let listener = UnixListener::bind(&socket).unwrap();
        let notify = runtime.folder().join(format!("{name}.notify"));
        let notices = Notices::bind(&notify);
        let start = || {
            let relay = Relay::activate(&runtime, &name, &listener, &notify, arguments).unwrap();
            notices.hear("READY=1");
            relay
        };
        let mut relay = start();
        let clients = ["kubelet", "single"].map(|form| Kubelet::start(&program, &socket, form));
        for _ in 0..3 {
            for client in &clients {
                client.answered(3);
            }
            assert!(relay.stop().unwrap().success(), "{}", relay.log());
            relay = start();
        }
        for client in clients {
            client.answered(3);
            client.end();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_in_flight_ends_well_when_the_relay_is_told_to_stop() {
    if let Some(why) = skip::no_relay() {
        return skip::skip("cri: calls at shutdown", &why);
    }
    let runtime = Runtime::start().unwrap();
    let mut relay = Relay::start(&runtime, &[]).unwrap();
    let mut cri = resmgr_tests::Cri::connect(&runtime.socket(), runtime.cgroup_parent())
        .await
        .unwrap();
    let pod = cri.run_pod("slow", "", &[]).await.unwrap();
    let mut container = resmgr_tests::Container::sleeping("slow");
    let told = runtime.folder().join("told");
    std::fs::create_dir(&told).unwrap();
    let mount = (told.display().to_string(), "/told".to_owned());
    container.mounts.push(mount);
    let id = cri.run(&pod, &container).await;
    // Begun before the relay is told to stop, and not over before it was.
    let script = "echo >/told/begun; until [ -e /told/end ]; do sleep 0.1; done; echo done";
    let request = k8s_cri::v1::ExecSyncRequest {
        container_id: id.unwrap(),
        cmd: ["/bin/sh", "-c", script].map(str::to_owned).into(),
        timeout: 0,
    };
    let request = prost::Message::encode_to_vec(&request);
    let wire = Wire::connect(&relay.socket()).await.unwrap();
    assert_eq!(wire.call(VERSION, &[]).await.unwrap().status(), Some(0));
    let call = wire.call(EXEC, &request);
    let stop = async {
        let begun = async || told.join("begun").exists();
        assert!(resmgr_tests::eventually(Duration::from_secs(60), begun).await);
        let end = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(500));
            std::fs::write(told.join("end"), "")
        });
        let status = tokio::task::block_in_place(|| relay.stop()).unwrap();
        end.join().unwrap().unwrap();
        status
    };
    let (answer, status) = tokio::join!(call, stop);
    let answer = answer.unwrap();
    assert_eq!(answer.status(), Some(0), "{answer:?}");
    assert!(
        answer.data.windows(4).any(|part| part == b"done"),
        "{answer:?}"
    );
    assert!(status.success(), "{}", relay.log());
    assert!(!relay.socket().exists());
}

#[test]
fn the_socket_is_as_the_runtimes_and_replaces_a_dead_one_but_never_a_live_one() {
    if let Some(why) = skip::no_relay() {
        return skip::skip("cri: the relay's socket", &why);
    }
    let runtime = Runtime::start().unwrap();
    chown(runtime.socket(), Some(12), Some(34)).unwrap();
    let mode = std::fs::Permissions::from_mode(0o606);
    std::fs::set_permissions(runtime.socket(), mode).unwrap();
    let place = runtime.folder().join("new/folder/relay.sock");

    let notify = runtime.folder().join("notify.sock");
    let notices = Notices::bind(&notify);
    let start = |name: &str| Relay::launch_at(&runtime, name, &place, &notify).unwrap();
    let mut first = start("first");
    notices.hear("READY=1");
    let folder = std::fs::metadata(place.parent().unwrap()).unwrap();
    assert_eq!(folder.permissions().mode() & 0o777, 0o711);
    let socket = std::fs::metadata(&place).unwrap();
    assert_eq!(socket.permissions().mode() & 0o777, 0o606);
    assert_eq!((socket.uid(), socket.gid()), (12, 34));

    // A second one is refused, and does no harm to the first.
    let mut second = start("second");
    assert_eq!(second.ended().unwrap().code(), Some(1), "{}", second.log());
    let said = second.log();
    assert!(
        said.contains("is already served by another process"),
        "{said}"
    );
    std::os::unix::net::UnixStream::connect(&place).unwrap();

    // What a killed one leaves behind is replaced.
    first.kill().unwrap();
    assert!(place.exists());
    let mut third = start("third");
    notices.hear("READY=1");
    std::os::unix::net::UnixStream::connect(&place).unwrap();
    assert!(third.stop().unwrap().success());
    assert!(!place.exists());
}
