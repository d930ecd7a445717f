//! Loads that do nothing but switch.

use anyhow::{Context as _, Result, bail};
use nix::{
    sched::{CpuSet, sched_getaffinity, sched_setaffinity},
    unistd::Pid,
};
use std::{
    fmt,
    panic::resume_unwind,
    process::Command,
    sync::atomic::{AtomicU64, Ordering},
    thread,
    time::{Duration, Instant},
};

/// What the machine is kept busy with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Load {
    /// `perf bench sched pipe`: two processes on one CPU; everything is in its caches.
    Pipe,
    /// `perf bench sched messaging`: eighty processes; next to nothing is.
    Messaging,
    /// Four threads that sleep and wake: most switches are to or from the idle task, and there is waiting and
    /// migrating.
    Naps,
    /// One thread bound to each CPU that sleeps and wakes: a switch is to or from the idle task, and nothing else.
    Bound,
}

const PIPE: &str = "100000";
const MESSAGING: &str = "300";
const NAPS: Duration = Duration::from_secs(1);

impl Load {
    pub(crate) const ALL: [Self; 4] = [Self::Pipe, Self::Messaging, Self::Naps, Self::Bound];

    /// Runs it once; how much it got done in a second.
    pub(crate) fn run(self) -> Result<f64> {
        match self {
            Self::Pipe => bench(&[
                "taskset", "-c", "0", "perf", "bench", "-f", "simple", "sched", "pipe", "-l", PIPE,
            ]),
            Self::Messaging => bench(&[
                "perf",
                "bench",
                "-f",
                "simple",
                "sched",
                "messaging",
                "-g",
                "2",
                "-l",
                MESSAGING,
            ]),
            Self::Naps => naps(&[None; 4]),
            Self::Bound => naps(&cpus()?),
        }
    }
}

impl fmt::Display for Load {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Pipe => "pipe (hot)",
            Self::Messaging => "messaging (cold)",
            Self::Naps => "naps (idle)",
            Self::Bound => "bound naps (only idle)",
        })
    }
}

/// One over what `perf bench -f simple` prints: seconds.
fn bench(words: &[&str]) -> Result<f64> {
    let output = Command::new(words[0])
        .args(&words[1..])
        .output()
        .with_context(|| format!("cannot start {}", words[0]))?;
    let text = String::from_utf8_lossy(&output.stdout);
    let seconds: Option<f64> = text
        .split_whitespace()
        .next()
        .and_then(|word| word.parse().ok());
    match seconds {
        Some(seconds) if output.status.success() && seconds > 0.0 => Ok(1e3 / seconds),
        _ => bail!(
            "{}: {}",
            words.join(" "),
            String::from_utf8_lossy(&output.stderr)
        ),
    }
}

/// The CPUs this may run on.
fn cpus() -> Result<Vec<Option<usize>>> {
    let mine = sched_getaffinity(Pid::from_raw(0))?;
    let there = (0..CpuSet::count()).filter(|cpu| mine.is_set(*cpu).unwrap_or(false));
    Ok(there.map(Some).collect())
}

/// A napping thread for each, on the CPU given; how often all together napped in a second.
fn naps(threads: &[Option<usize>]) -> Result<f64> {
    let done = AtomicU64::new(0);
    let until = Instant::now() + NAPS;
    thread::scope(|scope| {
        let napping = threads.iter().map(|cpu| {
            let done = &done;
            scope.spawn(move || {
                if let Some(cpu) = cpu {
                    let mut one = CpuSet::new();
                    one.set(*cpu)?;
                    sched_setaffinity(Pid::from_raw(0), &one)?;
                }
                while Instant::now() < until {
                    thread::sleep(Duration::from_micros(200));
                    done.fetch_add(1, Ordering::Relaxed);
                }
                nix::Result::Ok(())
            })
        });
        let napping: Vec<_> = napping.collect();
        napping.into_iter().try_for_each(|thread| {
            let ended = thread.join().unwrap_or_else(|panic| resume_unwind(panic));
            ended.context("cannot bind a thread to its CPU")
        })
    })?;
    Ok(done.into_inner() as f64 / NAPS.as_secs_f64())
}
