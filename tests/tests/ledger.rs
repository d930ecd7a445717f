//! The ledger is lost: the runtime and the marks on the containers tell what was asked for.
#![expect(clippy::unwrap_used, reason = "a test program: helpers fail the test")]

use resmgr_tests::{Container, Cri, Relay, Runtime, eventually, kernel, skip};
use std::time::Duration;

const STATIC: [&str; 4] = ["--policy", "static", "--reserved-resources", "cpu=1000m"];

/// The files of the ledger.
const FILES: [&str; 2] = ["ledger.a", "ledger.b"];

fn lose_ledger(relay: &Relay) {
    for name in FILES {
        let path = relay.state().join(name);
        if path.exists() {
            std::fs::remove_file(path).unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_its_ledger_it_places_as_before_and_gives_back_what_was_asked_for() {
    let why = skip::no_relay()
        .or_else(|| (kernel::online().unwrap() == "0").then(|| "needs two CPUs".to_owned()));
    if let Some(why) = why {
        return skip::skip("ledger", &why);
    }
    let runtime = Runtime::start().unwrap();
    let mut relay = Relay::start(&runtime, &STATIC).unwrap();
    let parent = runtime.cgroup_parent();
    let mut cri = Cri::connect(&relay.socket(), parent).await.unwrap();
    let online = kernel::online().unwrap();
    let mut ids = Vec::new();
    for (name, class, container) in [
        ("mine", "", Container::sleeping("mine").guaranteed(1)),
        ("shared", "besteffort", Container::sleeping("shared")),
    ] {
        let pod = cri.run_pod(name, class, &[]).await.unwrap();
        ids.push(cri.run(&pod, &container).await.unwrap());
    }
    let allowed = || ids.iter().map(|id| kernel::allowed(parent, id).unwrap());
    let pinned = async || {
        let apart =
            || allowed().all(|cpus| cpus != online) && allowed().next() != allowed().next_back();
        eventually(Duration::from_secs(20), async || apart()).await
    };
    assert!(pinned().await, "{}", relay.log());

    // Once through a daemon that learns anew, once by the command alone.
    relay.kill().unwrap();
    lose_ledger(&relay);
    for lost in [false, true] {
        relay = Relay::start(&runtime, &STATIC).unwrap();
        assert!(pinned().await, "{}", relay.log());
        let written = eventually(Duration::from_secs(20), async || {
            FILES.iter().any(|name| {
                let text = std::fs::read_to_string(relay.state().join(name)).unwrap_or_default();
                ids.iter().all(|id| text.contains(id.as_str()))
            })
        });
        assert!(written.await, "{}", relay.log());
        let state = relay.ask(&["state"]).unwrap();
        assert!(state.contains("1000m"), "{state}");
        relay.kill().unwrap();
        if lost {
            lose_ledger(&relay);
        }
        let folder = relay.state().display().to_string();
        let socket = runtime.socket().display().to_string();
        let command = [
            "--relay-dir",
            &folder,
            "--runtime-socket",
            &socket,
            "restore",
        ];
        let said = relay.ask(&command).unwrap();
        assert!(said.contains("2 containers have the CPUs"), "{said}");
        assert_eq!(said.contains("no ledger"), lost, "{said}");
        for cpus in allowed() {
            assert_eq!(cpus, online, "{said}");
        }
    }
}
