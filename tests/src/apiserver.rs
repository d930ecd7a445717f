//! A private kube-apiserver on a private etcd, both gone on drop.
//!
//! Nodes, ConfigMaps, pods, RBAC, admission webhooks and server-side dry runs are the real ones;
//! nothing schedules or runs the pods.

use std::{
    fs::File,
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};

use crate::{built, installed};

/// Longest start of the API server.
const START: Duration = Duration::from_secs(240);
/// Users that tests can be: name in kubeconfigs, user, group.
const USERS: [(&str, &str, &str); 4] = [
    ("admin", "admin", "system:masters"),
    ("operator", "jane", "operators"),
    (
        "agent",
        "system:serviceaccount:kube-system:cri-resmgr-agent",
        "system:serviceaccounts",
    ),
    (
        "webhook",
        "system:serviceaccount:cri-resmgr:cri-resmgr-webhook",
        "system:serviceaccounts",
    ),
];

/// A running API server.
#[derive(Debug)]
pub struct ApiServer {
    folder: tempfile::TempDir,
    etcd: Option<Process>,
    server: Option<Process>,
    etcd_port: u16,
    port: u16,
}

/// A process that ends with its value.
#[derive(Debug)]
pub struct Process(Child);

impl Process {
    /// Starts a command with its output in `log`.
    ///
    /// # Errors
    /// When the program cannot be started.
    pub fn start(command: &mut Command, log: &Path) -> Result<Self> {
        let file = File::options().create(true).append(true).open(log)?;
        command
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file);
        let child = command
            .spawn()
            .with_context(|| format!("cannot start {}", command.get_program().display()))?;
        Ok(Self(child))
    }

    /// Sends a signal.
    ///
    /// # Errors
    /// When the process has ended.
    pub fn signal(&self, signal: nix::sys::signal::Signal) -> Result<()> {
        let pid = nix::unistd::Pid::from_raw(i32::try_from(self.0.id())?);
        nix::sys::signal::kill(pid, signal)?;
        Ok(())
    }

    /// Whether it has not ended.
    pub fn running(&mut self) -> bool {
        matches!(self.0.try_wait(), Ok(None))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself: nothing is left to do then.
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// Why tests with an API server cannot run here, if so.
#[must_use]
pub fn missing() -> Option<String> {
    for program in ["etcd", "kubectl", "openssl"] {
        if installed(program).is_none() {
            return Some(format!("{program} is not installed: cargo xtask setup"));
        }
    }
    for program in ["cri-resmgr-agent", "cri-resmgr-webhook"] {
        if built(program).is_none() {
            return Some(format!("{program} is not built: cargo build --bins"));
        }
    }
    (!program().is_file()).then(|| "kube-apiserver is not built: cargo xtask setup".into())
}

fn program() -> PathBuf {
    repository().join(".cache/kubernetes/kube-apiserver")
}

/// The root of this repository.
#[must_use]
pub fn repository() -> PathBuf {
    let own = Path::new(env!("CARGO_MANIFEST_DIR"));
    own.parent().unwrap_or(own).to_owned()
}

impl ApiServer {
    /// Starts etcd and the API server and waits until it serves.
    ///
    /// # Errors
    /// When it does not come up; the end of its log is in the message.
    pub fn start() -> Result<Self> {
        // Between the moment in which a port is found free and that in which it is taken, others may take it.
        for _ in 0..2 {
            match Self::attempt() {
                Err(error) if format!("{error:#}").contains("address already in use") => {}
                outcome => return outcome,
            }
        }
        Self::attempt()
    }

    fn attempt() -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("resmgr-api-").tempdir()?;
        let at = |name: &str| folder.path().join(name);
        let key = Command::new("openssl")
            .args(["genrsa", "-out"])
            .arg(at("sa.key"))
            .arg("2048")
            .output()?;
        if !key.status.success() {
            bail!("openssl genrsa: {}", String::from_utf8_lossy(&key.stderr));
        }
        let certificate = Command::new("openssl")
            .args(["req", "-x509", "-days", "2", "-key"])
            .arg(at("sa.key"))
            .args(["-subj", "/O=system:masters/CN=api-server", "-out"])
            .arg(at("client.crt"))
            .output()?;
        if !certificate.status.success() {
            bail!(
                "openssl req: {}",
                String::from_utf8_lossy(&certificate.stderr)
            );
        }
        let tokens: String = USERS
            .iter()
            .map(|(name, user, group)| format!("{name}-token,{user},{name},\"{group}\"\n"))
            .collect();
        std::fs::write(at("tokens.csv"), tokens)?;
        let mut server = Self {
            etcd: None,
            server: None,
            etcd_port: free_port()?,
            port: free_port()?,
            folder,
        };
        server.start_etcd(free_port()?)?;
        for (name, ..) in USERS {
            std::fs::write(server.kubeconfig(name), server.kubeconfig_text(name))?;
        }
        server.start_server()?;
        Ok(server)
    }

    fn start_etcd(&mut self, peer_port: u16) -> Result<()> {
        let own = format!("http://127.0.0.1:{}", self.etcd_port);
        let peer = format!("http://127.0.0.1:{peer_port}");
        let program = installed("etcd").context("etcd is not installed")?;
        self.etcd = Some(Process::start(
            Command::new(program)
                .arg("--data-dir")
                .arg(self.folder.path().join("etcd"))
                .args([
                    "--listen-client-urls",
                    &own,
                    "--advertise-client-urls",
                    &own,
                ])
                .args(["--listen-peer-urls", &peer])
                .args(["--initial-advertise-peer-urls", &peer])
                .args(["--initial-cluster", &format!("default={peer}")])
                .arg("--unsafe-no-fsync=true")
                .env("ETCD_UNSUPPORTED_ARCH", std::env::consts::ARCH),
            &self.folder.path().join("etcd.log"),
        )?);
        Ok(())
    }

    /// Starts the API server, again after [`ApiServer::stop_server`].
    ///
    /// # Errors
    /// As [`ApiServer::start`].
    pub fn start_server(&mut self) -> Result<()> {
        let at = |name: &str| self.folder.path().join(name).display().to_string();
        let log = self.folder.path().join("server.log");
        let process = Process::start(
            Command::new(program())
                .arg(format!(
                    "--etcd-servers=http://127.0.0.1:{}",
                    self.etcd_port
                ))
                .arg(format!("--secure-port={}", self.port))
                .arg(format!("--cert-dir={}", at("certs")))
                .arg(format!("--service-account-key-file={}", at("sa.key")))
                .arg(format!(
                    "--service-account-signing-key-file={}",
                    at("sa.key")
                ))
                .arg(format!("--token-auth-file={}", at("tokens.csv")))
                .arg(format!(
                    "--kubelet-client-certificate={}",
                    self.client_certificate().display()
                ))
                .arg(format!("--kubelet-client-key={}", at("sa.key")))
                .args([
                    "--bind-address=127.0.0.1",
                    "--kubelet-preferred-address-types=InternalIP",
                    "--service-account-issuer=https://kubernetes.default.svc",
                    "--service-cluster-ip-range=10.0.0.0/24",
                    "--authorization-mode=RBAC",
                    "--allow-privileged=true",
                    "--disable-admission-plugins=ServiceAccount",
                ]),
            &log,
        )?;
        self.server = Some(process);
        let end = Instant::now() + START;
        loop {
            let ready = self.kubectl(&["get", "--raw", "/readyz"]).is_ok()
                && self
                    .kubectl(&["get", "namespace", "default", "kube-system"])
                    .is_ok();
            if ready {
                return Ok(());
            }
            let alive = self.server.as_mut().is_some_and(Process::running);
            if !alive || Instant::now() > end {
                let log = std::fs::read_to_string(&log).unwrap_or_default();
                let tail: Vec<&str> = log.lines().rev().take(20).collect();
                bail!(
                    "the API server does not come up; its log, last line first:\n{}",
                    tail.join("\n")
                );
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// Stops the API server; etcd keeps what it has.
    pub fn stop_server(&mut self) {
        self.server = None;
    }

    /// Makes etcd forget all that happened until now: who asks for it is told that it is gone.
    ///
    /// # Errors
    /// When etcd does not do it.
    pub fn compact(&self) -> Result<()> {
        let read = self.etcd("range", r#"{"key":"AA=="}"#)?;
        let revision = read
            .split_once(r#""revision":""#)
            .and_then(|(_, rest)| rest.split_once('"'))
            .map(|(revision, _)| revision)
            .with_context(|| format!("etcd tells no revision: {read}"))?;
        let wish = format!(r#"{{"revision":"{revision}","physical":true}}"#);
        self.etcd("compaction", &wish).map(drop)
    }

    /// A call of etcd's gateway for JSON.
    fn etcd(&self, call: &str, body: &str) -> Result<String> {
        use std::io::{Read as _, Write as _};
        let mut stream = std::net::TcpStream::connect(("127.0.0.1", self.etcd_port))?;
        let length = body.len();
        write!(
            stream,
            "POST /v3/kv/{call} HTTP/1.1\r\nHost: etcd\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{body}"
        )?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        if !answer.starts_with("HTTP/1.1 200") {
            bail!("etcd {call}: {answer}");
        }
        Ok(answer)
    }

    /// The folder for files of the test.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The kubeconfig of `admin`, `operator`, `agent` or `webhook`: the last two with the rights that the
    /// manifests give to their service accounts, `operator` (the user jane) with those that a test gives.
    #[must_use]
    pub fn kubeconfig(&self, user: &str) -> PathBuf {
        self.folder.path().join(format!("{user}.kubeconfig"))
    }

    /// The certificate by which a kubelet knows the API server. Nothing else has signed it.
    #[must_use]
    pub fn client_certificate(&self) -> PathBuf {
        self.folder.path().join("client.crt")
    }

    /// Runs kubectl as administrator and gives its output.
    ///
    /// # Errors
    /// When it fails; what it said is in the message.
    pub fn kubectl(&self, arguments: &[&str]) -> Result<String> {
        let program = installed("kubectl").context("kubectl is not installed")?;
        let output = Command::new(program)
            .arg("--kubeconfig")
            .arg(self.kubeconfig("admin"))
            .args(["--request-timeout=20s"])
            .args(arguments)
            .current_dir(repository())
            .output()?;
        if !output.status.success() {
            bail!(
                "kubectl {}: {}",
                arguments.join(" "),
                String::from_utf8_lossy(&output.stderr)
            );
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Runs a command line as a user would type it: in a shell, as administrator, in `folder`.
    ///
    /// # Errors
    /// When it fails; what it said is in the message.
    pub fn type_in(&self, folder: &Path, line: &str) -> Result<String> {
        let output = Command::new("sh")
            .args(["-c", line])
            .env("KUBECONFIG", self.kubeconfig("admin"))
            .current_dir(folder)
            .output()?;
        if !output.status.success() {
            bail!("{line}: {}", String::from_utf8_lossy(&output.stderr));
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// An object as JSON.
    ///
    /// # Errors
    /// As [`ApiServer::kubectl`].
    pub fn get(&self, arguments: &[&str]) -> Result<serde_json::Value> {
        let all = [&["get", "-o", "json"], arguments].concat();
        Ok(serde_json::from_str(&self.kubectl(&all)?)?)
    }

    /// Applies a manifest given as text.
    ///
    /// # Errors
    /// As [`ApiServer::kubectl`].
    pub fn apply(&self, manifest: &str) -> Result<()> {
        let file = tempfile::NamedTempFile::new_in(self.folder.path())?;
        std::fs::write(file.path(), manifest)?;
        let path = file.path().display().to_string();
        self.kubectl(&["apply", "-f", &path]).map(drop)
    }

    fn kubeconfig_text(&self, user: &str) -> String {
        let port = self.port;
        format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: x\nclusters:\n- name: x\n  cluster:\n    \
             server: https://127.0.0.1:{port}\n    insecure-skip-tls-verify: true\nusers:\n- name: x\n  \
             user:\n    token: {user}-token\ncontexts:\n- name: x\n  context:\n    cluster: x\n    user: x\n"
        )
    }
}

/// A TCP port that nobody uses now.
///
/// # Errors
/// When there is none.
pub fn free_port() -> Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}
