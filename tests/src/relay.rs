//! The built cri-resmgr, in front of a runtime.

use crate::runtime::Runtime;
use anyhow::{Context, Result, bail};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use std::{
    fs::File,
    os::{
        fd::OwnedFd,
        unix::net::{UnixListener, UnixStream},
    },
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

/// Beyond it a relay that should start or end hangs, however busy the machine is.
const PATIENCE: Duration = Duration::from_secs(120);

/// A running relay. Killed on drop.
#[derive(Debug)]
pub struct Relay {
    child: Child,
    folder: PathBuf,
    socket: PathBuf,
    /// Where it takes configurations.
    config: PathBuf,
}

impl Relay {
    /// Starts the relay in front of `runtime`, and waits until it listens on all its sockets.
    ///
    /// # Errors
    /// When it is not built, or does not come up; its log is in the message.
    pub fn start(runtime: &Runtime, arguments: &[&str]) -> Result<Self> {
        Self::start_in(runtime, "relay", arguments)
    }

    /// As [`Relay::start`], with everything it makes in folder `name`: one of several in front of the
    /// same runtime.
    ///
    /// # Errors
    /// As [`Relay::start`].
    pub fn start_in(runtime: &Runtime, name: &str, arguments: &[&str]) -> Result<Self> {
        Self::start_with(runtime, name, arguments, &[])
    }

    /// As [`Relay::start_in`], with variables in its environment.
    ///
    /// # Errors
    /// As [`Relay::start`].
    pub fn start_with(
        runtime: &Runtime,
        name: &str,
        arguments: &[&str],
        environment: &[(&str, &str)],
    ) -> Result<Self> {
        let program = crate::built("cri-resmgr").context("cri-resmgr is not built")?;
        let mut command = Command::new(program);
        command.envs(environment.iter().copied());
        Self::spawn(runtime, name, command, arguments)
    }

    /// As [`Relay::start_in`], in a mount namespace as a container has: the host's root is mounted at `host`, and
    /// no cgroup file system at its usual place.
    ///
    /// # Errors
    /// As [`Relay::start`].
    pub fn start_below(
        runtime: &Runtime,
        name: &str,
        host: &Path,
        arguments: &[&str],
    ) -> Result<Self> {
        let program = crate::built("cri-resmgr").context("cri-resmgr is not built")?;
        std::fs::create_dir_all(host)?;
        let script = r#"set -e
            mount --make-rprivate /
            mount --rbind / "$HOST"
            mount -t tmpfs none /sys/fs/cgroup
            exec "$0" "$@""#;
        let mut command = Command::new("unshare");
        command.args(["--mount", "/bin/sh", "-c", script]);
        command.arg(program).env("HOST", host);
        Self::spawn(runtime, name, command, arguments)
    }

    /// As [`Relay::start_in`], on a machine of which the relay sees no cgroups but those below `cgroup`, a directory of the
    /// hierarchy that has cpusets.
    ///
    /// # Errors
    /// As [`Relay::start`].
    pub fn start_under(
        runtime: &Runtime,
        name: &str,
        cgroup: &Path,
        arguments: &[&str],
    ) -> Result<Self> {
        let (command, mount) = under(runtime, cgroup)?;
        let mount = format!("--cgroup-mount={}", mount.display());
        let arguments = [&[&*mount], arguments].concat();
        Self::spawn(runtime, name, command, &arguments)
    }

    /// As [`Relay::start_in`], as a supervisor with socket activation does: with a listening socket of
    /// ours, and told where to report to (`NOTIFY_SOCKET`). Does not wait until it listens.
    ///
    /// # Errors
    /// As [`Relay::start`].
    pub fn activate(
        runtime: &Runtime,
        name: &str,
        listener: &UnixListener,
        notify: &Path,
        arguments: &[&str],
    ) -> Result<Self> {
        let program = crate::built("cri-resmgr").context("cri-resmgr is not built")?;
        let mut shell = Command::new("/bin/sh");
        // The variables name the process itself, which only the shell knows before it becomes it.
        let script = r#"exec 3<&0 </dev/null; LISTEN_PID=$$ LISTEN_FDS=1 exec "$0" "$@""#;
        shell.args(["-c", script]).arg(program);
        shell.env("NOTIFY_SOCKET", notify);
        shell.stdin(Stdio::from(OwnedFd::from(listener.try_clone()?)));
        let socket = runtime.folder().join(name).join("relay.sock");
        Self::launch(runtime, name, &socket, shell, arguments)
    }

    /// As [`Relay::start_in`], serving `socket`, with `notify` to report to. Does not wait until it
    /// listens.
    ///
    /// # Errors
    /// As [`Relay::start`].
    pub fn launch_at(runtime: &Runtime, name: &str, socket: &Path, notify: &Path) -> Result<Self> {
        let program = crate::built("cri-resmgr").context("cri-resmgr is not built")?;
        let mut command = Command::new(program);
        command.stdin(Stdio::null()).env("NOTIFY_SOCKET", notify);
        Self::launch(runtime, name, socket, command, &[])
    }

    /// Starts the relay in front of the socket `runtime`, whatever listens there or not, with everything it makes
    /// in `folder`, and waits until it listens.
    ///
    /// # Errors
    /// As [`Relay::start`].
    pub fn start_before(runtime: &Path, folder: &Path, arguments: &[&str]) -> Result<Self> {
        let program = crate::built("cri-resmgr").context("cri-resmgr is not built")?;
        let mut command = Command::new(program);
        command.stdin(Stdio::null());
        let socket = folder.join("relay.sock");
        let mut relay = Self::launch_before(runtime, folder, &socket, command, arguments)?;
        relay.wait()?;
        Ok(relay)
    }

    fn spawn(
        runtime: &Runtime,
        name: &str,
        mut command: Command,
        arguments: &[&str],
    ) -> Result<Self> {
        command.stdin(Stdio::null());
        let socket = runtime.folder().join(name).join("relay.sock");
        let mut relay = Self::launch(runtime, name, &socket, command, arguments)?;
        relay.wait()?;
        Ok(relay)
    }

    fn launch(
        runtime: &Runtime,
        name: &str,
        socket: &Path,
        command: Command,
        arguments: &[&str],
    ) -> Result<Self> {
        let folder = runtime.folder().join(name);
        Self::launch_before(&runtime.socket(), &folder, socket, command, arguments)
    }

    fn launch_before(
        runtime: &Path,
        folder: &Path,
        socket: &Path,
        mut command: Command,
        arguments: &[&str],
    ) -> Result<Self> {
        std::fs::create_dir_all(folder)?;
        let log = File::options()
            .create(true)
            .append(true)
            .open(folder.join("log"))?;
        // Where the machine is busy a decision may come late: only who asks for a deadline means one.
        if !arguments.contains(&"--policy-timeout") {
            command.args(["--policy-timeout", "60s"]);
        }
        let named = |word: &&str| word.strip_prefix("--config-socket=").map(PathBuf::from);
        let config = arguments.iter().find_map(named);
        let config = config.unwrap_or_else(|| folder.join("config.sock"));
        let child = command
            .arg("--runtime-socket")
            .arg(runtime)
            .arg("--relay-socket")
            .arg(socket)
            .arg("--relay-dir")
            .arg(folder.join("state"))
            .arg("--config-socket")
            .arg(&config)
            .args(["--agent-socket", "disabled"])
            .args(arguments)
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("cannot start cri-resmgr")?;
        Ok(Self {
            child,
            folder: folder.to_owned(),
            socket: socket.to_owned(),
            config,
        })
    }

    /// What a command of cri-resmgr prints about this relay: `state`, `explain NAME`, `top --once`.
    ///
    /// # Errors
    /// When the command fails; what it said is in the message.
    pub fn ask(&self, command: &[&str]) -> Result<String> {
        let output = Command::new(crate::built("cri-resmgr").context("cri-resmgr is not built")?)
            .arg("--relay-socket")
            .arg(self.socket())
            .args(command)
            .output()
            .context("cannot start cri-resmgr")?;
        if !output.status.success() {
            bail!(
                "cri-resmgr {}: {}",
                command.join(" "),
                String::from_utf8_lossy(&output.stderr)
            );
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Runs `cri-resmgr restore` for a relay that was started with [`Relay::start_under`] and has ended; what it prints.
    ///
    /// # Errors
    /// When the command fails; what it said is in the message.
    pub fn restore_under(&self, runtime: &Runtime, cgroup: &Path) -> Result<String> {
        let (mut command, mount) = under(runtime, cgroup)?;
        command.arg("restore").arg("--runtime-socket");
        command.arg(runtime.socket());
        command.arg("--relay-socket").arg(self.socket());
        command.arg("--relay-dir").arg(self.state());
        command.arg("--cgroup-mount").arg(mount);
        let output = command.output().context("cannot start cri-resmgr")?;
        if !output.status.success() {
            bail!("restore: {}", String::from_utf8_lossy(&output.stderr));
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// The socket it serves.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.socket.clone()
    }

    /// Where it keeps its state.
    #[must_use]
    pub fn state(&self) -> PathBuf {
        self.folder.join("state")
    }

    /// A folder beside its sockets.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Its resident memory now and at its peak, in octets.
    ///
    /// # Errors
    /// When it has ended.
    pub fn memory(&self) -> Result<(u64, u64)> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid()))?;
        let field = |name: &str| -> Result<u64> {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            let value = line.context("it has ended")?.trim().trim_end_matches(" kB");
            Ok(value.parse::<u64>()? << 10)
        };
        Ok((field("VmRSS:")?, field("VmHWM:")?))
    }

    /// What it has logged.
    #[must_use]
    pub fn log(&self) -> String {
        crate::whole_log(&self.folder.join("log"))
    }

    /// Ends it at once, as `kill -9` does.
    ///
    /// # Errors
    /// When it cannot be waited for.
    pub fn kill(&mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// Asks it to stop (SIGTERM) and waits until it has, for two minutes.
    ///
    /// # Errors
    /// When it does not.
    pub fn stop(&mut self) -> Result<ExitStatus> {
        kill(
            Pid::from_raw(i32::try_from(self.child.id())?),
            Signal::SIGTERM,
        )?;
        self.ended()
    }

    /// Waits until it has ended by itself, for two minutes.
    ///
    /// # Errors
    /// When it does not.
    pub fn ended(&mut self) -> Result<ExitStatus> {
        let end = Instant::now() + PATIENCE;
        while Instant::now() < end {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        bail!("cri-resmgr does not stop\n{}", self.log())
    }

    fn wait(&mut self) -> Result<()> {
        let end = Instant::now() + PATIENCE;
        while Instant::now() < end {
            if let Some(status) = self.child.try_wait()? {
                bail!("cri-resmgr ended: {status}\n{}", self.log());
            }
            // It listens for configurations when all else listens already.
            let listens = |socket: &Path| UnixStream::connect(socket).is_ok();
            if listens(&self.socket) && listens(&self.config) {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        bail!("cri-resmgr does not listen\n{}", self.log())
    }
}

/// cri-resmgr in a mount namespace in which `cgroup` is mounted where the path says.
fn under(runtime: &Runtime, cgroup: &Path) -> Result<(Command, PathBuf)> {
    let program = crate::built("cri-resmgr").context("cri-resmgr is not built")?;
    let mount = runtime.folder().join("cgroup");
    std::fs::create_dir_all(&mount)?;
    let script = r#"set -e
        mount --make-rprivate /
        mount --bind "$CGROUP" "$MOUNT"
        exec "$0" "$@""#;
    let mut command = Command::new("unshare");
    command.args(["--mount", "/bin/sh", "-c", script]);
    command
        .arg(program)
        .env("CGROUP", cgroup)
        .env("MOUNT", &mount);
    Ok((command, mount))
}

impl Drop for Relay {
    fn drop(&mut self) {
        drop(self.child.kill().and_then(|()| self.child.wait()));
    }
}
