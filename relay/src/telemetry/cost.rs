//! The program's own cost, by the kernel's statistics of programs.

use super::{Cost, load::Program};
use aya::sys::{Stats, enable_stats};
use std::{
    thread,
    time::{Duration, Instant},
};

/// Asks something of the program, if there is one.
type Ask<T> = fn(&mut Program) -> Option<T>;

/// Measures for `during`. The program is borrowed only at both ends, never in between.
pub(super) fn measure(
    during: Duration,
    mut with: impl FnMut(Ask<[(u64, u64); 2]>) -> Option<[(u64, u64); 2]>,
) -> Option<Cost> {
    let _counted_while_held = enable_stats(Stats::RunTime).ok()?;
    let before = with(|program| {
        program.empty_twin(true).ok()?;
        program.run_stats()
    });
    let started = Instant::now();
    if before.is_some() {
        thread::sleep(during);
    }
    let after = with(|program| program.run_stats());
    let elapsed = started.elapsed().as_secs_f64();
    with(|program| {
        // Taking off what was put on: there is nothing to do about a failure.
        let _off = program.empty_twin(false);
        None
    });
    let [ours, empty] = before?;
    let [ours_after, empty_after] = after?;
    let per_run = |before: (u64, u64), after: (u64, u64)| {
        let runs = after.1.saturating_sub(before.1);
        (runs != 0).then(|| after.0.saturating_sub(before.0) as f64 / runs as f64)
    };
    Some(Cost {
        raw_ns: per_run(ours, ours_after)?,
        empty_ns: per_run(empty, empty_after)?,
        switches_per_s: ours_after.1.saturating_sub(ours.1) as f64 / elapsed,
    })
}
