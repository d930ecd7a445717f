//! The agent under test, and a server that stands for cri-resmgr's configuration service.

use std::{
    path::{Path, PathBuf},
    process::Command,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use anyhow::{Context as _, Result};
use resmgr_proto::v1::{
    GetStatusReply, GetStatusRequest, SetConfigReply, SetConfigRequest,
    config_server::{Config, ConfigServer},
};
use tokio::{net::UnixListener, runtime::Runtime};
use tokio_stream::wrappers::UnixListenerStream;
use tonic::{Request, Response, Status};

use crate::{
    apiserver::{ApiServer, Process, free_port},
    built,
};

static INSTANCES: AtomicU64 = AtomicU64::new(1);

/// Stands for cri-resmgr: remembers what was pushed, refuses what contains `BAD`.
#[derive(Debug)]
pub struct Receiver {
    got: Arc<Mutex<Vec<SetConfigRequest>>>,
    /// Of its own, so that its connections end with it, as those of a process would.
    runtime: Option<Runtime>,
    socket: PathBuf,
}

impl Receiver {
    /// Serves on `socket`, as a process that was just started.
    ///
    /// # Errors
    /// When the socket cannot be bound.
    pub fn start(socket: &Path) -> Result<Self> {
        let listener = std::os::unix::net::UnixListener::bind(socket)?;
        listener.set_nonblocking(true)?;
        let got = Arc::new(Mutex::new(Vec::new()));
        let service = Service {
            got: Arc::clone(&got),
            instance: INSTANCES.fetch_add(1, Ordering::Relaxed).to_string(),
        };
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()?;
        runtime.spawn(async move {
            let listener = UnixListener::from_std(listener)?;
            tonic::transport::Server::builder()
                .add_service(ConfigServer::new(service))
                .serve_with_incoming(UnixListenerStream::new(listener))
                .await
                .map_err(std::io::Error::other)
        });
        Ok(Self {
            got,
            runtime: Some(runtime),
            socket: socket.to_owned(),
        })
    }

    /// All that was pushed, in order.
    #[must_use]
    pub fn got(&self) -> Vec<SetConfigRequest> {
        lock(&self.got).clone()
    }

    /// The origin of the last push; empty when there was none.
    #[must_use]
    pub fn last_origin(&self) -> String {
        let got = lock(&self.got);
        got.last()
            .map(|last| last.origin.clone())
            .unwrap_or_default()
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
        // Already gone is as good.
        drop(std::fs::remove_file(&self.socket));
    }
}

#[derive(Debug)]
struct Service {
    got: Arc<Mutex<Vec<SetConfigRequest>>>,
    instance: String,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[tonic::async_trait]
impl Config for Service {
    async fn set_config(
        &self,
        request: Request<SetConfigRequest>,
    ) -> Result<Response<SetConfigReply>, Status> {
        let request = request.into_inner();
        let bad = request.config.values().any(|text| text.contains("BAD"));
        let mut got = lock(&self.got);
        got.push(request);
        Ok(Response::new(SetConfigReply {
            error: if bad {
                "policy.static: BAD is no key"
            } else {
                ""
            }
            .to_owned(),
            generation: got.len() as u64,
            instance: self.instance.clone(),
            ..SetConfigReply::default()
        }))
    }

    async fn check_config(
        &self,
        _request: Request<SetConfigRequest>,
    ) -> Result<Response<SetConfigReply>, Status> {
        Err(Status::unimplemented("nobody asks this here"))
    }

    async fn get_status(
        &self,
        _request: Request<GetStatusRequest>,
    ) -> Result<Response<GetStatusReply>, Status> {
        Ok(Response::new(GetStatusReply {
            instance: self.instance.clone(),
            ..GetStatusReply::default()
        }))
    }
}

/// A running agent of the node `n1`, with the rights that its manifest gives.
#[derive(Debug)]
pub struct Agent {
    process: Process,
    folder: PathBuf,
    health_port: u16,
}

impl Agent {
    /// Starts it; its sockets are in the folder of the API server.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(api: &ApiServer) -> Result<Self> {
        Self::start_with(api, &[])
    }

    /// As [`Agent::start`], with more options.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start_with(api: &ApiServer, arguments: &[&str]) -> Result<Self> {
        let folder = api.folder().to_owned();
        let health_port = free_port()?;
        let process = Process::start(
            Command::new(built("cri-resmgr-agent").context("cri-resmgr-agent is not built")?)
                .arg("-kubeconfig")
                .arg(api.kubeconfig("agent"))
                .arg("-agent-socket")
                .arg(folder.join("agent.sock"))
                .arg("-cri-resmgr-socket")
                .arg(folder.join("config.sock"))
                .arg(format!("-health-address=127.0.0.1:{health_port}"))
                .args(arguments)
                .env("NODE_NAME", "n1"),
            &folder.join("agent.log"),
        )?;
        Ok(Self {
            process,
            folder,
            health_port,
        })
    }

    /// Sends it a signal, such as those that stop it and let it go on.
    ///
    /// # Errors
    /// When it has ended.
    pub fn signal(&self, signal: nix::sys::signal::Signal) -> Result<()> {
        self.process.signal(signal)
    }

    /// Whether it runs.
    pub fn running(&mut self) -> bool {
        self.process.running()
    }

    /// Its log so far.
    #[must_use]
    pub fn log(&self) -> String {
        crate::whole_log(&self.folder.join("agent.log"))
    }

    /// The answer of `/readyz`: whether it is 200, and the text.
    pub async fn ready(&self) -> (bool, String) {
        match http_get(self.health_port, "/readyz").await {
            Ok(text) => (text.starts_with("HTTP/1.1 200"), text),
            Err(error) => (false, error.to_string()),
        }
    }

    /// The metrics page, without its head.
    ///
    /// # Errors
    /// When it is not served.
    pub async fn metrics(&self) -> Result<String> {
        let answer = http_get(self.health_port, "/metrics").await?;
        let (_head, page) = answer.split_once("\r\n\r\n").context("no body")?;
        Ok(page.to_owned())
    }
}

/// The answer of a port of this machine to `GET path`.
///
/// # Errors
/// When nothing answers.
pub async fn http_get(port: u16, path: &str) -> std::io::Result<String> {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let mut stream = tokio::net::TcpStream::connect(("127.0.0.1", port)).await?;
    let words = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    stream.write_all(words.as_bytes()).await?;
    let mut text = String::new();
    stream.read_to_string(&mut text).await?;
    Ok(text)
}
