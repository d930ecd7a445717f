//! What is promised when something goes wrong, with a real runtime and the kernel as witness.
#![expect(clippy::unwrap_used, reason = "a test program: helpers fail the test")]

use resmgr_tests::{Container, Cri, Relay, Runtime, eventually, kernel, skip};
use std::time::Duration;

const STATIC: [&str; 4] = ["--policy", "static", "--reserved-resources", "cpu=1000m"];

/// Whether this machine can show anything; says so when not.
fn possible(what: &str) -> bool {
    let why = skip::no_relay()
        .or_else(|| (kernel::online().unwrap() == "0").then(|| "needs two CPUs".to_owned()));
    if let Some(why) = &why {
        skip::skip(what, why);
    }
    why.is_none()
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_kill_restore_gives_back_what_the_runtime_asked_for() {
    if !possible("faults: restore") {
        return;
    }
    let runtime = Runtime::start().unwrap();
    let mut relay = Relay::start(&runtime, &STATIC).unwrap();
    let parent = runtime.cgroup_parent();
    let mut cri = Cri::connect(&relay.socket(), parent).await.unwrap();
    let online = kernel::online().unwrap();
    let mut ids = Vec::new();
    for (name, class, container) in [
        ("shared", "besteffort", Container::sleeping("shared")),
        ("mine", "", Container::sleeping("mine").guaranteed(1)),
    ] {
        let pod = cri.run_pod(name, class, &[]).await.unwrap();
        ids.push(cri.run(&pod, &container).await.unwrap());
    }
    let pinned = eventually(Duration::from_secs(60), async || {
        ids.iter()
            .all(|id| kernel::allowed(parent, id).unwrap() != online)
    })
    .await;
    assert!(pinned, "{}", relay.log());

    relay.kill().unwrap();
    let state = relay.state().display().to_string();
    let said = relay.ask(&["--relay-dir", &state, "restore"]).unwrap();
    assert!(said.starts_with("2 containers"), "{said}");
    for id in &ids {
        assert_eq!(kernel::allowed(parent, id).unwrap(), online, "{said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_too_large_is_refused_with_the_reason_or_passed_and_said() {
    if !possible("faults: fail policy") {
        return;
    }
    for pass in [false, true] {
        let runtime = Runtime::start().unwrap();
        let mut arguments = STATIC.to_vec();
        if pass {
            arguments.extend(["--fail-policy", "pass"]);
        }
        let relay = Relay::start(&runtime, &arguments).unwrap();
        let mut cri = Cri::connect(&relay.socket(), runtime.cgroup_parent())
            .await
            .unwrap();
        let pod = cri.run_pod("huge", "", &[]).await.unwrap();
        let outcome = cri
            .run(&pod, &Container::sleeping("huge").guaranteed(200))
            .await;
        let state = relay.ask(&["state"]).unwrap();
        match outcome {
            Ok(_) => {
                assert!(pass, "it was started without a decision\n{}", relay.log());
                assert!(state.contains("unplaced"), "{state}");
            }
            Err(error) => {
                assert!(!pass, "{error:#}\n{}", relay.log());
                assert!(
                    format!("{error:#}").contains("200 exclusive CPUs"),
                    "{error:#}"
                );
                assert!(!state.contains("huge"), "{state}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_that_cannot_start_gives_its_cpus_back() {
    if !possible("faults: refused create") {
        return;
    }
    let runtime = Runtime::start().unwrap();
    let relay = Relay::start(&runtime, &STATIC).unwrap();
    let parent = runtime.cgroup_parent();
    let mut cri = Cri::connect(&relay.socket(), parent).await.unwrap();
    let pod = cri.run_pod("shared", "besteffort", &[]).await.unwrap();
    let shared = cri.run(&pod, &Container::sleeping("shared")).await.unwrap();
    let before = kernel::allowed(parent, &shared).unwrap();
    let pod = cri.run_pod("mine", "", &[]).await.unwrap();
    // The runtime finds out when it starts the container.
    let mut container = Container::sleeping("mine").guaranteed(1);
    container.command = vec!["/no/such/program".to_owned()];
    cri.run(&pod, &container).await.unwrap_err();
    // As the kubelet does: the pod goes, and what is left of its containers with it.
    cri.remove_pod(&pod).await.unwrap();
    let back = eventually(Duration::from_secs(60), async || {
        kernel::allowed(parent, &shared).unwrap() == before
    })
    .await;
    assert!(back, "{}\n{}", relay.ask(&["state"]).unwrap(), relay.log());
}
