//! What the containers of the feedback tests run: threads of one of four kinds, for ever.
//!
//! `workload chatty|latency|batch|bursty THREADS`. Work is measured by the clock, so that a machine that
//! emulates many CPUs by one is asked for no more than it has.

use nix::{
    sched::{CpuSet, sched_getaffinity, sched_setaffinity},
    unistd::Pid,
};
use std::{
    io::{Read as _, Write as _},
    os::unix::net::UnixStream,
    process::ExitCode,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let kind = arguments.next().unwrap_or_default();
    let threads = arguments.next().and_then(|text| text.parse().ok());
    let work: fn(u64) = match kind.as_str() {
        "chatty" => return chatty(threads.unwrap_or(2)),
        "latency" => |seed| serve(seed, ms(1), ms(9)),
        "batch" => |_| spin(Duration::MAX),
        "bursty" => |seed| serve(seed, ms(100), ms(300)),
        _ => return ExitCode::from(2),
    };
    let running: Vec<_> = (0..threads.unwrap_or(1))
        .map(|seed| thread::spawn(move || work(seed)))
        .collect();
    for one in running {
        if one.join().is_err() {
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}

/// Works and rests in turn, never in step with the others.
fn serve(seed: u64, busy: Duration, rest: Duration) {
    let mut random = seed + 1;
    loop {
        thread::sleep(around(rest, &mut random));
        spin(around(busy, &mut random));
    }
}

/// Threads that wake each other: two callers, bound to the first and to the last CPU there is as the
/// threads are that serve the queues of a network card, and workers that either of them calls. The kernel
/// draws a worker towards whoever called it.
fn chatty(threads: u64) -> ExitCode {
    let mut calls = Vec::new();
    let mut running = Vec::new();
    for seed in 1..threads.max(3) - 1 {
        let Ok((ear, mouth)) = UnixStream::pair() else {
            return ExitCode::FAILURE;
        };
        if mouth.set_nonblocking(true).is_err() {
            return ExitCode::FAILURE;
        }
        calls.push(mouth);
        running.push(thread::spawn(move || answer(ear, seed)));
    }
    let calls = Arc::new(calls);
    for last in [false, true] {
        let calls = Arc::clone(&calls);
        running.push(thread::spawn(move || call(&calls, last)));
    }
    for one in running {
        if one.join().is_err() {
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}

fn call(calls: &[UnixStream], last: bool) {
    // A CPU that is taken away later is no longer bound to: the kernel sees to that. Unbound it calls too.
    bind(last).ok();
    let mut random = u64::from(last);
    let count = u64::try_from(calls.len()).unwrap_or(1).max(1);
    loop {
        thread::sleep(around(ms(3), &mut random));
        let one = usize::try_from(next(&mut random) % count).unwrap_or(0);
        if let Some(mut mouth) = calls.get(one) {
            // Who has more calls waiting than fit needs no other.
            drop(mouth.write(b"."));
        }
    }
}

fn answer(mut ear: UnixStream, mut random: u64) {
    let mut words = [0; 64];
    while ear.read(&mut words).is_ok_and(|count| count > 0) {
        spin(around(us(200), &mut random));
    }
}

/// Binds the calling thread to the first or the last CPU it may use.
fn bind(last: bool) -> nix::Result<()> {
    let may = sched_getaffinity(Pid::from_raw(0))?;
    let mut cpus = (0..CpuSet::count()).filter(|cpu| may.is_set(*cpu).unwrap_or(false));
    let cpu = if last { cpus.next_back() } else { cpus.next() };
    let mut one = CpuSet::new();
    one.set(cpu.unwrap_or(0))?;
    sched_setaffinity(Pid::from_raw(0), &one)
}

fn spin(time: Duration) {
    let start = Instant::now();
    while start.elapsed() < time {
        std::hint::spin_loop();
    }
}

/// Half to one and a half of it.
fn around(time: Duration, random: &mut u64) -> Duration {
    let share = u32::try_from(next(random) % 1001).unwrap_or(0);
    time * (500 + share) / 1000
}

/// Steele, Lea and Flood's `SplitMix64`.
fn next(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

const fn us(count: u64) -> Duration {
    Duration::from_micros(count)
}

const fn ms(count: u64) -> Duration {
    Duration::from_millis(count)
}
