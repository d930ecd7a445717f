//! The process itself, by the names that Prometheus' client libraries use.

use nix::{
    sys::resource::{Resource, getrlimit},
    unistd::{SysconfVar, sysconf},
};
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric},
    metrics::{MetricType, counter::ConstCounter, gauge::ConstGauge},
};
use std::{fmt, fs, io};

/// Reads `/proc/self` at each scrape.
#[derive(Debug)]
pub struct ProcessMetrics {
    /// Seconds since 1970, read once: the kernel's time of boot follows corrections of the clock, and a change would look
    /// like a restart.
    start_time_s: io::Result<f64>,
}

/// What the process uses now.
struct ProcessUse {
    cpu_s: f64,
    resident_bytes: f64,
    virtual_bytes: f64,
    open_files: f64,
    max_open_files: f64,
}

impl Default for ProcessMetrics {
    fn default() -> Self {
        Self {
            start_time_s: start_time_s(),
        }
    }
}

impl ProcessUse {
    #[expect(
        clippy::cast_precision_loss,
        reason = "2^53 open files are not reached; a limit may be rounded"
    )]
    fn read() -> io::Result<Self> {
        let [user_ticks, system_ticks, virtual_bytes, resident_pages] = stat([14, 15, 23, 24])?;
        let (max_open_files, _hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
        Ok(Self {
            cpu_s: (user_ticks + system_ticks) / constant(SysconfVar::CLK_TCK)?,
            resident_bytes: resident_pages * constant(SysconfVar::PAGE_SIZE)?,
            virtual_bytes,
            open_files: fs::read_dir("/proc/self/fd")?.count() as f64,
            max_open_files: max_open_files as f64,
        })
    }
}

/// Fields of `/proc/self/stat` by their numbers in proc_pid_stat(5).
fn stat<const N: usize>(numbers: [usize; N]) -> io::Result<[f64; N]> {
    let text = fs::read_to_string("/proc/self/stat")?;
    // Field 2, the program's name in parentheses, may hold spaces and parentheses.
    let from_third = text.rsplit_once(')').map_or("", |(_, fields)| fields);
    let fields: Vec<_> = from_third.split_whitespace().collect();
    let mut values = [0.0; N];
    for (value, number) in values.iter_mut().zip(numbers) {
        let field = fields.get(number - 3).and_then(|field| field.parse().ok());
        *value = field.ok_or_else(|| unknown(&format!("field {number} of /proc/self/stat")))?;
    }
    Ok(values)
}

fn start_time_s() -> io::Result<f64> {
    let [start_ticks] = stat([22])?;
    let text = fs::read_to_string("/proc/stat")?;
    let boot_s = text.lines().find_map(|line| line.strip_prefix("btime "));
    let boot_s: Option<f64> = boot_s.and_then(|seconds| seconds.parse().ok());
    let boot_s = boot_s.ok_or_else(|| unknown("btime of /proc/stat"))?;
    Ok(boot_s + start_ticks / constant(SysconfVar::CLK_TCK)?)
}

fn constant(name: SysconfVar) -> io::Result<f64> {
    let value = sysconf(name)?.and_then(|value| u32::try_from(value).ok());
    value
        .map(f64::from)
        .ok_or_else(|| unknown(&format!("{name:?}")))
}

fn unknown(name: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("{name} is no number"))
}

impl Collector for ProcessMetrics {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut gauge = |name, help, value| {
            let metric = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            ConstGauge::<f64>::new(value).encode(metric)
        };
        match &self.start_time_s {
            Ok(start_time_s) => gauge(
                "process_start_time_seconds",
                "When this process began, in seconds since 1970",
                *start_time_s,
            )?,
            Err(error) => {
                tracing::warn!(target: "metrics", "cannot read when this process began: {error}");
            }
        }
        let process = match ProcessUse::read() {
            Ok(process) => process,
            Err(error) => {
                tracing::warn!(target: "metrics", "cannot read what this process uses: {error}");
                return Ok(());
            }
        };
        for (name, help, value) in [
            (
                "process_resident_memory_bytes",
                "Memory of this process that is in RAM",
                process.resident_bytes,
            ),
            (
                "process_virtual_memory_bytes",
                "Address space of this process",
                process.virtual_bytes,
            ),
            (
                "process_open_fds",
                "Open file descriptors of this process",
                process.open_files,
            ),
            (
                "process_max_fds",
                "File descriptors that this process may have open",
                process.max_open_files,
            ),
        ] {
            gauge(name, help, value)?;
        }
        ConstCounter::new(process.cpu_s).encode(encoder.encode_descriptor(
            "process_cpu_seconds",
            "CPU time of this process, in user space and in the kernel",
            None,
            MetricType::Counter,
        )?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use prometheus_client::{encoding::text::encode, registry::Registry};

    #[test]
    fn the_page_says_what_the_process_uses() {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(ProcessMetrics::default()));
        let mut page = String::new();
        encode(&mut page, &registry).unwrap();
        let value = |name: &str| -> f64 {
            let line = page.lines().find(|line| line.starts_with(name));
            let value = line
                .and_then(|line| line.split_once(' '))
                .map(|(_, value)| value);
            value
                .unwrap_or_default()
                .parse()
                .unwrap_or_else(|error| panic!("{name}: {error}\n{page}"))
        };
        let open = value("process_open_fds ");
        assert!((3.0..=value("process_max_fds ")).contains(&open), "{page}");
        let resident = value("process_resident_memory_bytes ");
        let used = 1e5..value("process_virtual_memory_bytes ");
        assert!(used.contains(&resident), "{page}");
        assert!(value("process_cpu_seconds_total ") >= 0.0, "{page}");
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        let now = now.unwrap().as_secs_f64();
        assert!(
            (1.6e9..now + 2.0).contains(&value("process_start_time_seconds ")),
            "{page}"
        );
    }
}
