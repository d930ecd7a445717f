//! What measurements do to placement, with real containers and the real program in the kernel, on a machine
//! of two sockets of two NUMA nodes: crossings that end, a neighbour that is evaded, numbers that stop.
//!
//! The test program boots one guest and runs itself in there. One thread of the host emulates all its CPUs:
//! what is asserted are counts, cpusets and ratios between two runs of the same, never times. The long
//! version of the first scenario, all policies with feedback off, shadowed and on, is
//! `cargo xtask bench feedback`.
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::large_futures,
    reason = "a test program: helpers fail the test"
)]

mod mix;
mod neighbour;
mod pools;

use futures::FutureExt as _;
use resmgr_tests::{Guest, Runtime, skip};
use std::{
    panic::AssertUnwindSafe,
    time::{Duration, Instant},
};

/// How long the kernel may take to show what is expected: everything here is emulated.
const PATIENCE: Duration = Duration::from_secs(120);

/// Runs scenarios one after the other; all of them, whatever becomes of one.
macro_rules! scenarios {
    ($runtime:expr, $only:expr, $($scenario:path),+ $(,)?) => {{
        let mut failed = Vec::new();
        $(
            let name = stringify!($scenario);
            if $only.split(',').any(|part| name.contains(part)) {
                let begun = Instant::now();
                let outcome = AssertUnwindSafe($scenario($runtime)).catch_unwind().await;
                println!("{name}: {} after {:?}", if outcome.is_ok() { "ok" } else { "FAILED" }, begun.elapsed());
                if outcome.is_err() {
                    failed.push(name);
                }
            }
        )+
        assert!(failed.is_empty(), "failed: {failed:?}");
    }};
}

/// One boot for all of it; `RESMGR_FEEDBACK_ONLY` has parts of the names of those to run, with commas.
#[test]
fn feedback_on_two_sockets() {
    const NAME: &str = "feedback_on_two_sockets";
    let only = std::env::var("RESMGR_FEEDBACK_ONLY").unwrap_or_default();
    let guest = Guest {
        limit: Duration::from_secs(2700),
        ..Guest::n4c16()
    };
    if resmgr_tests::built("workload").is_none() {
        let why = "the workload program is not built: cargo build --bins";
        return skip::skip("feedback on two sockets", why);
    }
    if guest
        .runs(NAME, &[("RESMGR_FEEDBACK_ONLY", &only)])
        .unwrap()
    {
        tokio::runtime::Runtime::new().unwrap().block_on(async {
            let runtime = Runtime::start().unwrap();
            scenarios!(
                &runtime,
                only.as_str(),
                neighbour::a_neighbour_is_evaded_until_the_numbers_stop,
                mix::feedback_ends_the_crossing_of_sockets_and_nobody_waits_more,
            );
        });
    }
}
