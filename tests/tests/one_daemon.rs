//! How the daemon starts: one to a state directory, and before or after its runtime. It is the built program; no real
//! runtime is needed.
#![expect(clippy::unwrap_used, reason = "a test program: helpers fail the test")]

use resmgr_tests::{built, skip};
use std::{
    fs,
    os::unix::net::{UnixDatagram, UnixListener, UnixStream},
    path::Path,
    process::{Child, Command, Output, Stdio},
    time::{Duration, Instant},
};

/// Beyond it a daemon that should start hangs, however busy the machine is.
const PATIENCE: Duration = Duration::from_secs(120);

/// A daemon that serves. Killed on drop.
struct Daemon(Child);

impl Daemon {
    /// Starts it, and waits until it shows its state.
    fn start(folder: &Path, name: &str) -> Self {
        let log = folder.join(format!("{name}.log"));
        let child = command(folder, name)
            .stderr(fs::File::create(&log).unwrap())
            .spawn();
        let mut daemon = Self(child.unwrap());
        let end = Instant::now() + PATIENCE;
        while UnixStream::connect(folder.join(format!("{name}-inspect.sock"))).is_err() {
            let said = fs::read_to_string(&log).unwrap();
            let ended = daemon.0.try_wait().unwrap();
            assert!(ended.is_none(), "{ended:?}\n{said}");
            assert!(Instant::now() < end, "{said}");
            std::thread::sleep(Duration::from_millis(10));
        }
        daemon
    }

    /// Ends it with SIGKILL.
    fn kill(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        drop(self.0.kill().and_then(|()| self.0.wait()));
    }
}

/// cri-resmgr with a relay socket of its own name and the state directory that all of a folder share.
fn command(folder: &Path, name: &str) -> Command {
    let mut command = Command::new(built("cri-resmgr").unwrap());
    for (option, file) in [
        ("--runtime-socket", "runtime.sock".to_owned()),
        ("--relay-socket", format!("{name}.sock")),
        ("--config-socket", format!("{name}-config.sock")),
        ("--relay-dir", "state".to_owned()),
    ] {
        command.arg(option).arg(folder.join(file));
    }
    command.args(["--agent-socket", "disabled"]);
    command.stdin(Stdio::null()).stdout(Stdio::null());
    command
}

fn run(command: &mut Command) -> Output {
    command.stdout(Stdio::piped()).output().unwrap()
}

#[test]
fn a_second_daemon_on_a_state_directory_is_refused_until_the_first_has_ended() {
    if built("cri-resmgr").is_none() {
        skip::skip("one daemon", "cri-resmgr is not built: cargo build --bins");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let state = folder.join("state");
    let mut first = Daemon::start(folder, "first");

    // The socket of `second` answers nothing, so that only the lock can tell `restore` of the first.
    for words in [&[][..], &["restore"]] {
        let refused = run(command(folder, "second").args(words));
        let said = String::from_utf8(refused.stderr).unwrap();
        assert_eq!(refused.status.code(), Some(2), "{words:?}: {said}");
        let pid = format!("process {}", first.0.id());
        for part in [state.to_str().unwrap(), &pid, "stop it first"] {
            assert!(said.contains(part), "{words:?}, {part}: {said}");
        }
    }

    // What only reads is let in, and the first goes on to answer.
    let shown = run(command(folder, "second").arg("--print-config"));
    assert!(shown.status.success(), "{shown:?}");
    let shown = run(command(folder, "first").arg("state"));
    assert!(shown.status.success(), "{shown:?}");

    let kept = fs::read_dir(&state).unwrap();
    let names: Vec<_> = kept.map(|entry| entry.unwrap().file_name()).collect();
    assert!(
        names.is_empty(),
        "the lock leaves nothing behind: {names:?}"
    );
    first.kill();
    drop(Daemon::start(folder, "third"));
}

#[test]
fn a_path_on_which_no_runtime_can_listen_is_a_mistake_and_one_that_may_come_is_waited_for() {
    if built("cri-resmgr").is_none() {
        skip::skip(
            "an absent runtime",
            "cri-resmgr is not built: cargo build --bins",
        );
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let file = folder.join("file");
    fs::write(&file, "").unwrap();
    let no_sockets = [
        (folder.to_owned(), "is a directory"),
        (file.clone(), "is a plain file"),
        (file.join("containerd.sock"), "leads through a file"),
        ("/dev/null".into(), "is no socket"),
        (folder.join("x".repeat(108)), "longer than the 107 bytes"),
    ];
    for (path, why) in &no_sockets {
        for option in ["--runtime-socket", "--image-socket"] {
            // The last one counts; where it is wrong, waiting without end would change nothing.
            let refused = run(command(folder, "first").arg(option).arg(path));
            let said = String::from_utf8(refused.stderr).unwrap();
            assert_eq!(refused.status.code(), Some(2), "{said}");
            for part in [&option[2..], path.to_str().unwrap(), why, "[command line]"] {
                assert!(said.contains(part), "{part}: {said}");
            }
        }
    }
    assert!(!folder.join("state").exists(), "nothing was started");

    let ended = run(command(folder, "first").args(["--runtime-wait", "200ms"]));
    let said = String::from_utf8(ended.stderr).unwrap();
    assert_eq!(ended.status.code(), Some(1), "{said}");
    let socket = folder.join("runtime.sock");
    let late = format!("no runtime listens at {} after 200ms", socket.display());
    assert!(said.contains(&late), "{said}");

    // Without a limit it serves, says once that it waits, and reports ready when a runtime listens.
    let notified = UnixDatagram::bind(folder.join("notify")).unwrap();
    notified.set_read_timeout(Some(PATIENCE)).unwrap();
    let log = folder.join("second.log");
    let child = command(folder, "second")
        .env("NOTIFY_SOCKET", folder.join("notify"))
        .stderr(fs::File::create(&log).unwrap())
        .spawn();
    let mut daemon = Daemon(child.unwrap());
    let waits = || {
        let said = fs::read_to_string(&log).unwrap();
        said.matches("waiting for the runtime at").count()
    };
    let end = Instant::now() + PATIENCE;
    while waits() == 0 {
        assert!(Instant::now() < end && daemon.0.try_wait().unwrap().is_none());
        std::thread::sleep(Duration::from_millis(10));
    }
    UnixStream::connect(folder.join("second.sock")).unwrap();
    notified.set_nonblocking(true).unwrap();
    let early = notified.recv(&mut [0; 64]).unwrap_err();
    assert_eq!(early.kind(), std::io::ErrorKind::WouldBlock);
    notified.set_nonblocking(false).unwrap();
    let _runtime = UnixListener::bind(&socket).unwrap();
    let mut word = [0; 64];
    let length = notified.recv(&mut word).unwrap();
    assert_eq!(word[..length].trim_ascii(), b"READY=1");
    assert_eq!(waits(), 1);
    daemon.kill();

    // Told to stop while it waits, it stops, and that is no failure.
    fs::remove_file(&socket).unwrap();
    let mut daemon = Daemon::start(folder, "third");
    let pid = nix::unistd::Pid::from_raw(daemon.0.id().cast_signed());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
    assert!(daemon.0.wait().unwrap().success());
}
