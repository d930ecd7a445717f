//! ConfigMap to CPU: API server, agent and cri-resmgr in front of containerd, judged by the kernel.
#![expect(clippy::unwrap_used, reason = "a test program: helpers fail the test")]

use cri_resmgr::control::agent_client::CONFLICT_CONDITION;
use k8s_cri::v1::LinuxContainerResources;
use nix::sys::signal::Signal;
use resmgr_tests::{
    Cluster, Container,
    cluster::{SOON, missing},
    eventually, kernel,
    skip::skip,
};
use std::{
    collections::BTreeSet,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

const STATIC: [&str; 4] = ["--policy", "static", "--reserved-resources", "cpu=1000m"];

fn start(what: &str, options: &[&str]) -> Option<Cluster> {
    if let Some(why) = missing() {
        skip(what, &why);
        return None;
    }
    Some(Cluster::start(options).unwrap())
}

/// A document that lets every container run on one CPU only.
fn only(cpu: u32) -> [(&'static str, &'static str); 1] {
    let text = match cpu {
        0 => "AvailableResources: {CPU: \"cpuset:0\"}\nReservedResources: {CPU: \"cpuset:0\"}\n",
        _ => "AvailableResources: {CPU: \"cpuset:1\"}\nReservedResources: {CPU: \"cpuset:1\"}",
    };
    [("policy", text)]
}

/// Notes every set of CPUs that a container is ever allowed, until it is dropped.
struct Sampler {
    seen: Arc<Mutex<BTreeSet<String>>>,
    stop: Arc<AtomicBool>,
}

impl Sampler {
    fn of(cluster: &Cluster, id: &str) -> Self {
        let (seen, stop) = (
            Arc::<Mutex<BTreeSet<_>>>::default(),
            Arc::<AtomicBool>::default(),
        );
        let (parent, id) = (cluster.runtime.cgroup_parent().to_owned(), id.to_owned());
        let (noted, stopped) = (Arc::clone(&seen), Arc::clone(&stop));
        std::thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                if let Ok(cpus) = kernel::allowed(&parent, &id) {
                    noted.lock().unwrap().insert(cpus);
                }
                std::thread::park_timeout(Duration::from_millis(5));
            }
        });
        Self { seen, stop }
    }

    fn seen(&self) -> Vec<String> {
        self.seen.lock().unwrap().iter().cloned().collect()
    }
}

impl Drop for Sampler {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

async fn witness(cluster: &Cluster) -> String {
    let mut cri = cluster.cri().await.unwrap();
    let pod = cri.run_pod("witness", "besteffort", &[]).await.unwrap();
    cri.run(&pod, &Container::sleeping("witness"))
        .await
        .unwrap()
}

/// Creates a container and says what it is allowed from its start on.
async fn one_more(cluster: &Cluster) -> String {
    let id = Box::pin(witness(cluster)).await;
    kernel::allowed(cluster.runtime.cgroup_parent(), &id).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_map_that_wins_is_in_force_and_one_that_goes_leaves_no_hole() {
    let Some(mut cluster) = start("ConfigMaps to CPUs", &STATIC) else {
        return;
    };
    let online = kernel::online().unwrap();
    cluster.start_relay(&[]).unwrap();
    cluster.start_agent().unwrap();
    let witness = Box::pin(witness(&cluster)).await;
    assert!(
        cluster.runs_on(&witness, &online).await,
        "{}",
        cluster.logs()
    );

    // One map for all, then the three, each winning over those before.
    let group = "cri-resource-manager.intel.com/group";
    for (name, label, cpu) in [
        ("cri-resmgr-config", None, 0),
        ("cri-resmgr-config.default", None, 1),
        ("cri-resmgr-config.group.g1", Some("=g1"), 0),
        ("cri-resmgr-config.node.n1", None, 1),
        ("cri-resmgr-config.node.n1", None, 0),
        ("cri-resmgr-config.node.n1", None, 1),
    ] {
        cluster.map(name, &only(cpu)).unwrap();
        if let Some(label) = label {
            let label = format!("{group}{label}");
            cluster
                .api
                .kubectl(&["label", "node", "n1", &label])
                .unwrap();
        }
        assert!(
            cluster.runs_on(&witness, &cpu.to_string()).await,
            "{name}\n{}",
            cluster.logs()
        );
    }
    // And back down.
    cluster.unmap("cri-resmgr-config.node.n1").unwrap();
    assert!(cluster.runs_on(&witness, "0").await, "{}", cluster.logs());
    let unlabel = format!("{group}-");
    cluster
        .api
        .kubectl(&["label", "node", "n1", &unlabel])
        .unwrap();
    assert!(cluster.runs_on(&witness, "1").await, "{}", cluster.logs());
    cluster.unmap("cri-resmgr-config.default").unwrap();
    assert!(cluster.runs_on(&witness, "0").await, "{}", cluster.logs());

    // Nobody's map left: what is in force stays.
    let sampler = Sampler::of(&cluster, &witness);
    cluster.unmap("cri-resmgr-config").unwrap();
    let none = async || status(&cluster).contains(r#""state":"none""#);
    assert!(eventually(SOON, none).await, "{}", cluster.logs());
    cluster.map("cri-resmgr-config.default", &[]).unwrap();
    let empty = async || status(&cluster).contains(r#""state":"empty""#);
    assert!(eventually(SOON, empty).await, "{}", cluster.logs());
    assert_eq!(sampler.seen(), ["0"], "{}", cluster.logs());

    // Keys for one node beat those for all; those of another node do not count.
    let shared =
        |cpu| format!("pools: {{shared: {{cpuLists: [{{Socket: 0, Cpuset: \"{cpu}\"}}]}}}}");
    let (zero, one) = (shared(0), shared(1));
    let active = ("policy", "Active: stp");
    let mut keys = vec![active, ("policy.stp", &zero)];
    for (more, cpu) in [
        (None, "0"),
        (Some(("policy.stp.n1", one.as_str())), "1"),
        (Some(("policy.static-pools.n2", "pools: nonsense")), "1"),
    ] {
        keys.extend(more);
        cluster.map("cri-resmgr-config.default", &keys).unwrap();
        assert!(
            cluster.runs_on(&witness, cpu).await,
            "{keys:?}\n{}",
            cluster.logs()
        );
    }
    cluster
        .map(
            "cri-resmgr-config.default",
            &[
                active,
                ("policy.static-pools", &one),
                ("policy.stp.n1", &zero),
            ],
        )
        .unwrap();
    assert!(cluster.runs_on(&witness, "0").await, "{}", cluster.logs());
    assert!(cluster.state().unwrap().starts_with("policy static-pools,"));
}

fn status(cluster: &Cluster) -> String {
    cluster.node(r".metadata.annotations.cri-resource-manager\.intel\.com/config-status")
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_restarts_in_whatever_order_the_right_configuration_stays_in_force() {
    let Some(mut cluster) = start("restarts in every order", &STATIC) else {
        return;
    };
    let name = "cri-resmgr-config.default";
    let other = |cpu: u32| 1 - cpu;
    let mut cpu = 0;
    cluster.map(name, &only(cpu)).unwrap();
    cluster.start_relay(&[]).unwrap();
    cluster.start_agent().unwrap();
    let witness = Box::pin(witness(&cluster)).await;
    assert!(cluster.runs_on(&witness, "0").await, "{}", cluster.logs());
    assert!(cluster.accepted(name).await, "{}", cluster.logs());

    // cri-resmgr alone; the agent alone; both, in both orders.
    for order in [
        &["relay"][..],
        &["agent"],
        &["agent", "relay"],
        &["relay", "agent"],
    ] {
        let sampler = Sampler::of(&cluster, &witness);
        for who in order {
            match *who {
                "relay" => cluster.relay = None,
                _ => cluster.agent = None,
            }
        }
        for who in order {
            match *who {
                "relay" => cluster.start_relay(&[]).unwrap(),
                _ => cluster.start_agent().unwrap(),
            }
        }
        // Still as it was, also before the agent has come.
        assert_eq!(
            Box::pin(one_more(&cluster)).await,
            cpu.to_string(),
            "{}",
            cluster.logs()
        );
        assert_eq!(
            sampler.seen(),
            [cpu.to_string()],
            "{order:?}\n{}",
            cluster.logs()
        );
        drop(sampler);
        // And all still hear of a change.
        cpu = other(cpu);
        cluster.map(name, &only(cpu)).unwrap();
        assert!(
            cluster.runs_on(&witness, &cpu.to_string()).await,
            "{order:?}\n{}",
            cluster.logs()
        );
        assert!(cluster.accepted(name).await, "{}", cluster.logs());
    }

    // No API server: both restart without it, and nothing changes.
    let sampler = Sampler::of(&cluster, &witness);
    cluster.api.stop_server();
    (cluster.relay, cluster.agent) = (None, None);
    cluster.start_agent().unwrap();
    cluster.start_relay(&[]).unwrap();
    assert_eq!(
        Box::pin(one_more(&cluster)).await,
        cpu.to_string(),
        "{}",
        cluster.logs()
    );
    cluster.api.start_server().unwrap();
    let ready = async || match &cluster.agent {
        Some(agent) => agent.ready().await.0,
        None => false,
    };
    assert!(eventually(SOON, ready).await, "{}", cluster.logs());
    assert_eq!(sampler.seen(), [cpu.to_string()], "{}", cluster.logs());
    drop(sampler);

    // The agent sleeps; meanwhile the map changes and nobody remembers what happened in between.
    let agent = cluster.agent.as_ref().unwrap();
    agent.signal(Signal::SIGSTOP).unwrap();
    cpu = other(cpu);
    cluster.map(name, &only(cpu)).unwrap();
    cluster.api.stop_server();
    cluster.api.compact().unwrap();
    cluster.api.start_server().unwrap();
    let agent = cluster.agent.as_ref().unwrap();
    agent.signal(Signal::SIGCONT).unwrap();
    assert!(
        cluster.runs_on(&witness, &cpu.to_string()).await,
        "{}",
        cluster.logs()
    );
    let expired = async || cluster.logs().contains("watch expired");
    assert!(eventually(SOON, expired).await, "{}", cluster.logs());
    let log = cluster.logs();
    for wrong in ["no ConfigMap for this node", "has no keys"] {
        assert!(!log.contains(wrong), "{log}");
    }
}

/// The condition that another CPU manager is at work: status, reason and message; empty when there is none.
fn conflict(cluster: &Cluster) -> String {
    let field = |name: &str| {
        let path = format!(".status.conditions[?(@.type=='{CONFLICT_CONDITION}')].{name}");
        cluster.node(&path)
    };
    format!(
        "{} {} {}",
        field("status"),
        field("reason"),
        field("message")
    )
}

/// Asks for CPU 0 and nothing else, as the kubelet's CPU manager does for what runs.
async fn name_cpus(cluster: &Cluster, id: &str) {
    let named = LinuxContainerResources {
        cpuset_cpus: "0".to_owned(),
        ..LinuxContainerResources::default()
    };
    let mut cri = cluster.cri().await.unwrap();
    cri.update(id, named).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn another_cpu_manager_is_overruled_and_seen_on_the_node_until_it_is_gone() {
    let Some(mut cluster) = start("another CPU manager", &STATIC) else {
        return;
    };
    let online = kernel::online().unwrap();
    let comes = async |cluster: &Cluster, wanted: &str| {
        let is = async || conflict(cluster).starts_with(wanted);
        let came = eventually(SOON, is).await;
        assert!(
            came,
            "{} is not {wanted}\n{}",
            conflict(cluster),
            cluster.logs()
        );
    };
    let (yes, no) = ("True AnotherCpuManager ", "False NoConflict ");
    cluster.start_relay(&[]).unwrap();
    cluster.start_agent().unwrap();
    let first = Box::pin(witness(&cluster)).await;
    assert!(cluster.runs_on(&first, &online).await, "{}", cluster.logs());
    let reported = async || status(&cluster).contains("state");
    assert!(eventually(SOON, reported).await, "{}", cluster.logs());
    assert_eq!(
        conflict(&cluster),
        "  ",
        "a Node without conflict is left alone"
    );

    // It wants CPU 0 for what runs: the policy's CPUs stay, and the Node says why.
    Box::pin(name_cpus(&cluster, &first)).await;
    comes(&cluster, yes).await;
    assert!(conflict(&cluster).contains("policy static places"));
    assert_eq!(
        kernel::allowed(cluster.runtime.cgroup_parent(), &first).unwrap(),
        online
    );

    // The next container comes without CPUs: it is gone.
    let second = Box::pin(witness(&cluster)).await;
    comes(&cluster, no).await;

    // It comes and goes while there is no agent, or no cri-resmgr: what is remembered is taken away, also
    // under policy null, which has nothing that could see it.
    for last in [&[][..], &["--policy", "null"]] {
        cluster.agent = None;
        Box::pin(name_cpus(&cluster, &second)).await;
        cluster.start_agent().unwrap();
        comes(&cluster, yes).await;
        cluster.relay = None;
        cluster.start_relay(last).unwrap();
        comes(&cluster, no).await;
    }
    let other = r#".status.conditions[?(@.type=='CriResmgrConfigured')].status"#;
    assert_eq!(cluster.node(other), "True");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_that_finds_no_place_is_told_of_in_the_events_of_its_pod() {
    let options = [&STATIC[..], &["--fail-policy", "batch=pass"]].concat();
    let Some(mut cluster) = start("Events about pods of a node", &options) else {
        return;
    };
    for namespace in ["shop", "batch"] {
        cluster
            .api
            .kubectl(&["create", "namespace", namespace])
            .unwrap();
    }
    // The agent comes later: what happens before is not lost.
    cluster.start_relay(&[]).unwrap();
    let mut cri = cluster.cri().await.unwrap();
    let cpus = std::thread::available_parallelism().unwrap().get();
    let many = i64::try_from(cpus).unwrap() + 1;
    let wanted = Container::sleeping("greedy").guaranteed(many);
    for namespace in ["shop", "batch"] {
        let pod = cri
            .run_pod_in(namespace, "greedy-0", "", &[])
            .await
            .unwrap();
        let created = cri.run(&pod, &wanted).await;
        assert_eq!(created.is_ok(), namespace == "batch", "{created:?}");
    }
    cluster.start_agent().unwrap();
    for (namespace, reason) in [("shop", "CPUPlacementRefused"), ("batch", "CPUUnplaced")] {
        let mut found = String::new();
        let told = async || {
            let get = ["get", "events", "-n", namespace];
            found = cluster.api.kubectl(&get).unwrap_or_default();
            ["Warning", reason, "pod/greedy-0", "container greedy: "]
                .iter()
                .all(|words| found.contains(words))
        };
        let came = eventually(SOON, told).await;
        assert!(came, "{found}\n{}", cluster.logs());
        println!("{found}");
    }
}
