//! Warnings from the program in the kernel: rare, and bounded by the program itself.

use aya::Ebpf;
use aya_log::EbpfLogger;
use log::{Log, Metadata, Record};
use std::fmt;

/// The program's warnings, on their way to the daemon's log.
pub(super) struct KernelWarnings(EbpfLogger<LogForwarder>);

impl KernelWarnings {
    /// The warnings of a loaded object; `None` if the object has no ring buffer for them.
    pub(super) fn of(ebpf: &mut Ebpf) -> Option<Self> {
        EbpfLogger::init_with_logger(ebpf, LogForwarder)
            .ok()
            .map(Self)
    }

    /// Writes the warnings since the last call to the daemon's log.
    pub(super) fn forward(&mut self) {
        self.0.flush();
    }
}

impl fmt::Debug for KernelWarnings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("KernelWarnings").finish_non_exhaustive()
    }
}

struct LogForwarder;

impl Log for LogForwarder {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &Record<'_>) {
        // The program sends only warnings.
        tracing::warn!("the program in the kernel, on {}", record.args());
    }

    fn flush(&self) {}
}
