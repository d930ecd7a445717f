//! What the scheduler did, as people and scripts see it: where containers ran, waited and migrated.
//!
//! [`TopView`] is the data, from a telemetry snapshot or as the difference of two. It is shown as text
//! (`text`), as a live picture (`live`, which never touches a terminal itself) or as JSON.

mod live;
mod map;
mod text;
mod units;
mod view;

pub use live::{Screen, ScreenAction};
pub use view::{NonContainerTotals, Seat, TopContainer, TopView};

#[cfg(test)]
mod tests;
