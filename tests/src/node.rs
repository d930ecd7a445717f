//! A node on which a kubelet runs pods: API server, agent, cri-resmgr in front of today's containerd, kubelet.
//!
//! The kubelet changes nothing of this machine: its pods are below a cgroup of their own, its logs below the
//! node's folder, and the kernel parameters that it would set are files of its own.

use crate::{
    Cluster, Runtime, apiserver, apiserver::Process, cluster, eventually, installed, kernel,
};
use anyhow::{Context as _, Result, bail};
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use std::{
    net::{IpAddr, UdpSocket},
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

/// Longest wait for a state of a pod, on a machine that is busy.
pub const PATIENCE: Duration = Duration::from_secs(240);

/// Between two looks at what the API server has: each is a program of its own.
pub const PAUSE: Duration = Duration::from_millis(200);
/// What a kubelet does to the machine outside its own folders, in a mount namespace of its own: it links the logs of
/// containers in `/var/log/containers` and sets kernel parameters.
const CONFINED: &str = r#"set -e
mount --make-rslave /
mount -t tmpfs none /var/log
for name in vm/overcommit_memory vm/panic_on_oom kernel/panic kernel/panic_on_oops \
    kernel/keys/root_maxkeys kernel/keys/root_maxbytes; do
    file="/var/log/$(basename $name)"
    cat /proc/sys/$name >"$file"
    mount --bind "$file" /proc/sys/$name
done
exec "$0" "$@""#;

/// The node `n1` of a [`Cluster`] with a kubelet.
#[derive(Debug)]
pub struct Node {
    // Ends before what it uses.
    kubelet: Option<Process>,
    /// All parts but the kubelet.
    pub cluster: Cluster,
    address: IpAddr,
}

/// Why there can be no node with a kubelet here, if so.
#[must_use]
pub fn missing() -> Option<String> {
    let program = |name: &&str| !programs().join(name).is_file();
    let not_built = || ["kubelet", "containerd"].into_iter().find(program);
    cluster::missing()
        .or_else(|| Some(format!("{} is not built: cargo xtask setup", not_built()?)))
        .or_else(|| installed("unshare").is_none().then(|| "no unshare".into()))
        .or_else(|| {
            let why = |error| format!("the kubelet needs an address of this node: {error:#}");
            address().err().map(why)
        })
}

/// Where `cargo xtask setup` puts the programs of a node.
fn programs() -> PathBuf {
    apiserver::repository().join(".cache/kubernetes")
}

/// The address from which this machine speaks to others; nothing is sent to find it out.
fn address() -> Result<IpAddr> {
    let socket = UdpSocket::bind("0.0.0.0:0")?;
    socket.connect("192.0.2.1:9")?;
    Ok(socket.local_addr()?.ip())
}

impl Node {
    /// Starts all parts but agent and cri-resmgr, which will have these options; no kubelet yet.
    ///
    /// # Errors
    /// When a part does not come up.
    pub fn start(options: &[&str]) -> Result<Self> {
        let runtime = Runtime::start_from(Some(programs()))?;
        make_cgroup(runtime.cgroup_parent())?;
        Ok(Self {
            kubelet: None,
            cluster: Cluster::start_over(runtime, options)?,
            address: address()?,
        })
    }

    /// Starts the kubelet (again), with `settings` laid over its configuration, and waits until its node is known.
    ///
    /// # Errors
    /// When it does not come up; the end of its log is in the message.
    pub async fn start_kubelet(&mut self, settings: &Value) -> Result<()> {
        self.stop_kubelet();
        let folder = self.folder();
        std::fs::create_dir_all(&folder)?;
        let configuration = folder.join("kubelet.json");
        let text = self.configuration(settings)?.to_string();
        std::fs::write(&configuration, text)?;
        let kubelet = Process::start(
            Command::new("unshare")
                .args(["--mount", "/bin/sh", "-c", CONFINED])
                .arg(programs().join("kubelet"))
                .arg("--config")
                .arg(&configuration)
                .arg("--kubeconfig")
                .arg(self.cluster.api.kubeconfig("admin"))
                .arg("--root-dir")
                .arg(self.kubelet_root())
                .arg("--cert-dir")
                .arg(folder.join("certificates"))
                .args(["--hostname-override", "n1", "--v", "2"])
                .arg(format!("--node-ip={}", self.address)),
            &self.log(),
        )?;
        let kubelet = self.kubelet.insert(kubelet);
        let cluster = &self.cluster;
        let known = async || {
            tokio::time::sleep(PAUSE).await;
            let version = cluster.node(".status.nodeInfo.kubeletVersion");
            !version.is_empty() || !kubelet.running()
        };
        let came = eventually(PATIENCE, known).await;
        if !came || !kubelet.running() {
            bail!("the kubelet does not come up\n{}", self.logs());
        }
        Ok(())
    }

    /// Kills the kubelet; pods run on.
    pub fn stop_kubelet(&mut self) {
        self.kubelet = None;
    }

    /// The folder in which the kubelet keeps its state.
    #[must_use]
    pub fn kubelet_root(&self) -> PathBuf {
        self.folder().join("root")
    }

    fn folder(&self) -> PathBuf {
        self.cluster.runtime.folder().join("kubelet")
    }

    fn log(&self) -> PathBuf {
        self.folder().join("log")
    }

    /// `KubeletConfiguration`.
    fn configuration(&self, settings: &Value) -> Result<Value> {
        let relay = self
            .cluster
            .relay
            .as_ref()
            .context("cri-resmgr is away")?
            .socket();
        let folder = self.folder();
        let mut all = json!({
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "containerRuntimeEndpoint": format!("unix://{}", relay.display()),
            "address": self.address,
            "port": apiserver::free_port()?,
            "healthzPort": 0,
            "authentication": {
                "anonymous": { "enabled": false },
                "webhook": { "enabled": false },
                "x509": { "clientCAFile": self.cluster.api.client_certificate() },
            },
            "authorization": { "mode": "AlwaysAllow" },
            "cgroupDriver": "cgroupfs",
            "cgroupRoot": self.cluster.runtime.cgroup_parent(),
            "failCgroupV1": false,
            "failSwapOn": false,
            "makeIPTablesUtilChains": false,
            "oomScoreAdj": 0,
            "podLogsDir": folder.join("logs"),
            "volumePluginDir": folder.join("plugins"),
            // What else fills this machine is no reason to evict a pod or to delete the image.
            "evictionHard": { "memory.available": "1Mi" },
            "imageGCHighThresholdPercent": 100,
            "localStorageCapacityIsolation": false,
            "syncFrequency": "2s",
        });
        if let (Some(all), Some(settings)) = (all.as_object_mut(), settings.as_object()) {
            all.extend(settings.clone());
        }
        Ok(all)
    }

    /// A pod as the API server has it.
    ///
    /// # Errors
    /// When there is none.
    pub fn pod(&self, name: &str) -> Result<Value> {
        self.cluster.api.get(&["pod", name])
    }

    /// Waits until a pod is as `condition` says; the pod.
    ///
    /// # Errors
    /// When it does not become so; the pod and the logs are in the message.
    pub async fn wait(
        &self,
        name: &str,
        what: &str,
        condition: impl Fn(&Value) -> bool,
    ) -> Result<Value> {
        let mut pod = Value::Null;
        let holds = async || {
            tokio::time::sleep(PAUSE).await;
            pod = self.pod(name).unwrap_or_default();
            condition(&pod)
        };
        if eventually(PATIENCE, holds).await {
            return Ok(pod);
        }
        bail!(
            "pod {name} is not {what}: {:#}\n{}",
            pod["status"],
            self.logs()
        )
    }

    /// Waits until all containers of a pod are ready; the pod.
    ///
    /// # Errors
    /// As [`Node::wait`].
    pub async fn ready(&self, name: &str) -> Result<Value> {
        let ready = |pod: &Value| {
            let conditions = pod["status"]["conditions"].as_array();
            conditions.into_iter().flatten().any(|condition| {
                condition["type"] == "ContainersReady" && condition["status"] == "True"
            })
        };
        self.wait(name, "ready", ready).await
    }

    /// Deletes a pod and waits until the kubelet has taken it away.
    ///
    /// # Errors
    /// When it does not.
    pub async fn delete(&self, name: &str) -> Result<()> {
        let delete = ["delete", "pod", name, "--wait=false"];
        self.cluster.api.kubectl(&delete)?;
        let gone = async || {
            self.pod(name)
                .is_err_and(|error| error.to_string().contains("NotFound"))
        };
        if eventually(PATIENCE, gone).await {
            return Ok(());
        }
        bail!("pod {name} does not go\n{}", self.logs())
    }

    /// Changes a pod through its subresource: `resize` or `ephemeralcontainers`.
    ///
    /// # Errors
    /// When the API server refuses.
    pub async fn change(
        &self,
        name: &str,
        subresource: &str,
        change: impl Fn(&mut Value),
    ) -> Result<()> {
        let path = format!("/api/v1/namespaces/default/pods/{name}/{subresource}");
        let file = self.cluster.api.folder().join("changed.json");
        let written = file.display().to_string();
        let mut outcome = Ok(());
        let done = async || {
            // The kubelet writes the pod's status meanwhile, and then the API server takes no older version.
            outcome = self.pod(name).and_then(|mut pod| {
                change(&mut pod);
                std::fs::write(&file, pod.to_string())?;
                let words = ["replace", "--raw", &path, "-f", &written];
                self.cluster.api.kubectl(&words).map(drop)
            });
            let conflict =
                |error: &anyhow::Error| error.to_string().contains("the object has been modified");
            !outcome.as_ref().is_err_and(conflict)
        };
        eventually(PATIENCE, done).await;
        outcome
    }

    /// Kills the processes of a container.
    ///
    /// # Errors
    /// When it has none.
    pub fn kill(&self, id: &str) -> Result<()> {
        for process in kernel::processes(self.cluster.runtime.cgroup_parent(), id)? {
            nix::sys::signal::kill(nix::unistd::Pid::from_raw(process), Signal::SIGKILL)?;
        }
        Ok(())
    }

    /// The logs of all parts, for the message of a failure.
    #[must_use]
    pub fn logs(&self) -> String {
        let kubelet = std::fs::read_to_string(self.log()).unwrap_or_default();
        // What is neither information nor a usage text.
        let wrong = |line: &&str| line.starts_with(['E', 'F', 'W']);
        let kubelet: Vec<&str> = kubelet.lines().filter(wrong).collect();
        let last = &kubelet[kubelet.len().saturating_sub(40)..];
        format!(
            "kubelet, warnings and errors:\n{}\n{}\ncontainerd:\n{}",
            last.join("\n"),
            self.cluster.logs(),
            self.cluster.runtime.log()
        )
    }
}

/// The id of a container in the status of its pod.
#[must_use]
pub fn container_id(pod: &Value, container: &str) -> Option<String> {
    let status = container_status(pod, container)?;
    let id = status["containerID"].as_str()?;
    Some(id.split_once("://")?.1.to_owned())
}

/// The status of a container of any kind in the status of its pod.
#[must_use]
pub fn container_status<'a>(pod: &'a Value, container: &str) -> Option<&'a Value> {
    [
        "containerStatuses",
        "initContainerStatuses",
        "ephemeralContainerStatuses",
    ]
    .into_iter()
    .filter_map(|kind| pod["status"][kind].as_array())
    .flatten()
    .find(|status| status["name"] == container)
}

/// Makes the cgroup below which the kubelet puts all pods, in each hierarchy; it is taken away with the runtime.
fn make_cgroup(parent: &str) -> Result<()> {
    let mount = Path::new("/sys/fs/cgroup");
    let parent = parent.trim_start_matches('/');
    if kernel::unified() {
        let controllers = std::fs::read_to_string(mount.join("cgroup.controllers"))?;
        let all: Vec<String> = controllers
            .split_whitespace()
            .map(|controller| format!("+{controller}"))
            .collect();
        std::fs::write(mount.join("cgroup.subtree_control"), all.join(" "))?;
        std::fs::create_dir_all(mount.join(parent))?;
        return Ok(());
    }
    for hierarchy in std::fs::read_dir(mount)? {
        let hierarchy = hierarchy?.path();
        if hierarchy.join("cgroup.procs").exists() {
            std::fs::create_dir_all(hierarchy.join(parent))?;
        }
    }
    for file in ["cpuset.cpus", "cpuset.mems"] {
        let outer = mount.join("cpuset").join(file);
        let inner = mount.join("cpuset").join(parent).join(file);
        std::fs::write(inner, std::fs::read_to_string(outer)?)?;
    }
    Ok(())
}
