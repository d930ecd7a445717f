//! A virtual machine of any shape, whose root file system is the host's, read-only.
//!
//! Every CPU of it is emulated by one thread of the host: what runs where, counts and placements are
//! real in there, times are not.

use crate::skip;
use anyhow::{Context, Result, bail};
use std::{
    fmt::Write as _,
    io::{BufRead as _, BufReader},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{Mutex, PoisonError, mpsc},
    time::{Duration, Instant},
};

const BEGIN: &str = "guest-script-begins";
const EXIT: &str = "guest-script-exit-status:";
/// Set in the environment of a test that runs in a guest.
const INSIDE: &str = "RESMGR_IN_GUEST";

/// A machine to boot. CPUs are numbered socket by socket, node by node, core by core: the threads of
/// a core are neighbours.
#[derive(Clone, Debug)]
pub struct Guest {
    /// CPU packages.
    pub sockets: u32,
    /// NUMA nodes of each package.
    pub nodes: u32,
    /// Cores of each NUMA node.
    pub cores: u32,
    /// Threads of each core.
    pub threads: u32,
    /// Dies of each package, which share out its cores; each has a last-level cache of its own.
    pub dies: u32,
    /// Version of the kernel, as fetched by the set-up: `6.12` or `6.1`.
    pub kernel: &'static str,
    /// More words for the kernel's command line.
    pub append: String,
    /// How long it may take from power-on to power-off.
    pub limit: Duration,
}

/// What became of a script in a guest.
#[derive(Clone, Debug)]
pub struct Ran {
    /// Exit status of the script.
    pub status: i32,
    /// All that the console showed.
    pub output: String,
}

impl Guest {
    /// Two sockets of two NUMA nodes of two cores of two threads: 16 CPUs, four to a node.
    #[must_use]
    pub fn n4c16() -> Self {
        Self {
            sockets: 2,
            nodes: 2,
            cores: 2,
            threads: 2,
            dies: 1,
            kernel: "6.12",
            append: String::new(),
            limit: Duration::from_secs(1800),
        }
    }

    /// Why no guest can run here, if so.
    #[must_use]
    pub fn unavailable(&self) -> Option<String> {
        if !nix::unistd::geteuid().is_root() {
            return Some("needs root".into());
        }
        for program in ["qemu-system-x86_64", "virtiofsd"] {
            if crate::installed(program).is_none() {
                return Some(format!("{program} is not installed"));
            }
        }
        let missing = std::iter::once(self.image())
            .chain(self.initrd())
            .find(|file| !file.is_file())?;
        let name = missing.file_name()?.to_string_lossy();
        Some(format!("no {name} in .cache/kernels/{}", self.kernel))
    }

    /// For a test that is to run in a guest: whether this is one. Elsewhere the guest is booted and runs this
    /// program's test `name` with more `environment`, one guest at a time; its lines are shown, and what it
    /// skips is noted here. Where none can run, `name` is skipped.
    ///
    /// # Errors
    /// When the guest cannot be started, hangs, or the test fails in there.
    #[expect(clippy::print_stdout, reason = "shown when the test fails")]
    pub fn runs(&self, name: &str, environment: &[(&str, &str)]) -> Result<bool> {
        if std::env::var_os(INSIDE).is_some() {
            return Ok(true);
        }
        if let Some(why) = skip::no_relay().or_else(|| self.unavailable()) {
            skip::skip(&format!("{name}, in a guest"), &why);
            return Ok(false);
        }
        let mut script = format!("{INSIDE}=1 ");
        let inherited = std::env::var("RESMGR_BINARIES").ok();
        let inherited = inherited
            .iter()
            .map(|folder| ("RESMGR_BINARIES", &**folder));
        for (key, value) in environment.iter().copied().chain(inherited) {
            write!(script, "{key}='{value}' ")?;
        }
        let own = std::env::current_exe()?;
        write!(script, "{} --exact --nocapture {name}", own.display())?;
        // Each keeps a CPU of this machine busy.
        static ONE: Mutex<()> = Mutex::new(());
        let _one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
        let ran = self.run(&script, |line| {
            println!("guest: {line}");
            // In there nobody could note it.
            let skipped = line.strip_prefix(skip::WORD);
            if let Some((what, why)) = skipped.and_then(|skipped| skipped.rsplit_once(": ")) {
                skip::skip(what, why);
            }
        })?;
        if ran.status != 0 {
            // Its lines were shown as they came.
            bail!("{name} failed in the guest: status {}", ran.status);
        }
        Ok(false)
    }

    /// Boots, runs a shell script with the usual file systems mounted (`/run`, `/tmp` and `/var/lib`
    /// are empty and writable), powers off. `show` gets each line of the console as it comes.
    ///
    /// # Errors
    /// When the machine cannot be started, hangs, or ends before the script does.
    pub fn run(&self, script: &str, mut show: impl FnMut(&str)) -> Result<Ran> {
        let own = std::env::current_exe()?;
        let beside = own.parent().context("the test program is in no folder")?;
        let folder = tempfile::Builder::new()
            .prefix("guest-")
            .tempdir_in(beside)?;
        let init = folder.path().join("init");
        // Wherever the programs were built: the whole build folder, so that its absolute paths hold.
        let built = beside
            .ancestors()
            .find(|folder| folder.ends_with("target"))
            .unwrap_or(beside);
        std::fs::write(&init, init_script(script, built))?;
        std::fs::set_permissions(&init, std::fs::Permissions::from_mode(0o755))?;
        let sockets = tempfile::Builder::new().prefix("guest-").tempdir()?;
        let socket = sockets.path().join("fs.sock");

        let _files = Reaped(serve_files(&socket)?);
        let mut machine = Reaped(self.power_on(&socket, &init)?);
        let console = machine.0.stdout.take().context("no console")?;
        let (send, lines) = mpsc::channel();
        std::thread::spawn(move || {
            for line in BufReader::new(console).split(b'\n').map_while(Result::ok) {
                let line = String::from_utf8_lossy(&line).trim_end().to_owned();
                if send.send(line).is_err() {
                    break;
                }
            }
        });
        let end = Instant::now() + self.limit;
        let mut ran = Ran {
            status: -1,
            output: String::new(),
        };
        let (mut begun, mut ended) = (false, false);
        loop {
            let left = end.saturating_duration_since(Instant::now());
            match lines.recv_timeout(left) {
                Ok(line) => {
                    if let Some((_, status)) = line.split_once(EXIT) {
                        ran.status = status.trim().parse().unwrap_or(-1);
                        ended = true;
                    } else if line == BEGIN {
                        // The firmware's own words, which clear the screen, are nobody's business.
                        begun = true;
                        ran.output.clear();
                    } else if !begun || ended {
                        ran.output.push_str(&line);
                        ran.output.push('\n');
                    } else {
                        show(&line);
                        ran.output.push_str(&line);
                        ran.output.push('\n');
                    }
                }
                Err(mpsc::RecvTimeoutError::Disconnected) => break,
                Err(mpsc::RecvTimeoutError::Timeout) => {
                    bail!(
                        "the guest was not done in {:?}:\n{}",
                        self.limit,
                        ran.output
                    )
                }
            }
        }
        if !ended {
            bail!("the guest ended before its script:\n{}", ran.output);
        }
        Ok(ran)
    }

    fn image(&self) -> PathBuf {
        self.fetched("vmlinuz")
    }

    /// Older kernels have the file system of the root as a module.
    fn initrd(&self) -> Option<PathBuf> {
        (self.kernel == "6.1").then(|| self.fetched("initrd"))
    }

    fn fetched(&self, file: &str) -> PathBuf {
        let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
        tests
            .parent()
            .unwrap_or(tests)
            .join(".cache/kernels")
            .join(self.kernel)
            .join(file)
    }

    fn power_on(&self, socket: &Path, init: &Path) -> Result<Child> {
        let per_node = self.cores * self.threads;
        let nodes = self.sockets * self.nodes;
        let cpus = nodes * per_node;
        let memory = 3072 / nodes;
        let program = crate::installed("qemu-system-x86_64").context("qemu is not installed")?;
        let mut command = Command::new(program);
        // What qemu's own brand of CPU says of dies no kernel reads, nor 6.1 what it says of threads.
        let cpu = if self.dies > 1 || self.kernel == "6.1" {
            "max,vendor=GenuineIntel"
        } else {
            "max"
        };
        command.args([
            "-accel",
            "tcg,thread=single",
            "-cpu",
            cpu,
            "-machine",
            "q35",
        ]);
        command.args(["-m", &format!("{}", memory * nodes)]);
        command.args([
            "-smp",
            &format!(
                "{cpus},sockets={},dies={},cores={},threads={}",
                self.sockets,
                self.dies,
                self.nodes * self.cores / self.dies,
                self.threads
            ),
        ]);
        for node in 0..nodes {
            let first = node * per_node;
            let last = first + per_node - 1;
            command.args([
                "-object",
                &format!("memory-backend-memfd,id=m{node},size={memory}M,share=on"),
                "-numa",
                &format!("node,nodeid={node},cpus={first}-{last},memdev=m{node}"),
            ]);
        }
        for from in 0..nodes {
            for to in from + 1..nodes {
                let near = from / self.nodes == to / self.nodes;
                let distance = if near { 12 } else { 21 };
                command.args(["-numa", &format!("dist,src={from},dst={to},val={distance}")]);
            }
        }
        let mut append =
            String::from("console=ttyS0 quiet panic=-1 rootfstype=virtiofs root=rootfs ro ");
        write!(append, "init={} {}", init.display(), self.append)?;
        if let Some(initrd) = self.initrd() {
            write!(append, " next={}", init.display())?;
            command.arg("-initrd").arg(initrd);
        }
        command
            .arg("-chardev")
            .arg(format!("socket,id=c0,path={}", socket.display()))
            .args(["-device", "vhost-user-fs-pci,chardev=c0,tag=rootfs"])
            .arg("-kernel")
            .arg(self.image())
            .args(["-append", &append, "-nographic", "-no-reboot"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .context("cannot start qemu")
    }
}

fn serve_files(socket: &Path) -> Result<Child> {
    let program = crate::installed("virtiofsd").context("virtiofsd is not installed")?;
    let mut child = Command::new(program)
        .arg(format!("--socket-path={}", socket.display()))
        .args([
            "-o",
            "source=/",
            "-o",
            "cache=always",
            "-o",
            "sandbox=chroot",
        ])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .context("cannot start virtiofsd")?;
    let end = Instant::now() + Duration::from_secs(10);
    while !socket.exists() {
        if let Some(status) = child.try_wait()? {
            bail!("virtiofsd ended: {status}");
        }
        if Instant::now() > end {
            drop(Reaped(child));
            bail!("virtiofsd does not listen");
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(child)
}

/// The guest's first process. The host's files are its root, read-only; a checkout below one of the
/// folders that are made empty is shown there again.
fn init_script(script: &str, built: &Path) -> String {
    let built = built.display();
    format!(
        "#!/bin/sh\n\
         export PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/tmp\n\
         mount -t proc proc /proc\n\
         mount -t sysfs sysfs /sys\n\
         mount -t devtmpfs dev /dev 2>/dev/null\n\
         mkdir -p /dev/pts /dev/shm\n\
         mount -t devpts devpts /dev/pts\n\
         mount -t tmpfs tmpfs /dev/shm\n\
         mount -t tmpfs tmpfs /run\n\
         mkdir /run/host && mount --bind / /run/host\n\
         mount -t tmpfs tmpfs /tmp\n\
         mount -t tmpfs tmpfs /var/lib\n\
         [ -d '{built}' ] || {{ mkdir -p '{built}' && mount --bind '/run/host{built}' '{built}'; }}\n\
         mount -t cgroup2 cgroup2 /sys/fs/cgroup\n\
         mount -t bpf bpf /sys/fs/bpf 2>/dev/null\n\
         ip link set lo up 2>/dev/null\n\
         echo; echo {BEGIN}\n\
         (\n{script}\n) </dev/null 2>&1\n\
         echo \"{EXIT} $?\"\n\
         busybox poweroff -f\n"
    )
}

/// A child that does not outlive its owner.
struct Reaped(Child);

impl Drop for Reaped {
    fn drop(&mut self) {
        drop(self.0.kill().and_then(|()| self.0.wait()));
    }
}
