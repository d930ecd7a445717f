//! The clock of all measurements.

/// `CLOCK_MONOTONIC`, nanoseconds.
#[must_use]
pub fn now_ns() -> u64 {
    nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC).map_or(0, |time| {
        let part = |value: i64| u64::try_from(value).unwrap_or(0);
        part(time.tv_sec()) * 1_000_000_000 + part(time.tv_nsec())
    })
}
