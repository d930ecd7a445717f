//! The relay's own calls to the runtime, apart from the connections of its clients.
//!
//! Messages of `runtime.v1` and `runtime.v1alpha2` are alike on the wire in every field used here, so one
//! set of types serves both; only the path differs. Which one the runtime speaks is asked once.

mod codec;

use crate::cri::{
    intercept::{Call, Status, next_seq},
    observe::{Event, Interest, Kind, Observer},
};
use bytes::Bytes;
use codec::RawCodec;
use futures::{Stream, StreamExt};
use hyper_util::rt::TokioIo;
use k8s_cri::v1 as cri;
use prost::Message;
use std::{
    fmt,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};
use tonic::{
    client::Grpc,
    codegen::http::uri::PathAndQuery,
    transport::{Channel, Endpoint, Uri},
};

/// gRPC codes used here by name.
const UNIMPLEMENTED: u32 = 12;
const UNAVAILABLE: u32 = 14;
const INTERNAL: u32 = 13;

/// A call of ours that the runtime did not answer with OK.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{method} failed at the runtime behind {socket}: {status}")]
pub struct CallError {
    /// The bare method name.
    pub method: &'static str,
    /// The runtime's socket.
    pub socket: PathBuf,
    /// What it answered; UNAVAILABLE when it could not be reached.
    pub status: Status,
}

/// A client of the runtime's `RuntimeService`. Connects when first used, and again when it must.
#[derive(Clone)]
pub struct RuntimeClient {
    inner: Arc<Inner>,
}

struct Inner {
    socket: PathBuf,
    channel: Channel,
    timeout: Duration,
    observers: Vec<Arc<dyn Observer>>,
    alpha: AtomicBool,
}

impl fmt::Debug for RuntimeClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RuntimeClient")
            .field("socket", &self.inner.socket)
            .finish_non_exhaustive()
    }
}

/// Largest reply accepted: a node's container list is far below it.
const MAX_MESSAGE_BYTES: usize = 64 << 20;

impl RuntimeClient {
    /// A client of the runtime behind `socket`; each call may take `timeout`.
    ///
    /// Needs to be called within a tokio runtime; does not connect yet.
    #[must_use]
    pub fn new(socket: &Path, timeout: Duration, observers: Vec<Arc<dyn Observer>>) -> Self {
        let path = socket.to_owned();
        // The URI only names the peer in HTTP/2's :authority; the connector decides where it leads.
        let channel = Endpoint::from_static("http://localhost").connect_with_connector_lazy(
            tower::service_fn(move |_uri: Uri| {
                let path = path.clone();
                async move {
                    tokio::net::UnixStream::connect(path)
                        .await
                        .map(TokioIo::new)
                }
            }),
        );
        let inner = Inner {
            socket: socket.to_owned(),
            channel,
            timeout,
            observers,
            alpha: AtomicBool::new(false),
        };
        Self {
            inner: Arc::new(inner),
        }
    }

    /// `Version`; also finds out which version of CRI the runtime speaks.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn version(&self) -> Result<cri::VersionResponse, CallError> {
        let request = cri::VersionRequest {
            version: "v1".into(),
        };
        self.inner.alpha.store(false, Ordering::Relaxed);
        match self.call("Version", &request).await {
            Err(error) if error.status.code == UNIMPLEMENTED => {
                self.inner.alpha.store(true, Ordering::Relaxed);
                let request = cri::VersionRequest {
                    version: "v1alpha2".into(),
                };
                self.call("Version", &request).await
            }
            answered => answered,
        }
    }

    /// Every container the runtime knows, exited ones included.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn list_containers(&self) -> Result<Vec<cri::Container>, CallError> {
        let request = cri::ListContainersRequest::default();
        let reply: cri::ListContainersResponse = self.call("ListContainers", &request).await?;
        Ok(reply.containers)
    }

    /// A container's status with the runtime's own details in `info`.
    ///
    /// # Errors
    /// [`CallError`]; NOT_FOUND for an unknown container.
    pub async fn container_status(
        &self,
        container_id: &str,
    ) -> Result<cri::ContainerStatusResponse, CallError> {
        let request = cri::ContainerStatusRequest {
            container_id: container_id.to_owned(),
            verbose: true,
        };
        self.call("ContainerStatus", &request).await
    }

    /// A pod sandbox's status with the runtime's own details in `info`.
    ///
    /// # Errors
    /// [`CallError`]; NOT_FOUND for an unknown sandbox.
    pub async fn pod_sandbox_status(
        &self,
        pod_sandbox_id: &str,
    ) -> Result<cri::PodSandboxStatusResponse, CallError> {
        let request = cri::PodSandboxStatusRequest {
            pod_sandbox_id: pod_sandbox_id.to_owned(),
            verbose: true,
        };
        self.call("PodSandboxStatus", &request).await
    }

    /// Sets a container's resources.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn update_container_resources(
        &self,
        container_id: &str,
        linux: cri::LinuxContainerResources,
    ) -> Result<(), CallError> {
        let request = cri::UpdateContainerResourcesRequest {
            container_id: container_id.to_owned(),
            linux: Some(linux),
            ..Default::default()
        };
        let _empty: cri::UpdateContainerResourcesResponse =
            self.call("UpdateContainerResources", &request).await?;
        Ok(())
    }

    /// What happens to containers, as the runtime tells it (`GetContainerEvents`). The stream may stay
    /// silent for ever: it has no deadline.
    ///
    /// Up to version 1 containerd has one queue for all listeners, so listening would take events away
    /// from the kubelet; see [`RuntimeClient::tells_all_listeners`].
    ///
    /// # Errors
    /// [`CallError`]; UNIMPLEMENTED from a runtime that does not tell.
    pub async fn container_events(
        &self,
    ) -> Result<impl Stream<Item = Result<cri::ContainerEventResponse, CallError>> + use<>, CallError>
    {
        const METHOD: &str = "GetContainerEvents";
        let socket = self.inner.socket.clone();
        let failed = move |status| CallError {
            method: METHOD,
            socket: socket.clone(),
            status,
        };
        let path = PathAndQuery::from_static("/runtime.v1.RuntimeService/GetContainerEvents");
        let mut grpc = self.ready().await.map_err(&failed)?;
        let body = Bytes::from(cri::GetEventsRequest::default().encode_to_vec());
        let stream = grpc
            .server_streaming(tonic::Request::new(body), path, RawCodec)
            .await
            .map_err(|status| failed(told(&status)))?
            .into_inner();
        Ok(stream.map(move |event| {
            let body = event.map_err(|status| failed(told(&status)))?;
            cri::ContainerEventResponse::decode(body).map_err(|error| {
                failed(Status {
                    code: INTERNAL,
                    message: format!("its event cannot be read: {error}"),
                })
            })
        }))
    }

    /// Whether the runtime tells events to every listener: containerd since 2.0.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn tells_all_listeners(&self) -> Result<bool, CallError> {
        let version = self.version().await?;
        Ok(version.runtime_name == "containerd" && major(&version.runtime_version) >= 2)
    }

    async fn call<Q: Message, R: Message + Default>(
        &self,
        method: &'static str,
        request: &Q,
    ) -> Result<R, CallError> {
        let failed = |status| CallError {
            method,
            socket: self.inner.socket.clone(),
            status,
        };
        let version = if self.inner.alpha.load(Ordering::Relaxed) {
            "v1alpha2"
        } else {
            "v1"
        };
        let path = format!("/runtime.{version}.RuntimeService/{method}");
        tracing::debug!("calling {path}");
        let received = Instant::now();
        let call = Arc::new(Call {
            seq: next_seq(),
            path: path.as_str().into(),
            received,
            deadline: Some(received + self.inner.timeout),
        });
        let body = Bytes::from(request.encode_to_vec());
        self.tell(&call, Interest::Bodies, || Event::Request {
            body: body.clone(),
        });
        let answered = tokio::time::timeout(self.inner.timeout, self.exchange(path, body))
            .await
            .unwrap_or_else(|_elapsed| {
                let message = format!("no answer within {} s", self.inner.timeout.as_secs_f32());
                Err(Status {
                    code: UNAVAILABLE,
                    message,
                })
            });
        let total = received.elapsed();
        if let Ok(body) = &answered {
            self.tell(&call, Interest::Bodies, || Event::Reply {
                body: body.clone(),
            });
        }
        let ended = answered.as_ref().err().cloned();
        self.tell(&call, Interest::Ends, || Event::End {
            failed: ended.clone(),
            total,
            runtime: total,
        });
        R::decode(answered.map_err(failed)?).map_err(|error| {
            failed(Status {
                code: INTERNAL,
                message: format!("its reply cannot be read: {error}"),
            })
        })
    }

    async fn exchange(&self, path: String, body: Bytes) -> Result<Bytes, Status> {
        let path = PathAndQuery::try_from(path).map_err(|error| Status {
            code: INTERNAL,
            message: error.to_string(),
        })?;
        let mut grpc = self.ready().await?;
        let reply = grpc.unary(tonic::Request::new(body), path, RawCodec).await;
        reply
            .map(tonic::Response::into_inner)
            .map_err(|status| told(&status))
    }

    async fn ready(&self) -> Result<Grpc<Channel>, Status> {
        let mut grpc =
            Grpc::new(self.inner.channel.clone()).max_decoding_message_size(MAX_MESSAGE_BYTES);
        grpc.ready().await.map_err(|error| Status {
            code: UNAVAILABLE,
            message: chain(&error),
        })?;
        Ok(grpc)
    }

    fn tell(&self, call: &Arc<Call>, interest: Interest, event: impl Fn() -> Event) {
        for observer in &self.inner.observers {
            if observer.interest(&call.path) >= interest {
                observer.observe(call, Kind::Own, event());
            }
        }
    }
}

/// A status of tonic's as ours; where it was made here, with its cause.
fn told(status: &tonic::Status) -> Status {
    Status {
        code: (status.code() as i32).cast_unsigned(),
        message: match std::error::Error::source(status) {
            Some(source) if status.message().is_empty() => chain(source),
            _ => status.message().to_owned(),
        },
    }
}

/// The first number of a version such as `v2.1.4` or `1.6.20~ds1`; 0 when there is none.
fn major(version: &str) -> u32 {
    let digits = version.trim_start_matches('v');
    let end = digits.find(|c: char| !c.is_ascii_digit());
    digits[..end.unwrap_or(digits.len())].parse().unwrap_or(0)
}

/// An error with its causes, in one line.
fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    std::iter::successors(Some(error), |error| error.source())
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join(": ")
}

#[cfg(test)]
pub(crate) mod tests;
