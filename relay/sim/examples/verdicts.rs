//! What becomes of right and wrong moves beside noise: `cargo run -p resmgr-sim --example verdicts -- SEEDS`.

use resmgr_policy::Outcome;
use resmgr_sim::run::experiment::{Experiment, MoveScenario};
use std::io::{self, Write as _};

fn main() -> io::Result<()> {
    let seeds = std::env::args().nth(1);
    let seeds: u64 = seeds.and_then(|count| count.parse().ok()).unwrap_or(20);
    let mut out = io::stdout().lock();
    for scenario in [MoveScenario::List, MoveScenario::Package] {
        for noisy in [false, true] {
            for right in [true, false] {
                let (mut made, mut kept, mut undone, mut time) = (0u64, 0u64, 0u64, 0u64);
                for seed in 1..=seeds {
                    let experiment = Experiment {
                        scenario,
                        right,
                        noisy,
                        seed,
                    };
                    if let Some(verdict) = experiment.run() {
                        made += 1;
                        kept += u64::from(verdict.outcome == Outcome::Kept);
                        undone += u64::from(verdict.outcome == Outcome::Undone);
                        time += verdict.after_milli;
                    }
                }
                writeln!(
                    out,
                    "{scenario:?} noisy={noisy} right={right}: made {made}, kept {kept}, undone {undone}, {} milli half-lives",
                    time / made.max(1)
                )?;
            }
        }
    }
    Ok(())
}
