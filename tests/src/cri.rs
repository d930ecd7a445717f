//! Typed CRI: what a kubelet does to a pod.

use crate::runtime::IMAGE;
use anyhow::{Context, Result};
use hyper_util::rt::TokioIo;
use k8s_cri::v1;
use std::{
    collections::{BTreeMap, HashMap},
    path::{Path, PathBuf},
    sync::atomic::{AtomicU32, Ordering},
};
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint};

static COUNT: AtomicU32 = AtomicU32::new(0);

/// A CRI client on a socket: containerd's or the relay's.
#[derive(Clone, Debug)]
pub struct Cri {
    /// The runtime service, for calls without a shorthand here.
    pub client: v1::runtime_service_client::RuntimeServiceClient<Channel>,
    parent: String,
}

/// What a pod shall be.
#[derive(Clone, Debug)]
pub struct Pod {
    /// The sandbox's id, empty before it runs.
    pub id: String,
    /// What the sandbox was made from; containers are created with it too.
    pub config: v1::PodSandboxConfig,
}

/// What a container shall be.
#[derive(Clone, Debug, Default)]
pub struct Container {
    /// Its name in the pod.
    pub name: String,
    /// Command, in place of the image's entry point.
    pub command: Vec<String>,
    /// Arguments, in place of the image's.
    pub args: Vec<String>,
    /// Environment.
    pub envs: Vec<(String, String)>,
    /// Folders of the host shown inside: host path, container path.
    pub mounts: Vec<(String, String)>,
    /// CPU shares, quota and the like.
    pub resources: v1::LinuxContainerResources,
}

impl Container {
    /// A container that sleeps.
    #[must_use]
    pub fn sleeping(name: &str) -> Self {
        Self {
            name: name.into(),
            command: ["/bin/sleep", "1000000"].map(str::to_owned).into(),
            ..Self::default()
        }
    }

    /// A container that runs a shell script.
    #[must_use]
    pub fn script(name: &str, script: &str) -> Self {
        Self {
            name: name.into(),
            command: ["/bin/sh", "-c", script].map(str::to_owned).into(),
            ..Self::default()
        }
    }

    /// A container that runs a program of the host, with the host's libraries.
    #[must_use]
    pub fn program(name: &str, program: &Path, arguments: &[&str]) -> Self {
        let mut command = vec![program.display().to_string()];
        command.extend(arguments.iter().map(|one| (*one).to_owned()));
        let libraries = ["/usr", "/lib", "/lib64"].map(PathBuf::from);
        let folder = program.parent().map(Path::to_path_buf);
        Self {
            name: name.into(),
            command,
            mounts: libraries
                .into_iter()
                .filter(|folder| folder.is_dir())
                .chain(folder)
                .map(|folder| folder.display().to_string())
                .map(|path| (path.clone(), path))
                .collect(),
            ..Self::default()
        }
    }

    /// With request and limit of so many whole CPUs, as the kubelet writes a guaranteed container's.
    #[must_use]
    pub fn guaranteed(mut self, cpus: i64) -> Self {
        self.resources.cpu_shares = cpus * 1024;
        self.resources.cpu_period = 100_000;
        self.resources.cpu_quota = cpus * 100_000;
        self.resources.memory_limit_in_bytes = 64 << 20;
        self.resources.oom_score_adj = -997;
        self
    }

    /// With a request of so many thousandths of a CPU and no limit.
    #[must_use]
    pub fn burstable(mut self, milli: i64) -> Self {
        self.resources.cpu_shares = (milli * 1024 / 1000).max(2);
        self.resources.oom_score_adj = 900;
        self
    }
}

impl Cri {
    /// Connects to `socket`; pods go below the cgroup `parent`.
    ///
    /// # Errors
    /// When nobody listens.
    pub async fn connect(socket: &Path, parent: &str) -> Result<Self> {
        let socket: PathBuf = socket.into();
        let shown = socket.display().to_string();
        let channel = Endpoint::from_static("http://localhost")
            .connect_with_connector(tower::service_fn(move |_| {
                let socket = socket.clone();
                async move { UnixStream::connect(socket).await.map(TokioIo::new) }
            }))
            .await
            .with_context(|| format!("cannot connect to {shown}"))?;
        let client = v1::runtime_service_client::RuntimeServiceClient::new(channel)
            .max_decoding_message_size(64 << 20);
        Ok(Self {
            client,
            parent: parent.into(),
        })
    }

    /// Runs a pod sandbox on the host's network. `class` is the kubelet's folder of the pod's QoS
    /// class: empty for guaranteed, `burstable` or `besteffort`.
    ///
    /// # Errors
    /// The runtime's, or the relay's.
    pub async fn run_pod(
        &mut self,
        name: &str,
        class: &str,
        annotations: &[(&str, &str)],
    ) -> Result<Pod> {
        self.run_pod_in("default", name, class, annotations).await
    }

    /// As [`Cri::run_pod`], in a namespace.
    ///
    /// # Errors
    /// The runtime's, or the relay's.
    pub async fn run_pod_in(
        &mut self,
        namespace: &str,
        name: &str,
        class: &str,
        annotations: &[(&str, &str)],
    ) -> Result<Pod> {
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let uid = format!("{name}-{number}");
        let class = if class.is_empty() {
            String::new()
        } else {
            format!("/{class}")
        };
        let host = v1::NamespaceOption {
            network: v1::NamespaceMode::Node.into(),
            ..v1::NamespaceOption::default()
        };
        let config = v1::PodSandboxConfig {
            metadata: Some(v1::PodSandboxMetadata {
                name: name.into(),
                uid: uid.clone(),
                namespace: namespace.into(),
                attempt: 0,
            }),
            annotations: owned(annotations),
            labels: owned(&[
                ("io.kubernetes.pod.name", name),
                ("io.kubernetes.pod.namespace", namespace),
                ("io.kubernetes.pod.uid", &uid),
            ]),
            linux: Some(v1::LinuxPodSandboxConfig {
                cgroup_parent: format!("{}/kubepods{class}/pod{uid}", self.parent),
                security_context: Some(v1::LinuxSandboxSecurityContext {
                    namespace_options: Some(host),
                    ..v1::LinuxSandboxSecurityContext::default()
                }),
                ..v1::LinuxPodSandboxConfig::default()
            }),
            ..v1::PodSandboxConfig::default()
        };
        let reply = self
            .client
            .run_pod_sandbox(v1::RunPodSandboxRequest {
                config: Some(config.clone()),
                ..v1::RunPodSandboxRequest::default()
            })
            .await?
            .into_inner();
        Ok(Pod {
            id: reply.pod_sandbox_id,
            config,
        })
    }

    /// Creates a container; its id.
    ///
    /// # Errors
    /// The runtime's, or the relay's.
    pub async fn create(&mut self, pod: &Pod, container: &Container) -> Result<String> {
        let envs = container.envs.iter().map(|(key, value)| v1::KeyValue {
            key: key.clone(),
            value: value.clone(),
        });
        let mounts = container.mounts.iter().map(|(host, inside)| v1::Mount {
            host_path: host.clone(),
            container_path: inside.clone(),
            ..v1::Mount::default()
        });
        let config = v1::ContainerConfig {
            metadata: Some(v1::ContainerMetadata {
                name: container.name.clone(),
                attempt: 0,
            }),
            image: Some(v1::ImageSpec {
                image: IMAGE.into(),
                ..v1::ImageSpec::default()
            }),
            command: container.command.clone(),
            args: container.args.clone(),
            mounts: mounts.collect(),
            envs: envs.collect(),
            labels: owned(&[("io.kubernetes.container.name", &container.name)]),
            linux: Some(v1::LinuxContainerConfig {
                resources: Some(container.resources.clone()),
                ..v1::LinuxContainerConfig::default()
            }),
            ..v1::ContainerConfig::default()
        };
        let reply = self
            .client
            .create_container(v1::CreateContainerRequest {
                pod_sandbox_id: pod.id.clone(),
                config: Some(config),
                sandbox_config: Some(pod.config.clone()),
            })
            .await?;
        Ok(reply.into_inner().container_id)
    }

    /// Starts a container.
    ///
    /// # Errors
    /// The runtime's, or the relay's.
    pub async fn start(&mut self, id: &str) -> Result<()> {
        let container_id = id.to_owned();
        self.client
            .start_container(v1::StartContainerRequest { container_id })
            .await?;
        Ok(())
    }

    /// Creates and starts a container; its id.
    ///
    /// # Errors
    /// The runtime's, or the relay's.
    pub async fn run(&mut self, pod: &Pod, container: &Container) -> Result<String> {
        let id = self.create(pod, container).await?;
        self.start(&id).await?;
        Ok(id)
    }

    /// Asks for other resources of a container, as the kubelet does for a resize.
    ///
    /// # Errors
    /// The runtime's, or the relay's.
    pub async fn update(&mut self, id: &str, linux: v1::LinuxContainerResources) -> Result<()> {
        let request = v1::UpdateContainerResourcesRequest {
            container_id: id.to_owned(),
            linux: Some(linux),
            ..v1::UpdateContainerResourcesRequest::default()
        };
        self.client.update_container_resources(request).await?;
        Ok(())
    }

    /// Whether a container has exited.
    ///
    /// # Errors
    /// The runtime's, or the relay's.
    pub async fn exited(&mut self, id: &str) -> Result<bool> {
        let request = v1::ContainerStatusRequest {
            container_id: id.to_owned(),
            verbose: false,
        };
        let reply = self.client.container_status(request).await?.into_inner();
        let state = reply.status.unwrap_or_default().state();
        Ok(state == v1::ContainerState::ContainerExited)
    }

    /// Ids of the containers that are created or run, and whether they run.
    ///
    /// # Errors
    /// The runtime's, or the relay's.
    pub async fn live(&mut self) -> Result<BTreeMap<String, bool>> {
        let request = v1::ListContainersRequest::default();
        let reply = self.client.list_containers(request).await?.into_inner();
        let live = reply.containers.into_iter().filter_map(|one| {
            let runs = match one.state() {
                v1::ContainerState::ContainerCreated => false,
                v1::ContainerState::ContainerRunning => true,
                _ => return None,
            };
            Some((one.id, runs))
        });
        Ok(live.collect())
    }

    /// Stops a container at once.
    ///
    /// # Errors
    /// The runtime's, or the relay's.
    pub async fn stop(&mut self, id: &str) -> Result<()> {
        let request = v1::StopContainerRequest {
            container_id: id.to_owned(),
            timeout: 0,
        };
        self.client.stop_container(request).await?;
        Ok(())
    }

    /// Removes a container.
    ///
    /// # Errors
    /// The runtime's, or the relay's.
    pub async fn remove(&mut self, id: &str) -> Result<()> {
        let container_id = id.to_owned();
        self.client
            .remove_container(v1::RemoveContainerRequest { container_id })
            .await?;
        Ok(())
    }

    /// Stops and removes a pod with its containers.
    ///
    /// # Errors
    /// The runtime's, or the relay's.
    pub async fn remove_pod(&mut self, pod: &Pod) -> Result<()> {
        let pod_sandbox_id = pod.id.clone();
        self.client
            .stop_pod_sandbox(v1::StopPodSandboxRequest { pod_sandbox_id })
            .await?;
        let pod_sandbox_id = pod.id.clone();
        self.client
            .remove_pod_sandbox(v1::RemovePodSandboxRequest { pod_sandbox_id })
            .await?;
        Ok(())
    }
}

fn owned(pairs: &[(&str, &str)]) -> HashMap<String, String> {
    pairs
        .iter()
        .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
        .collect()
}
