//! Times of events, as people and machines read them.

use std::time::{Duration, Instant, SystemTime};

/// Octets of a stamp.
const WIDTH: usize = 24;

/// Ties the monotonic clock to the wall's; taken anew for each batch, so that a stepped wall clock is
/// followed.
#[derive(Debug)]
pub(super) struct Clock {
    instant: Instant,
    wall: SystemTime,
    zone: jiff::tz::TimeZone,
    /// The second last stamped, since the epoch, and its text: the next event is likely in the same.
    second: (u64, String),
}

impl Clock {
    pub(super) fn now() -> Self {
        Self {
            instant: Instant::now(),
            wall: SystemTime::now(),
            zone: jiff::tz::TimeZone::system(),
            second: (u64::MAX, String::new()),
        }
    }

    fn since_epoch(&self, at: Instant) -> Duration {
        let wall = if at >= self.instant {
            self.wall + (at - self.instant)
        } else {
            self.wall - (self.instant - at)
        };
        wall.duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or_default()
    }

    pub(super) fn epoch_s(&self, at: Instant) -> f64 {
        self.since_epoch(at).as_secs_f64()
    }

    /// Writes `2019-Oct-07 13:45:01.123`, local time.
    pub(super) fn put_stamp(&mut self, out: &mut Vec<u8>, at: Instant) {
        let since = self.since_epoch(at);
        if self.second.0 != since.as_secs() {
            self.second = (since.as_secs(), self.local(since.as_secs()));
        }
        out.extend_from_slice(self.second.1.as_bytes());
        out.push(b'.');
        put_digits(out, since.subsec_millis(), 3);
    }

    /// `2019-Oct-07 13:45:01`.
    fn local(&self, second: u64) -> String {
        const MONTHS: [&str; 12] = [
            "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
        ];
        let second = i64::try_from(second).unwrap_or_default();
        let time = jiff::Timestamp::from_second(second).unwrap_or_default();
        let local = self.zone.to_datetime(time);
        let month = usize::try_from(local.month() - 1)
            .ok()
            .and_then(|index| MONTHS.get(index))
            .unwrap_or(&"???");
        format!(
            "{:04}-{month}-{:02} {:02}:{:02}:{:02}",
            local.year(),
            local.day(),
            local.hour(),
            local.minute(),
            local.second(),
        )
    }
}

/// Writes `+S.ffffff` seconds, as wide as a stamp.
pub(super) fn put_latency(out: &mut Vec<u8>, latency: Duration) {
    let rounded = latency.saturating_add(Duration::from_nanos(500));
    let seconds = rounded.as_secs();
    let digits = seconds.checked_ilog10().map_or(1, |log| log as usize + 1);
    let used = 1 + digits + 1 + 6;
    out.resize(out.len() + WIDTH.saturating_sub(used), b' ');
    out.push(b'+');
    match u32::try_from(seconds) {
        Ok(seconds) => put_digits(out, seconds, digits),
        Err(_many) => out.extend_from_slice(seconds.to_string().as_bytes()),
    }
    out.push(b'.');
    put_digits(out, rounded.subsec_micros(), 6);
}

/// Writes the last `width` decimal digits of a number.
fn put_digits(out: &mut Vec<u8>, number: u32, width: usize) {
    let begin = out.len();
    out.resize(begin + width, b'0');
    let mut rest = number;
    for digit in out.iter_mut().skip(begin).rev() {
        *digit = b'0' + (rest % 10).to_le_bytes()[0];
        rest /= 10;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn latencies_are_right_aligned_seconds_with_microseconds() {
        for latency in [
            Duration::ZERO,
            Duration::from_nanos(1_499),
            Duration::from_micros(999_999),
            Duration::from_millis(9_999),
            Duration::new(1_234_567, 89_000),
            Duration::from_secs(6_000_000_000),
        ] {
            let mut out = Vec::new();
            put_latency(&mut out, latency);
            let expected = format!("{:>24}", format!("+{:.6}", latency.as_secs_f64()));
            assert_eq!(String::from_utf8(out).unwrap(), expected);
        }
    }

    #[test]
    fn stamps_are_as_wide_as_documented_and_go_on_within_a_second() {
        let mut clock = Clock::now();
        clock.zone = jiff::tz::TimeZone::UTC;
        clock.wall = SystemTime::UNIX_EPOCH + Duration::from_millis(1_570_455_901_123);
        let at = clock.instant;
        for (after, expected) in [
            (0, "2019-Oct-07 13:45:01.123"),
            (70, "2019-Oct-07 13:45:01.193"),
            (900, "2019-Oct-07 13:45:02.023"),
        ] {
            let mut out = Vec::new();
            clock.put_stamp(&mut out, at + Duration::from_millis(after));
            assert_eq!(String::from_utf8(out).unwrap(), expected);
        }
    }
}
