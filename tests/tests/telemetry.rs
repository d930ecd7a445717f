//! What the daemon measures of real containers, and what it shows of it.
#![expect(clippy::unwrap_used, reason = "a test program: helpers fail the test")]

use resmgr_tests::{Container, Cri, Relay, Runtime, eventually, skip};
use serde_json::Value;
use std::time::Duration;

/// `cri-resmgr top --once --json`, as soon as `ready` likes what it says.
async fn top(relay: &Relay, ready: impl Fn(&Value) -> bool) -> Value {
    let mut view = Value::Null;
    let fine = eventually(Duration::from_secs(30), async || {
        // The relay listens before the program is loaded; the views come last.
        let Ok(text) = relay.ask(&["top", "--once", "--json"]) else {
            return false;
        };
        view = serde_json::from_str(&text).unwrap();
        ready(&view)
    })
    .await;
    assert!(fine, "{view:#}\n{}", relay.log());
    view
}

fn container<'a>(view: &'a Value, name: &str) -> Option<&'a Value> {
    view["containers"]
        .as_array()?
        .iter()
        .find(|one| one["container"] == name)
}

fn ran(view: &Value, name: &str) -> u64 {
    let Some(one) = container(view, name) else {
        return 0;
    };
    one["run_ns"]
        .as_object()
        .unwrap()
        .values()
        .filter_map(Value::as_u64)
        .sum()
}

/// Whether the rest of the test can say anything; says so when not.
fn exact(what: &str, view: &Value) -> bool {
    if view["quality"] != "exact" {
        skip::skip(
            what,
            &format!("telemetry is {}: {}", view["quality"], view["reason"]),
        );
        return false;
    }
    true
}

#[tokio::test(flavor = "multi_thread")]
async fn under_null_what_runs_is_measured_all_the_same() {
    if let Some(why) = skip::no_relay() {
        return skip::skip("telemetry: null", &why);
    }
    let runtime = Runtime::start().unwrap();
    let arguments = [
        "--policy",
        "null",
        "--ebpf-telemetry",
        "--logger-debug",
        "telemetry",
    ];
    let relay = Relay::start(&runtime, &arguments).unwrap();
    if !exact("telemetry: null", &top(&relay, |_| true).await) {
        return;
    }
    let mut cri = Cri::connect(&relay.socket(), runtime.cgroup_parent())
        .await
        .unwrap();
    let pod = cri.run_pod("spin", "besteffort", &[]).await.unwrap();
    cri.run(&pod, &Container::script("spin", "while :; do :; done"))
        .await
        .unwrap();
    let view = top(&relay, |view| ran(view, "spin") > 100_000_000).await;
    assert_eq!(container(&view, "spin").unwrap()["cpus"], "");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pinned_container_never_ran_outside_its_cpus() {
    if let Some(why) = skip::no_relay() {
        return skip::skip("telemetry: static", &why);
    }
    let runtime = Runtime::start().unwrap();
    let arguments = [
        "--policy",
        "static",
        "--reserved-resources",
        "cpu=1000m",
        "--ebpf-telemetry",
    ];
    let relay = Relay::start(&runtime, &arguments).unwrap();
    if !exact("telemetry: static", &top(&relay, |_| true).await) {
        return;
    }
    let mut cri = Cri::connect(&relay.socket(), runtime.cgroup_parent())
        .await
        .unwrap();
    let spin = "while :; do :; done";
    let pod = cri.run_pod("mine", "", &[]).await.unwrap();
    cri.run(&pod, &Container::script("mine", spin).guaranteed(1))
        .await
        .unwrap();
    let pod = cri.run_pod("theirs", "besteffort", &[]).await.unwrap();
    cri.run(&pod, &Container::script("theirs", spin))
        .await
        .unwrap();
    let both = |view: &Value| ran(view, "mine") > 300_000_000 && ran(view, "theirs") > 100_000_000;
    let view = top(&relay, both).await;
    let mine = container(&view, "mine").unwrap();
    for name in ["mine", "theirs"] {
        let one = container(&view, name).unwrap();
        assert_eq!(one["outside_ns"], 0, "{view:#}\n{}", relay.log());
        assert_eq!(
            one["migrations"],
            serde_json::json!([0, 0, 0, 0, 0]),
            "{view:#}"
        );
    }
    // Whatever else this machine runs may have been there; the other container never was.
    let foreign = mine["foreign_ns"].as_object().unwrap();
    assert!(
        !foreign.keys().any(|who| who.ends_with("/theirs")),
        "{view:#}"
    );
    let explained = relay.ask(&["explain", "mine"]).unwrap();
    assert!(explained.contains("because"), "{explained}");
}
