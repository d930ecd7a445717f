//! What the program in the kernel has to say: rare, and bounded by the program itself.

use aya::Ebpf;
use aya_log::EbpfLogger;
use log::{Log, Metadata, Record};
use std::fmt;

/// The program's words, on their way to our log.
pub(super) struct Words(EbpfLogger<Forward>);

impl Words {
    /// The words of a loaded object; none of one that has no place for them.
    pub(super) fn of(ebpf: &mut Ebpf) -> Option<Self> {
        EbpfLogger::init_with_logger(ebpf, Forward).ok().map(Self)
    }

    /// Writes to our log what was said since the last time.
    pub(super) fn forward(&mut self) {
        self.0.flush();
    }
}

impl fmt::Debug for Words {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Words").finish_non_exhaustive()
    }
}

struct Forward;

impl Log for Forward {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &Record<'_>) {
        // Whatever the program tells, it tells because somebody should know.
        tracing::warn!("the program in the kernel, on {}", record.args());
    }

    fn flush(&self) {}
}
