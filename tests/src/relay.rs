//! The built cri-resmgr, in front of a runtime.

use crate::runtime::Runtime;
use anyhow::{Context, Result, bail};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use std::{
    fs::File,
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

/// A running relay. Killed on drop.
#[derive(Debug)]
pub struct Relay {
    child: Child,
    folder: PathBuf,
}

impl Relay {
    /// Starts the relay in front of `runtime`, and waits until it listens.
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
        let folder = runtime.folder().join(name);
        std::fs::create_dir_all(&folder)?;
        let program = crate::built("cri-resmgr").context("cri-resmgr is not built")?;
        let log = File::options()
            .create(true)
            .append(true)
            .open(folder.join("log"))?;
        let child = Command::new(program)
            .arg("--runtime-socket")
            .arg(runtime.socket())
            .arg("--relay-socket")
            .arg(folder.join("relay.sock"))
            .arg("--relay-dir")
            .arg(folder.join("state"))
            .arg("--config-socket")
            .arg(folder.join("config.sock"))
            .args(["--agent-socket", "disabled"])
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("cannot start cri-resmgr")?;
        let mut relay = Self { child, folder };
        relay.wait()?;
        Ok(relay)
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

    /// The socket it serves.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.folder.join("relay.sock")
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

    /// What it has logged.
    #[must_use]
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.folder.join("log")).unwrap_or_default()
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

    /// Asks it to stop (SIGTERM) and waits until it has, for half a minute.
    ///
    /// # Errors
    /// When it does not.
    pub fn stop(&mut self) -> Result<ExitStatus> {
        kill(
            Pid::from_raw(i32::try_from(self.child.id())?),
            Signal::SIGTERM,
        )?;
        let end = Instant::now() + Duration::from_secs(30);
        while Instant::now() < end {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        bail!("cri-resmgr does not stop\n{}", self.log())
    }

    fn wait(&mut self) -> Result<()> {
        let end = Instant::now() + Duration::from_secs(30);
        while Instant::now() < end {
            if let Some(status) = self.child.try_wait()? {
                bail!("cri-resmgr ended: {status}\n{}", self.log());
            }
            if UnixStream::connect(self.socket()).is_ok() {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        bail!("cri-resmgr does not listen\n{}", self.log())
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        drop(self.child.kill().and_then(|()| self.child.wait()));
    }
}
