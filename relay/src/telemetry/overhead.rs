//! The program's own cost, by the kernel's statistics of programs.

use super::{cost::Cost, load::Program};
use aya::sys::{Stats, enable_stats};
use std::{
    thread,
    time::{Duration, Instant},
};

/// Nanoseconds in and runs of the program and of its empty twin.
type RunStats = [(u64, u64); 2];

/// Measures for `during`. `with_program` lends the program, if one is loaded, only at both ends of that time.
pub(super) fn measure(
    during: Duration,
    mut with_program: impl FnMut(fn(&mut Program) -> Option<RunStats>) -> Option<RunStats>,
) -> Option<Cost> {
    let _counted_while_held = enable_stats(Stats::RunTime).ok()?;
    let before = with_program(|program| {
        program.empty_twin(true).ok()?;
        program.run_stats()
    });
    let started = Instant::now();
    if before.is_some() {
        thread::sleep(during);
    }
    let after = with_program(|program| program.run_stats());
    let elapsed = started.elapsed().as_secs_f64();
    with_program(|program| {
        // Nothing can be done about a twin that cannot be detached.
        let _detached = program.empty_twin(false);
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
