//! The mix of chatty, latency-bound, batch and bursty containers, with and without feedback.

use resmgr_tests::{
    Runtime,
    feedback::{self, NOISE_PERCENT, Outcome, way},
    skip,
};
use std::time::Duration;

/// How long each is measured.
const DURING: Duration = Duration::from_secs(15);

/// How often static-plus may show what it is worth.
const ATTEMPTS: usize = 2;

pub(crate) async fn feedback_ends_the_crossing_of_sockets_and_nobody_waits_more(runtime: &Runtime) {
    let null = run(runtime, "null", "off").await;
    assert!(null.crossed() > 100, "nothing to end: {null:?}");
    better(&null, &run(runtime, "static-pools", "on").await);
    for _ in 0..ATTEMPTS {
        let on = run(runtime, "static-plus", "on").await;
        assert!(on.decided > 0, "nobody was moved: {on:?}");
        if on.undone == 0 {
            return better(&null, &on);
        }
        // What is won by not crossing, some 10 ms in a second, is little beside the waiting that emulated CPUs
        // cause: a second and more in a second, and half as much again while the host has other work. Then the
        // move is taken back, rightly as far as the daemon can know, and shows nothing.
        assert!(
            on.judged.len() >= on.undone,
            "undone without a word: {on:?}"
        );
    }
    let why = "this host is too busy, its work was taken for waiting that the moves caused";
    skip::skip("feedback: static-plus and the crossing of sockets", why);
}

async fn run(runtime: &Runtime, policy: &'static str, feedback: &'static str) -> Outcome {
    let outcome = feedback::run(runtime, way(policy, feedback), DURING).await;
    let outcome = outcome.unwrap();
    println!("{}", feedback::table(std::slice::from_ref(&outcome)));
    for line in &outcome.judged {
        println!("{line}");
    }
    outcome
}

/// A tenth of the crossings at most, and no class that waits for more of the time in which it wants to run.
fn better(null: &Outcome, on: &Outcome) {
    let table = feedback::table(&[null.clone(), on.clone()]);
    assert!(on.crossed() * 10 <= null.crossed(), "{table}");
    for (class, with) in &on.classes {
        let with = with.waiting_percent();
        let without = null.classes.get(class).unwrap().waiting_percent();
        println!("{class}: waits {without} % without, {with} % with");
        assert!(
            with <= without + NOISE_PERCENT,
            "{class}: {without} % without, {with} % with\n{table}"
        );
    }
}
