//! Runtime, cgroups, disk and our own records fail for real: nothing is lost, and the kernel is right again.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::large_futures,
    reason = "a test program: helpers fail the test"
)]

use nix::{
    mount::{MsFlags, mount},
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use resmgr_tests::{Container, Cri, Relay, Runtime, eventually, kernel, skip};
use std::{fs, io::Write as _, path::Path, time::Duration};

const STATIC: [&str; 4] = ["--policy", "static", "--reserved-resources", "cpu=1000m"];
const PATIENCE: Duration = Duration::from_secs(60);

/// Whether this machine can show anything; says so when not.
fn possible(what: &str) -> bool {
    let why = skip::no_relay()
        .or_else(|| (kernel::online().unwrap() == "0").then(|| "needs two CPUs".to_owned()));
    if let Some(why) = &why {
        skip::skip(what, why);
    }
    why.is_none()
}

/// A runtime and a relay in front of it.
struct Node {
    runtime: Runtime,
    relay: Relay,
    cri: Cri,
}

impl Node {
    async fn start(runtime: Runtime) -> Self {
        let relay = Relay::start(&runtime, &STATIC).unwrap();
        let cri = Cri::connect(&relay.socket(), runtime.cgroup_parent()).await;
        Self {
            cri: cri.unwrap(),
            runtime,
            relay,
        }
    }

    /// Kills the relay and starts it again; in between, `damage` sees its state folder.
    async fn restart(&mut self, damage: impl FnOnce(&Path)) {
        self.relay.kill().unwrap();
        damage(&self.relay.state());
        self.relay = Relay::start(&self.runtime, &STATIC).unwrap();
        let cri = Cri::connect(&self.relay.socket(), self.runtime.cgroup_parent()).await;
        self.cri = cri.unwrap();
    }

    async fn try_run(
        &mut self,
        namespace: &str,
        class: &str,
        container: &Container,
    ) -> Result<String, String> {
        let name = &container.name;
        let pod = self.cri.run_pod_in(namespace, name, class, &[]).await;
        let ran = self.cri.run(&pod.unwrap(), container).await;
        ran.map_err(|error| match error.downcast_ref::<tonic::Status>() {
            Some(status) => format!("{:?}: {}", status.code(), status.message()),
            None => format!("{error:#}"),
        })
    }

    async fn run(&mut self, class: &str, container: &Container) -> String {
        let ran = self.try_run("default", class, container).await;
        ran.unwrap_or_else(|error| panic!("{error}\n{}", self.relay.log()))
    }

    fn allowed(&self, id: &str) -> String {
        kernel::allowed(self.runtime.cgroup_parent(), id).unwrap_or_default()
    }

    async fn settles(&self, id: &str, wanted: &str) {
        let settled = eventually(PATIENCE, async || self.allowed(id) == wanted).await;
        let is = self.allowed(id);
        assert!(settled, "on {is}, not on {wanted}\n{}", self.relay.log());
    }

    /// What `cri-resmgr restore` says when the relay has been killed.
    fn restore(&mut self) -> String {
        self.relay.kill().unwrap();
        let state = self.relay.state().display().to_string();
        self.relay.ask(&["--relay-dir", &state, "restore"]).unwrap()
    }
}

fn shared(name: &str) -> Container {
    Container::sleeping(name)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_create_that_the_runtime_refuses_gives_the_others_their_cpus_back() {
    if !possible("faults: a create that the runtime refuses") {
        return;
    }
    let mut node = Node::start(Runtime::start().unwrap()).await;
    let other = node.run("besteffort", &shared("other")).await;
    let before = node.allowed(&other);
    let mut bad = Container::sleeping("bad").guaranteed(1);
    // Nothing can be made below a device: the runtime finds out while it creates.
    bad.mounts
        .push(("/dev/null/nowhere".into(), "/data".into()));
    for _ in 0..3 {
        let error = node.try_run("default", "", &bad).await.unwrap_err();
        assert!(error.contains("/dev/null"), "{error}");
        node.settles(&other, &before).await;
    }
    let state = node.relay.ask(&["state"]).unwrap();
    assert!(!state.contains("bad"), "{state}");
    let good = node
        .run("", &Container::sleeping("good").guaranteed(1))
        .await;
    assert_ne!(node.allowed(&good), node.allowed(&other));
}

#[tokio::test(flavor = "multi_thread")]
async fn containers_that_die_while_they_are_pinned_anew_disturb_nobody() {
    if !possible("faults: a cgroup that vanishes") {
        return;
    }
    let mut node = Node::start(Runtime::start().unwrap()).await;
    let parent = node.runtime.cgroup_parent().to_owned();
    let stays = node.run("besteffort", &shared("stays")).await;
    let all = node.allowed(&stays);
    for round in 0..8 {
        let mut victims = Vec::new();
        for number in 0..3 {
            let name = format!("victim-{round}-{number}");
            victims.push(node.run("besteffort", &shared(&name)).await);
        }
        let pids: Vec<i32> = victims
            .iter()
            .flat_map(|id| kernel::processes(&parent, id).unwrap())
            .collect();
        let mine = Container::sleeping(&format!("mine-{round}")).guaranteed(1);
        let killing = async {
            tokio::time::sleep(Duration::from_millis(2 * round)).await;
            for pid in pids {
                kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
            }
        };
        let (id, ()) = tokio::join!(node.run("", &mine), killing);
        let own = node.allowed(&id);
        assert_ne!(own, all, "not pinned");
        let apart = eventually(PATIENCE, async || {
            let rest = node.allowed(&stays);
            !rest.is_empty() && rest != all && rest != own
        })
        .await;
        assert!(apart, "{}", node.relay.log());
        node.cri.stop(&id).await.unwrap();
        node.settles(&stays, &all).await;
    }
    let log = node.relay.log();
    for wrong in ["cgroup not written", "does not have the wanted placement"] {
        assert!(!log.contains(wrong), "{log}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_refuses_or_passes_as_said_and_loses_nothing() {
    if !possible("faults: a full disk") {
        return;
    }
    let runtime = Runtime::start().unwrap();
    let state = runtime.folder().join("relay/state");
    fs::create_dir_all(&state).unwrap();
    mount(
        Some("tmpfs"),
        &state,
        Some("tmpfs"),
        MsFlags::empty(),
        Some("size=512k,mode=700"),
    )
    .unwrap();
    let mut node = Node::start(runtime).await;
    let other = node.run("besteffort", &shared("other")).await;
    let mine = Container::sleeping("mine").guaranteed(1);
    let mine = node.run("", &mine).await;
    let (own, rest) = (node.allowed(&mine), node.allowed(&other));

    let filler = state.join("filler");
    let mut file = fs::File::create(&filler).unwrap();
    while file.write_all(&[0; 4096]).is_ok() {}
    // The ledger is written in place: a full disk refuses only what makes it longer.
    let mut shares = vec![other];
    let error = loop {
        let late = shared(&format!("late{}", shares.len()));
        match node.try_run("default", "besteffort", &late).await {
            Ok(id) => shares.push(id),
            Err(error) => break error,
        }
        assert!(shares.len() < 30, "the ledger of a full disk grows");
    };
    let refused = format!("late{}", shares.len());
    assert!(error.starts_with("Internal: "), "{error}");
    assert!(
        error.contains("cannot save the placement") && error.contains("No space left"),
        "{error}"
    );
    assert!(!node.relay.ask(&["state"]).unwrap().contains(&refused));
    // The documentation says so: system namespaces pass, and are placed all the same.
    let system = node
        .try_run("kube-system", "besteffort", &shared("system"))
        .await;
    shares.push(system.unwrap());
    for id in &shares {
        node.settles(id, &rest).await;
    }
    node.settles(&mine, &own).await;
    assert!(node.relay.log().contains("its placement is not saved"));
    // Whoever ends, ends.
    node.cri.stop(&mine).await.unwrap();
    node.cri.remove(&mine).await.unwrap();
    let all = kernel::online().unwrap();
    for id in &shares {
        node.settles(id, &all).await;
    }

    drop(file);
    fs::remove_file(&filler).unwrap();
    let saved = eventually(PATIENCE, async || {
        node.relay
            .log()
            .contains("the placement state is saved again")
    })
    .await;
    assert!(saved, "{}", node.relay.log());
    let again = Container::sleeping("again").guaranteed(1);
    let again = node.run("", &again).await;
    node.restart(|_| {}).await;
    node.settles(&again, &own).await;
    for id in &shares {
        node.settles(id, &rest).await;
    }
    let said = node.restore();
    let restored = format!("{} containers", shares.len() + 1);
    assert!(said.starts_with(&restored), "{said}");
    for id in shares.iter().chain([&again]) {
        assert_eq!(node.allowed(id), all);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_state_that_is_lost_torn_or_foreign_is_learnt_again_from_the_runtime() {
    if !possible("faults: a lost state") {
        return;
    }
    type Damage = fn(&Path);
    let damages: [(&str, Damage, Option<&str>); 3] = [
        ("lost", |state| fs::remove_dir_all(state).unwrap(), None),
        (
            "torn",
            |state| {
                for name in ["ledger.a", "ledger.b"] {
                    let file = fs::File::options().write(true).open(state.join(name));
                    file.unwrap().set_len(512).unwrap();
                }
            },
            Some("torn or altered"),
        ),
        (
            "foreign",
            |state| {
                for name in ["ledger.a", "ledger.b"] {
                    fs::write(state.join(name), r#"{"Version": "1", "Policy": "static"}"#).unwrap();
                }
            },
            Some("is not one of our files"),
        ),
    ];
    for (what, damage, warning) in damages {
        let mut node = Node::start(Runtime::start().unwrap()).await;
        let mine = node
            .run("", &Container::sleeping("mine").guaranteed(1))
            .await;
        let mut first = shared("first");
        first.resources.cpuset_cpus = "0".into();
        let first = node.run("besteffort", &first).await;
        let other = node.run("besteffort", &shared("other")).await;
        let (own, rest) = (node.allowed(&mine), node.allowed(&other));
        node.restart(damage).await;
        let listed = eventually(PATIENCE, async || {
            let state = node.relay.ask(&["state"]).unwrap_or_default();
            ["mine", "first", "other"]
                .iter()
                .all(|name| state.contains(name))
        })
        .await;
        assert!(listed, "{what}: {}", node.relay.log());
        if let Some(warning) = warning {
            let log = node.relay.log();
            assert!(
                log.contains("learning it from the runtime"),
                "{what}: {log}"
            );
            assert!(log.contains(warning), "{what}: {log}");
        }
        node.settles(&mine, &own).await;
        for id in [&first, &other] {
            node.settles(id, &rest).await;
        }
        // New ones are placed as if nothing had been.
        let late = node.run("besteffort", &shared("late")).await;
        node.settles(&late, &rest).await;
        let more = Container::sleeping("more").guaranteed(64);
        node.try_run("default", "", &more).await.unwrap_err();
        // What was asked for is known all the same: the runtime has kept it.
        let said = node.restore();
        let all = kernel::online().unwrap();
        for (id, asked) in [
            (&mine, &*all),
            (&first, "0"),
            (&other, &*all),
            (&late, &*all),
        ] {
            assert_eq!(node.allowed(id), asked, "{what}: {said}");
        }
    }
}
