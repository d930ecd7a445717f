//! Compares what the program books of one own thread with what the kernel says of it.
//!
//! Each of the thread's switches lies between two readings of its `schedstat`, so the program's
//! numbers have exact bounds, however busy the machine is.

use super::{clock::now_ns, load::Program, status::Reason};
use aya::maps::Array;
use nix::{
    sched::{CpuSet as Mask, sched_getaffinity, sched_setaffinity},
    unistd::{Pid, gettid},
};
use resmgr_common::{Record, TASK_ENTRIES};
use resmgr_topology::CpuSet;
use std::{fs, hint, thread, time::Duration};

const CYCLES: u32 = 20;
/// Switches the kernel may keep from the program while it is checked; each is noticed at the next.
const HIDDEN: u32 = CYCLES / 2;
/// Naps that may end before the thread is off its CPU.
const NAPS: u32 = 100;
/// Readings of a record that somebody else's switch keeps spoiling.
const READINGS: u32 = 1000;
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
    nap()?;
    let tasks: Array<_, [u64; 4]> =
        Array::try_from(&program.tasks).map_err(|error| error.to_string())?;
    let index = tid & (TASK_ENTRIES - 1);
    let mut hidden = Hidden::default();
    let slot = loop {
        let record = record(program, cpu)?;
        if hidden.look(cpu, tid, &record)? {
            break record.owner.slot;
        }
        nap()?;
    };
    let cell = || {
        program
            .cell(cpu, slot)
            .ok_or_else(|| format!("no cell of slot {slot} on CPU {cpu}"))
    };
    let (first_cell, first, started) = (cell()?, kernel()?, now_ns());

    for _ in 0..CYCLES {
        let until = now_ns() + SPIN_NS;
        while now_ns() < until {
            hint::spin_loop();
        }
        let before = kernel()?;
        nap()?;
        hidden.look(cpu, tid, &record(program, cpu)?)?;
        let [delay_ns, run_ns, ..] = tasks.get(&index, 0).map_err(|error| error.to_string())?;
        let after = kernel()?;
        within("CPU time", run_ns, before.run_ns, after.run_ns)?;
        within("wait", delay_ns, before.delay_ns, after.delay_ns)?;
    }

    let (cell, last, wall) = (cell()?, kernel()?, now_ns() - started);
    let ran = cell.run_ns.saturating_sub(first_cell.run_ns);
    let own = last.run_ns - first.run_ns;
    // Others of the same slot ran too; the stint under way is not booked yet.
    within(
        "booked CPU time",
        ran,
        own.saturating_sub(SPIN_NS * 2),
        wall + wall / 100,
    )?;
    let slept = cell.voluntary.wrapping_sub(first_cell.voluntary);
    within("voluntary switches", slept.into(), CYCLES.into(), u64::MAX)
}

/// The record of the CPU this thread runs on, as it was at one instant.
fn record(program: &Program, cpu: usize) -> Result<Record, String> {
    for _ in 0..READINGS {
        let read = || {
            let record = program.record(cpu);
            record.ok_or_else(|| format!("no record of CPU {cpu}"))
        };
        let (record, again) = (read()?, read()?);
        if record == again && record.seq % 2 == 0 {
            return Ok(record);
        }
    }
    Err(format!("the record of CPU {cpu} never stands still"))
}

/// Switches the kernel did not show: the program must have noticed each of them at the next one.
#[derive(Default)]
struct Hidden {
    /// Its count when a look found another thread in the record.
    doubt: Option<u32>,
    count: u32,
}

impl Hidden {
    /// Looks at the record of the CPU that thread `tid` runs on; `false` when it names another.
    fn look(&mut self, cpu: usize, tid: u32, record: &Record) -> Result<bool, String> {
        if let Some(noticed) = self.doubt.take() {
            if record.unseen == noticed {
                return Err(format!(
                    "CPU {cpu} ran thread {tid}, and the program neither saw nor missed it"
                ));
            }
            self.count += 1;
            if self.count > HIDDEN {
                return Err(format!(
                    "the kernel hid {} switches on CPU {cpu}",
                    self.count
                ));
            }
        }
        if record.pid == tid {
            return Ok(true);
        }
        self.doubt = Some(record.unseen);
        Ok(false)
    }
}

/// Sleeps until the thread was off its CPU. A timer may fire before it is: on a machine that shares its
/// CPUs with others, any moment may last longer than the nap.
fn nap() -> Result<(), String> {
    let before = slept()?;
    for _ in 0..NAPS {
        thread::sleep(SLEEP);
        if slept()? != before {
            return Ok(());
        }
    }
    Err(format!("{NAPS} naps in a row end before they begin"))
}

/// How often the thread went to sleep.
fn slept() -> Result<u64, String> {
    let path = "/proc/thread-self/status";
    let text = fs::read_to_string(path).map_err(|error| format!("{path}: {error}"))?;
    text.lines()
        .find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"))
        .and_then(|count| count.trim().parse().ok())
        .ok_or_else(|| format!("{path} does not tell voluntary switches"))
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

#[cfg(test)]
mod tests {
    use super::*;

    fn record(pid: u32, unseen: u32) -> Record {
        Record {
            pid,
            unseen,
            ..Record::default()
        }
    }

    #[test]
    fn a_wrong_record_is_borne_with_only_if_the_program_noticed_the_switch_it_missed() {
        let mut noticed = Hidden::default();
        assert_eq!(noticed.look(0, 7, &record(7, 3)), Ok(true));
        assert_eq!(noticed.look(0, 7, &record(5, 3)), Ok(false));
        assert_eq!(noticed.look(0, 7, &record(7, 4)), Ok(true));
        assert_eq!(noticed.look(0, 7, &record(5, 4)), Ok(false));
        let error = noticed.look(0, 7, &record(7, 4)).unwrap_err();
        assert!(error.contains("neither saw nor missed"), "{error}");
    }

    #[test]
    fn a_kernel_that_hides_most_switches_is_not_trusted() {
        let mut hidden = Hidden::default();
        let refused = (0..CYCLES).find(|n| hidden.look(0, 7, &record(5, *n)).is_err());
        assert_eq!(refused, Some(HIDDEN + 1));
    }
}
