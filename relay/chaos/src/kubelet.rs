//! The kubelet: its calls go through the hooks of the relay, to the runtime and back.

use crate::{
    Mutation, runtime,
    world::{World, WorldState},
};
use bytes::Bytes;
use cri_resmgr::{
    cri::{
        intercept::{After, Before, Call, CallOutcome, Interceptor as _},
        message as v1,
    },
    intercept::Hooks,
};
use prost::Message;
use std::{sync::Arc, time::Duration};
use tokio::time::{sleep, timeout};

/// The namespace of which containers are created although they cannot be placed.
pub(crate) const PASSED: &str = "kube-system";

/// Makes the calls, as long as the relay lives.
#[derive(Clone)]
pub(crate) struct Kubelet {
    pub(crate) world: World,
    pub(crate) hooks: Arc<Hooks>,
}

/// A container that the kubelet wants.
#[derive(Clone, Debug)]
pub(crate) struct Wish {
    pub(crate) pod: String,
    pub(crate) name: String,
    pub(crate) attempt: u32,
    pub(crate) resources: v1::LinuxContainerResources,
}

/// The resources that the kubelet shows for a request of this many thousandths of a CPU.
pub(crate) fn resources(milli: u64, limited: bool) -> v1::LinuxContainerResources {
    let milli = i64::try_from(milli).unwrap_or_default();
    v1::LinuxContainerResources {
        cpu_shares: (milli * 1024 / 1000).max(2),
        cpu_quota: if limited { milli * 100 } else { 0 },
        cpu_period: 100_000,
        memory_limit_in_bytes: if limited { 1 << 28 } else { 0 },
        oom_score_adj: if limited { -997 } else { 900 },
        ..v1::LinuxContainerResources::default()
    }
}

/// The pod's name tells its class and its namespace: `podg…` is Guaranteed, `podb…` Burstable, `pode…`
/// BestEffort; one that ends with `s` is of the system.
pub(crate) fn cgroup_parent(pod: &str) -> String {
    match pod.as_bytes().get(3) {
        Some(b'g') => format!("/kubepods/{pod}"),
        Some(b'b') => format!("/kubepods/burstable/{pod}"),
        _ => format!("/kubepods/besteffort/{pod}"),
    }
}

impl Wish {
    fn request(&self) -> v1::CreateContainerRequest {
        let pool = ["exclusive", "shared", "infra"]
            [usize::from(self.pod.as_bytes().get(4).copied().unwrap_or(0) % 3)];
        let annotations = match pool {
            // What the webhook writes for a container that asks for a CPU list of its own.
            "exclusive" => vec![(
                "intel.com/resources".to_owned(),
                format!(
                    r#"{{"containers":{{"{}":{{"requests":{{"cmk.intel.com/exclusive-cores":"1"}}}}}}}}"#,
                    self.name
                ),
            )],
            _ => Vec::new(),
        };
        let namespace = if self.pod.ends_with('s') {
            PASSED
        } else {
            "default"
        };
        v1::CreateContainerRequest {
            pod_sandbox_id: self.pod.clone(),
            config: Some(v1::ContainerConfig {
                metadata: Some(v1::ContainerMetadata {
                    name: self.name.clone(),
                    attempt: self.attempt,
                }),
                envs: vec![v1::KeyValue {
                    key: "STP_POOL".to_owned(),
                    value: pool.to_owned(),
                }],
                linux: Some(v1::LinuxContainerConfig {
                    resources: Some(self.resources.clone()),
                    ..Default::default()
                }),
                ..Default::default()
            }),
            sandbox_config: Some(v1::PodSandboxConfig {
                metadata: Some(v1::PodSandboxMetadata {
                    name: self.pod.clone(),
                    uid: self.pod.clone(),
                    namespace: namespace.to_owned(),
                    ..Default::default()
                }),
                annotations: annotations.into_iter().collect(),
                linux: Some(v1::LinuxPodSandboxConfig {
                    cgroup_parent: cgroup_parent(&self.pod),
                    ..Default::default()
                }),
                ..Default::default()
            }),
        }
    }
}

/// What became of a call before the runtime has it.
struct Forwarded {
    request: Bytes,
    after: Option<Box<dyn After>>,
}

impl Kubelet {
    /// The hook before the call. `None`: refused, or the kubelet has given up.
    async fn before(&self, method: &str, request: &impl Message) -> Option<Forwarded> {
        let call = Call {
            seq: 1,
            path: format!("/runtime.v1.RuntimeService/{method}").into(),
            received: std::time::Instant::now(),
            deadline: None,
        };
        let body: Bytes = request.encode_to_vec().into();
        let patience = {
            let mut world = self.world.lock();
            let impatient = world.chance(3);
            let most = if impatient { 10 } else { 120_000 };
            Duration::from_millis(world.random.below(most) + most / 2)
        };
        match timeout(patience, self.hooks.before(&call, &body)).await {
            Err(_elapsed) => {
                self.event(format_args!("kubelet gives up {method}"));
                None
            }
            Ok(Before::Refuse(status)) => {
                self.event(format_args!("relay refuses {method}: {status}"));
                None
            }
            Ok(Before::Forward { request, after }) => Some(Forwarded {
                request: request.unwrap_or(body),
                after,
            }),
        }
    }

    /// The hook after the call; whether it was done, as the kubelet hears it.
    async fn after(&self, after: Option<Box<dyn After>>, outcome: CallOutcome) -> bool {
        let done = matches!(outcome, CallOutcome::Reply(_));
        let Some(after) = after else {
            return done;
        };
        let failed = matches!(outcome, CallOutcome::Failed(_));
        if failed && self.world.lock().mutation == Some(Mutation::ForgetAbort) {
            self.world.lock().forgotten.push(after);
            return done;
        }
        after.after(outcome).await;
        done
    }

    /// Waits for the runtime, or gives up before it has answered.
    async fn patient(&self, call: impl Future<Output = CallOutcome>) -> CallOutcome {
        let patience = {
            let mut world = self.world.lock();
            let most = if world.chance(5) { 40 } else { 120_000 };
            Duration::from_millis(world.random.below(most) + most / 2)
        };
        let given_up = |_elapsed| CallOutcome::Unknown("the kubelet gave up".to_owned());
        timeout(patience, call).await.unwrap_or_else(given_up)
    }

    fn event(&self, text: std::fmt::Arguments<'_>) {
        self.world.lock().event(text);
    }

    /// Creates a container and, mostly, starts it.
    pub(crate) async fn run(self, wish: Wish) {
        if let Some(id) = Box::pin(self.create(&wish)).await {
            let (starts, pause) = {
                let mut world = self.world.lock();
                (!world.chance(10), world.random.below(30))
            };
            if starts {
                sleep(Duration::from_millis(pause)).await;
                self.start_container(id).await;
            }
        }
        self.idle(&wish.pod);
    }

    fn idle(&self, pod: &str) {
        self.world.lock().busy.remove(pod);
    }

    async fn create(&self, wish: &Wish) -> Option<String> {
        let asked = wish.request();
        let forwarded = self.before("CreateContainer", &asked).await?;
        let Ok(sent) = v1::CreateContainerRequest::decode(forwarded.request) else {
            self.world
                .lock()
                .broken(format_args!("the overlay is no message"));
            return None;
        };
        let call = Box::pin(runtime::create(&self.world, asked, sent));
        let outcome = self.patient(call).await;
        let id = match &outcome {
            CallOutcome::Reply(reply) => v1::CreateContainerResponse::decode(reply.clone()).ok(),
            _ => None,
        };
        self.after(forwarded.after, outcome).await;
        id.map(|reply| reply.container_id)
    }

    async fn start_container(&self, id: String) {
        let request = v1::StartContainerRequest {
            container_id: id.clone(),
        };
        if let Some(forwarded) = self.before("StartContainer", &request).await {
            let outcome = self.patient(runtime::start(&self.world, id)).await;
            self.after(forwarded.after, outcome).await;
        }
    }

    pub(crate) async fn start(self, id: String, pod: String) {
        self.start_container(id).await;
        self.idle(&pod);
    }

    pub(crate) async fn update(
        self,
        id: String,
        pod: String,
        resources: v1::LinuxContainerResources,
    ) {
        let request = v1::UpdateContainerResourcesRequest {
            container_id: id.clone(),
            linux: Some(resources.clone()),
            ..Default::default()
        };
        if let Some(forwarded) = self.before("UpdateContainerResources", &request).await {
            let sent = v1::UpdateContainerResourcesRequest::decode(forwarded.request);
            let sent = sent.unwrap_or_default().linux.unwrap_or_default();
            let call = runtime::update(&self.world, id, resources, sent);
            let outcome = self.patient(call).await;
            self.after(forwarded.after, outcome).await;
        }
        self.idle(&pod);
    }

    pub(crate) async fn stop(self, id: String, pod: String) {
        let request = v1::RemoveContainerRequest {
            container_id: id.clone(),
        };
        if let Some(forwarded) = self.before("RemoveContainer", &request).await {
            let outcome = self.patient(runtime::stop(&self.world, id)).await;
            self.after(forwarded.after, outcome).await;
        }
        self.idle(&pod);
    }

    pub(crate) async fn stop_pod(self, pod: String) {
        let request = v1::RemovePodSandboxRequest {
            pod_sandbox_id: pod.clone(),
        };
        if let Some(forwarded) = self.before("RemovePodSandbox", &request).await {
            let outcome = self
                .patient(runtime::stop_pod(&self.world, pod.clone()))
                .await;
            self.after(forwarded.after, outcome).await;
        }
        self.idle(&pod);
    }

    pub(crate) async fn list(self) {
        let request = v1::ListContainersRequest::default();
        if let Some(forwarded) = self.before("ListContainers", &request).await {
            let outcome = self.patient(runtime::list(&self.world)).await;
            self.after(forwarded.after, outcome).await;
        }
    }
}

/// A pod that nothing happens to, and its containers.
pub(crate) fn idle_containers(world: &WorldState) -> Vec<(String, String, bool)> {
    let containers = world.runtime.containers.iter();
    let idle = containers.filter(|(_id, container)| !world.busy.contains(container.sandbox()));
    idle.map(|(id, container)| {
        (
            id.clone(),
            container.sandbox().to_owned(),
            container.running,
        )
    })
    .collect()
}
