//! What other users and processes can do to the daemons through files, pipes and sockets, and what that must not do
//! to the node. Each daemon is the built program; docs/security.md has what is promised.
#![expect(clippy::unwrap_used, reason = "a test program: helpers fail the test")]

use nix::{
    sys::signal::{Signal, kill},
    unistd::{Pid, mkfifo},
};
use resmgr_proto::v1::{SetConfigRequest, config_client::ConfigClient};
use resmgr_tests::{built, eventually, skip, wire::Wire};
use std::{
    fs::{self, File, Permissions},
    io::{Read as _, Write as _},
    net::{TcpListener, TcpStream},
    os::unix::{
        fs::{MetadataExt as _, PermissionsExt as _, symlink},
        net::UnixStream,
    },
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

/// Beyond it a daemon that should answer, start or end hangs, however busy the machine is.
const PATIENCE: Duration = Duration::from_secs(120);

/// A call that every runtime knows.
const VERSION: &str = "/runtime.v1.RuntimeService/Version";

/// cri-resmgr with policy null and all that it makes in one folder. Killed on drop.
struct Daemon {
    child: Child,
    folder: tempfile::TempDir,
}

impl Daemon {
    /// Starts it, and waits for its sockets; its standard error is a file.
    fn start(arguments: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let log = File::create(folder.path().join("log")).unwrap();
        Self::start_in(folder, log.into(), arguments)
    }

    fn start_in(folder: tempfile::TempDir, log: Stdio, arguments: &[&str]) -> Self {
        let child = command(folder.path(), arguments).stderr(log).spawn();
        let mut daemon = Self {
            child: child.unwrap(),
            folder,
        };
        let end = Instant::now() + PATIENCE;
        // The relay's socket waits for clients before the others do.
        for name in ["relay.sock", "relay-inspect.sock", "config.sock"] {
            while UnixStream::connect(daemon.path(name)).is_err() {
                let ended = daemon.child.try_wait().unwrap();
                assert!(ended.is_none(), "{ended:?}\n{}", daemon.log());
                assert!(Instant::now() < end, "{name}: {}", daemon.log());
                std::thread::sleep(Duration::from_millis(10));
            }
        }
        daemon
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn log(&self) -> String {
        fs::read_to_string(self.path("log")).unwrap_or_default()
    }

    /// Asks it to stop, and waits.
    fn stop(&mut self) -> ExitStatus {
        let pid = Pid::from_raw(i32::try_from(self.child.id()).unwrap());
        kill(pid, Signal::SIGTERM).unwrap();
        ended(&mut self.child)
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        drop(self.child.kill().and_then(|()| self.child.wait()));
    }
}

fn command(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(built("cri-resmgr").unwrap());
    for (option, file) in [
        ("--runtime-socket", "runtime.sock"),
        ("--relay-socket", "relay.sock"),
        ("--config-socket", "config.sock"),
        ("--relay-dir", "state"),
    ] {
        // What the test names comes instead.
        if !arguments.contains(&option) {
            command.arg(option).arg(folder.join(file));
        }
    }
    command.args(["--agent-socket", "disabled"]).args(arguments);
    command.stdin(Stdio::null()).stdout(Stdio::null());
    command
}

fn ended(child: &mut Child) -> ExitStatus {
    let end = Instant::now() + PATIENCE;
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return status;
        }
        assert!(Instant::now() < end, "the process does not end");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// What a daemon says that must refuse to start.
fn refusal(arguments: &[&str]) -> String {
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("log");
    let mut child = command(folder.path(), arguments)
        .stderr(File::create(&log).unwrap())
        .spawn()
        .unwrap();
    let status = ended(&mut child);
    let said = fs::read_to_string(log).unwrap();
    assert!(!status.success(), "it started: {said}");
    said
}

fn possible(what: &str, programs: &[&str]) -> bool {
    let missing = programs.iter().find(|program| built(program).is_none());
    if let Some(program) = missing {
        skip::skip(what, &format!("{program} is not built: cargo build --bins"));
    }
    missing.is_none()
}

/// A runtime that answers every call with success and nothing else.
fn serve_runtime(socket: &Path) -> tokio::task::JoinHandle<()> {
    let listener = tokio::net::UnixListener::bind(socket).unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut connection = h2::server::handshake(stream).await.unwrap();
                while let Some(Ok((_request, mut reply))) = connection.accept().await {
                    let head = http::Response::builder()
                        .header("content-type", "application/grpc")
                        .header("grpc-status", "0");
                    // A client that is gone needs no answer.
                    drop(reply.send_response(head.body(()).unwrap(), true));
                }
            });
        }
    })
}

/// A port of TCP that is free now.
fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}

/// The answer to a GET request; empty when there is none.
fn get(port: u16, path: &str) -> String {
    let mut text = String::new();
    if let Ok(mut stream) = TcpStream::connect(("127.0.0.1", port)) {
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        // A connection that is cut is no answer.
        drop(stream.write_all(request.as_bytes()));
        drop(stream.read_to_string(&mut text));
    }
    text
}

/// A count of the metrics page.
fn lost(port: u16, what: &str) -> u64 {
    let page = get(port, "/metrics");
    let head = format!("cri_resmgr_lost_total{{kind=\"{what}\"");
    let line = page.lines().find(|line| line.starts_with(&head));
    let value = line.and_then(|line| line.rsplit(' ').next());
    value.map_or(0, |value| value.parse().unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_is_not_read_holds_up_no_call_and_no_stop() {
    if !possible("hardening: log", &["cri-resmgr"]) {
        return;
    }
    let (mut reader, writer) = std::io::pipe().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let runtime = serve_runtime(&folder.path().join("runtime.sock"));
    let (port, address) = {
        let port = free_port();
        (port, format!("127.0.0.1:{port}"))
    };
    let arguments = ["--dump", "reset,full:.*", "--metrics-address", &address];
    let mut daemon = Daemon::start_in(folder, writer.into(), &arguments);
    let wire = Wire::connect(&daemon.path("relay.sock")).await.unwrap();
    let dropped = eventually(PATIENCE, async || {
        for _ in 0..1000 {
            let answer = wire.call(VERSION, &[0; 2000]).await.unwrap();
            assert_eq!(answer.status(), Some(0));
        }
        lost(port, "log_lines") > 0
    })
    .await;
    assert!(dropped, "the log takes all lines");
    // Calls that fail are logged by the threads that relay.
    runtime.abort();
    fs::remove_file(daemon.path("runtime.sock")).unwrap();
    for _ in 0..3 {
        let wire = Wire::connect(&daemon.path("relay.sock")).await.unwrap();
        let answer = wire.call_with(VERSION, &[], &[("grpc-timeout", "500m")]);
        tokio::time::timeout(PATIENCE, answer)
            .await
            .unwrap()
            .unwrap();
    }
    // When the log is read again, it says how much is missing.
    let told = std::thread::spawn(move || {
        let (mut all, mut buffer) = (String::new(), [0; 64 << 10]);
        while !all.contains("lines of the log were dropped") {
            let read = reader.read(&mut buffer).unwrap();
            assert!(read > 0, "the log has ended");
            all.push_str(&String::from_utf8_lossy(&buffer[..read]));
        }
        reader
    });
    let ended = eventually(PATIENCE, async || told.is_finished()).await;
    assert!(ended, "the log does not say that lines are missing");
    let _unread_again = told.join().unwrap();
    assert!(daemon.stop().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_does_not_wait_for_the_log() {
    if !possible("hardening: stop", &["cri-resmgr"]) {
        return;
    }
    let (_reader, writer) = std::io::pipe().unwrap();
    let mut full = writer.try_clone().unwrap();
    nix::fcntl::fcntl(&full, nix::fcntl::F_SETFL(nix::fcntl::OFlag::O_NONBLOCK)).unwrap();
    while full.write(&[b'\n'; 4096]).is_ok() {}
    nix::fcntl::fcntl(&full, nix::fcntl::F_SETFL(nix::fcntl::OFlag::empty())).unwrap();
    let mut daemon = Daemon::start_in(tempfile::tempdir().unwrap(), writer.into(), &[]);
    assert!(daemon.stop().success());
}

#[test]
fn a_file_that_leads_elsewhere_is_refused_and_nothing_behind_it_changes() {
    if !possible("hardening: files", &["cri-resmgr"]) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    fs::set_permissions(folder.path(), Permissions::from_mode(0o1777)).unwrap();
    let at = |name: &str| folder.path().join(name);
    let precious = at("precious");
    fs::write(&precious, "kept").unwrap();
    symlink(&precious, at("link")).unwrap();
    fs::hard_link(&precious, at("second")).unwrap();
    mkfifo(&at("pipe"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    let mut cases = vec![
        ("link", "symbolic link"),
        ("second", "second name"),
        ("pipe", "without a reader"),
    ];
    if nix::unistd::geteuid().is_root() {
        fs::write(at("foreign"), "").unwrap();
        std::os::unix::fs::chown(at("foreign"), Some(12345), None).unwrap();
        cases.push(("foreign", "belongs to user 12345"));
    }
    for (name, why) in cases {
        let path = at(name).display().to_string();
        let said = refusal(&["--dump", "reset,full:.*", "--dump-file", &path]);
        assert!(said.contains(why), "{name}: {said}");
        assert_eq!(fs::read_to_string(&precious).unwrap(), "kept");
    }
    // Where there is no such file, it is made, for its owner alone.
    let fresh = at("cri.dump").display().to_string();
    let daemon = Daemon::start(&["-dump", "reset,full:.*", "-dump-file", &fresh]);
    assert_eq!(fs::metadata(&fresh).unwrap().mode() & 0o777, 0o600);
    drop(daemon);
    // It is ours, so that the next start writes it anew.
    drop(Daemon::start(&["-dump-file", &fresh]));
}

#[test]
fn a_state_directory_that_other_users_can_fill_is_refused() {
    if !possible("hardening: state directory", &["cri-resmgr"]) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state");
    fs::create_dir(&path).unwrap();
    let shown = path.display().to_string();
    fs::set_permissions(&path, Permissions::from_mode(0o777)).unwrap();
    let said = refusal(&["--relay-dir", &shown]);
    assert!(said.contains("other users can write"), "{said}");
    fs::set_permissions(&path, Permissions::from_mode(0o755)).unwrap();
    drop(Daemon::start(&["--relay-dir", &shown]));
    if nix::unistd::geteuid().is_root() {
        std::os::unix::fs::chown(&path, Some(12345), None).unwrap();
        let said = refusal(&["--relay-dir", &shown]);
        assert!(said.contains("belongs to user 12345"), "{said}");
    }
}

#[test]
fn a_socket_replaces_no_file_and_is_never_open_to_more_users_than_it_shall() {
    if !possible("hardening: sockets", &["cri-resmgr"]) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let precious = folder.path().join("precious.sock");
    fs::write(&precious, "kept").unwrap();
    let shown = precious.display().to_string();
    for option in ["--config-socket", "--relay-socket"] {
        let said = refusal(&[option, &shown]);
        assert!(said.contains("is not a socket"), "{option}: {said}");
    }
    let relay = folder.path().join("precious");
    fs::rename(&precious, folder.path().join("precious-inspect.sock")).unwrap();
    let relay = relay.with_extension("sock").display().to_string();
    let said = refusal(&["--relay-socket", &relay]);
    assert!(said.contains("is not a socket"), "inspect: {said}");
    let kept = fs::read_to_string(folder.path().join("precious-inspect.sock")).unwrap();
    assert_eq!(kept, "kept");

    let daemon = Daemon::start(&[]);
    for name in ["config.sock", "relay-inspect.sock"] {
        let mode = fs::metadata(daemon.path(name)).unwrap().mode() & 0o777;
        assert_eq!(mode, 0o600, "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn half_sent_requests_hold_up_neither_metrics_nor_views_nor_calls() {
    if !possible("hardening: half-sent requests", &["cri-resmgr"]) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let _runtime = serve_runtime(&folder.path().join("runtime.sock"));
    let port = free_port();
    let address = format!("127.0.0.1:{port}");
    let log = File::create(folder.path().join("log")).unwrap();
    let mut daemon = Daemon::start_in(folder, log.into(), &["--metrics-address", &address]);
    let half = "GET /metrics HTTP/1.1\r\nHos";
    let (mut scrapes, mut views) = (Vec::new(), Vec::new());
    for _ in 0..1000 {
        if let Ok(mut scrape) = TcpStream::connect(("127.0.0.1", port)) {
            // The daemon may have cut it already.
            drop(scrape.write_all(half.as_bytes()));
            scrapes.push(scrape);
        }
        if let Ok(mut view) = UnixStream::connect(daemon.path("relay-inspect.sock")) {
            drop(view.write_all(half.as_bytes()));
            views.push(view);
        }
    }
    assert!(get(port, "/healthz").ends_with("ok\n"));
    assert!(lost(port, "metrics_connections") > 0);
    assert!(lost(port, "inspect_connections") > 0);
    let state = Command::new(built("cri-resmgr").unwrap())
        .arg("--relay-socket")
        .arg(daemon.path("relay.sock"))
        .arg("state")
        .output()
        .unwrap();
    assert!(state.status.success(), "{state:?}");
    let wire = Wire::connect(&daemon.path("relay.sock")).await.unwrap();
    let answer = wire.call(VERSION, &[]).await.unwrap();
    assert_eq!(answer.status(), Some(0));
    // Nor a page whose reader never takes it.
    for scrape in &mut scrapes {
        drop(scrape.write_all(b"t: x\r\n\r\n"));
    }
    assert!(daemon.stop().success(), "{}", daemon.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_comes_by_the_thousand_is_logged_a_hundred_times_and_counted() {
    if !possible("hardening: repeated messages", &["cri-resmgr"]) {
        return;
    }
    let daemon = Daemon::start(&[]);
    let socket = daemon.path("config.sock");
    let channel = tonic::transport::Endpoint::from_static("http://cri-resmgr")
        .connect_with_connector(tower::service_fn(move |_: http::Uri| {
            let socket = socket.clone();
            async move {
                let stream = tokio::net::UnixStream::connect(socket).await?;
                Ok::<_, std::io::Error>(hyper_util::rt::TokioIo::new(stream))
            }
        }))
        .await
        .unwrap();
    let mut client = ConfigClient::new(channel);
    for number in 0..3000 {
        let refused = client
            .set_config(SetConfigRequest {
                node_name: "n".to_owned(),
                config: [("nonsense".to_owned(), number.to_string())].into(),
                ..SetConfigRequest::default()
            })
            .await
            .unwrap();
        assert!(!refused.into_inner().error.is_empty());
    }
    let told = eventually(PATIENCE, async || {
        daemon
            .log()
            .contains("more messages like: configuration refused")
    })
    .await;
    assert!(told, "{}", daemon.log());
    let lines = daemon.log().matches("configuration refused").count();
    assert!(lines < 3000, "{lines} lines");
}

#[test]
fn silent_connections_do_not_keep_reviews_from_the_webhook() {
    if !possible("hardening: webhook", &["cri-resmgr-webhook"]) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let at = |file: &str| folder.path().join(file);
    let made = Command::new("openssl")
        .args([
            "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2",
        ])
        .args(["-subj", "/CN=127.0.0.1", "-keyout"])
        .arg(at("key.pem"))
        .arg("-out")
        .arg(at("cert.pem"))
        .output();
    if !made.is_ok_and(|made| made.status.success()) {
        return skip::skip("hardening: webhook", "openssl is not installed");
    }
    let port = free_port();
    let mut webhook = Command::new(built("cri-resmgr-webhook").unwrap())
        .arg(format!("-port={port}"))
        .arg("-cert-file")
        .arg(at("cert.pem"))
        .arg("-key-file")
        .arg(at("key.pem"))
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut silent = Vec::new();
    let end = Instant::now() + PATIENCE;
    while silent.len() < 600 {
        match TcpStream::connect(("127.0.0.1", port)) {
            Ok(stream) => silent.push(stream),
            Err(error) => assert!(Instant::now() < end, "{error}"),
        }
    }
    let mut client = Command::new("openssl")
        .args(["s_client", "-ign_eof", "-connect"])
        .arg(format!("127.0.0.1:{port}"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut words = client.stdin.take().unwrap();
    write!(
        words,
        "GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    )
    .unwrap();
    drop(words);
    let output = client.wait_with_output().unwrap();
    let page = String::from_utf8_lossy(&output.stdout).into_owned();
    webhook.kill().unwrap();
    webhook.wait().unwrap();
    let cut = page
        .lines()
        .find_map(|line| line.strip_prefix("cri_resmgr_webhook_cut_connections_total "));
    let cut: u64 = cut
        .unwrap_or_else(|| panic!("{page}"))
        .trim()
        .parse()
        .unwrap();
    assert!(cut > 300, "{cut}");
}
