//! Compares what the program counts for a thread of ours with what the kernel counts for it.
//!
//! Each of the thread's switches lies between two readings of its `schedstat`, so the program's
//! numbers have exact bounds, however busy the machine is.

use super::{clock::now_ns, load::Program, status::OffReason};
use aya::maps::Array;
use nix::{
    sched::{CpuSet as Mask, sched_getaffinity, sched_setaffinity},
    unistd::{Pid, gettid},
};
use resmgr_common::{CpuState, TASK_ENTRIES};
use resmgr_topology::CpuSet;
use std::{fs, hint, thread, time::Duration};

const CYCLES: u32 = 20;
/// Switches the kernel may hide from the program while it is checked; each is noticed at the next.
const MOST_MISSED: u32 = CYCLES / 2;
/// Sleeps that may end before the thread is off its CPU.
const SLEEPS: u32 = 100;
/// Readings of a CPU's state that switches of other threads keep spoiling.
const READINGS: u32 = 1000;
const SPIN_NS: u64 = 2_000_000;
const SLEEP: Duration = Duration::from_millis(1);

/// Switches once on every CPU, so that the program knows what runs there even if nothing switches later.
pub(super) fn prime_cpus(cpus: &CpuSet) {
    let cpus = *cpus;
    let thread = thread::Builder::new()
        .name("telemetry-prime".to_owned())
        .spawn(move || {
            for cpu in cpus.iter() {
                // On a CPU that is offline or not allowed, the first switch does the same.
                let _refused = pin(cpu.0 as usize);
                thread::yield_now();
            }
        });
    if let Ok(thread) = thread {
        // The thread cannot panic; it has no result.
        let _ended = thread.join();
    }
}

/// Checks the program's numbers.
///
/// # Errors
/// Which of the program's numbers is not the kernel's.
pub(super) fn check(program: &Program) -> Result<(), OffReason> {
    let outcome = thread::scope(|scope| {
        thread::Builder::new()
            .name("telemetry-check".to_owned())
            .spawn_scoped(scope, || run(program))
            .map_err(|error| format!("no thread for it: {error}"))?
            .join()
            .unwrap_or_else(|_| Err("its thread panicked".to_owned()))
    });
    outcome.map_err(|why| OffReason::SelfCheck { why })
}

/// What the kernel counts for a thread.
#[derive(Clone, Copy)]
struct SchedStat {
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
    sleep_once()?;
    let tasks: Array<_, [u64; 4]> =
        Array::try_from(&program.tasks).map_err(|error| error.to_string())?;
    let index = tid & (TASK_ENTRIES - 1);
    let mut missed = MissedSwitches::default();
    let slot = loop {
        let state = cpu_state(program, cpu)?;
        if missed.check(cpu, tid, &state)? {
            break state.owner.slot;
        }
        sleep_once()?;
    };
    let counters = || {
        program
            .counters_of(cpu, slot)
            .ok_or_else(|| format!("no counters of slot {slot} on CPU {cpu}"))
    };
    let (first_counters, first, started) = (counters()?, schedstat()?, now_ns());

    for _ in 0..CYCLES {
        let until = now_ns() + SPIN_NS;
        while now_ns() < until {
            hint::spin_loop();
        }
        let before = schedstat()?;
        sleep_once()?;
        missed.check(cpu, tid, &cpu_state(program, cpu)?)?;
        let [delay_ns, run_ns, ..] = tasks.get(&index, 0).map_err(|error| error.to_string())?;
        let after = schedstat()?;
        within("CPU time", run_ns, before.run_ns, after.run_ns)?;
        within("wait", delay_ns, before.delay_ns, after.delay_ns)?;
    }

    let (counters, last, wall) = (counters()?, schedstat()?, now_ns() - started);
    let ran = counters.run_ns.saturating_sub(first_counters.run_ns);
    let own = last.run_ns - first.run_ns;
    // Other threads of the same slot ran too; the present run is not counted yet.
    within(
        "counted CPU time",
        ran,
        own.saturating_sub(SPIN_NS * 2),
        wall + wall / 100,
    )?;
    let slept = counters.voluntary.wrapping_sub(first_counters.voluntary);
    within("voluntary switches", slept.into(), CYCLES.into(), u64::MAX)
}

/// The state of the CPU this thread runs on, as it was at one instant.
fn cpu_state(program: &Program, cpu: usize) -> Result<CpuState, String> {
    for _ in 0..READINGS {
        let read = || {
            let state = program.cpu_state(cpu);
            state.ok_or_else(|| format!("no state of CPU {cpu}"))
        };
        let (state, again) = (read()?, read()?);
        if state == again && state.seq % 2 == 0 {
            return Ok(state);
        }
    }
    Err(format!("the state of CPU {cpu} never stands still"))
}

/// Switches the kernel hid: the program must have noticed each of them at the next switch.
#[derive(Default)]
struct MissedSwitches {
    /// The program's count of missed switches when the CPU's state named another thread.
    doubt: Option<u32>,
    count: u32,
}

impl MissedSwitches {
    /// Checks the state of the CPU that thread `tid` runs on; `false` when it names another thread.
    fn check(&mut self, cpu: usize, tid: u32, state: &CpuState) -> Result<bool, String> {
        if let Some(noticed) = self.doubt.take() {
            if state.unseen == noticed {
                return Err(format!(
                    "CPU {cpu} ran thread {tid}, and the program neither saw nor missed it"
                ));
            }
            self.count += 1;
            if self.count > MOST_MISSED {
                return Err(format!(
                    "the kernel hid {} switches on CPU {cpu}",
                    self.count
                ));
            }
        }
        if state.pid == tid {
            return Ok(true);
        }
        self.doubt = Some(state.unseen);
        Ok(false)
    }
}

/// Sleeps until the thread was off its CPU. A timer may fire before it is: on a machine that shares its CPUs
/// with others, any moment may last longer than the sleep.
fn sleep_once() -> Result<(), String> {
    let before = slept()?;
    for _ in 0..SLEEPS {
        thread::sleep(SLEEP);
        if slept()? != before {
            return Ok(());
        }
    }
    Err(format!("{SLEEPS} sleeps in a row end before they begin"))
}

/// How often the thread went to sleep.
fn slept() -> Result<u64, String> {
    let path = "/proc/thread-self/status";
    let text = fs::read_to_string(path).map_err(|error| format!("{path}: {error}"))?;
    text.lines()
        .find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"))
        .and_then(|count| count.trim().parse().ok())
        .ok_or_else(|| format!("{path} has no count of voluntary switches"))
}

fn within(number: &str, ours: u64, least: u64, most: u64) -> Result<(), String> {
    if (least..=most).contains(&ours) {
        Ok(())
    } else {
        Err(format!(
            "{number} is {ours}, the kernel says {least} to {most}"
        ))
    }
}

fn schedstat() -> Result<SchedStat, String> {
    let path = "/proc/thread-self/schedstat";
    let line = fs::read_to_string(path).map_err(|error| format!("{path}: {error}"))?;
    let mut numbers = line.split_whitespace().map(str::parse);
    match (numbers.next(), numbers.next()) {
        (Some(Ok(run_ns)), Some(Ok(delay_ns))) => Ok(SchedStat { run_ns, delay_ns }),
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

    fn state(pid: u32, unseen: u32) -> CpuState {
        CpuState {
            pid,
            unseen,
            ..CpuState::default()
        }
    }

    #[test]
    fn a_wrong_thread_is_accepted_only_if_the_program_noticed_the_switch_it_missed() {
        let mut noticed = MissedSwitches::default();
        assert_eq!(noticed.check(0, 7, &state(7, 3)), Ok(true));
        assert_eq!(noticed.check(0, 7, &state(5, 3)), Ok(false));
        assert_eq!(noticed.check(0, 7, &state(7, 4)), Ok(true));
        assert_eq!(noticed.check(0, 7, &state(5, 4)), Ok(false));
        let error = noticed.check(0, 7, &state(7, 4)).unwrap_err();
        assert!(error.contains("neither saw nor missed"), "{error}");
    }

    #[test]
    fn a_kernel_that_hides_most_switches_is_not_trusted() {
        let mut missed = MissedSwitches::default();
        let refused = (0..CYCLES).find(|n| missed.check(0, 7, &state(5, *n)).is_err());
        assert_eq!(refused, Some(MOST_MISSED + 1));
    }
}
