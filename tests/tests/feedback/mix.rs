//! The mix of chatty, latency-bound, batch and bursty containers, with and without feedback.

use resmgr_tests::{
    Runtime,
    feedback::{self, NOISE_PERCENT, Outcome, way},
};
use std::time::Duration;

/// How long each is measured.
const DURING: Duration = Duration::from_secs(15);

pub(crate) async fn feedback_ends_the_crossing_of_sockets_and_nobody_waits_more(runtime: &Runtime) {
    let mut outcomes: Vec<Outcome> = Vec::new();
    for way in [way("null", "off"), way("static-plus", "on")] {
        outcomes.push(feedback::run(runtime, way, DURING).await.unwrap());
    }
    let table = feedback::table(&outcomes);
    println!("{table}");
    for one in outcomes.iter().filter(|one| one.way.crosses()) {
        for less in outcomes.iter().filter(|one| !one.way.crosses()) {
            assert!(one.crossed() > 100, "nothing to end\n{table}");
            assert!(less.crossed() * 10 <= one.crossed(), "{table}");
            for (class, with) in &less.classes {
                let with = with.waiting_percent();
                let without = one.classes.get(class).unwrap().waiting_percent();
                println!("{class}: waits {without} % without, {with} % with");
                assert!(
                    with <= without + NOISE_PERCENT,
                    "{class}: {without} {with}\n{table}"
                );
            }
        }
    }
}
