//! One runtime for all scenarios; each gets a relay of its own, and leaves nothing behind.

use resmgr_tests::{Container, Cri, Pod, Relay, Runtime, eventually, kernel};
use std::time::Duration;

/// How long the kernel may take to show what is expected: everything here may be emulated.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// A container, and what its pod looks like to the policy.
#[derive(Clone, Debug)]
pub(crate) struct Who {
    pub(crate) container: Container,
    class: &'static str,
    namespace: &'static str,
    annotations: Vec<(String, String)>,
}

/// Request and limit of so many whole CPUs.
pub(crate) fn guaranteed(name: &str, cpus: i64) -> Who {
    Who::of(Container::sleeping(name).guaranteed(cpus), "")
}

/// A request of so many thousandths of a CPU, without a limit.
pub(crate) fn burstable(name: &str, milli: i64) -> Who {
    Who::of(Container::sleeping(name).burstable(milli), "/burstable")
}

/// No request at all.
pub(crate) fn best_effort(name: &str) -> Who {
    Who::of(Container::sleeping(name), "/besteffort")
}

impl Who {
    fn of(container: Container, class: &'static str) -> Self {
        Self {
            container,
            class,
            namespace: "default",
            annotations: Vec::new(),
        }
    }

    pub(crate) fn namespace(mut self, namespace: &'static str) -> Self {
        self.namespace = namespace;
        self
    }

    pub(crate) fn annotation(mut self, key: &str, value: &str) -> Self {
        self.annotations.push((key.into(), value.into()));
        self
    }

    pub(crate) fn env(mut self, key: &str, value: &str) -> Self {
        self.container.envs.push((key.into(), value.into()));
        self
    }

    pub(crate) fn command(mut self, words: &[&str]) -> Self {
        self.container.command = words.iter().map(|word| (*word).to_owned()).collect();
        self
    }

    pub(crate) fn args(mut self, words: &[&str]) -> Self {
        self.container.args = words.iter().map(|word| (*word).to_owned()).collect();
        self
    }

    /// Requests `cmk.intel.com/exclusive-cores`, as the webhook shows it.
    pub(crate) fn cores(self, count: u32) -> Self {
        let name = self.container.name.clone();
        let text = format!(
            r#"{{"initContainers":{{}},"containers":{{"{name}":{{"requests":{{"cmk.intel.com/exclusive-cores":"{count}"}},"limits":{{"cmk.intel.com/exclusive-cores":"{count}"}}}}}}}}"#
        );
        self.annotation("intel.com/resources", &text)
    }

    /// Asks for a pool as the successor of CMK does it.
    pub(crate) fn pool(self, pool: &str) -> Self {
        self.env("STP_POOL", pool)
    }
}

/// The runtime and, during a scenario, the relay in front of it.
pub(crate) struct Stage {
    pub(crate) runtime: Runtime,
    /// The pod that every container really is in. To the policy each is in a pod of its own: CRI sends
    /// the pod's configuration with every container, and its cgroup follows that.
    sandbox: Pod,
    direct: Cri,
    relay: Option<Relay>,
    cri: Option<Cri>,
    scenes: usize,
    ids: Vec<String>,
}

impl Stage {
    pub(crate) async fn new() -> Self {
        let runtime = Runtime::start().unwrap();
        let mut direct = Cri::connect(&runtime.socket(), runtime.cgroup_parent())
            .await
            .unwrap();
        let sandbox = direct.run_pod("stage", "", &[]).await.unwrap();
        Self {
            runtime,
            sandbox,
            direct,
            relay: None,
            cri: None,
            scenes: 0,
            ids: Vec::new(),
        }
    }

    /// Begins anew, with a relay that has never run.
    pub(crate) async fn relay(&mut self, arguments: &[&str]) {
        self.clear().await;
        self.scenes += 1;
        let name = format!("relay-{}", self.scenes);
        let relay = Relay::start_in(&self.runtime, &name, arguments).unwrap();
        let cri = Cri::connect(&relay.socket(), self.runtime.cgroup_parent()).await;
        self.cri = Some(cri.unwrap());
        self.relay = Some(relay);
    }

    /// What the relay says when it cannot start.
    pub(crate) fn no_relay(&mut self, arguments: &[&str]) -> String {
        self.scenes += 1;
        let name = format!("relay-{}", self.scenes);
        let started = Relay::start_in(&self.runtime, &name, arguments);
        started.err().map(|error| format!("{error:#}")).unwrap()
    }

    /// Ends the relay, then all containers behind its back.
    pub(crate) async fn clear(&mut self) {
        self.cri = None;
        self.relay = None;
        let gone = self.ids.drain(..).map(|id| {
            let mut cri = self.direct.clone();
            async move { cri.remove(&id).await }
        });
        for outcome in futures::future::join_all(gone).await {
            outcome.unwrap();
        }
    }

    pub(crate) fn log(&self) -> String {
        self.relay.as_ref().map(Relay::log).unwrap_or_default()
    }

    pub(crate) fn state(&self) -> String {
        let asked = self.relay.as_ref().unwrap().ask(&["state"]);
        asked.unwrap_or_else(|error| format!("{error:#}"))
    }

    /// Kills the relay, and has its program give back what it took: what that says.
    pub(crate) fn restore(&mut self) -> String {
        let relay = self.relay.as_mut().unwrap();
        relay.kill().unwrap();
        let state = relay.state().display().to_string();
        relay.ask(&["--relay-dir", &state, "restore"]).unwrap()
    }

    fn pod(&self, who: &Who) -> Pod {
        let mut pod = self.sandbox.clone();
        let parent = self.runtime.cgroup_parent();
        let (class, name) = (who.class, &who.container.name);
        if let Some(metadata) = &mut pod.config.metadata {
            metadata.name.clone_from(name);
            metadata.namespace = who.namespace.into();
        }
        if let Some(linux) = &mut pod.config.linux {
            linux.cgroup_parent = format!("{parent}/kubepods{class}/pod-{name}");
        }
        pod.config.annotations = who.annotations.iter().cloned().collect();
        pod
    }

    /// Creates and starts a container through the relay.
    pub(crate) async fn try_run(&mut self, who: &Who) -> Result<String, String> {
        let pod = self.pod(who);
        let cri = self.cri.as_mut().unwrap();
        let created = cri.create(&pod, &who.container).await;
        let id = created.map_err(|error| said(&error))?;
        self.ids.push(id.clone());
        let started = self.cri.as_mut().unwrap().start(&id).await;
        started.map_err(|error| said(&error))?;
        Ok(id)
    }

    /// The same, which must work.
    pub(crate) async fn run(&mut self, who: &Who) -> String {
        let name = &who.container.name;
        let ran = self.try_run(who).await;
        ran.unwrap_or_else(|error| panic!("{name}: {error}\n{}", self.log()))
    }

    /// The same, which must not: what the kubelet would show.
    pub(crate) async fn refused(&mut self, who: &Who) -> String {
        let name = &who.container.name;
        match self.try_run(who).await {
            Err(error) => error,
            Ok(_) => panic!("{name} was started\n{}", self.state()),
        }
    }

    /// Stops and removes a container through the relay.
    pub(crate) async fn end(&mut self, id: &str) {
        let cri = self.cri.as_mut().unwrap();
        cri.stop(id).await.unwrap();
        cri.remove(id).await.unwrap();
        self.ids.retain(|one| one != id);
    }

    /// Whether the runtime says that it has exited. Asked behind the relay's back.
    pub(crate) async fn exited(&mut self, id: &str) -> bool {
        self.direct.exited(id).await.unwrap()
    }

    /// Waits until cgroup and processes of a container have exactly these CPUs.
    pub(crate) async fn on(&self, id: &str, wanted: &str) {
        let parent = self.runtime.cgroup_parent();
        let both = || (kernel::effective(parent, id), kernel::allowed(parent, id));
        let is =
            || matches!(both(), (Ok(cgroup), Ok(tasks)) if cgroup == wanted && tasks == wanted);
        let settled = eventually(PATIENCE, async || is()).await;
        assert!(
            settled,
            "not on {wanted} but {:?}\n{}\n{}",
            both(),
            self.state(),
            self.log()
        );
    }

    /// Waits until a file in /proc of a container's first process holds what is `wanted`: a container that
    /// was started may still be the runtime's own process, or between the two, where `cmdline` is empty.
    pub(crate) async fn tells(&self, id: &str, file: &str, wanted: impl Fn(&[String]) -> bool) {
        let texts = || kernel::texts(self.runtime.cgroup_parent(), id, file);
        let settled =
            eventually(PATIENCE, async || texts().is_ok_and(|texts| wanted(&texts))).await;
        assert!(settled, "{id}: {file} is {:?}\n{}", texts(), self.log());
    }

    /// Kills every process of a container, as the out-of-memory killer might.
    pub(crate) fn kill(&self, id: &str) {
        for pid in kernel::processes(self.runtime.cgroup_parent(), id).unwrap() {
            let pid = nix::unistd::Pid::from_raw(pid);
            nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).unwrap();
        }
    }
}

/// The message of a gRPC status, as the kubelet shows it.
fn said(error: &anyhow::Error) -> String {
    let status = error.downcast_ref::<tonic::Status>();
    status.map_or_else(
        || format!("{error:#}"),
        |status| status.message().to_owned(),
    )
}
