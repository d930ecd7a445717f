//! How much one place in the code may log: what a client or another process can cause thousands of times a
//! second must not fill the journal.

use super::settings::Level;
use std::{
    collections::HashMap,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};
use tracing::callsite::Identifier;

/// Messages of one place that are shown in each window.
const MESSAGES: u32 = 100;

/// How long a window lasts.
const WINDOW: Duration = Duration::from_secs(5);

/// What each place has logged lately.
#[derive(Debug, Default)]
pub(super) struct LogBudgets {
    places: Mutex<HashMap<Identifier, Spent>>,
    /// Messages held back since the start.
    held_back: AtomicU64,
}

/// What one place has logged in the current window, and what was held back and not told of yet.
#[derive(Debug)]
struct Spent {
    since: Instant,
    shown: u32,
    held: Option<HeldBack>,
}

/// Messages that were held back.
#[derive(Debug)]
pub(super) struct HeldBack {
    /// How many.
    pub(super) count: u64,
    /// The severity of the first.
    pub(super) level: Level,
    /// The source of the first.
    pub(super) source: String,
    /// The text of the first.
    pub(super) first: String,
    until: Instant,
}

impl HeldBack {
    /// The first message of a place that is held back.
    pub(super) fn first(level: Level, source: &str, text: String) -> Self {
        Self {
            count: 0,
            level,
            source: source.to_owned(),
            first: text,
            until: Instant::now(),
        }
    }
}

impl LogBudgets {
    /// `None` when the place may show a message now; else the message is counted, and the time is given at
    /// which to tell of it. `describe` is called for the first message only.
    pub(super) fn hold_back(
        &self,
        place: Identifier,
        now: Instant,
        describe: impl FnOnce() -> HeldBack,
    ) -> Option<Instant> {
        let mut places = self.lock();
        let spent = places.entry(place).or_insert(Spent {
            since: now,
            shown: 0,
            held: None,
        });
        if now.saturating_duration_since(spent.since) >= WINDOW {
            spent.since = now;
            spent.shown = 0;
        }
        if spent.shown < MESSAGES {
            spent.shown += 1;
            return None;
        }
        let held = spent.held.get_or_insert_with(|| HeldBack {
            until: spent.since + WINDOW,
            ..describe()
        });
        held.count += 1;
        self.held_back.fetch_add(1, Ordering::Relaxed);
        Some(held.until)
    }

    /// What was held back in windows that are over, to be told of now.
    pub(super) fn to_tell(&self, now: Instant) -> Vec<HeldBack> {
        self.lock()
            .values_mut()
            .filter_map(|spent| spent.held.take_if(|held| held.until <= now))
            .collect()
    }

    /// Messages held back since the start.
    pub(super) fn held_back(&self) -> u64 {
        self.held_back.load(Ordering::Relaxed)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Identifier, Spent>> {
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tracing::{Metadata, callsite::Callsite, subscriber::Interest};

    struct Place;

    impl Callsite for Place {
        fn set_interest(&self, _interest: Interest) {}
        fn metadata(&self) -> &Metadata<'_> {
            unreachable!("no event is made of it")
        }
    }

    #[test]
    fn a_place_that_logs_much_is_held_back_and_told_of_when_the_window_is_over() {
        static NOISY: Place = Place;
        let budgets = LogBudgets::default();
        let start = Instant::now();
        let log = |at| {
            let first = || HeldBack::first(Level::Warn, "cgroup", "drift".to_owned());
            budgets.hold_back(Identifier(&NOISY), at, first)
        };
        for _ in 0..MESSAGES {
            assert_eq!(log(start), None);
        }
        let due = start + WINDOW;
        for _ in 0..1000 {
            assert_eq!(log(start), Some(due));
        }
        assert!(budgets.to_tell(start).is_empty());
        // The place goes on logging before it was told of: nothing is lost, and it may show messages again.
        assert_eq!(log(due), None);
        let told = budgets.to_tell(due);
        let [held] = told.as_slice() else {
            panic!("{told:?}")
        };
        assert_eq!((held.count, held.first.as_str()), (1000, "drift"));
        assert!(budgets.to_tell(due + WINDOW).is_empty());
        assert_eq!(budgets.held_back(), 1000);
    }
}
