//! Loads that do nothing but switch.

use anyhow::{Context as _, Result, bail};
use std::{
    fmt,
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
    /// Threads that sleep and wake: every other switch is to the idle task.
    Naps,
}

const PIPE: &str = "100000";
const MESSAGING: &str = "300";
const NAPS: Duration = Duration::from_secs(1);

impl Load {
    pub(crate) const ALL: [Self; 3] = [Self::Pipe, Self::Messaging, Self::Naps];

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
            Self::Naps => Ok(naps()),
        }
    }
}

impl fmt::Display for Load {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Pipe => "pipe (hot)",
            Self::Messaging => "messaging (cold)",
            Self::Naps => "naps (idle)",
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

fn naps() -> f64 {
    let done = AtomicU64::new(0);
    let until = Instant::now() + NAPS;
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                while Instant::now() < until {
                    thread::sleep(Duration::from_micros(200));
                    done.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
    });
    done.into_inner() as f64 / NAPS.as_secs_f64()
}
