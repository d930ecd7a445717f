//! More than a hundred short runs; `cargo xtask chaos` makes long ones.

use resmgr_chaos::{Mutation, Report, Run};

fn run(seed: u64, steps: u64, mutation: Option<Mutation>) -> Result<Report, String> {
    let run = Run {
        seed,
        steps,
        mutation,
        verbose: false,
    };
    run.perform().map_err(|failure| failure.to_string())
}

#[test]
fn every_promise_is_kept_whatever_fails() {
    let (mut effects, mut starts) = (0, 0);
    for seed in 0..150 {
        let report = run(seed, 50, None).unwrap_or_else(|failure| panic!("{failure}"));
        effects += report.effects;
        starts += report.starts;
    }
    // Something did happen.
    assert!(effects > 5_000 && starts > 200, "{effects} {starts}");
}

#[test]
fn equal_seeds_give_equal_runs() {
    for seed in 1000..1010 {
        assert_eq!(run(seed, 80, None), run(seed, 80, None));
    }
    assert_ne!(run(1000, 80, None), run(1001, 80, None));
}

#[test]
fn defects_that_are_put_in_are_found() {
    for (name, mutation) in Mutation::ALL {
        let found = (0..100).any(|seed| run(seed, 200, Some(mutation)).is_err());
        assert!(found, "{name} is not found");
    }
}
