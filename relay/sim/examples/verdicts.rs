//! What becomes of right and wrong moves: `cargo run -p resmgr-sim --example verdicts -- SEEDS`.

use resmgr_sim::run::experiment::{VerdictCount, table};
use std::io::{self, Write as _};

fn main() -> io::Result<()> {
    let seeds = std::env::args().nth(1);
    let seeds: u64 = seeds.and_then(|count| count.parse().ok()).unwrap_or(20);
    let mut out = io::stdout().lock();
    writeln!(out, "{}", VerdictCount::HEADER)?;
    for tally in table(1..=seeds) {
        writeln!(out, "{tally}")?;
    }
    Ok(())
}
