//! How much a peer does that serves no call, beyond what does.

use std::time::{Duration, Instant};

/// Counts what serves no call, less what does, and starts anew after a period.
#[derive(Debug)]
pub(super) struct Excess {
    count: u32,
    since: Instant,
}

impl Default for Excess {
    fn default() -> Self {
        Self {
            count: 0,
            since: Instant::now(),
        }
    }
}

impl Excess {
    /// Counts one; whether there are more than `most` within `period`. The clock is read once in `most`.
    pub(super) fn add(&mut self, most: u32, period: Duration) -> bool {
        self.count += 1;
        if self.count <= most {
            return false;
        }
        if self.since.elapsed() < period {
            return true;
        }
        *self = Self::default();
        false
    }

    /// Something served a call: `n` less.
    pub(super) fn relieve(&mut self, n: u32) {
        self.count = self.count.saturating_sub(n);
    }
}
