//! `kill -9` of the relay at random moments of a churn, in front of a real runtime: after each, kernel, state
//! and runtime agree again.
//!
//! `RESMGR_KILLS` sets how often (40 when not set), `RESMGR_SEED` the moments.
#![expect(clippy::unwrap_used, reason = "a test program: helpers fail the test")]

mod churn;

use churn::{Churn, Random};
use resmgr_tests::{Cri, Relay, Runtime, eventually, kernel, skip};
use serde_json::Value;
use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant, SystemTime},
};

const STATIC: [&str; 4] = ["--policy", "static", "--reserved-resources", "cpu=1000m"];
/// What was promised.
const SOON: Duration = Duration::from_secs(1);

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok()?.parse().ok()
}

/// What differs between the relay's state, the runtime's list and the kernel; nothing, when all is well.
async fn differences(relay: &Relay, direct: &mut Cri, parent: &str) -> Vec<String> {
    let Ok(text) = relay.ask(&["state", "--json"]) else {
        return vec!["it does not answer".to_owned()];
    };
    let state: Value = serde_json::from_str(&text).unwrap();
    let text = |one: &Value, key: &str| one[key].as_str().unwrap_or_default().to_owned();
    let known: BTreeMap<String, (String, String)> = state["containers"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| (text(one, "id"), (text(one, "cpus"), text(one, "exclusive"))))
        .collect();
    let mut found = Vec::new();
    let live = direct.live().await.unwrap();
    for id in known.keys().filter(|id| !live.contains_key(*id)) {
        found.push(format!("{id} is in the state and not in the runtime"));
    }
    let mut owners = BTreeSet::new();
    for (id, runs) in &live {
        let Some((cpus, exclusive)) = known.get(id) else {
            found.push(format!("{id} is in the runtime and not in the state"));
            continue;
        };
        if !exclusive.is_empty() && !owners.insert(exclusive.clone()) {
            found.push(format!("{exclusive} has two owners"));
        }
        if *runs {
            let is = kernel::cpuset_cpus(parent, id).unwrap_or_default();
            if is != *cpus {
                found.push(format!("{id} is on {is:?}, the state says {cpus:?}"));
            }
            if kernel::allowed(parent, id).is_ok_and(|allowed| allowed != *cpus) {
                found.push(format!("a process of {id} is not on {cpus:?}"));
            }
        }
    }
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_at_any_moment_of_a_churn_kernel_and_state_agree_again() {
    let why = skip::no_relay()
        .or_else(|| (kernel::online().unwrap() == "0").then(|| "needs two CPUs".to_owned()));
    if let Some(why) = why {
        return skip::skip("faults: kill -9 in a churn", &why);
    }
    let kills = number("RESMGR_KILLS").unwrap_or(40);
    let clock = SystemTime::UNIX_EPOCH.elapsed().unwrap().as_nanos();
    let seed = number("RESMGR_SEED").unwrap_or(u64::try_from(clock % 1_000_000).unwrap());
    println!("{kills} kills (RESMGR_KILLS=200 for the full count), RESMGR_SEED={seed}");
    let mut random = Random::new(seed);

    let runtime = Runtime::start().unwrap();
    let parent = runtime.cgroup_parent();
    let mut direct = Cri::connect(&runtime.socket(), parent).await.unwrap();
    let mut churn = Churn::new(&mut direct).await;
    let mut relay = Relay::start(&runtime, &STATIC).unwrap();
    // A few calls of the churn fit into it, however slow the machine is.
    let cri = Cri::connect(&relay.socket(), parent).await.unwrap();
    let longest = (churn.round(cri).await * 3).max(Duration::from_millis(500));
    println!("moments within {longest:?}");
    let longest = u64::try_from(longest.as_micros()).unwrap();
    let (mut within, mut slowest) = (0, Duration::ZERO);
    for kill in 0..kills {
        let cri = Cri::connect(&relay.socket(), parent).await.unwrap();
        let moment = Duration::from_micros(random.below(longest));
        let killed = async {
            tokio::time::sleep(moment).await;
            relay.kill().unwrap();
        };
        // The call under way fails with the relay; its outcome is for the runtime to tell.
        tokio::join!(churn.go_on(cri, &mut random), killed);
        relay = Relay::start(&runtime, &STATIC).unwrap();
        let listens = Instant::now();
        let mut last = Vec::new();
        let agreed = eventually(Duration::from_secs(60), async || {
            last = differences(&relay, &mut direct, parent).await;
            last.is_empty()
        })
        .await;
        assert!(
            agreed,
            "kill {kill} after {moment:?}, RESMGR_SEED={seed}: {last:#?}\n{}",
            relay.log()
        );
        let took = listens.elapsed();
        within += u64::from(took <= SOON);
        slowest = slowest.max(took);
        churn.learn(&mut direct).await;
    }
    println!(
        "kernel, state and runtime agreed after {kills} of {kills} kills, {within} times within {SOON:?}; \
         slowest {slowest:?}; calls that worked in between: {}",
        churn.counts()
    );
    assert!(
        churn.worked() >= kills / 4,
        "there was no churn to speak of"
    );

    relay.kill().unwrap();
    let state = relay.state().display().to_string();
    let said = relay.ask(&["--relay-dir", &state, "restore"]).unwrap();
    let online = kernel::online().unwrap();
    for (id, runs) in direct.live().await.unwrap() {
        if runs {
            let asked = churn.asked(&id).unwrap_or(&online);
            assert_eq!(&kernel::cpuset_cpus(parent, &id).unwrap(), asked, "{said}");
        }
    }
}
