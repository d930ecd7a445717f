//! A private containerd: own root, state, sockets, image and cgroup parent, all gone on drop.

mod clean;
mod image;

use anyhow::{Context, Result, bail};
use nix::{sys::signal::Signal, unistd::Pid};
use std::{
    fs::File,
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, Instant},
};

/// The image that containers run: busybox, statically linked.
pub const IMAGE: &str = "localhost/busybox:1";
/// The image of pod sandboxes.
pub const PAUSE: &str = "localhost/pause:1";

static COUNT: AtomicU32 = AtomicU32::new(0);

/// A running containerd of our own.
#[derive(Debug)]
pub struct Runtime {
    folder: tempfile::TempDir,
    child: Child,
    parent: String,
    /// Where containerd and its shim are; the installed ones when `None`.
    programs: Option<PathBuf>,
}

impl Runtime {
    /// Starts containerd and gives it the image.
    ///
    /// # Errors
    /// When it does not come up within half a minute; its log is in the message.
    pub fn start() -> Result<Self> {
        Self::start_from(None)
    }

    /// As [`Runtime::start`], with the containerd and the shim in the folder `programs` in place of the installed ones.
    ///
    /// # Errors
    /// As [`Runtime::start`].
    pub fn start_from(programs: Option<PathBuf>) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("resmgr-").tempdir()?;
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let parent = format!("/resmgr-test-{}-{number}", std::process::id());
        std::fs::write(folder.path().join("config.toml"), config(folder.path()))?;
        let child = spawn(folder.path(), programs.as_deref())?;
        let mut runtime = Self {
            folder,
            child,
            parent,
            programs,
        };
        runtime.wait()?;
        let tar = image::build(runtime.folder.path())?;
        let output = runtime
            .ctr()
            .args(["images", "import"])
            .arg(&tar)
            .output()
            .context("cannot start ctr")?;
        if !output.status.success() {
            bail!(
                "importing the image: {}",
                String::from_utf8_lossy(&output.stderr)
            );
        }
        Ok(runtime)
    }

    /// Its CRI socket.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.folder.path().join("containerd.sock")
    }

    /// A folder that lives as long as this runtime.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The cgroup, from the mount's root, below which all pods must be.
    #[must_use]
    pub fn cgroup_parent(&self) -> &str {
        &self.parent
    }

    /// `ctr` in CRI's namespace of this containerd.
    #[must_use]
    pub fn ctr(&self) -> Command {
        let mut command = Command::new(crate::installed("ctr").unwrap_or_else(|| "ctr".into()));
        command.arg("--address").arg(self.socket());
        command.args(["--namespace", "k8s.io"]);
        command
    }

    /// Kills containerd at once; its shims and containers go on.
    ///
    /// # Errors
    /// When the process cannot be waited for.
    pub fn kill(&mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// Makes containerd hang (SIGSTOP), until [`Runtime::resume`].
    ///
    /// # Errors
    /// When the signal cannot be sent.
    pub fn pause(&self) -> Result<()> {
        self.signal(Signal::SIGSTOP)
    }

    /// Lets a containerd that hangs go on.
    ///
    /// # Errors
    /// When the signal cannot be sent.
    pub fn resume(&self) -> Result<()> {
        self.signal(Signal::SIGCONT)
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        let pid = Pid::from_raw(i32::try_from(self.child.id())?);
        Ok(nix::sys::signal::kill(pid, signal)?)
    }

    /// Starts containerd again, on the same root and sockets.
    ///
    /// # Errors
    /// As [`Runtime::start`].
    pub fn restart(&mut self) -> Result<()> {
        self.child = spawn(self.folder.path(), self.programs.as_deref())?;
        self.wait()
    }

    /// What containerd has logged.
    #[must_use]
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("containerd.log")).unwrap_or_default()
    }

    fn wait(&mut self) -> Result<()> {
        let end = Instant::now() + Duration::from_secs(120);
        let socket = self.socket();
        while Instant::now() < end {
            if let Some(status) = self.child.try_wait()? {
                bail!("containerd ended: {status}\n{}", self.log());
            }
            let up = UnixStream::connect(&socket).is_ok()
                && self
                    .ctr()
                    .args(["images", "ls", "-q"])
                    .stdout(Stdio::null())
                    .stderr(Stdio::null())
                    .status()
                    .is_ok_and(|status| status.success());
            if up {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        bail!("containerd does not answer\n{}", self.log())
    }
}

impl Drop for Runtime {
    fn drop(&mut self) {
        clean::all(self.folder.path(), &self.parent, &mut self.child);
    }
}

fn spawn(folder: &Path, programs: Option<&Path>) -> Result<Child> {
    let log = File::options()
        .create(true)
        .append(true)
        .open(folder.join("containerd.log"))?;
    let mut command = match programs {
        // containerd looks for its shim in PATH before it looks beside itself.
        Some(programs) => {
            let path = std::env::var_os("PATH").unwrap_or_default();
            let folders = std::iter::once(programs.to_owned()).chain(std::env::split_paths(&path));
            let mut command = Command::new(programs.join("containerd"));
            command.env("PATH", std::env::join_paths(folders)?);
            command
        }
        None => {
            Command::new(crate::installed("containerd").context("containerd is not installed")?)
        }
    };
    command
        .arg("--config")
        .arg(folder.join("config.toml"))
        .args(["--log-level", "warn"])
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .spawn()
        .context("cannot start containerd")
}

fn config(folder: &Path) -> String {
    let overlay = std::fs::read_to_string("/proc/filesystems").is_ok_and(|f| f.contains("overlay"));
    let memory = nix::sys::statfs::statfs(folder)
        .is_ok_and(|found| found.filesystem_type() == nix::sys::statfs::TMPFS_MAGIC);
    let snapshotter = if overlay && !memory {
        "overlayfs"
    } else {
        "native"
    };
    let folder = folder.display();
    format!(
        r#"version = 2
root = "{folder}/root"
state = "{folder}/state"
[grpc]
  address = "{folder}/containerd.sock"
[ttrpc]
  address = "{folder}/containerd.ttrpc.sock"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{PAUSE}"
  restrict_oom_score_adj = true
  disable_tcp_service = true
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "{snapshotter}"
    default_runtime_name = "runc"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
        SystemdCgroup = false
  [plugins."io.containerd.grpc.v1.cri".cni]
    conf_dir = "{folder}/cni"
[plugins."io.containerd.nri.v1.nri"]
  disable = true
"#
    )
}
