//! The process itself, by the names that Prometheus' client libraries use.

use procfs::{
    ProcResult,
    process::{LimitValue, Process},
};
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric},
    metrics::{MetricType, counter::ConstCounter, gauge::ConstGauge},
};
use std::fmt;

/// Reads `/proc/self` at each scrape.
#[derive(Debug)]
pub(super) struct ProcessMetrics;

/// What is told of a process.
struct ProcessUse {
    cpu_s: f64,
    started_s: f64,
    resident_bytes: u64,
    virtual_bytes: u64,
    open_files: u64,
    max_open_files: Option<u64>,
}

#[expect(
    clippy::cast_precision_loss,
    reason = "ticks and seconds stay far below 2^53"
)]
fn read() -> ProcResult<ProcessUse> {
    let process = Process::myself()?;
    let stat = process.stat()?;
    let ticks = procfs::ticks_per_second() as f64;
    let limit = process.limits()?.max_open_files.soft_limit;
    Ok(ProcessUse {
        cpu_s: (stat.utime + stat.stime) as f64 / ticks,
        started_s: procfs::boot_time_secs()? as f64 + stat.starttime as f64 / ticks,
        resident_bytes: stat.rss * procfs::page_size(),
        virtual_bytes: stat.vsize,
        open_files: process.fd_count()? as u64,
        max_open_files: match limit {
            LimitValue::Value(files) => Some(files),
            LimitValue::Unlimited => None,
        },
    })
}

impl Collector for ProcessMetrics {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        // A process that may not read its own /proc says nothing of itself.
        let Ok(process) = read() else {
            return Ok(());
        };
        ConstCounter::new(process.cpu_s).encode(encoder.encode_descriptor(
            "process_cpu_seconds",
            "CPU time of this process, in user space and in the kernel",
            None,
            MetricType::Counter,
        )?)?;
        let mut gauge = |name, help, value: f64| {
            let metric = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            ConstGauge::new(value).encode(metric)
        };
        gauge(
            "process_start_time_seconds",
            "When this process began, in seconds since 1970",
            process.started_s,
        )?;
        #[expect(clippy::cast_precision_loss, reason = "2^53 octets are not reached")]
        for (name, help, value) in [
            (
                "process_resident_memory_bytes",
                "Memory of this process that is in RAM",
                Some(process.resident_bytes),
            ),
            (
                "process_virtual_memory_bytes",
                "Address space of this process",
                Some(process.virtual_bytes),
            ),
            (
                "process_open_fds",
                "Open file descriptors of this process",
                Some(process.open_files),
            ),
            (
                "process_max_fds",
                "File descriptors that this process may have open",
                process.max_open_files,
            ),
        ] {
            if let Some(value) = value {
                gauge(name, help, value as f64)?;
            }
        }
        Ok(())
    }
}
