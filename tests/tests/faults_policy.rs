//! A policy that is slow, dead, broken or says no: what the kernel shows is what `--fail-policy` promises.
#![expect(
    clippy::unwrap_used,
    clippy::large_futures,
    reason = "a test program: helpers fail the test"
)]

use resmgr_tests::{Container, Cri, Relay, Runtime, eventually, kernel, skip};
use std::{collections::BTreeSet, path::PathBuf, time::Duration};
use tonic::Code;

/// Whether this machine and this build can show anything; says so when not.
fn possible(what: &str) -> bool {
    let why = skip::no_relay()
        .or_else(|| (kernel::online().unwrap() == "0").then(|| "needs two CPUs".to_owned()));
    if let Some(why) = &why {
        skip::skip(what, why);
    }
    why.is_none()
}

/// A relay whose policy can be broken, in front of a runtime.
struct Broken {
    runtime: Runtime,
    relay: Relay,
    cri: Cri,
    fault: PathBuf,
}

impl Broken {
    /// `None`, and said, when this build has no faults.
    async fn start(what: &str, arguments: &[&str]) -> Option<Self> {
        let runtime = Runtime::start().unwrap();
        let fault = runtime.folder().join("fault");
        let file = fault.display().to_string();
        let base = ["--policy", "static", "--reserved-resources", "cpu=1000m"];
        let arguments = [&base[..], arguments].concat();
        let environment = [("CRI_RESMGR_FAULTS", file.as_str())];
        let relay = Relay::start_with(&runtime, "relay", &arguments, &environment).unwrap();
        // It is said at the start, and written a moment later.
        let said = async || relay.log().contains("CRI_RESMGR_FAULTS is set");
        if !eventually(Duration::from_secs(60), said).await {
            let why = "this build has no faults: cargo build --workspace --bins, not for release";
            skip::skip(what, why);
            return None;
        }
        let parent = runtime.cgroup_parent().to_owned();
        let cri = Cri::connect(&relay.socket(), &parent).await.unwrap();
        Some(Self {
            runtime,
            relay,
            cri,
            fault,
        })
    }

    fn fails(&self, how: &str) {
        std::fs::write(&self.fault, how).unwrap();
    }

    async fn run(
        &mut self,
        namespace: &str,
        class: &str,
        container: &Container,
    ) -> Result<String, tonic::Status> {
        let name = &container.name;
        let pod = self.cri.run_pod_in(namespace, name, class, &[]).await;
        let pod = pod.unwrap();
        let ran = self.cri.run(&pod, container).await;
        ran.map_err(|error| error.downcast::<tonic::Status>().unwrap())
    }

    fn allowed(&self, id: &str) -> BTreeSet<u32> {
        let list = kernel::allowed(self.runtime.cgroup_parent(), id).unwrap();
        list.split(',')
            .flat_map(|part| {
                let (first, last) = part.split_once('-').unwrap_or((part, part));
                first.parse::<u32>().unwrap()..=last.parse::<u32>().unwrap()
            })
            .collect()
    }

    /// All containers that the runtime knows, in whatever state.
    async fn known(&self) -> usize {
        let parent = self.runtime.cgroup_parent();
        let mut direct = Cri::connect(&self.runtime.socket(), parent).await.unwrap();
        let list = k8s_cri::v1::ListContainersRequest::default();
        let list = direct.client.list_containers(list).await.unwrap();
        list.into_inner().containers.len()
    }
}

/// What is written to the file, the deadline (long where it is not what is tested), and the status that the
/// kubelet shows in an event.
const FAULTS: [(&str, &str, Code, &str); 4] = [
    (
        "slow 600000",
        "3s",
        Code::DeadlineExceeded,
        "the policy gave no answer within 3s",
    ),
    (
        "dead",
        "3s",
        Code::DeadlineExceeded,
        "the policy gave no answer within 3s",
    ),
    (
        "panic",
        "60s",
        Code::Internal,
        "the policy broke down: told to",
    ),
    ("refuse", "60s", Code::ResourceExhausted, "told to refuse"),
];

#[tokio::test(flavor = "multi_thread")]
async fn whatever_is_wrong_with_the_policy_nothing_starts_unpinned_but_system_pods() {
    let what = "faults: a broken policy refuses";
    if !possible(what) {
        return;
    }
    for (how, within, code, text) in FAULTS {
        let Some(mut node) = Broken::start(what, &["--policy-timeout", within]).await else {
            return;
        };
        let mine = Container::sleeping("mine").guaranteed(1);
        let mine = node.run("default", "", &mine).await.unwrap();
        let own = node.allowed(&mine);
        assert_eq!(own.len(), 1);
        let before = node.known().await;

        node.fails(how);
        let victim = Container::sleeping("victim");
        let status = node
            .run("default", "besteffort", &victim)
            .await
            .unwrap_err();
        assert_eq!(status.code(), code, "{how}: {status:?}");
        let asked = "container victim of pod default/victim was not placed by policy static";
        let said = status.message().contains(asked) && status.message().contains(text);
        assert!(said, "{how}: {status:?}");
        assert_eq!(node.known().await, before, "{how}: it exists all the same");
        assert!(!node.relay.ask(&["state"]).unwrap().contains("victim"));
        // What runs already stays where it is.
        assert_eq!(node.allowed(&mine), own, "{how}");

        // System namespaces are exempt, even so on nobody's own CPUs; and it is said.
        let system = Container::sleeping("system");
        let system = node
            .run("kube-system", "besteffort", &system)
            .await
            .unwrap();
        assert!(node.allowed(&system).is_disjoint(&own), "{how}");
        let state = node.relay.ask(&["state"]).unwrap();
        assert!(state.contains("unplaced"), "{how}: {state}");
        assert!(
            node.relay.log().contains("UNPLACED"),
            "{}",
            node.relay.log()
        );

        // As soon as it is well again, all is as before.
        node.fails("");
        let late = Container::sleeping("late");
        let late = node.run("default", "besteffort", &late).await.unwrap();
        assert!(node.allowed(&late).is_disjoint(&own), "{how}");
        assert!(
            node.relay.stop().unwrap().success(),
            "{how}: it does not end well"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_passes_runs_on_nobodys_own_cpus_and_is_listed_as_unplaced() {
    let what = "faults: a broken policy passes";
    if !possible(what) {
        return;
    }
    for (how, within, ..) in FAULTS {
        let lists = ["--fail-policy", "pass,*/Guaranteed=refuse,batch=refuse"];
        let arguments = [&lists[..], &["--policy-timeout", within]].concat();
        let Some(mut node) = Broken::start(what, &arguments).await else {
            return;
        };
        node.fails(how);
        // Nobody has CPUs of his own yet: as the runtime was asked, all of them.
        let free = Container::sleeping("free");
        let free = node.run("default", "besteffort", &free).await.unwrap();
        assert_eq!(
            kernel::allowed(node.runtime.cgroup_parent(), &free).unwrap(),
            kernel::online().unwrap()
        );
        node.fails("");
        let mine = Container::sleeping("mine").guaranteed(1);
        let mine = node.run("default", "", &mine).await.unwrap();
        let own = node.allowed(&mine);
        let left = eventually(Duration::from_secs(60), async || {
            node.allowed(&free).is_disjoint(&own)
        })
        .await;
        assert!(left, "{how}: {}", node.relay.log());

        node.fails(how);
        let passed = Container::sleeping("passed");
        let passed = node.run("default", "besteffort", &passed).await.unwrap();
        assert!(node.allowed(&passed).is_disjoint(&own), "{how}");
        let state = node.relay.ask(&["state"]).unwrap();
        assert!(state.contains("unplaced"), "{how}: {state}");
        // The most specific scope counts.
        let large = Container::sleeping("large").guaranteed(1);
        node.run("default", "", &large).await.unwrap_err();
        let job = Container::sleeping("job");
        node.run("batch", "besteffort", &job).await.unwrap_err();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_policy_within_its_deadline_only_takes_its_time() {
    let what = "faults: a slow policy";
    if !possible(what) {
        return;
    }
    let Some(mut node) = Broken::start(what, &["--policy-timeout", "60s"]).await else {
        return;
    };
    node.fails("slow 300");
    let mine = Container::sleeping("mine").guaranteed(1);
    let mine = node.run("default", "", &mine).await.unwrap();
    assert_eq!(node.allowed(&mine).len(), 1);
    let state = node.relay.ask(&["state"]).unwrap();
    assert!(!state.contains("unplaced"), "{state}");
}
