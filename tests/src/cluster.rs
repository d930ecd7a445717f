//! A node as it is: API server, node agent and cri-resmgr in front of containerd, wired as deployed.

use crate::{
    Cri, Relay, Runtime, agent::Agent, apiserver, apiserver::ApiServer, eventually, kernel, skip,
};
use anyhow::{Context as _, Result};
use std::time::Duration;

/// Longest wait for a state that comes "within seconds" on a machine that is busy.
pub const SOON: Duration = Duration::from_secs(60);

/// The parts of the node `n1`. Agent and cri-resmgr may be away.
#[derive(Debug)]
pub struct Cluster {
    /// cri-resmgr.
    pub relay: Option<Relay>,
    /// The agent, with exactly the rights of its manifest.
    pub agent: Option<Agent>,
    /// The API server.
    pub api: ApiServer,
    /// containerd.
    pub runtime: Runtime,
    options: Vec<String>,
}

/// Why there can be no cluster here, if so.
#[must_use]
pub fn missing() -> Option<String> {
    let one_cpu = || kernel::online().is_ok_and(|online| online == "0");
    apiserver::missing()
        .or_else(skip::no_relay)
        .or_else(|| one_cpu().then(|| "needs two CPUs".to_owned()))
}

impl Cluster {
    /// Starts API server and containerd; neither agent nor cri-resmgr, which will have these options.
    ///
    /// # Errors
    /// When a part does not come up.
    pub fn start(options: &[&str]) -> Result<Self> {
        Self::start_over(Runtime::start()?, options)
    }

    /// As [`Cluster::start`], over a containerd that runs.
    ///
    /// # Errors
    /// As [`Cluster::start`].
    pub fn start_over(runtime: Runtime, options: &[&str]) -> Result<Self> {
        let api = ApiServer::start()?;
        api.kubectl(&["apply", "-f", "deploy/kustomize/base/agent.yaml"])?;
        api.apply(r#"{"apiVersion":"v1","kind":"Node","metadata":{"name":"n1"}}"#)?;
        Ok(Self {
            relay: None,
            agent: None,
            api,
            runtime,
            options: options.iter().map(|option| (*option).to_owned()).collect(),
        })
    }

    /// Starts cri-resmgr (again).
    ///
    /// # Errors
    /// When it does not come up.
    pub fn start_relay(&mut self, more: &[&str]) -> Result<()> {
        let at = |name: &str| self.api.folder().join(name).display().to_string();
        let sockets = [
            format!("--agent-socket={}", at("agent.sock")),
            format!("--config-socket={}", at("config.sock")),
        ];
        let all: Vec<&str> = sockets
            .iter()
            .chain(&self.options)
            .map(String::as_str)
            .chain(more.iter().copied())
            .collect();
        self.relay = Some(Relay::start(&self.runtime, &all)?);
        Ok(())
    }

    /// Starts the agent (again).
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start_agent(&mut self) -> Result<()> {
        let log = "-log=info,cri_resmgr_agent=debug,kube_client=off,kube_runtime=off,tower=off";
        self.agent = Some(Agent::start_with(&self.api, &[log])?);
        Ok(())
    }

    /// A kubelet's connection.
    ///
    /// # Errors
    /// When cri-resmgr does not answer.
    pub async fn cri(&self) -> Result<Cri> {
        let relay = self.relay.as_ref().context("cri-resmgr is away")?;
        Cri::connect(&relay.socket(), self.runtime.cgroup_parent()).await
    }

    /// What cri-resmgr says is placed where.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn state(&self) -> Result<String> {
        let relay = self.relay.as_ref().context("cri-resmgr is away")?;
        relay.ask(&["state"])
    }

    /// Makes a ConfigMap of the namespace `kube-system` have exactly this data.
    ///
    /// # Errors
    /// When the API server refuses.
    pub fn map(&self, name: &str, data: &[(&str, &str)]) -> Result<()> {
        let data: serde_json::Map<_, _> = data
            .iter()
            .map(|(key, text)| ((*key).to_owned(), (*text).into()))
            .collect();
        let map = serde_json::json!({
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": { "name": name, "namespace": "kube-system" },
            "data": data,
        });
        self.api.apply(&map.to_string())
    }

    /// Takes a ConfigMap away.
    ///
    /// # Errors
    /// When there is none.
    pub fn unmap(&self, name: &str) -> Result<()> {
        let delete = ["delete", "configmap", "-n", "kube-system", name];
        self.api.kubectl(&delete).map(drop)
    }

    /// A field of the Node, as a JSON path says.
    #[must_use]
    pub fn node(&self, path: &str) -> String {
        let path = format!("jsonpath={{{path}}}");
        let get = ["get", "node", "n1", "-o", &path];
        self.api.kubectl(&get).unwrap_or_default()
    }

    /// Whether the processes of a container come to be allowed exactly these CPUs.
    pub async fn runs_on(&self, id: &str, cpus: &str) -> bool {
        let parent = self.runtime.cgroup_parent();
        let there = async || kernel::allowed(parent, id).is_ok_and(|found| found == cpus);
        eventually(SOON, there).await
    }

    /// Whether the agent comes to report on the Node that this ConfigMap of `kube-system`, as it is now,
    /// has been accepted. Only then does cri-resmgr keep it: killed in between, when the kernel knows
    /// already, it starts with what was in force before.
    pub async fn accepted(&self, name: &str) -> bool {
        let version = r"jsonpath={.metadata.resourceVersion}";
        let get = ["get", "configmap", "-n", "kube-system", name, "-o", version];
        let Ok(version) = self.api.kubectl(&get) else {
            return false;
        };
        let annotation = r".metadata.annotations.cri-resource-manager\.intel\.com/config-status";
        let known = async || {
            let status: serde_json::Value =
                serde_json::from_str(&self.node(annotation)).unwrap_or_default();
            status["state"] == "accepted" && status["resourceVersion"] == version.trim()
        };
        eventually(SOON, known).await
    }

    /// The logs of both, for the message of a failure.
    #[must_use]
    pub fn logs(&self) -> String {
        let agent = self.agent.as_ref().map(Agent::log).unwrap_or_default();
        let relay = self.relay.as_ref().map(Relay::log).unwrap_or_default();
        let relay: Vec<&str> = relay
            .lines()
            .filter(|line| !line.contains("   message   "))
            .collect();
        let relay = relay.join("\n");
        format!("agent:\n{agent}\ncri-resmgr:\n{relay}")
    }
}
