//! Compares what the program books of one own thread with what the kernel says of it.
//!
//! Each of the thread's switches lies between two readings of its `schedstat`, so the program's
//! numbers have exact bounds, however busy the machine is.

use super::{load::Program, now_ns, status::Reason};
use aya::maps::Array;
use nix::{
    sched::{CpuSet as Mask, sched_getaffinity, sched_setaffinity},
    unistd::{Pid, gettid},
};
use resmgr_common::TASK_ENTRIES;
use resmgr_topology::CpuSet;
use std::{fs, hint, thread, time::Duration};

const CYCLES: u32 = 20;
/// Cycles that may go wrong: a look at a record is not one instant, and somebody may come between.
const SPARED: u32 = 2;
const SPIN_NS: u64 = 2_000_000;
const SLEEP: Duration = Duration::from_millis(1);

/// Visits every CPU once: where nothing ever switches, what runs is known from then on.
pub(super) fn seed(cpus: &CpuSet) {
    let cpus = *cpus;
    let visit = thread::Builder::new()
        .name("telemetry-seed".to_owned())
        .spawn(move || {
            for cpu in cpus.iter() {
                // A CPU that cannot be visited (offline, not allowed) is seeded by its first switch.
                let _refused = pin(cpu.0 as usize);
                thread::yield_now();
            }
        });
    if let Ok(visit) = visit {
        // The thread cannot panic; it has no result.
        let _ended = visit.join();
    }
}

/// Checks the books.
///
/// # Errors
/// Which of our numbers is not the kernel's.
pub(super) fn check(program: &Program) -> Result<(), Reason> {
    let outcome = thread::scope(|scope| {
        thread::Builder::new()
            .name("telemetry-check".to_owned())
            .spawn_scoped(scope, || run(program))
            .map_err(|error| format!("no thread for it: {error}"))?
            .join()
            .unwrap_or_else(|_| Err("its thread panicked".to_owned()))
    });
    outcome.map_err(|why| Reason::SelfCheck { why })
}

/// A thread's own books.
#[derive(Clone, Copy)]
struct Kernel {
    run_ns: u64,
    delay_ns: u64,
}

fn run(program: &Program) -> Result<(), String> {
    let tid = u32::try_from(gettid().as_raw()).unwrap_or(0);
    let cpu = (0..Mask::count())
        .find(|cpu| {
            sched_getaffinity(Pid::from_raw(0)).is_ok_and(|m| m.is_set(*cpu).unwrap_or(false))
        })
        .ok_or("no CPU to run on")?;
    pin(cpu).map_err(|error| format!("cannot stay on CPU {cpu}: {error}"))?;
    thread::sleep(SLEEP);
    let tasks: Array<_, [u64; 2]> =
        Array::try_from(&program.tasks).map_err(|error| error.to_string())?;
    let index = tid & (TASK_ENTRIES - 1);
    let record = || {
        program
            .records
            .get(cpu)
            .ok_or_else(|| format!("no record of CPU {cpu}"))
    };
    let slot = record()?.slot;
    let at = cpu * program.slots as usize + slot as usize;
    let cell = || program.cells.get(at).ok_or_else(|| format!("no cell {at}"));
    let (first_cell, first, started) = (cell()?, kernel()?, now_ns());

    let mut wrong = 0;
    for _ in 0..CYCLES {
        let until = now_ns() + SPIN_NS;
        while now_ns() < until {
            hint::spin_loop();
        }
        let before = kernel()?;
        thread::sleep(SLEEP);
        let record = record()?;
        let [delay_ns, _] = tasks.get(&index, 0).map_err(|error| error.to_string())?;
        let after = kernel()?;
        let cycle = if record.pid == tid {
            within("CPU time", record.sum_exec_ns, before.run_ns, after.run_ns)
                .and_then(|()| within("wait", delay_ns, before.delay_ns, after.delay_ns))
        } else {
            Err(format!(
                "CPU {cpu} runs thread {tid}, the program says {}",
                record.pid
            ))
        };
        if let Err(why) = cycle {
            wrong += 1;
            if wrong > SPARED {
                return Err(why);
            }
        }
    }

    let (cell, last, wall) = (cell()?, kernel()?, now_ns() - started);
    let ran = cell.run_ns.saturating_sub(first_cell.run_ns);
    let own = last.run_ns - first.run_ns;
    // Others of the same slot ran too; the stint under way is not booked yet.
    within(
        "booked CPU time",
        ran,
        own.saturating_sub(own / 100 + SPIN_NS * 2),
        wall + wall / 100,
    )?;
    let slept = cell.voluntary.wrapping_sub(first_cell.voluntary);
    within(
        "voluntary switches",
        slept.into(),
        (CYCLES - SPARED).into(),
        u64::MAX,
    )
}

fn within(what: &str, ours: u64, least: u64, most: u64) -> Result<(), String> {
    if (least..=most).contains(&ours) {
        Ok(())
    } else {
        Err(format!(
            "{what} is {ours}, the kernel says {least} to {most}"
        ))
    }
}

fn kernel() -> Result<Kernel, String> {
    let path = "/proc/thread-self/schedstat";
    let line = fs::read_to_string(path).map_err(|error| format!("{path}: {error}"))?;
    let mut numbers = line.split_whitespace().map(str::parse);
    match (numbers.next(), numbers.next()) {
        (Some(Ok(run_ns)), Some(Ok(delay_ns))) => Ok(Kernel { run_ns, delay_ns }),
        _ => Err(format!("{path} holds {line:?}")),
    }
}

fn pin(cpu: usize) -> nix::Result<()> {
    let mut mask = Mask::new();
    mask.set(cpu)?;
    sched_setaffinity(Pid::from_raw(0), &mask)
}
