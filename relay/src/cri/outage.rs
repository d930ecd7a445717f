//! Which of the two services cannot be reached, so that an outage is reported once and not per connection.

use crate::cri::route::Route;
use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

/// Since when each service is away, over all connections.
#[derive(Debug, Default)]
pub(super) struct Outages {
    runtime: Mutex<Option<Instant>>,
    image: Mutex<Option<Instant>>,
}

impl Outages {
    /// Notes that `route` cannot be reached; whether this is news.
    pub(super) fn began(&self, route: Route) -> bool {
        let mut since = self
            .of(route)
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let news = since.is_none();
        since.get_or_insert_with(Instant::now);
        news
    }

    /// Notes that `route` can be reached; how long it could not, if that is news.
    pub(super) fn ended(&self, route: Route) -> Option<Duration> {
        let mut since = self
            .of(route)
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        since.take().map(|since| since.elapsed())
    }

    fn of(&self, route: Route) -> &Mutex<Option<Instant>> {
        match route {
            Route::Runtime => &self.runtime,
            Route::Image => &self.image,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_outage_is_news_once_when_it_begins_and_once_when_it_ends() {
        let outages = Outages::default();
        assert!(outages.ended(Route::Runtime).is_none());
        assert!(outages.began(Route::Runtime));
        assert!(!outages.began(Route::Runtime));
        assert!(outages.began(Route::Image), "the other service has its own");
        assert!(outages.ended(Route::Runtime).is_some());
        assert!(outages.ended(Route::Runtime).is_none());
        assert!(outages.began(Route::Runtime), "a second outage");
    }
}
