//! Steal time of each CPU, from the kernel's own clock: time in which a CPU had work and the hypervisor ran something
//! else (`/proc/stat`, column `steal`; `proc_stat(5)`).

use resmgr_topology::{CpuId, Nanos};
use std::{collections::BTreeMap, io};

/// The kernel's clock of steal time.
pub const STAT: &str = "/proc/stat";
/// Columns of a CPU up to `steal`, the last of them: user, nice, system, idle, iowait, irq, softirq, steal. The guest
/// columns that follow are part of user and nice.
const COLUMNS: usize = 8;

/// Steal time, averaged as the other measurements are.
#[derive(Debug, Default)]
pub struct StealTime {
    at: Nanos,
    /// Ticks stolen and ticks in all, at the last reading.
    ticks: BTreeMap<CpuId, (u64, u64)>,
    /// Thousandths of the time.
    average_milli: BTreeMap<CpuId, f64>,
    unreadable: bool,
}

impl StealTime {
    /// Takes in what [`STAT`] says at this time (`CLOCK_MONOTONIC`); the averages, thousandths, with this half-life.
    /// Empty while nothing is known; a file that cannot be read is logged once.
    pub fn sample(
        &mut self,
        stat: io::Result<String>,
        now: Nanos,
        half_life: Nanos,
    ) -> BTreeMap<CpuId, u32> {
        match stat {
            Ok(stat) => self.feed(&stat, now, half_life),
            Err(error) => {
                if !self.unreadable {
                    tracing::warn!(target: "telemetry", "steal time is not taken out of what containers wait: {STAT}: {error}");
                }
                self.unreadable = true;
                self.average_milli.clear();
            }
        }
        self.average_milli
            .iter()
            .map(|(cpu, milli)| (*cpu, rounded(*milli)))
            .collect()
    }

    fn feed(&mut self, stat: &str, now: Nanos, half_life: Nanos) {
        let elapsed_ns = now.0.saturating_sub(self.at.0);
        let ticks: BTreeMap<CpuId, (u64, u64)> = stat.lines().filter_map(cpu_ticks).collect();
        // Without new measurements time goes on, and the next reading covers all of it.
        if elapsed_ns == 0 {
            return;
        }
        let weight = 1.0 - (-(float(elapsed_ns) / float(half_life.0.max(1)))).exp2();
        for (cpu, (stolen, all)) in &ticks {
            let Some((stolen_before, all_before)) = self.ticks.get(cpu) else {
                continue;
            };
            // The kernel's books of a CPU that went offline and came back may step back.
            let gained = all.saturating_sub(*all_before).max(1);
            let stolen = stolen.saturating_sub(*stolen_before).min(gained);
            let milli = float(stolen) / float(gained) * 1000.0;
            let average = self.average_milli.entry(*cpu).or_insert(milli);
            *average += (milli - *average) * weight;
        }
        self.average_milli.retain(|cpu, _| ticks.contains_key(cpu));
        self.ticks = ticks;
        self.at = now;
    }
}

/// The ticks of a line such as `cpu3 272 24 41 2724 86 0 1 12 0 0`; of no other line.
fn cpu_ticks(line: &str) -> Option<(CpuId, (u64, u64))> {
    let mut words = line.strip_prefix("cpu")?.split_ascii_whitespace();
    let cpu = line.strip_prefix("cpu")?.split(' ').next()?.parse().ok()?;
    // The number of the CPU.
    words.next()?;
    let ticks: Option<Vec<u64>> = words.take(COLUMNS).map(|word| word.parse().ok()).collect();
    let ticks = ticks.filter(|ticks| ticks.len() == COLUMNS)?;
    Some((CpuId(cpu), (*ticks.last()?, ticks.iter().sum())))
}

fn float(value: u64) -> f64 {
    value as f64
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "from 0 to 1000"
)]
fn rounded(milli: f64) -> u32 {
    milli.round() as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    const HALF_LIFE: Nanos = Nanos(10_000_000_000);

    /// Two CPUs: one has had half of its time stolen since the machine started, the other none.
    fn stat(seconds: u64) -> io::Result<String> {
        let half = seconds * 50;
        Ok(format!(
            "cpu  {half} 0 0 {half} 0 0 0 {half} 0 0\ncpu0 {half} 0 0 0 0 0 0 {half} {half} 0\n\
             cpu7 0 0 0 {half} 0 0 0 0 0 0\nintr 5 0\nctxt 9\n"
        ))
    }

    fn at(seconds: u64) -> Nanos {
        Nanos(seconds * 1_000_000_000)
    }

    #[test]
    fn stolen_time_is_a_share_of_all_time_of_its_cpu() {
        let mut steal = StealTime::default();
        assert!(steal.sample(stat(100), at(100), HALF_LIFE).is_empty());
        let seen = steal.sample(stat(101), at(101), HALF_LIFE);
        assert_eq!(seen, [(CpuId(0), 500), (CpuId(7), 0)].into());
        // No measurement in between: nothing changes.
        assert_eq!(steal.sample(stat(102), at(101), HALF_LIFE), seen);
    }

    #[test]
    fn after_a_half_life_an_average_has_come_half_the_way() {
        let mut steal = StealTime::default();
        steal.sample(stat(100), at(100), HALF_LIFE);
        steal.sample(stat(101), at(101), HALF_LIFE);
        let quiet = "cpu0 10050 0 0 0 0 0 0 5050 0 0\n";
        let seen = steal.sample(Ok(quiet.to_owned()), at(111), HALF_LIFE);
        assert_eq!(seen, [(CpuId(0), 250)].into());
    }

    #[test]
    fn what_cannot_be_read_is_not_known() {
        let mut steal = StealTime::default();
        steal.sample(stat(100), at(100), HALF_LIFE);
        steal.sample(stat(101), at(101), HALF_LIFE);
        let error = Err(io::Error::from(io::ErrorKind::NotFound));
        assert!(steal.sample(error, at(102), HALF_LIFE).is_empty());
        let torn = "cpu0 1 2 3\ncpux 1 2 3 4 5 6 7 8\ncpu1 1 2 3 4 5 6 7 8 9 10\n";
        let read: Vec<_> = torn.lines().filter_map(cpu_ticks).collect();
        assert_eq!(read, [(CpuId(1), (8, 36))]);
    }
}
